"""Trainings on a corpus: from a model and from scratch, resumed, packed, with what the model must know afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import training_cells
from training_runs import SCRATCH, Interrupted, assert_same, card, checkpoint, interrupt, log_values, run, weights

import cell2sen as c2s
from cell2sen import training
from cell2sen.model import Model
from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.build import build_corpus
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.release import directory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of several tasks, and the model whose tokenizer it is for."""
    path = tmp_path_factory.mktemp("corpus")
    training_cells.write(path / "cells.h5ad")
    (path / "sets.gmt").write_text("A_SET\t-\tCD4\tCD8A\tLYZ\nB_SET\t-\tB2M\tFTL\n", encoding="utf-8")
    checkpoint(path / "model", "gpt_neox", "bytes")
    file = {
        "file": "cells.h5ad",
        "tasks": {"annotate": 6, "perturb": 1, "label:donor": 1, "sample_cell_types": 1},
        "cell_type": "cell_type",
        "perturbation": {"column": "condition", "context": ["cell_type"], "no_perturbation": "no change"},
        "columns": {"sample": "donor"},
        "split": {"test": 0.2},
    }
    values = {"files": [file], "gene_sets": [{"file": "sets.gmt"}], "model": str(path / "model"), "max_tokens": 500}
    values |= {"lengths": {"annotate": 20, "perturb": 10, "label:donor": 20, "sample_cell_types": 4}, "part_cells": 40}
    build_corpus(build(CorpusConfig, values), path / "corpus", base=path, progress=False)
    return path


def config(changes: dict[str, Any] | None = None, **model: Any) -> training.TrainConfig:
    values: dict[str, Any] = {
        "data": {"corpus": "corpus"},
        "model": model or {"start": "model"},
        "optimiser": {"max_steps": 6, "batch_size": 8, "learning_rate": 3e-3},
        "compute": {"bf16": False},
        "checkpoints": {"eval_steps": 2, "save_dtype": "float32"},
    }
    for key, value in (changes or {}).items():
        group, name = key.split(".")
        values[group][name] = value
    return training.from_mapping(values)


@pytest.fixture(scope="module")
def trained(folder: Path, monkeypatch_module: pytest.MonkeyPatch) -> Model:
    monkeypatch_module.chdir(folder)
    return run(folder, folder / "trained", config())


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_model_knows_what_the_corpus_has(folder: Path, trained: Model) -> None:
    metadata = trained.metadata
    assert metadata["training"]["data"]["corpus"] == "corpus"
    assert list(metadata["labels"]) == list(training_cells.TYPES)
    assert set(metadata["perturbations"]) == {"IFN-beta", "IL-2"}
    assert metadata["no_perturbation"] == "no change"
    assert set(metadata["label_columns"]["donor"]) == {"d1", "d2", "d3", "d4"}
    assert metadata["lengths"]["annotate"] == 20
    assert {"annotate", "perturb", "label:donor", "name_gene_set"} <= set(metadata["templates"])
    assert metadata["fit"]["slope"] < 0
    held_out = json.loads((Path(trained.path) / directory.HELD_OUT_FILE).read_text(encoding="utf-8"))
    learned = json.loads((Path(trained.path) / directory.TRAINED_ON_FILE).read_text(encoding="utf-8"))
    rows = [row for path in folder.glob("corpus/train-*.parquet") for row in pq.read_table(path).to_pylist()]
    names = {name for row in rows if row["data_set"] == "cells" for name in row["cells"]}
    assert set(learned["cells"]) == names
    assert not names & set(held_out["cells"])
    assert len(names) + len(held_out["cells"]) == 90
    assert "| cells.h5ad | 72 | 18 |" in card(trained)
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    c2s.tl.annotate(adata, model=trained, progress=False)  # the labels of the corpus
    assert set(adata.obs["cell2sen_cell_type"].astype(str)) <= set(training_cells.TYPES)


def test_resumed_to_the_same_weights(
    folder: Path, tmp_path: Path, trained: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        interrupt(patch, after=5)
        with pytest.raises(Interrupted):
            run(folder, tmp_path / "out", config())
    [tokenised] = (tmp_path / "out.training" / "corpus").glob("train-*.arrow")
    written = tokenised.stat().st_mtime_ns
    model = run(folder, tmp_path / "out", config(), resume=True)
    assert_same(weights(model), weights(trained))
    assert written > 0


def test_another_corpus_is_not_continued(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        interrupt(patch, after=5)
        with pytest.raises(Interrupted):
            run(folder, tmp_path / "out", config())
    record = folder / "corpus" / "corpus.json"
    before = record.read_text(encoding="utf-8")
    record.write_text(before.replace('"version"', '"other"'), encoding="utf-8")
    try:
        with pytest.raises(ValueError, match="another corpus than the one"):
            run(folder, tmp_path / "out", config(), resume=True)
    finally:
        record.write_text(before, encoding="utf-8")


def test_from_scratch(folder: Path, tmp_path: Path) -> None:
    scratch = SCRATCH | {"context": 512}
    changes = {"optimiser.max_steps": 45, "optimiser.batch_size": 8, "checkpoints.eval_steps": 15}
    changes |= {"optimiser.prompt_loss": 0.3, "optimiser.epochs": 1}
    model = run(folder, tmp_path / "out", config(changes, from_scratch=scratch))
    assert set(model.genes) <= set(training_cells.SYMBOLS)
    assert len(model.genes) > 30
    assert log_values(model)[-1] < 0.8 * log_values(model)[0]
    adata = anndata.read_h5ad(training_cells.write(tmp_path / "new.h5ad", seed=1))
    c2s.tl.annotate(adata, model=model, progress=False)
    assert set(adata.obs["cell2sen_cell_type"]) <= set(adata.obs["cell_type"])


def test_packed_rows_of_many_tokens(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    model = run(folder, tmp_path / "out", config({"compute.packing": True, "compute.packed_tokens": 2048}))
    assert np.isfinite(log_values(model)).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data.lengths": {"annotate": 5}}, "settings of a corpus when it is built"),
        ({"data.files": [{"file": "cells.h5ad"}]}, "name either files or a corpus"),
        ({"model.change_vectors": 4}, "needs the expression of cells"),
        ({"data.corpus": "none"}, "there is no corpus in"),
    ],
)
def test_settings_that_a_corpus_excludes(folder: Path, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        run(folder, tmp_path / "out", config(changes, start=str(folder / "model")))


def test_samples_longer_than_the_context_of_the_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a sample has \d+ tokens, the model reads 100: .*max_tokens: 98"):
        run(folder, tmp_path / "out", config(from_scratch=SCRATCH | {"context": 100}))
