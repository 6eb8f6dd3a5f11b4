"""The commands fetch and models, and the option --locked of the others."""

from __future__ import annotations

import json
from pathlib import Path

from cells import cells, checkpoint
from command import Run

from cell2sen.checkpoints import verify
from cell2sen.model import KNOWN


def test_fetch_then_use_under_lock(run: Run, tmp_path: Path) -> None:
    checkpoint(tmp_path / "model")
    done = run("fetch", "model", "--to", "copy", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["directory"] == "copy"
    verify(tmp_path / "copy")
    cells().write_h5ad(tmp_path / "cells.h5ad")
    options = ["cells.h5ad", "out.h5ad", "-m", "copy", "--locked", "--quiet"]
    assert run("embed", *options).code == 0
    (tmp_path / "out.h5ad").unlink()
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    refused = run("embed", *options)
    assert refused.code == 1
    assert "tokenizer.json is not the file that was locked" in refused.err
    assert not (tmp_path / "out.h5ad").exists()
    assert run("check", "cells.h5ad", "-m", "copy", "--locked").code == 1
    missing = run("fetch", "gemma-2-2b", "--to", "other", "--mirror", ".")
    assert "the mirror . has no gemma-2-2b" in missing.err


def test_models_have_names_sizes_and_commands(run: Run) -> None:
    rows = json.loads(run("models", "--json").out)
    assert [row["name"] for row in rows] == list(KNOWN)
    shown = run("models").out.splitlines()
    assert shown[0].split()[:2] == ["name", "architecture"]
    assert len(shown) == len(KNOWN) + 1
    assert shown[-1].endswith("cell2sen fetch gemma-2-27b")
