"""10x Genomics HDF5 files of all versions."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from containers import assert_same, counts, write_tenx, write_tenx_2

from cell2sen.data.files import tenx
from cell2sen.data.files.opening import open_anndata, read_anndata
from cell2sen.data.reader import open_reader


@pytest.mark.parametrize("name", ["filtered_feature_bc_matrix.h5", "renamed.h5ad"])
def test_features_of_version_3(name: str, tmp_path: Path) -> None:
    types = ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    write_tenx(tmp_path / name, counts(), types)
    with open_anndata(tmp_path / name) as adata:
        assert_same(adata, counts())
        assert adata.var["feature_types"].tolist() == types
        assert adata.var["gene_ids"].tolist()[:2] == ["ENSG00000000000", "ENSG00000000001"]
    assert_same(read_anndata(tmp_path / name), counts())


def test_cellbender_adds_groups_and_may_leave_types_out(tmp_path: Path) -> None:
    write_tenx(tmp_path / "x.h5", counts(), [])
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["droplet_latents/cell_probability"] = np.ones(5)
        file["metadata/estimator"] = b"mckp"
    with open_anndata(tmp_path / "x.h5") as adata:
        assert_same(adata, counts())
        assert "feature_types" not in adata.var


def test_one_genome_of_version_2(tmp_path: Path) -> None:
    for group in ("GRCh38", "background_removed"):
        write_tenx_2(tmp_path / "x.h5", {group: counts()})
        with open_anndata(tmp_path / "x.h5") as adata:
            assert_same(adata, counts())


def test_several_genomes_of_version_2_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_tenx_2(path, {"hg19": counts(), "mm10": counts()[:2].copy()})
    with h5py.File(path) as file:
        assert tenx.groups(file) == ["hg19", "mm10"]
    with pytest.raises(ValueError, match=r"10x.*pass one of .*x.h5/hg19, .*x.h5/mm10"), open_anndata(path):
        pass
    with open_anndata(path / "mm10") as adata:
        assert_same(adata, counts()[:2].copy())
    with pytest.raises(ValueError, match=r"no matrix 'no'; available: \['hg19', 'mm10'\]"), open_anndata(path / "no"):
        pass


def test_identifiers_where_there_are_no_symbols(tmp_path: Path) -> None:
    write_tenx(tmp_path / "x.h5", counts())
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["matrix/features/name"]
    with open_anndata(tmp_path / "x.h5") as adata:
        assert adata.var_names[0] == "ENSG00000000000"
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["matrix/features/id"]
    with pytest.raises(ValueError, match="no names of genes"), open_anndata(tmp_path / "x.h5"):
        pass


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    write_tenx(tmp_path / "x.h5", counts())
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array([b"A"])
    with pytest.raises(ValueError, match="damaged: 5 cells in the matrix, 1 barcodes"), open_anndata(tmp_path / "x.h5"):
        pass


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cell2sen.data.reader.BLOCK_VALUES", 2**14)
    dense = np.random.default_rng(0).integers(0, 3, size=(4000, 300)).astype(np.int32)
    adata = anndata.AnnData(sp.csr_matrix(dense))
    write_tenx(tmp_path / "x.h5", adata)
    size = adata.X.data.nbytes + adata.X.indices.nbytes
    with open_reader(tmp_path / "x.h5") as reader:
        reader.sample(8)  # imports and caches
        tracemalloc.start()
        total = sum(float(block.sum()) for _, block in reader.blocks())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert total == dense.sum()
    assert peak < size / 3
