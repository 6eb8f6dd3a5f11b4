"""Fuzzy graph against that of UMAP in scanpy, and with equal cells; no compilation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cell2sen.inference.integration.fuzzy_graph import fuzzy_graph, membership
from cell2sen.inference.integration.graph import find_neighbours


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_dimensions", "n_neighbors"), [(300, 5, 15), (600, 64, 10), (16, 3, 15)])
def test_same_weights_as_umap(n: int, n_dimensions: int, n_neighbors: int) -> None:
    pytest.importorskip("umap")
    vectors = np.random.default_rng(0).normal(size=(n, n_dimensions)).astype(np.float32)
    cells = AnnData(obs=pd.DataFrame(index=[str(number) for number in range(n)]), obsm={"X": vectors})
    find_neighbours(cells, "X", n_neighbors, 0)
    slow, fast = cells.obsp["connectivities"].toarray(), fuzzy_graph(vectors, n_neighbors)
    assert fast.dtype == np.float32
    assert fast.nnz == np.count_nonzero(slow)
    np.testing.assert_allclose(fast.toarray(), slow, atol=1e-6)


def test_weights_of_a_cell_add_up_to_their_target() -> None:
    distances = np.sort(np.random.default_rng(1).gamma(3, size=(50, 14)).astype(np.float32), axis=1)
    weights = membership(distances, 15)
    np.testing.assert_allclose(weights.sum(axis=1), np.log2(15), atol=1e-4)
    np.testing.assert_array_equal(weights[:, 0], 1)


def test_equal_cells_have_whole_weight() -> None:
    graph = fuzzy_graph(np.ones((20, 4), dtype=np.float32), 5)
    np.testing.assert_array_equal(graph.data, 1)
    assert graph.diagonal().sum() == 0


def test_nothing_is_compiled() -> None:
    code = (
        "import sys, numpy as np; from cell2sen.inference.integration.fuzzy_graph import fuzzy_graph; "
        "fuzzy_graph(np.random.rand(30, 4).astype(np.float32), 5); print('umap' in sys.modules, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
