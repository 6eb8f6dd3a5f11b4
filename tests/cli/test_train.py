"""The command ``cell2sen train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import training_cells
from cells import checkpoint

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


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cell2sen", "train", *arguments, "--quiet", "--json"])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_adaptation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    start, file = str(checkpoint(tmp_path / "start")), str(training_cells.write(tmp_path / "cells.h5ad"))
    options = ["--model", start, "--adapt", "--steps", "2", "--set", "batch_size=8", "--set", "gene_part=0"]
    assert run(monkeypatch, file, str(tmp_path / "out"), *options, "--prompt-context", "donor") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["steps"]) == (str(tmp_path / "out"), 2)
    assert set(found["losses"]) == {"before", "after"}
    record = resolve(tmp_path / "out").metadata["adaptation"]
    assert (record["settings"]["batch_size"], record["steps"]) == (8, 2)
    assert not (tmp_path / "out" / "gene_part.npz").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--adapt", "--cell-type", "cell_type"], "leave out --cell-type"),
        (["--adapt", "--lora"], "leave out --lora"),
        (["--adapt", "--resume"], "leave out --resume"),
        (["--adapt", "--set", "batch_size"], "KEY=VALUE"),
        (["--adapt", "--minutes", "1", "--steps", "1"], "either minutes or steps"),
        (["--minutes", "1", "--cell-type", "cell_type"], "is for --adapt"),
    ],
)
def test_adaptation_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, options: list[str], match: str
) -> None:
    file = str(training_cells.write(tmp_path / "cells.h5ad"))
    assert run(monkeypatch, file, str(tmp_path / "out"), *options)
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
