"""Neighbourhoods against scikit-learn's search, on a grid with ties, and in squidpy's layout."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from sections import section
from sklearn.neighbors import NearestNeighbors, radius_neighbors_graph

from cell2sen.data.space.neighbourhoods import find_neighbourhoods, read_neighbourhoods


def points(n: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 2)) * 10


def test_radius_equals_scikit_learn() -> None:
    found = find_neighbourhoods(points(), radius=1.3)
    expected = radius_neighbors_graph(points(), 1.3, mode="distance")
    np.testing.assert_array_equal(found.connectivities.toarray(), (expected.toarray() > 0).astype(float))
    np.testing.assert_allclose(found.distances.toarray(), expected.toarray())
    np.testing.assert_array_equal(found.n_neighbours, (expected.toarray() > 0).sum(axis=1))


@pytest.mark.parametrize("k", [1, 6, 199, 500])
def test_nearest_equals_scikit_learn(k: int) -> None:
    found = find_neighbourhoods(points(), k=k)
    nearest = NearestNeighbors(n_neighbors=min(k, 199)).fit(points()).kneighbors(return_distance=False)
    assert [set(found.of(cell)) for cell in range(200)] == [set(row) for row in nearest]


def test_ties_on_a_grid_do_not_depend_on_the_order() -> None:
    """Four nearest of a square grid; at the edge all cells as far as the fourth one."""
    grid = np.stack(np.meshgrid(range(5), range(5)), axis=-1).reshape(-1, 2)
    found = find_neighbourhoods(grid, k=4)
    centre = 12
    assert set(found.of(centre)) == {7, 11, 13, 17}
    assert set(found.of(0)) == {1, 5, 6, 2, 10}  # distances 1, 1, √2, 2, 2
    order = np.random.default_rng(0).permutation(25)
    other = find_neighbourhoods(grid[order], k=4)
    for place, cell in enumerate(order):
        assert {int(order[row]) for row in other.of(place)} == set(found.of(int(cell)))


def test_sections_and_missing_coordinates() -> None:
    where = np.array([[0.0, 0], [0, 0.1], [0, 0.2], [0, 0.3], [np.nan, 0], [0, 0.15]])
    found = find_neighbourhoods(where, radius=1, sections=["a", "a", "b", "b", "a", None])
    assert [found.of(cell).tolist() for cell in range(6)] == [[1], [0], [3], [2], [], []]


def test_cells_at_the_same_place_are_neighbours() -> None:
    found = find_neighbourhoods(np.zeros((3, 2)), radius=1)
    assert [found.of(cell).tolist() for cell in range(3)] == [[1, 2], [0, 2], [0, 1]]
    assert found.n_neighbours.tolist() == [2, 2, 2]


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    adata = section()
    found = find_neighbourhoods(adata.obsm["spatial"], k=6)
    found.write(adata.obsp, adata.uns)
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}
    assert adata.uns["spatial_neighbors"]["params"]["n_neighbors"] == 6
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad")
    again = read_neighbourhoods(stored.obsp, stored.uns)
    assert again is not None
    assert (again.connectivities != found.connectivities).nnz == 0
    np.testing.assert_allclose(again.distances.toarray(), found.distances.toarray())


def test_a_graph_of_squidpy_is_read() -> None:
    """Keys of its own, weights of a transformed graph, entries on the diagonal, no distances of hexagonal grids."""
    graph = sp.csr_matrix(np.array([[0.3, 0.5, 0], [0.5, 0, 0.2], [0, 0.2, 0]]))
    uns = {"visium_neighbors": {"connectivities_key": "visium_connectivities", "params": {"n_neighbors": 6}}}
    found = read_neighbourhoods({"visium_connectivities": graph}, uns, "visium")
    assert found is not None
    assert [found.of(cell).tolist() for cell in range(3)] == [[1], [0, 2], [1]]
    assert found.connectivities.data.tolist() == [1.0] * 4
    assert found.distances.nnz == 0
    assert read_neighbourhoods({}, {}) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "either radius or k"),
        ({"radius": 1, "k": 3}, "either radius or k"),
        ({"radius": -1}, "must be positive, found -1"),
        ({"k": 0}, "must be positive, found 0"),
    ],
)
def test_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        find_neighbourhoods(points(), **options)


def test_coordinates_need_two_axes() -> None:
    with pytest.raises(ValueError, match="found the shape"):
        find_neighbourhoods(np.zeros(5), k=1)
