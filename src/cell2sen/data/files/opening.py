"""Opening of a file of any format as AnnData: with matrices on disk where possible, or whole in memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cell2sen.data.files import groups, tenx
from cell2sen.data.files.formats import ZARR_MARKS, Location, locate, recognise, refuse
from cell2sen.data.files.frames import text_of, with_names, with_text
from cell2sen.data.files.loom import is_loom, open_loom
from cell2sen.data.files.matrix_market import open_mtx
from cell2sen.data.files.tables import open_table

if TYPE_CHECKING:
    from anndata import AnnData

#: Codecs of zarr that run code of the file when they read.
_UNSAFE_CODECS = ("pickle",)


@contextlib.contextmanager
def open_anndata(path: str | Path, *, whole: bool = False) -> Iterator[AnnData]:
    """AnnData of a file of any format, open for reading only while the block runs.

    Matrices of HDF5 and zarr stay on disk. Only the annotations of cells and genes, and the organism in uns, are read.

    Parameters
    ----------
    path
        A file or folder; a group inside of it may follow: ``cells.h5mu/rna``, ``store.zarr/tables/table``.
    whole
        Read the rest, too: obsm, varm, obsp, varp and uns. Matrices still stay on disk.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The format is not read, or the file is damaged. The message says what it is and what to do.
    """
    place = locate(path)
    with contextlib.ExitStack() as opened:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that occur twice, and old formats, which are read
                adata = _open(place, whole, opened)
        except (FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:
            raise _readable(error, place) from error
        yield adata


def read_anndata(path: str | Path) -> AnnData:
    """AnnData of a file of any format, all of it in memory.

    Raises
    ------
    FileNotFoundError, ValueError
        As for :func:`open_anndata`.
    """
    with open_anndata(path, whole=True) as adata:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return adata.to_memory()
        except MemoryError:
            raise
        except Exception as error:
            raise _readable(error, locate(path)) from error


def format_of(path: str | Path) -> str:
    """Name of the format of a file that :func:`open_anndata` opens, for people."""
    place = locate(path)
    kind = recognise(place.file)
    names = {"mtx": "Matrix Market files", "table": "table of text", "zarr": "zarr store", "zipped zarr": "zipped zarr"}
    if kind != "hdf5":
        return names[kind]
    with _hdf5(place.file) as root:
        if groups.is_anndata(root):
            return "AnnData (of version 0.6 or older)" if _is_legacy(root) else "AnnData"
        if is_loom(root):
            return "loom"
        if tenx.groups(root):
            return "10x Genomics HDF5"
        return f"MuData, {place.inside}" if "mod" in root and place.inside else "MuData" if "mod" in root else "HDF5"


def is_plain_h5ad(path: str | Path) -> bool:
    """Whether a file is an .h5ad in today's layout, of which a copy can get further results."""
    place = locate(path)
    if place.inside or not place.file.is_file() or recognise(place.file) != "hdf5":
        return False
    import h5py

    with h5py.File(place.file, "r") as root:
        if not groups.is_anndata(root) or _is_legacy(root):
            return False
        return str(text_of(root["obs"].attrs.get("encoding-version", "0.1.0"))) != "0.1.0"  # of anndata 0.7


def cannot_be_read(error: Exception, name: str) -> ValueError:
    """Error for a damaged or unsafe file: its name, the cause, and that pickled objects are never read."""
    text = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    if any(codec in text.lower() for codec in _UNSAFE_CODECS):
        return ValueError(f"{name} holds pickled objects, which are never read since they can run any code: {text}")
    return ValueError(f"{name} cannot be read, it is damaged or incomplete ({type(error).__name__}: {text})")


def _readable(error: Exception, place: Location) -> Exception:
    """The error itself if it is ours, else one that names the file."""
    ours = type(error) is ValueError and str(place.file) in str(error)
    return error if ours else cannot_be_read(error, str(place))


def _open(place: Location, whole: bool, opened: contextlib.ExitStack) -> AnnData:
    kind = recognise(place.file)
    if kind in ("mtx", "table"):
        if place.inside:
            raise FileNotFoundError(f"there is no file {place}")
        return open_mtx(place.file) if kind == "mtx" else open_table(place.file)
    root = opened.enter_context(_hdf5(place.file)) if kind == "hdf5" else _zarr(place, kind, opened)
    if kind == "hdf5" and not groups.is_anndata(root):
        if is_loom(root):
            return open_loom(root)
        if tenx.groups(root):
            return tenx.open_tenx(root, place)
        _refuse_hdf5(place.file, root)
    if kind != "hdf5" and "cell_features" in root:
        refuse(place.file, "a zarr store of Xenium", "pass cell_feature_matrix.h5 of the same folder instead")
    group = groups.find(root, place)
    if _is_legacy(group):
        return _legacy(place, group, kind, opened)
    adata = groups.open_group(group, place.file, root)
    if whole:
        groups.add_rest(adata, group, place.file)
    return adata


@contextlib.contextmanager
def open_root(place: Location) -> Iterator[Any]:
    """Open root group of an HDF5 file or zarr store."""
    with contextlib.ExitStack() as opened:
        kind = recognise(place.file)
        yield opened.enter_context(_hdf5(place.file)) if kind == "hdf5" else _zarr(place, kind, opened)


def is_modern(root: Any, place: Location) -> bool:
    """Whether an open root is an AnnData in today's layout, whose tables are groups with names."""
    return not place.inside and groups.is_anndata(root) and not _is_legacy(root)


@contextlib.contextmanager
def _hdf5(file: Path) -> Iterator[Any]:
    import h5py

    try:
        root = h5py.File(file, "r")
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        if "truncated" in str(error):
            raise ValueError(
                f"{file} is not complete: a copy or download was interrupted, or it is still being written ({error})"
            ) from error
        if "lock" in str(error):
            raise ValueError(
                f"{file} is open in another program that writes to it ({error}); close it there"
            ) from error
        raise ValueError(f"{file} is not a readable HDF5 file: {error}") from error
    with root:
        yield root


def _zarr(place: Location, kind: str, opened: contextlib.ExitStack) -> Any:
    """The open root of a zarr store, in a folder or a zip archive."""
    import zarr

    if kind == "zarr":
        root = zarr.open_group(str(place.file), mode="r")
    else:
        from zarr.storage import ZipStore

        store = ZipStore(place.file, mode="r")
        opened.callback(store.close)
        root = zarr.open_group(store, mode="r", path=_root_in_zip(place.file))
    _refuse_unsafe(root, place.file)
    return root


def _root_in_zip(file: Path) -> str:
    """Path of the store inside a zip archive: empty, or the folder that was packed."""
    import zipfile

    with zipfile.ZipFile(file) as archive:
        marks = [Path(name) for name in archive.namelist() if Path(name).name in ZARR_MARKS]
    return min(marks, key=lambda mark: len(mark.parts)).parent.as_posix().removeprefix(".")


def _refuse_unsafe(root: Any, file: Path) -> None:
    """Raise a ValueError for a store with arrays that are unpickled when they are read."""
    for name, member in root.members(max_depth=None):
        metadata = getattr(member, "metadata", None)
        codecs = [getattr(metadata, "compressor", None), *(getattr(metadata, "filters", None) or ())]
        codecs += list(getattr(metadata, "codecs", ()) or ())
        if any(word in repr(codec).lower() for codec in codecs for word in _UNSAFE_CODECS):
            raise ValueError(
                f"{file} holds pickled objects in {name}, which are never read since they can run any code"
            )


def _is_legacy(group: Any) -> bool:
    """Whether a group was written by anndata 0.6 or earlier: tables are arrays with fields."""
    return "raw.X" in group or any(not hasattr(group[name], "keys") for name in ("obs", "var"))


def _legacy(place: Location, group: Any, kind: str, opened: contextlib.ExitStack) -> AnnData:
    """AnnData of a file by anndata 0.6 or earlier, through anndata's own reader."""
    import anndata

    if kind != "hdf5":
        adata = anndata.read_zarr(group)
    else:
        adata = anndata.read_h5ad(place.file, backed="r")
        opened.callback(adata.file.close)
    adata.obs, adata.var = (with_names(with_text(frame)) for frame in (adata.obs, adata.var))
    return adata


def _refuse_hdf5(file: Path, root: Any) -> None:
    """Raise a ValueError for known HDF5 files that hold no AnnData."""
    keys = set(root.keys())
    if {"assays", "meta.data"} <= keys or {"assays", "cell.names"} <= keys:
        refuse(
            file, "a Seurat file (.h5seurat)", 'in R, SeuratDisk::Convert("{name}", dest = "h5ad") turns it into .h5ad'
        )
    if {"barcode_idx", "feature_idx", "umi"} <= keys:
        refuse(
            file, "the molecule_info.h5 of CellRanger", "pass filtered_feature_bc_matrix.h5 of the same folder instead"
        )
    tables = [name for name in root if "pandas_type" in root[name].attrs]
    if tables:
        refuse(
            file,
            f"a table that pandas wrote ({', '.join(tables[:3])})",
            f'in Python, anndata.AnnData(pandas.read_hdf("{{name}}", "{tables[0]}")).write_h5ad("{{stem}}.h5ad") turns '
            "it into .h5ad, if its rows are cells",
        )
    if "model_weights" in keys or "layer_names" in root.attrs:
        refuse(file, "the weights of a Keras model", "pass the AnnData file of the cells instead")
