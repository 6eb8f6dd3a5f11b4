"""Corpus on disk: genes, texts, sentences and cells of its samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cell2sen.training.corpus.reading import RECORD, Corpus
from cell2sen.training.corpus.shards import SCHEMA

ROWS: list[dict[str, Any]] = [
    {"prompt": "Genes: CD4 LYZ. Type:", "completion": " T cell.", "task": "annotate", "cells": ["c1"]},
    {"prompt": "Genes: LYZ B2M CD4. Type:", "completion": " B cell.", "task": "annotate", "cells": ["c2"]},
    {"prompt": "Write a T cell:", "completion": " CD4 B2M.", "task": "generate", "cells": ["c1"]},
    {"prompt": "Genes: FTL. Change:", "completion": " CD4.", "task": "perturb", "cells": ["c3", "c4"]},
]


def write(folder: Path, **changes: Any) -> Path:
    rows = [row | {"data_set": "A", "prompt_tokens": 1, "completion_tokens": 1} for row in ROWS]
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows[:3], schema=SCHEMA), folder / "train-00000.parquet")
    pq.write_table(pa.Table.from_pylist(rows[3:], schema=SCHEMA), folder / "held_out-00000.parquet")
    learned = {"labels": {"T cell": 2}, "perturbations": {}, "organisms": ["Homo sapiens"], "lists": {}, "fit": None}
    learned["columns"] = {"label_columns": {"sex": {"male": 2}}}
    record = {"made_of": {}, "learned": learned, "genes": ["B2M", "CD4", "FTL", "LYZ"]} | changes
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_genes_texts_names_and_cells(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path))
    assert corpus.common_genes(1) == ("B2M", "CD4", "LYZ")
    assert corpus.common_genes(3) == ("CD4",)
    assert corpus.texts(2) == ["Genes: Type: T cell.", "Genes: Type: B cell."]
    assert corpus.names() == ["Homo sapiens", "T cell", "male"]
    assert corpus.samples_of_tasks("train") == {"annotate": 2, "generate": 1}
    [cells] = corpus.cells().values()
    assert (cells.names, cells.test.tolist()) == (["c1", "c2", "c3", "c4"], [False, False, True, True])


def test_sentences_are_cells_with_falling_values(tmp_path: Path) -> None:
    [(matrix, genes)] = Corpus.open(write(tmp_path)).sentences(10)
    assert genes == ("B2M", "CD4", "FTL", "LYZ")
    values = matrix.toarray()
    assert (values > 0).tolist() == [[False, True, False, True], [True, True, False, True]]
    assert np.argsort(-values[1]).tolist()[:3] == [3, 0, 1]


def test_another_corpus_has_another_fingerprint(tmp_path: Path) -> None:
    first = Corpus.open(write(tmp_path / "a")).fingerprint
    assert first == Corpus.open(write(tmp_path / "b")).fingerprint
    assert first != Corpus.open(write(tmp_path / "c", made_of={"seed": 1})).fingerprint


def test_what_is_no_complete_corpus(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no corpus"):
        Corpus.open(tmp_path)
    (tmp_path / RECORD).write_text('{"made_of": {}}', encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="is not complete"):
        Corpus.open(tmp_path)


def test_genes_that_a_model_cannot_write(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path))
    corpus.check_genes(lambda genes: np.ones(len(genes), dtype=bool), "m")
    with pytest.raises(ValueError, match=r"m cannot write 1 of the 4 genes .* \['FTL'\]"):
        corpus.check_genes(lambda genes: np.array([gene != "FTL" for gene in genes]), "m")
