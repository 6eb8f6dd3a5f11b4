"""The command ``cell2sen train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import training_cells

from cell2sen.cli import main
from cell2sen.model import resolve


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False])
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, lora: bool) -> None:
    start = tiny.save(tmp_path / "start", "gemma2", "spm")
    cells = training_cells.write(tmp_path / "cells.h5ad")
    capsys.readouterr()
    command = ["cell2sen", "train", str(cells), str(tmp_path / "out"), "--cell-type", "cell_type", "--epochs", "1"]
    command += ["--model", str(start), "--set", "optimiser.max_steps=2", "--set", "data.lengths={annotate: 20}"]
    monkeypatch.setattr(sys, "argv", command + ["--quiet", "--json"] + ["--lora"] * lora)
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    output = capsys.readouterr()
    assert json.loads(output.out) == {"file": str(tmp_path / "out"), "name": "out"}
    assert "it/s" not in output.err
    settings = resolve(tmp_path / "out").metadata["training"]
    assert (settings["optimiser"]["max_steps"], settings["model"]["lora"] is None) == (2, not lora)
