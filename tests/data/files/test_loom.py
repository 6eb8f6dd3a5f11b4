"""Loom files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from containers import assert_same, counts, write_loom

from cell2sen.data.files import loom
from cell2sen.data.files.opening import open_anndata


@pytest.mark.parametrize("values", [2**24, 20])  # at once, and a cell at a time
def test_cells_genes_and_layers(values: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loom, "_VALUES", values)
    write_loom(tmp_path / "x.loom", counts())
    with open_anndata(tmp_path / "x.loom") as adata:
        assert_same(adata, counts())
        np.testing.assert_array_equal(adata.layers["spliced"].toarray(), counts().X.toarray() * 2)
        assert adata.obs["kind"].tolist() == counts().obs["kind"].tolist()
        assert adata.obs["n_umi"].tolist() == counts().X.sum(1).ravel().tolist()[0]
        assert adata.obs.columns.tolist() == ["kind", "n_umi"]


def test_other_names_of_the_attributes(tmp_path: Path) -> None:
    write_loom(tmp_path / "x.loom", counts())
    with h5py.File(tmp_path / "x.loom", "r+") as file:
        file.move("row_attrs/Gene", "row_attrs/gene_name")
        file.move("col_attrs/CellID", "col_attrs/barcode")
        assert loom.is_loom(file)
        assert_same(loom.open_loom(file), counts())
        file.move("col_attrs/barcode", "col_attrs/other")
        assert loom.open_loom(file).obs_names.tolist() == ["0", "1", "2", "3", "4"]
