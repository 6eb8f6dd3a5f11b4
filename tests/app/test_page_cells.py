from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cells import cells

from cell2sen.app.page_cells import PageCells


@pytest.fixture(scope="module")
def page() -> PageCells:
    adata = cells(8)
    adata.obsm["X_pca"], adata.obsm["X_umap"] = np.ones((8, 3)), np.arange(16.0).reshape(8, 2)
    adata.obsm["X_latent"], adata.obsm["shares"] = np.ones((8, 9)), pd.DataFrame(np.ones((8, 2)), index=adata.obs_names)
    adata.obs["label"] = ["b", None, "a", "", "b", "a", "a", "b"]
    adata.obs["score"] = [1, 2, np.nan, 4, 5, 6, 7, 8]
    return PageCells(adata)


def test_maps_columns_and_genes(page: PageCells) -> None:
    assert page.maps() == ["X_umap", "X_pca"]  # neither embeddings nor tables
    assert page.points("X_umap")[1].tolist() == [2, 3]
    codes, names = page.column("label")
    assert (codes.tolist(), names) == ([1, -1, 0, -1, 1, 0, 0, 1], ["a", "b"])
    values, names = page.column("score")
    assert names is None
    assert np.isnan(values[2])
    counts = page.adata.X.toarray()
    symbol = page.expression.symbols[3]
    expected = np.log1p(counts[:, list(page.adata.var_names).index(symbol)] / counts.sum(1) * 1e4)
    np.testing.assert_allclose(page.gene(symbol), expected, rtol=1e-5)
    for verb in (page.points, page.column, page.gene):
        with pytest.raises(KeyError, match="there is no"):
            verb("nothing")


def test_differences_are_those_of_the_sentences(page: PageCells) -> None:
    table = page.difference(np.array([1, 4, 4]))
    sentences = [set(genes) for genes in page.sentences.gene_names()]
    for symbol, row in table.iterrows():
        share = np.mean([symbol in sentences[cell] for cell in (1, 4)])
        rest = np.mean([symbol in sentences[cell] for cell in (0, 2, 3, 5, 6, 7)])
        assert (row["share"], row["rest"]) == pytest.approx((share, rest))
    assert table["difference"].is_monotonic_decreasing
    assert isinstance(table, pd.DataFrame)
    with pytest.raises(ValueError, match="no cells"):
        page.difference(np.array([], dtype=np.int64))
