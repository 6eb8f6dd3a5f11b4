"""Groups of AnnData in HDF5 and zarr: alone, of MuData, of SpatialData, by other writers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from containers import assert_same, counts, write_arrays, write_mudata

from cell2sen.data.files.groups import StoredCSR, is_anndata
from cell2sen.data.files.opening import open_anndata, read_anndata


def proteins() -> anndata.AnnData:
    return counts()[:, :3].copy()


@pytest.mark.parametrize("name", ["rna", "RNA", "gex", "Gene Expression"])
def test_the_modality_of_genes_is_the_default(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5mu"
    write_mudata(path, {"prot": proteins(), name: counts()})
    with open_anndata(path) as adata:
        assert_same(adata, counts())
    for place in (path / "prot", path / "mod" / "prot"):
        with open_anndata(place) as adata:
            assert_same(adata, proteins())
    assert_same(read_anndata(path / "prot"), proteins())


def test_the_feature_types_tell_the_modality_of_genes(tmp_path: Path) -> None:
    genes, others = counts(), proteins()
    genes.var["feature_types"], others.var["feature_types"] = "Gene Expression", "Antibody Capture"
    write_mudata(tmp_path / "x.h5mu", {"a": others, "b": genes})
    with open_anndata(tmp_path / "x.h5mu") as adata:
        assert_same(adata, genes)


def test_unclear_modalities_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5mu"
    write_mudata(path, {"a": counts(), "b": proteins()})
    with (
        pytest.raises(ValueError, match=r"MuData.*modalities \(a, b\).*pass .*x.h5mu/a, .*x.h5mu/b"),
        open_anndata(path),
    ):
        pass
    with pytest.raises(ValueError, match=r"no AnnData 'rna'; pass .*x.h5mu/a"), open_anndata(path / "rna"):
        pass
    write_mudata(path, {"only": counts()})
    with open_anndata(path) as adata:
        assert_same(adata, counts())


def test_a_modality_has_the_columns_of_the_whole(tmp_path: Path) -> None:
    joint = pd.DataFrame({"donor": list("abcde"), "rna:kind": "x", "kind": "other"}, index=counts().obs_names)[::-1]
    write_mudata(tmp_path / "x.h5mu", {"rna": counts()}, joint)
    with open_anndata(tmp_path / "x.h5mu") as adata:
        assert adata.obs["donor"].tolist() == list("abcde")
        assert adata.obs["kind"].tolist() == counts().obs["kind"].tolist()
        assert adata.obs.columns.tolist() == ["kind", "donor"]


def test_tables_of_spatialdata(tmp_path: Path) -> None:
    import zarr

    root = tmp_path / "sdata"
    store = zarr.open_group(str(root), mode="w", zarr_format=2)
    store.create_group("images")
    with pytest.raises(ValueError, match="contains no AnnData"), open_anndata(root):
        pass
    store.create_group("tables")
    with anndata.settings.override(zarr_write_format=2):
        counts().write_zarr(root / "tables" / "cells")
    for path in (root, root / "tables" / "cells", root / "cells", root / "tables"):
        with open_anndata(path) as adata:
            assert_same(adata, counts())
    proteins().write_zarr(root / "tables" / "bins")
    with pytest.raises(ValueError, match=r"pass .*/tables/bins, .*/tables/cells"), open_anndata(root):
        pass


@pytest.mark.parametrize("encoding", ["csr", "csc"])
def test_other_writers_leave_attributes_out(encoding: str, tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        del file["X"]
        write_arrays(file.create_group("X"), counts().X.asformat(encoding))
        del file["obs"]
        obs = file.create_group("obs")
        obs["_index"] = counts().obs_names.to_numpy().astype("S")
        obs["kind"] = np.array(["T", "B", "T", "B", "T"], dtype="S4")
    with open_anndata(tmp_path / "x.h5ad") as adata:
        assert_same(adata, counts())
        assert adata.obs["kind"].tolist() == ["T", "B", "T", "B", "T"]
    assert_same(read_anndata(tmp_path / "x.h5ad"), counts())


def test_a_column_that_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file["obs"]["kind"].attrs["encoding-type"] = "of the future"
        write_elem(file, "obsm", {"X_pca": np.ones((5, 2)), "bad": np.ones((5, 2))})
        file["obsm/bad"].attrs["encoding-type"] = "of the future"
    with caplog.at_level(logging.WARNING, "cell2sen"):
        adata = read_anndata(tmp_path / "x.h5ad")
    assert_same(adata, counts())
    assert "kind" not in adata.obs
    assert list(adata.obsm) == ["X_pca"]
    text = caplog.text
    assert "the column 'kind' of obs" in text
    assert "obsm['bad']" in text


def test_matrices_that_do_not_fit(tmp_path: Path) -> None:
    def write(change: Any) -> Path:
        counts().write_h5ad(tmp_path / "x.h5ad")
        with h5py.File(tmp_path / "x.h5ad", "r+") as file:
            change(file)
        return tmp_path / "x.h5ad"

    def without_attributes(file: Any) -> None:
        del file["X"]
        write_arrays(file.create_group("X"), counts().X[:3])

    def no_matrix(file: Any) -> None:
        del file["X"]
        file["X/values"] = [1]

    for change, message in ((without_attributes, "3 rows or columns.*5, 12"), (no_matrix, r"no matrix.*\['values'\]")):
        path = write(change)
        with pytest.raises(ValueError, match=message), open_anndata(path):
            pass


def test_arrays_of_a_matrix_with_its_attributes() -> None:
    stored = StoredCSR({"data": 1, "indices": 2}, (3, 4))
    assert dict(stored) == {"data": 1, "indices": 2}
    assert len(stored) == 2
    assert stored.attrs.get("shape", default=None) == (3, 4)
    assert stored.attrs.get("no", default=7) == 7
    assert not is_anndata(stored)
