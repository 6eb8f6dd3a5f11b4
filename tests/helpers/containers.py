"""Files of other formats that hold the same cells, for tests that read them back."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

#: Genes that are in most data sets, and barcodes.
GENES = ["CD3D", "ACTB", "MT-CO1", "RPL13", "LYZ", "NKG7", "B2M", "MALAT1", "GAPDH", "MS4A1", "CD14", "S100A8"]
BARCODES = ["AAACCTGAGAAACC-1", "AAACCTGAGCGTAA-1", "ACGTACGTACGTAC-1", "TTTGCATCATTGGC-1", "GGGTCATTAACCGG-1"]


def counts() -> anndata.AnnData:
    """Counts of five cells with a kind each; one cell and one gene are empty."""
    values = np.random.default_rng(1).poisson(1.0, (len(BARCODES), len(GENES))).astype(np.float32)
    values[3], values[:, 5] = 0, 0
    obs = pd.DataFrame({"kind": pd.Categorical(["T", "B", "T", "B", "T"])}, index=BARCODES)
    return anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=pd.Index(GENES, dtype=object)))


def assert_same(found: anndata.AnnData, expected: anndata.AnnData, matrix: Any = None) -> None:
    """Equal values, cells and genes."""
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    stored = found.X if matrix is None else matrix
    stored = stored[0 : found.n_obs]
    np.testing.assert_array_equal(stored.toarray() if sp.issparse(stored) else stored, expected.X.toarray())


def write_arrays(group: Any, matrix: Any) -> None:
    """The arrays of a sparse matrix."""
    group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr


def write_legacy(path: Path, adata: anndata.AnnData, *, raw: bool = False) -> None:
    """A file as anndata 0.6 wrote it: arrays with fields, category codes with names in uns, h5sparse matrices."""

    def table(frame: pd.DataFrame) -> Any:
        codes = {name: frame[name].cat.codes.to_numpy(np.int8) for name in frame}
        rows = np.zeros(len(frame), dtype=[("index", "S40"), *((name, "i1") for name in codes)])
        rows["index"] = frame.index.to_numpy().astype("S40")
        for name, values in codes.items():
            rows[name] = values
        return rows

    with h5py.File(path, "w") as file:
        for key in ("X", "raw.X") if raw else ("X",):
            group = file.create_group(key)
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(adata.shape)
            write_arrays(group, adata.X)
        file["obs"], file["var"] = table(adata.obs), table(adata.var)
        if raw:
            file["raw.var"] = table(adata.var)
        uns = file.create_group("uns")
        for name in adata.obs:
            uns[f"{name}_categories"] = np.array(adata.obs[name].cat.categories, dtype="S40")


def write_tenx(path: Path, adata: anndata.AnnData, types: Sequence[str] | None = None) -> None:
    """A file of CellRanger 3 and later, without feature types if `types` is empty."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        write_arrays(group, adata.X.astype(np.int32))
        group["shape"], group["barcodes"] = np.array(adata.shape[::-1]), adata.obs_names.to_numpy().astype("S")
        features = group.create_group("features")
        features["name"] = adata.var_names.to_numpy().astype("S")
        features["id"] = np.array([f"ENSG{gene:011d}" for gene in range(adata.n_vars)], dtype="S")
        features["_all_tag_keys"] = np.array([b"genome"])
        if types != []:
            features["feature_type"] = np.array(types or ["Gene Expression"] * adata.n_vars, dtype="S")


def write_tenx_2(path: Path, genomes: dict[str, anndata.AnnData]) -> None:
    """A file of CellRanger 2, with a group for each genome."""
    with h5py.File(path, "w") as file:
        for name, adata in genomes.items():
            group = file.create_group(name)
            write_arrays(group, adata.X.astype(np.int32))
            group["shape"], group["barcodes"] = np.array(adata.shape[::-1]), adata.obs_names.to_numpy().astype("S")
            group["gene_names"] = adata.var_names.to_numpy().astype("S")
            group["genes"] = np.array([f"ENSG{gene:011d}" for gene in range(adata.n_vars)], dtype="S")


def write_loom(path: Path, adata: anndata.AnnData) -> None:
    """A loom file: genes × cells, with a layer and a table in two dimensions."""
    with h5py.File(path, "w") as file:
        file["matrix"] = adata.X.toarray().T
        file["layers/spliced"] = adata.X.toarray().T * 2
        file["row_attrs/Gene"] = np.array(adata.var_names, dtype=h5py.string_dtype())
        file["col_attrs/CellID"] = np.array(adata.obs_names, dtype="S")
        file["col_attrs/kind"] = np.array(adata.obs["kind"], dtype=h5py.string_dtype())
        file["col_attrs/n_umi"] = np.asarray(adata.X.sum(1)).ravel()
        file["col_attrs/embedding"] = np.zeros((adata.n_obs, 2))


def write_mudata(path: Path, modalities: dict[str, anndata.AnnData], obs: pd.DataFrame | None = None) -> None:
    """A MuData file, with its own block of 512 bytes in front, as mudata writes it."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["encoding-type"] = "MuData"
        first = next(iter(modalities.values()))
        write_elem(file, "obs", pd.DataFrame(index=first.obs_names) if obs is None else obs)
        write_elem(file, "var", pd.DataFrame(index=first.var_names))
        group = file.create_group("mod")
        for name, adata in modalities.items():
            write_elem(group, name, adata)
    with path.open("r+b") as stream:
        stream.write(b"MuData (format-version=0.1.0;creator=muon;creator-version=0.1.2)")


def write_mtx(folder: Path, adata: anndata.AnnData, *, packed: bool = True, prefix: str = "") -> None:
    """A folder of CellRanger: version 3 and later if `packed`, else 2."""
    coo = sp.coo_matrix(adata.X.T)
    lines = ["%%MatrixMarket matrix coordinate integer general", "% by hand", f"{adata.n_vars} {adata.n_obs} {coo.nnz}"]
    lines += [f"{r + 1} {c + 1} {int(v)}" for r, c, v in zip(coo.row, coo.col, coo.data, strict=True)]
    kind = "\tGene Expression" if packed else ""
    genes = [f"ENSG{place:011d}\t{name}{kind}" for place, name in enumerate(adata.var_names)]
    tables = {"matrix.mtx": lines, "features.tsv" if packed else "genes.tsv": genes, "barcodes.tsv": adata.obs_names}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        text = ("\n".join(rows) + "\n").encode()
        file = folder / f"{prefix}{name}{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(text) if packed else text)


def zip_folder(folder: Path, path: Path, top: str = "") -> None:
    """A zip archive of a folder, whose content lies in the folder `top`."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, (Path(top) / file.relative_to(folder)).as_posix())
