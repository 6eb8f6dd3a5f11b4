"""A small file and the command line in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import cells
from command import Done, Run

from cell2sen import cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    adata = cells()
    adata.obs["perturbation"] = ["IFN-beta", None, "IFN-beta", None, "IL-6", ""]
    adata.uns["kept"] = {"numbers": np.arange(3), "text": "as it was"}
    adata.obsm["X_other"] = np.ones((6, 2))
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """The command line in this process, with its exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cell2sen", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as done:
            code = done.code
        return Done(int(code or 0), *capfd.readouterr())

    yield command
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def text_model(tmp_path: Path) -> str:
    """A tiny random model without a list of trained tasks, which may write text."""
    import tiny

    return str(tiny.save(tmp_path / "model"))
