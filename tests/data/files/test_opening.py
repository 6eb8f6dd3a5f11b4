"""Opening: each container gives the same cells; what is damaged, unsafe or of another kind is one clear error."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from containers import (
    assert_same,
    counts,
    write_legacy,
    write_loom,
    write_mtx,
    write_mudata,
    write_tenx,
    write_tenx_2,
    zip_folder,
)

from cell2sen.data.files.opening import cannot_be_read, is_plain_h5ad, open_anndata, read_anndata
from cell2sen.data.reader import open_reader


def zipped(path: Path, top: str = "") -> None:
    counts().write_zarr(path.with_name("store"))
    zip_folder(path.with_name("store"), path, top)


WRITERS: dict[str, Callable[[Path], None]] = {
    "plain.h5ad": lambda path: counts().write_h5ad(path),
    "no_suffix": lambda path: counts().write_h5ad(path.with_name("x.h5ad")) or path.with_name("x.h5ad").rename(path),
    "legacy.h5ad": lambda path: write_legacy(path, counts()),
    "legacy_raw.h5ad": lambda path: write_legacy(path, counts(), raw=True),
    "tenx.h5": lambda path: write_tenx(path, counts()),
    "tenx_2.h5": lambda path: write_tenx_2(path, {"GRCh38": counts()}),
    "folder": lambda path: write_mtx(path, counts()),
    "x.loom": lambda path: write_loom(path, counts()),
    "x.h5mu": lambda path: write_mudata(path, {"rna": counts()}),
    "store": lambda path: counts().write_zarr(path),
    "store.zarr": lambda path: counts().write_zarr(path),
    "store.zarr.zip": zipped,
    "top.zip": lambda path: zipped(path, "cells/store.zarr"),
    "x.csv": lambda path: counts().to_df().to_csv(path),
}


def digest(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


@pytest.mark.parametrize("name", WRITERS)
def test_each_container_is_read_and_not_changed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    before = digest(path)
    with open_anndata(path) as adata:
        assert_same(adata, counts())
    assert_same(read_anndata(str(path)), counts())
    with open_reader(path) as reader:
        np.testing.assert_array_equal(reader.sample(10).toarray(), counts().X.toarray())
        for rows in (2, None):
            blocks = [block.toarray() for _, block in reader.blocks(rows)]
            np.testing.assert_array_equal(np.vstack(blocks), counts().X.toarray())
    assert digest(path) == before


def test_legacy_categories_have_their_names(tmp_path: Path) -> None:
    write_legacy(tmp_path / "x.h5ad", counts(), raw=True)
    assert read_anndata(tmp_path / "x.h5ad").obs["kind"].tolist() == counts().obs["kind"].tolist()
    with open_reader(tmp_path / "x.h5ad", use_raw=True) as reader:
        np.testing.assert_array_equal(reader.sample(9).toarray(), counts().X.toarray())
        assert reader.obs["kind"].tolist() == counts().obs["kind"].tolist()
    assert not is_plain_h5ad(tmp_path / "x.h5ad")


def test_the_whole_file_is_read_on_request(tmp_path: Path) -> None:
    adata = counts()
    adata.obsm["X_pca"], adata.uns["note"], adata.uns["species"] = np.ones((5, 2)), "n", "mouse"
    adata.layers["double"] = adata.X * 2
    adata.obsp["near"] = sp.csr_matrix(np.eye(5))
    adata.varm["loadings"] = np.ones((12, 2))
    adata.raw = adata.copy()
    for path, write in ((tmp_path / "x.h5ad", adata.write_h5ad), (tmp_path / "x.zarr", adata.write_zarr)):
        write(path)
        whole = read_anndata(path)
        assert_same(whole, counts())
        assert list(whole.obsm) == ["X_pca"]
        assert list(whole.obsp) == ["near"]
        assert list(whole.varm) == ["loadings"]
        assert dict(whole.uns) == {"note": "n", "species": "mouse"}
        np.testing.assert_array_equal(whole.raw.X.toarray(), counts().X.toarray())
        np.testing.assert_array_equal(whole.layers["double"].toarray(), counts().X.toarray() * 2)
        with open_anndata(path) as opened:
            assert dict(opened.uns) == {"species": "mouse"}
            assert not len(opened.obsm)
            assert not sp.issparse(opened.X)  # on disk
            assert not sp.issparse(opened.layers["double"])
    assert is_plain_h5ad(tmp_path / "x.h5ad")
    assert not is_plain_h5ad(tmp_path / "x.zarr")


@pytest.mark.parametrize("container", ["x.h5ad", "x.zarr"])
def test_a_file_without_X(container: str, tmp_path: Path) -> None:
    adata = anndata.AnnData(obs=counts().obs, var=counts().var, layers={"counts": counts().X})
    (adata.write_h5ad if container == "x.h5ad" else adata.write_zarr)(tmp_path / container)
    with open_reader(tmp_path / container, layer="counts") as reader:
        np.testing.assert_array_equal(reader.sample(9).toarray(), counts().X.toarray())
    with pytest.raises(ValueError, match="pass another matrix: there is layer='counts'"):
        open_reader(tmp_path / container)


def test_bytes_in_files_are_text(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        for name, values in (("obs/kind", "T B T B T"), ("var/symbol", " ".join("ABCDEFGHIJKL"))):
            if name in file:
                del file[name]
            file[name] = np.array(values.split(), dtype="S8")
            file[name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        file["var"].attrs["column-order"] = np.array(["symbol"], dtype=h5py.string_dtype())
        file["uns/species"] = np.array([b"mouse"])
    with open_reader(tmp_path / "x.h5ad") as reader:
        assert reader.obs["kind"].tolist() == ["T", "B", "T", "B", "T"]
        assert reader.var["symbol"].tolist() == list("ABCDEFGHIJKL")
        assert str(reader.uns["species"]) == "mouse"
    assert read_anndata(tmp_path / "x.h5ad").obs["kind"].tolist() == ["T", "B", "T", "B", "T"]


def test_categories_of_anndata_07(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        obs = file["obs"]
        del obs["kind"]
        obs["__categories/kind"] = np.array(["T", "B"], dtype=h5py.string_dtype())
        obs["kind"] = np.array([0, 1, -1, 1, 0], dtype="i1")
        obs["kind"].attrs["categories"] = obs["__categories/kind"].ref
        obs.attrs["encoding-version"] = "0.1.0"
    with open_anndata(tmp_path / "x.h5ad") as adata:
        assert adata.obs["kind"].astype(object).where(adata.obs["kind"].notna(), None).tolist() == [
            "T", "B", None, "B", "T",
        ]  # fmt: skip
    assert not is_plain_h5ad(tmp_path / "x.h5ad")


# --- Damaged, unsafe and other files


class Unpickled:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


FORGED: tuple[dict[str, Any], ...] = (
    {"compressor": {"id": "pickle"}},
    {"compressor": None, "filters": [{"id": "pickle"}]},
    {"compressor": None, "filters": [{"id": "zlib", "level": 1}, {"id": "pickle", "protocol": 5}]},
    {"compressor": None, "dtype": "|O", "fill_value": None, "filters": [{"id": "pickle"}]},
    {"compressor": {"id": "pickle"}, "dtype": "|O", "fill_value": None, "filters": [{"id": "vlen-utf8"}]},
)


@pytest.mark.parametrize("array", ["X/data", "obs/_index", "var/_index", "uns/species"])
@pytest.mark.parametrize("change", FORGED)
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_forged_store_is_refused_and_runs_nothing(
    array: str, change: dict[str, Any], consolidated: bool, tmp_path: Path
) -> None:
    import cell2sen

    store, trace = tmp_path / "x.zarr", tmp_path / "ran"
    adata = counts()
    adata.uns["species"] = "mouse"
    with anndata.settings.override(zarr_write_format=2):
        adata.write_zarr(store)
    metadata = json.loads((store / array / ".zarray").read_text()) | change
    (store / array / ".zarray").write_text(json.dumps(metadata))
    if consolidated:
        content = json.loads((store / ".zmetadata").read_text())
        content["metadata"][f"{array}/.zarray"] = metadata
        (store / ".zmetadata").write_text(json.dumps(content))
    else:
        (store / ".zmetadata").unlink()
    for chunk in (store / array).iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Unpickled(trace)))
    with pytest.raises(ValueError, match="pickled objects"):
        open_reader(store)
    with pytest.raises(ValueError, match="pickled objects"):
        read_anndata(store)
    result = cell2sen.check(store)
    assert not result.ok
    assert "pickled objects" in result.text
    assert not trace.exists()


@pytest.mark.parametrize("array", ["X/data", "obs/_index", "uns/species"])
@pytest.mark.filterwarnings("ignore")  # format 3 is young in anndata and zarr
@pytest.mark.parametrize("codec", ["pickle", "numcodecs.pickle"])
def test_a_forged_store_of_zarr_3_is_refused_without_consolidated_metadata(
    array: str, codec: str, tmp_path: Path
) -> None:
    import cell2sen

    store, trace = tmp_path / "x.zarr", tmp_path / "ran"
    adata = counts()
    adata.uns["species"] = "mouse"
    with anndata.settings.override(zarr_write_format=3):
        adata.write_zarr(store)
    root, member = store / "zarr.json", store / array / "zarr.json"
    root.write_text(json.dumps({k: v for k, v in json.loads(root.read_text()).items() if k != "consolidated_metadata"}))
    forged = json.loads(member.read_text()) | {"codecs": [{"name": codec, "configuration": {}}]}
    member.write_text(json.dumps(forged))
    for chunk in (store / array).rglob("*"):
        if chunk.is_file() and chunk != member:
            chunk.write_bytes(pickle.dumps(Unpickled(trace)))
    for read in (open_reader, read_anndata):
        with pytest.raises(ValueError, match="pickled objects"):
            read(store)
    assert "pickled objects" in cell2sen.check(store).text
    assert not trace.exists()


def test_a_truncated_file(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    content = (tmp_path / "x.h5ad").read_bytes()
    for size in (len(content) // 2, len(content) - 1, 600):
        (tmp_path / "x.h5ad").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"x.h5ad is not (complete|a readable HDF5)"):
            open_reader(tmp_path / "x.h5ad")


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_damaged_values_are_named_when_they_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zarr":
        counts().write_zarr(path)
        chunk = path / "X" / "data" / "0"
        chunk.write_bytes(b"\x02\x01\x21\x04" + b"\xff" * (chunk.stat().st_size - 4))
    else:
        adata = anndata.AnnData(np.random.default_rng(0).random((50, 100)).astype(np.float32))
        adata.write_h5ad(path, compression="gzip")
        with h5py.File(path) as file:
            chunk_info = file["X"].id.get_chunk_info(0)
        with path.open("r+b") as stream:
            stream.seek(chunk_info.byte_offset)
            stream.write(b"\xff" * chunk_info.size)
    with (
        open_reader(path) as reader,
        pytest.raises(ValueError, match=rf"X of .*x.{kind} cannot be read, it is damaged"),
    ):
        list(reader.blocks())


@pytest.mark.parametrize("part", ["data", "indices"])
def test_a_store_with_missing_parts_is_not_read_as_zeros(part: str, tmp_path: Path) -> None:
    counts().write_zarr(tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / "X" / part / "0").unlink()
    with pytest.raises(ValueError, match=f"X of .* is not complete: 1 of 1 parts of its {part} are missing"):
        open_reader(tmp_path / "x.zarr")


def test_a_part_of_zeros_need_not_be_stored(tmp_path: Path) -> None:
    for number, values in enumerate(([[3.0, 0, 2]], [[0.0, 5, 1]])):  # row numbers by columns: zarr leaves out zeros
        one = anndata.AnnData(sp.csc_matrix(np.array(values)), var=pd.DataFrame(index=["CD4", "CD8A", "LYZ"]))
        one.write_zarr(tmp_path / f"{number}.zarr")
        assert not (tmp_path / f"{number}.zarr" / "X" / "indices" / "0").exists()
        with open_reader(tmp_path / f"{number}.zarr") as reader:
            np.testing.assert_array_equal(np.vstack([block.toarray() for _, block in reader.blocks()]), values)


def test_parts_of_a_dense_matrix_that_are_not_stored_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = counts()
    adata.X = adata.X.toarray()
    adata.write_zarr(tmp_path / "x.zarr")
    open_reader(tmp_path / "x.zarr").close()
    assert caplog.text == ""
    (part,) = (file for file in (tmp_path / "x.zarr" / "X").rglob("*") if file.is_file() and file.name[0] not in ".z")
    part.unlink()
    open_reader(tmp_path / "x.zarr").close()
    assert "1 of 1 parts of X of" in caplog.text
    assert "are not stored and are read as zeros" in caplog.text


def test_hdf5_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"

    def write(*keys: str, **attrs: Any) -> None:
        with h5py.File(path, "w") as file:
            for key in keys:
                file[key] = [1]
            for name, value in attrs.items():
                file[name].attrs["pandas_type"] = value

    for keys, message in (
        (("assays/RNA", "meta.data/x", "cell.names"), r"h5seurat.*SeuratDisk::Convert\(.x.h5., dest = .h5ad.\)"),
        (("barcode_idx", "feature_idx", "umi"), "molecule_info.h5.*pass filtered_feature_bc_matrix.h5"),
        (("model_weights/a", "x"), "Keras"),
        (("matrix", "else"), r"contains no AnnData.*only \['else', 'matrix'\]"),
    ):
        write(*keys)
        with pytest.raises(ValueError, match=message):
            open_reader(path)
    write("table/axis0", table="frame")
    with pytest.raises(ValueError, match=r"pandas wrote.*read_hdf\(.x.h5., .table.\)"):
        open_reader(path)


def test_the_matrix_of_xenium_is_beside_its_store(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(str(tmp_path / "x"), mode="w").create_group("cell_features")
    with pytest.raises(ValueError, match=r"pass cell_feature_matrix.h5 of the same folder"):
        open_reader(tmp_path / "x")


def test_objects_that_hold_several_are_refused() -> None:
    class Several:
        obs, var = pd.DataFrame(), pd.DataFrame()
        mod = {"rna": counts(), "prot": counts()}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"Several, which holds several: pass one of mod\['rna'\], mod\['prot'\]"):
        open_reader(Several())


def test_places_inside_of_files_without_groups(tmp_path: Path) -> None:
    counts().to_df().to_csv(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_reader(tmp_path / "x.csv" / "rna")


def test_errors_of_libraries_name_the_file() -> None:
    assert "x.h5ad cannot be read, it is damaged or incomplete (KeyError: 'a')" in str(
        cannot_be_read(KeyError("a"), "x.h5ad")
    )
    assert "pickled objects" in str(cannot_be_read(ValueError("'object_codec_id': 'pickle'"), "x"))


def test_a_copy_stays_readable_while_the_first_is_open(tmp_path: Path) -> None:
    counts().write_h5ad(tmp_path / "x.h5ad")
    with open_reader(tmp_path / "x.h5ad"), open_reader(tmp_path / "x.h5ad") as second:
        shutil.copyfile(tmp_path / "x.h5ad", tmp_path / "y.h5ad")
        assert second.n_obs == 5
