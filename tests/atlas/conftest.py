"""Two small files, one of each format, and plans over them for the fake backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.sparse as sp
from cells import cells

from cell2sen import atlas
from cell2sen.atlas.plan_file import Plan

Planned = Callable[..., tuple[Path, Plan]]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An .h5ad of 13 cells, one of them without genes, and a .zarr of 7."""
    folder = tmp_path_factory.mktemp("inputs")
    paths = []
    for number, (n, suffix) in enumerate(((13, ".h5ad"), (7, ".zarr"))):
        adata = cells(n, seed=number)
        adata.obs_names = [f"{number}-{name}" for name in adata.obs_names]
        adata.obs["perturbation"] = ["control" if row % 3 else "IFN-beta" for row in range(n)]
        adata.obs["depth"] = range(n)
        if not number:
            dense = adata.X.toarray()
            dense[12] = 0
            adata.X = sp.csr_matrix(dense)
        paths.append(folder / f"in{number}{suffix}")
        (adata.write_zarr if number else adata.write_h5ad)(paths[-1])
    return paths


@pytest.fixture
def planned(tmp_path: Path, files: list[Path], model: str) -> Planned:
    """A plan in a folder of its own: five cells a shard, backend without weights."""

    def make(verb: str = "embed", name: str = "run", inputs: Any = None, **settings: Any) -> tuple[Path, Plan]:
        values = {"model": model, "backend": "fake", "shard_cells": 5, "progress": False} | settings
        if verb == "screen":
            values.pop("shard_cells")
        return tmp_path / name, atlas.plan(verb, tmp_path / name, files if inputs is None else inputs, **values)

    return make
