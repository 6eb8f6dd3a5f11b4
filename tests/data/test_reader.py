"""Reader: equal rows from every storage, in bounded memory."""

from __future__ import annotations

import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.data import reader as module
from cell2sen.data.reader import open_reader

N, GENES = 50, 20


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.integers(1, 9, size=(N, GENES)) * (generator.random((N, GENES)) < 0.3)).astype(np.float32)


def make(values, storage=sp.csr_matrix) -> anndata.AnnData:
    names = [f"c{row}" for row in range(len(values))]
    full = anndata.AnnData(storage(values), obs=pd.DataFrame({"kind": "x"}, index=names))
    full.var_names = [f"G{gene}" for gene in range(values.shape[1])]
    adata = full[:, 5:].copy()
    adata.raw = full
    adata.layers["double"] = storage(values[:, 5:] * 2)
    adata.uns["species"] = "mouse"
    return adata


STORAGES = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray, "csr_array": sp.csr_array}


@pytest.fixture(params=["memory", "view", "backed", "h5ad", "zarr"])
def where(request):
    return request.param


@pytest.fixture(params=STORAGES)
def data(request, where, values, tmp_path):
    """One object in memory, as a view and in files, in each storage."""
    adata = make(values, STORAGES[request.param])
    if where == "memory":
        yield adata
    elif where == "view":
        yield make(np.vstack([values, values]), STORAGES[request.param])[:N]
    elif where == "zarr":
        adata.write_zarr(tmp_path / "x.zarr")
        yield tmp_path / "x.zarr"
    else:
        adata.write_h5ad(tmp_path / "x.h5ad")
        if where == "h5ad":
            yield str(tmp_path / "x.h5ad")
        else:
            backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
            yield backed
            backed.file.close()


def whole(source, rows=None):
    starts, blocks = zip(*source.blocks(rows), strict=True)
    assert list(starts) == np.cumsum([0, *(block.shape[0] for block in blocks)])[:-1].tolist()
    assert all(block.has_canonical_format and block.format == "csr" for block in blocks)
    return np.vstack([block.toarray() for block in blocks])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, 7, 1000])
def test_every_place_and_storage(data, values, rows):
    for arguments, expected, name in (
        ({}, values[:, 5:], "X"),
        ({"layer": "double"}, values[:, 5:] * 2, "layers['double']"),
        ({"use_raw": True}, values, "raw.X"),
    ):
        with open_reader(data, **arguments) as source:
            np.testing.assert_array_equal(whole(source, rows), expected)
            np.testing.assert_array_equal(source.sample(N).toarray(), expected)
            np.testing.assert_array_equal(source.sample(3).toarray(), expected[[0, 1, 2, 24, 25, 26, 47, 48, 49]])
            assert (source.where, source.n_obs, source.uns["species"]) == (name, N, "mouse")
            assert source.names.tolist() == [f"c{row}" for row in range(N)]
            assert list(source.var.index) == [f"G{gene}" for gene in range(GENES)][-expected.shape[1] :]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [None, 1])
def test_views_of_backed_files(storage, rows, values, tmp_path):
    make(values, STORAGES[storage]).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    selected = np.array([40, 3, 41, 7])
    view = backed[selected, ["G9", "G6"]]
    with open_reader(view) as source:
        np.testing.assert_array_equal(whole(source, rows), values[selected][:, [9, 6]])
        assert source.names.tolist() == ["c40", "c3", "c41", "c7"]
    with open_reader(view, use_raw=True) as source:
        np.testing.assert_array_equal(whole(source, rows), values[selected])
    with open_reader(view, layer="double") as source:
        np.testing.assert_array_equal(whole(source, rows), values[selected][:, [9, 6]] * 2)
    with open_reader(backed[np.arange(N) % 2 == 0]) as source:
        np.testing.assert_array_equal(whole(source, rows), values[::2, 5:])
    backed.file.close()


NUMBERS = ("?", "i1", "u1", "<i4", "u8", "f8", "g")


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [(storage, dtype) for storage in (sp.csr_matrix, sp.csc_matrix) for dtype in NUMBERS]
    + [(np.asarray, dtype) for dtype in (*NUMBERS, ">i2", ">i8", "f2", ">f4", ">f8")],
)
def test_every_number_type(storage, dtype, values):
    typed = values.astype(dtype)
    adata = anndata.AnnData(storage(typed))
    with open_reader(adata) as source:
        read = whole(source, 9)
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, typed.astype(float))


def test_small_integers_do_not_wrap_around():
    twice = sp.csr_matrix(
        (np.array([200, 100, 7], dtype=np.uint8), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2)
    )
    with open_reader(anndata.AnnData(twice)) as source:
        assert whole(source).tolist() == [[7, 300]]


def test_long_column_numbers(values):
    long = sp.csr_matrix(values)
    long.indices, long.indptr = long.indices.astype(np.int64), long.indptr.astype(np.int64)
    with open_reader(anndata.AnnData(long)) as source:
        np.testing.assert_array_equal(whole(source, 8), values)


def test_complex_numbers_are_refused(values):
    with (
        open_reader(anndata.AnnData(values.astype(complex))) as source,
        pytest.raises(TypeError, match="real numbers, found dtype complex"),
    ):
        whole(source)


@pytest.mark.parametrize("storage", STORAGES)
def test_input_is_not_changed(storage, values):
    adata = make(values, STORAGES[storage])
    with open_reader(adata) as source:
        for _, block in source.blocks():
            block.data[:] = -1
        source.sample().data[:] = -1
    np.testing.assert_array_equal(adata.to_df().to_numpy(), values[:, 5:])


def test_lazy_arrays_are_computed(values):
    class Lazy:
        """The part of a dask array that a reader uses."""

        def __init__(self, array):
            self.array, self.shape = array, array.shape

        def __getitem__(self, rows):
            return Lazy(self.array[rows])

        def compute(self):
            return self.array

    source = module.Reader(
        matrix=Lazy(sp.csr_array(values)),
        obs=pd.DataFrame(index=range(N)),
        var=pd.DataFrame(),
        uns={},
        where="X",
        hint="",
    )
    np.testing.assert_array_equal(whole(source, 7), values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "kind"), [("csr", "h5ad"), ("csc", "h5ad"), ("dense", "h5ad"), ("csr", "zarr"), ("dense", "zarr")]
)
def test_memory_is_bounded(storage, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_VALUES", 2**14)
    monkeypatch.setattr(module, "CSC_VALUES", 2**15)
    n, genes = 4000, 300
    dense = np.random.default_rng(0).integers(0, 3, size=(n, genes)).astype(np.float32)
    adata = anndata.AnnData(STORAGES[storage](dense))
    adata.obs_names = adata.obs_names.astype(str)
    size = dense.nbytes if storage == "dense" else adata.X.data.nbytes + adata.X.indices.nbytes
    path = tmp_path / f"x.{kind}"
    if kind == "h5ad":
        adata.write_h5ad(path)
    else:  # whole chunks of a zarr store are read
        adata.write_zarr(path, chunks=(64, genes) if storage == "dense" else None)
    total = float(dense.sum())
    del adata, dense
    with open_reader(path) as source:
        source.sample(8)  # imports and caches
        tracemalloc.start()
        total_of_blocks = sum(float(block.sum()) for _, block in source.blocks())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert total_of_blocks == total
    assert peak < size / 3, f"{peak / 1e6:.1f} of {size / 1e6:.1f} MB"


# --- Input that cannot be read


def test_missing_matrices_list_the_available_ones(values, tmp_path):
    adata = make(values)
    adata.write_h5ad(tmp_path / "x.h5ad")
    for data in (adata, tmp_path / "x.h5ad"):
        with (
            pytest.raises(KeyError, match=r"no 'counts'; available: \['double'\], or use_raw=True"),
            open_reader(data, layer="counts"),
        ):
            pass
        with pytest.raises(ValueError, match="not both"), open_reader(data, layer="double", use_raw=True):
            pass
        with open_reader(data) as source:
            assert source.hint == "there is layer='double' or use_raw=True"
        with open_reader(data, layer="double") as source:
            assert source.hint == "there is use_raw=True"
    del adata.raw
    with (
        pytest.raises(KeyError, match=r"no adata.raw; available: X, layers \['double'\]"),
        open_reader(adata, use_raw=True),
    ):
        pass
    del adata.layers["double"]
    with open_reader(adata) as source:
        assert "no other matrix" in source.hint


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_objects(shape, tmp_path):
    adata = anndata.AnnData(sp.csr_matrix(shape, dtype=np.float32))
    adata.write_h5ad(tmp_path / "x.h5ad")
    for data in (adata, tmp_path / "x.h5ad"):
        with (
            pytest.raises(ValueError, match=rf"is empty: {shape[0]} cells and {shape[1]} genes in X"),
            open_reader(data),
        ):
            pass


def test_no_X(values, tmp_path):
    adata = anndata.AnnData(obs=pd.DataFrame(index=["a"]), layers={"counts": values[:1]})
    adata.write_h5ad(tmp_path / "x.h5ad")
    for data in (adata, tmp_path / "x.h5ad"):
        with pytest.raises(ValueError, match="another matrix: there is layer='counts'"), open_reader(data):
            pass


def test_no_anndata(tmp_path):
    import h5py

    with pytest.raises(FileNotFoundError, match="no file"), open_reader(tmp_path / "no.h5ad"):
        pass
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(ValueError, match="no table of numbers"), open_reader(tmp_path / "text.h5ad"):
        pass
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["matrix"] = [1, 2]
    with pytest.raises(ValueError, match=r"no AnnData.*only \['matrix'\]"), open_reader(tmp_path / "other.h5ad"):
        pass
    with pytest.raises(ValueError, match="no zarr store"), open_reader(tmp_path):
        pass
    with pytest.raises(TypeError, match="found ndarray"), open_reader(np.ones((2, 2))):
        pass


def test_shared_blocks_are_the_rows_without_a_copy(data, values):
    with open_reader(data) as source:
        blocks = [module.canonical(block) for _, block in source.blocks(7, shared=True)]
        np.testing.assert_array_equal(np.vstack([block.toarray() for block in blocks]), values[:, 5:])
        assert all(block.has_canonical_format for block in blocks)
        if sp.issparse(source.matrix) and source.matrix.format == "csr":
            assert all(np.shares_memory(block.data, source.matrix.data) for block in blocks if block.nnz)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, bool, np.longdouble])
def test_shared_blocks_out_of_order(dtype):
    """Unordered and repeated columns; first and last rows without entries."""
    indptr, indices, data = [0, 0, 3, 4, 6, 6], [3, 1, 1, 2, 0, 0], np.array([1, 1, 1, 0, 1, 1], dtype=dtype)
    csr = sp.csr_matrix((5, 4), dtype=np.dtype(dtype).newbyteorder("="))
    csr.data, csr.indices, csr.indptr = data, np.array(indices, dtype=np.int32), np.array(indptr, dtype=np.int32)
    expected = np.zeros((5, 4))
    np.add.at(expected, (np.repeat(np.arange(5), np.diff(indptr)), indices), data.astype(float))
    adata = anndata.AnnData(sp.csr_matrix((5, 4), dtype=np.float32))
    source = module.Reader(matrix=csr, obs=adata.obs, var=adata.var, uns={}, where="X", hint="")
    for rows in (1, 2, 5):
        blocks = [module.canonical(block) for _, block in source.blocks(rows, shared=True)]
        assert all(block.has_canonical_format for block in blocks)
        np.testing.assert_array_equal(np.vstack([block.toarray() for block in blocks]), expected)
    assert csr.indices.tolist() == indices
    np.testing.assert_array_equal(csr.data, data)


@pytest.mark.parametrize("column", [-1, 5, 2**30])
@pytest.mark.parametrize("ascending", [True, False])
def test_a_damaged_matrix_is_refused(column, ascending):
    columns = [0, column, 3] if not ascending else sorted([0, column, 3])
    damaged = sp.csr_matrix((np.ones(4, dtype=np.float32), np.array([2, 1, 1, 1]), np.array([0, 1, 4])), shape=(2, 5))
    damaged.indices[1:] = columns
    for read in (module.canonical, module._to_csr):  # blocks that are shared, and blocks that are not
        with pytest.raises(ValueError, match=f"damaged.*gene number {column}.*5 genes"):
            read(damaged)


@pytest.mark.parametrize(("part", "place", "value"), [("indptr", 2, 10**6), ("indptr", -1, 1), ("indptr", 0, 3)])
@pytest.mark.parametrize("storage", ["csr", "csc"])
def test_damaged_pointers_are_refused_and_give_no_values_of_other_cells(storage, part, place, value, values, tmp_path):
    import h5py

    make(values, STORAGES[storage]).write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file["X"][part][place] = value
    with pytest.raises(ValueError, match=r"X of .*x.h5ad is damaged: its pointers"):
        open_reader(tmp_path / "x.h5ad")
    with open_reader(tmp_path / "x.h5ad", use_raw=True) as source:
        np.testing.assert_array_equal(whole(source), values)
