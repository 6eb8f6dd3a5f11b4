"""Training cells and a trained model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_cells
import training_runs

from cell2sen.model import Model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 cells, and a gene set of the genes that respond to IFN-beta and IL-2."""
    path = tmp_path_factory.mktemp("cells")
    training_cells.write(path / "cells.h5ad")
    genes = [*training_cells.SYMBOLS[24:36], "NOGENE"]
    (path / "sets.gmt").write_text("IFN\tnone\t" + "\t".join(genes) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def many_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 such cells, without gene sets."""
    path = tmp_path_factory.mktemp("many_cells")
    training_cells.write(path / "cells.h5ad", 240)
    return path


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model from scratch after six steps."""
    return training_runs.run(folder, tmp_path_factory.mktemp("trained") / "scratch", training_runs.config())
