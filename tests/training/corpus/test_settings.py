"""Settings of a corpus in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.settings import CorpusConfig, read_corpus_config


def test_read(tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    file.write_text(
        "files: [{file: a.h5ad, tasks: {annotate: 2}, cell_type: type, texts: {abstract: A text.}}]\n"
        "gene_sets: [{file: b.gmt, tasks: [name_gene_set]}]\nweights: {annotate: 3, name_gene_set: 1}\nseed: 3\n",
        encoding="utf-8",
    )
    config = read_corpus_config(file)
    assert (config.seed, config.files[0].tasks, config.study("a.h5ad")) == (3, {"annotate": 2.0}, "a")
    assert config.files[0].texts == {"abstract": ("A text.",)}
    assert config.tasks == ["annotate", "name_gene_set"]


def test_unknown_keys_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    file.write_text("files: [{file: a.h5ad}]\nshards: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"corpus.yaml.*unknown keys \['shards'\]"):
        read_corpus_config(file)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"held_out": ["C"]}, "no study of cells is called"),
        ({"studies": {"c.h5ad": "C"}}, "are none of the files"),
        ({"files": [{"file": "a.h5ad"}, {"file": "a.h5ad"}]}, "each can be named once"),
        ({"part_cells": 0}, "part_cells must be positive"),
        ({"weights": {"generate": 1}}, r"each of the tasks \['annotate'\] needs a weight above 0"),
        ({"weights": {"annotate": 0}}, "needs a weight above 0"),
    ],
)
def test_settings_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(CorpusConfig, {"files": [{"file": "a.h5ad"}]} | changes)
