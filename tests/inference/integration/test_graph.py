"""Graph, map and clusters: exact neighbours, scanpy's layout, no dependence on the order of the cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from cell2sen.inference.integration.graph import CellGraph, GraphSettings, graph_of

pytest.importorskip("igraph")
SETTINGS = GraphSettings(n_neighbors=8, resolution=0.3)


def blobs() -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(0)
    types = generator.integers(0, 3, 90)
    vectors = (generator.normal(size=(90, 5)) * 0.3 + 6 * np.eye(3, 5)[types]).astype(np.float32)
    vectors[7] = np.nan
    return vectors, types, [f"c{row:02}" for row in range(90)]


@pytest.fixture(scope="module")
def graph() -> CellGraph:
    vectors, _, names = blobs()
    return graph_of(vectors, names, "X", SETTINGS)


def test_neighbours_are_exact(graph: CellGraph) -> None:
    vectors, _, _ = blobs()
    distances = cdist(vectors, vectors)
    for row in (0, 44, 89):
        nearest = np.argsort(np.where(np.isnan(distances[row]), np.inf, distances[row]))[1:8]
        found = graph.obsp["distances"][[row]]
        assert set(found.indices) == set(nearest)
        np.testing.assert_allclose(np.sort(found.data), np.sort(distances[row][nearest]), rtol=1e-4)


def test_clusters_and_map_hold_the_types_together(graph: CellGraph) -> None:
    _, types, _ = blobs()
    table = pd.crosstab(np.asarray(graph.leiden), types)
    assert ((table > 0).sum() == 1).all() or ((table > 0).sum(axis=1) == 1).all()
    centres = np.stack([np.nanmean(graph.umap[types == kind][:5], axis=0) for kind in range(3)])
    known = np.flatnonzero(np.isfinite(graph.umap[:, 0]))
    assert np.mean(cdist(graph.umap[known], centres).argmin(axis=1) == types[known]) > 0.95


def test_a_cell_without_a_vector_has_no_place(graph: CellGraph) -> None:
    assert np.isnan(graph.umap[7]).all()
    assert graph.leiden.codes[7] == -1
    assert graph.obsp["connectivities"][[7]].nnz == 0
    assert graph.obsp["connectivities"].shape == (90, 90)


def test_the_order_does_not_matter(graph: CellGraph) -> None:
    vectors, _, names = blobs()
    order = np.random.default_rng(1).permutation(90)
    other = graph_of(vectors[order], [names[row] for row in order], "X", SETTINGS)
    assert list(other.leiden.astype(str)) == list(graph.leiden[order].astype(str))
    np.testing.assert_array_equal(other.umap, graph.umap[order])
    assert (other.obsp["connectivities"] != graph.obsp["connectivities"][order][:, order]).nnz == 0


def test_scanpy_reads_the_results(graph: CellGraph) -> None:
    import scanpy as sc

    adata = anndata.AnnData(obs=pd.DataFrame(index=blobs()[2]), obsp=graph.obsp, uns=dict(graph.uns))
    sc.tl.leiden(adata, resolution=0.3, flavor="igraph", n_iterations=2, directed=False, key_added="again")
    assert pd.crosstab(adata.obs["again"].to_numpy()[8:], graph.leiden.astype(str)[8:]).gt(0).sum().max() == 1


def test_settings_and_too_few_cells() -> None:
    with pytest.raises(ValueError, match="n_neighbors must be at least 2"):
        GraphSettings(n_neighbors=1)
    with pytest.raises(ValueError, match="resolution must be above 0"):
        GraphSettings(resolution=0)
    with pytest.raises(ValueError, match="at least 3 cells"):
        graph_of(np.zeros((2, 4), dtype=np.float32), ["a", "b"], "X", SETTINGS)
