"""The command corpus."""

from __future__ import annotations

import json
from pathlib import Path

import training_cells
from cells import checkpoint
from command import Run


def test_written(run: Run, tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad", n=40)
    checkpoint(tmp_path / "model")
    text = f"files: [{{file: cells.h5ad, tasks: [annotate], cell_type: cell_type}}]\nmodel: {tmp_path / 'model'}\n"
    (tmp_path / "corpus.yaml").write_text(text, encoding="utf-8")
    out = tmp_path / "corpus"
    done = run("corpus", tmp_path / "corpus.yaml", out, "-q", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["shards"] == len(list(out.glob("*.parquet"))) == 2
    assert (out / "README.md").is_file()
