"""tl.integrate: keys of scanpy, provenance, order of the cells, errors."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from cells import fake
from typed_cells import typed

import cell2sen as c2s

pytest.importorskip("igraph")
pytest.importorskip("harmonypy")


def test_results_and_order(tmp_path: Path) -> None:
    adata = typed(64, seed=1)
    before = adata.copy()
    c2s.tl.integrate(adata, "donor", model=fake(), progress=False)
    embedded = c2s.tl.embed(before, model=fake(), progress=False, copy=True)
    assert embedded is not None
    np.testing.assert_array_equal(adata.obsm["X_cell2sen"], embedded.obsm["X_cell2sen"])
    assert adata.obsm["X_cell2sen_harmony"].shape == adata.obsm["X_cell2sen"].shape
    assert adata.uns["neighbors"]["params"]["use_rep"] == "X_cell2sen_harmony"
    adata.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    record = read.uns["cell2sen"]["integrate"]
    assert record["cells_per_batch"]["donor"]["n_cells"].to_dict() == dict.fromkeys(["d0", "d1", "d2", "d3"], 16)
    assert record["key"] == "X_cell2sen_harmony"
    assert record["n_clusters"] == read.obs["leiden"].nunique()
    order = np.random.default_rng(0).permutation(64)
    other = before[order].copy()
    c2s.tl.integrate(other, ["donor"], model=fake(), progress=False)
    np.testing.assert_array_equal(other.obsm["X_umap"], adata.obsm["X_umap"][order])
    assert (other.obs["leiden"].astype(str) == adata.obs["leiden"].astype(str).iloc[order]).all()


def test_an_embedding_that_is_there() -> None:
    adata = typed(40, seed=1)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(40, 6))
    result = c2s.tl.integrate(adata, use_rep="X_pca", n_neighbors=5, copy=True)
    assert result is not None
    assert not adata.obsp
    assert "X_pca_harmony" not in result.obsm
    assert "X_cell2sen" not in result.obsm
    assert result.uns["cell2sen"]["integrate"]["key"] == "X_pca"
    assert {"X_umap", "X_pca"} == set(result.obsm)


def test_errors() -> None:
    adata = typed(40, seed=1)
    with pytest.raises(KeyError, match="use_rep"):
        c2s.tl.integrate(adata, use_rep="X_scvi")
    with pytest.raises(KeyError, match="no column 'lane'"):
        c2s.tl.integrate(adata, "lane", model=fake())
    assert not adata.obsm
