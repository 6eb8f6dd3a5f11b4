"""Space of objects and files."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from sections import section

from cell2sen.data.space.reading import read_space


def test_files_and_objects_are_alike(tmp_path: Path) -> None:
    adata = section()
    adata.obs["slide"] = ["a"] * 40 + ["b"] * 41
    adata.write_h5ad(tmp_path / "cells.h5ad")
    spaces = [read_space(data, radius=1.6, section="slide") for data in (adata, tmp_path / "cells.h5ad")]
    for space in spaces:
        np.testing.assert_array_equal(space.coordinates, adata.obsm["spatial"])
        assert space.sections is not None
        assert (space.neighbourhoods.connectivities != spaces[0].neighbourhoods.connectivities).nnz == 0
    part = spaces[0].within(np.arange(81) < 50)
    assert len(part.neighbourhoods) == 50
    assert part.neighbourhoods.of(0).tolist() == spaces[0].neighbourhoods.of(0).tolist()


def test_the_stored_graph_is_the_default() -> None:
    adata = section()
    with pytest.raises(ValueError, match=r"no graph of neighbours .*radius="):
        read_space(adata)
    read_space(adata, k=2).neighbourhoods.write(adata.obsp, adata.uns)
    assert read_space(adata).neighbourhoods.n_neighbours.tolist() == [2] * 81


def test_refused() -> None:
    adata = section()
    with pytest.raises(KeyError, match=r"no 'X_space'.*spatial"):
        read_space(adata, radius=1, coordinates="X_space")
    with pytest.raises(ValueError, match=r"no cell has a neighbour within radius=0\.001"):
        read_space(adata, radius=0.001)
    with pytest.raises(KeyError, match="has no column 'slide'"):
        read_space(adata, radius=1, section="slide")


def test_sections_upon_each_other_and_missing_coordinates(caplog: pytest.LogCaptureFixture) -> None:
    first, second = section(side=4), section(side=4)
    both = anndata.concat([first, second], label="slide", keys=["a", "b"], index_unique="-")
    read_space(first, radius=1.6)
    read_space(both, radius=1.6, section="slide")
    assert not caplog.records
    read_space(both, radius=1.6)
    assert "16 cells lie upon another one: name the obs column of the section of each cell" in caplog.text
    first.uns["spatial"] = {"A1": {}, "B1": {}}
    read_space(first, radius=1.6)
    assert "uns['spatial'] has 2 sections" in caplog.text
    first.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match=r"no cell has coordinates: each has a missing value in obsm\['spatial'\]"):
        read_space(first, radius=1.6)
    with pytest.raises(ValueError, match=r"no cell has a neighbour: .*each section needs two cells"):
        read_space(second[:1].copy(), k=3)
