"""Settings of a corpus in YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen.training.corpus.settings import read_corpus_config


def test_read(tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    file.write_text("files: [{file: a.h5ad, tasks: {annotate: 2}, cell_type: type}]\nseed: 3\n", encoding="utf-8")
    config = read_corpus_config(file)
    assert (config.seed, config.files[0].tasks, config.study("a.h5ad")) == (3, {"annotate": 2.0}, "a")


def test_unknown_keys_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "corpus.yaml"
    file.write_text("files: [{file: a.h5ad}]\nshards: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"corpus.yaml.*unknown keys \['shards'\]"):
        read_corpus_config(file)
