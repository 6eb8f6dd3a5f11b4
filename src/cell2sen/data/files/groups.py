"""Groups of HDF5 and zarr that hold AnnData: one alone, or one of several of MuData and SpatialData."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cell2sen.data.files.formats import Location
from cell2sen.data.files.frames import text_of, with_names, with_text

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Usual names of the modality of gene expression, in lower case without signs.
_EXPRESSION = {"rna", "gex", "geneexpression", "mrna", "scrna", "snrna", "transcriptome", "transcriptomics", "genes"}

#: Keys of uns that are read with the matrix; the rest may be large.
_UNS = ("organism", "species", "organism_ontology_term_id", "cell2sen")


class StoredCSR(Mapping[str, Any]):
    """Group of the arrays of a sparse matrix, with the attributes that anndata needs to slice it on disk.

    Parameters
    ----------
    group
        Group of ``data``, ``indices`` and ``indptr``.
    """

    def __init__(self, group: Any, shape: tuple[int, int], encoding: str = "csr_matrix") -> None:
        self.group = group
        self.attrs = _Attributes({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape})

    def __getitem__(self, name: str) -> Any:
        return self.group[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.group)

    def __len__(self) -> int:
        return len(self.group)


class _Attributes(dict[str, Any]):
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default)


def is_anndata(group: Any) -> bool:
    """Whether a group of HDF5 or zarr holds cells, genes and a matrix."""
    return _is_group(group) and "obs" in group and "var" in group and "mod" not in group


def find(root: Any, place: Location) -> Any:
    """The group of an AnnData in an open file: the named one, the only one, or the one of gene expression.

    Raises
    ------
    ValueError
        There is none, or several; the message lists their paths.
    """
    inside = place.inside.strip("/")
    if inside:
        group = next((root[name] for name in (inside, f"mod/{inside}", f"tables/{inside}") if name in root), None)
        if group is not None and is_anndata(group):
            return group
        raise ValueError(f"{place.file} has no AnnData {inside!r}; {_available(root, place.file)}")
    if is_anndata(root):
        return root
    groups = _all(root)
    if len(groups) == 1:
        (name,) = groups
        logger.info("reading %s of %s", name, place.file)
        return groups[name]
    expression = [name for name, group in groups.items() if _holds_genes(name, group)]
    if len(expression) == 1:
        logger.info(
            "reading %s of %s; the others are %s", expression[0], place.file, sorted(set(groups) - {*expression})
        )
        return groups[expression[0]]
    if groups and "mod" in root:
        raise ValueError(
            f"{place.file} is MuData with several modalities ({', '.join(name[4:] for name in groups)}), and which one "
            f"has the genes is not clear; {_available(root, place.file)}"
        )
    if groups:
        raise ValueError(f"{place.file} has several AnnData objects; {_available(root, place.file)}")
    kind = "a MuData file" if "mod" in root else "a SpatialData store" if "tables" in root else "contains no AnnData"
    keys = sorted(map(str, root.keys()))
    shown = f"{keys[:12]}{' …' if len(keys) > 12 else ''}"
    if kind == "contains no AnnData":
        raise ValueError(f"{place.file} contains no AnnData: it has no obs and var, only {shown}")
    raise ValueError(f"{place.file} is {kind} without AnnData in it: it has only {shown}")


def open_group(group: Any, file: Path, root: Any) -> AnnData:
    """AnnData of a group: annotations in memory, matrices on disk, without obsm, obsp and the like."""
    from anndata import AnnData

    obs, var = (_frame(group[name], f"{name} of {file}") for name in ("obs", "var"))
    if group is not root and "mod" in root:
        obs = _with_joint_columns(obs, root, file)
    shape = (len(obs), len(var))
    layers = {}
    for name in _part(group, "layers"):
        layers[str(name)] = _matrix(group["layers"][name], shape, f"layers[{name!r}] of {file}")
    raw = None
    if {"X", "var"} <= set(_part(group, "raw")):
        raw_var = _frame(group["raw/var"], f"raw.var of {file}")
        raw = {"X": _matrix(group["raw/X"], (len(obs), len(raw_var)), f"raw.X of {file}"), "var": raw_var}
    return AnnData(
        X=_matrix(group["X"], shape, f"X of {file}") if "X" in group else None,
        obs=obs,
        var=var,
        layers={name: matrix for name, matrix in layers.items() if matrix is not None},
        raw=raw if raw is None or raw["X"] is not None else None,
        uns=uns_of(group),
    )


def uns_of(group: Any) -> dict[str, Any]:
    """Values of uns with a meaning for the matrix: the organism, and earlier records."""
    from anndata.io import read_elem

    uns = {}
    for key in _UNS:
        if key in _part(group, "uns"):
            with contextlib.suppress(Exception):
                value = read_elem(group["uns"][key])
                uns[key] = [text_of(text) for text in np.ravel(value).tolist()] if np.ndim(value) else text_of(value)
    return uns


def matrix_of(group: Any, file: Path, n_rows: int, *, layer: str | None, use_raw: bool) -> tuple[Any, pd.DataFrame]:
    """One matrix of an AnnData group, on disk, and the annotation of its genes.

    Raises
    ------
    KeyError, ValueError
        There is no such matrix; lists the layers.
    """
    path, table = ("raw/X", "raw/var") if use_raw else (f"layers/{layer}" if layer is not None else "X", "var")
    if path not in group:
        raise KeyError(f"{file} has no {path}; available: X, layers {sorted(map(str, _part(group, 'layers')))}, raw.X")
    var = _frame(group[table], f"{table} of {file}")
    matrix = _matrix(group[path], (n_rows, len(var)), f"{path} of {file}")
    if matrix is None:
        raise ValueError(f"{path} of {file} is empty")
    return matrix, var


def add_rest(adata: AnnData, group: Any, file: Path) -> None:
    """Read what :func:`open_group` left out: obsm, varm, obsp, varp and uns. What cannot be read is named."""
    from anndata.io import read_elem

    for part in ("obsm", "varm", "obsp", "varp", "uns"):
        for name in _part(group, part):
            if name in getattr(adata, part):
                continue
            try:
                getattr(adata, part)[str(name)] = read_elem(group[part][name])
            except Exception as error:
                logger.warning("%s[%r] of %s cannot be read and is left out: %s", part, name, file, _line(error))
    if adata.raw is not None and "varm" in _part(group, "raw"):
        for name in group["raw/varm"]:
            with contextlib.suppress(Exception):
                adata.raw.varm[str(name)] = read_elem(group["raw/varm"][name])


def _is_group(group: Any) -> bool:
    return hasattr(group, "keys") and hasattr(group, "attrs")


def _part(group: Any, name: str) -> Any:
    """A group of a group; empty if there is none, or a null in its place."""
    part = group.get(name)
    return part if _is_group(part) else {}


def _all(root: Any, depth: int = 3) -> dict[str, Any]:
    """AnnData groups inside of a group: path → group."""
    found: dict[str, Any] = {}
    for name in sorted(root):  # zarr lists a folder in the order of the disk
        group = root[name]
        if is_anndata(group):
            found[str(name)] = group
        elif _is_group(group) and depth > 1 and "indptr" not in group:
            found |= {f"{name}/{inner}": other for inner, other in _all(group, depth - 1).items()}
    return found


def _available(root: Any, file: Path) -> str:
    """Paths of the AnnData objects of a file, for error messages."""
    if is_anndata(root):
        return f"the file itself is one: pass {file}"
    names = [name.removeprefix("mod/") for name in _all(root)]
    return f"pass {', '.join(str(file / name) for name in names[:10])}" if names else "there is none in this file"


def _holds_genes(name: str, group: Any) -> bool:
    """Whether a modality is the one of gene expression: by its name, else by the feature types of its rows."""
    last = "".join(sign for sign in name.rsplit("/", 1)[-1].lower() if sign.isalnum())
    if last in _EXPRESSION:
        return True
    var = group["var"]
    if not _is_group(var) or "feature_types" not in var:
        return False
    from anndata.io import read_elem

    with contextlib.suppress(Exception):
        return {str(text_of(value)) for value in pd.unique(read_elem(var["feature_types"]))} == {"Gene Expression"}
    return False


def _with_joint_columns(obs: pd.DataFrame, root: Any, file: Path) -> pd.DataFrame:
    """The obs of a modality with the columns of the whole MuData that it lacks, by cell name."""
    if "obs" not in root:
        return obs
    joint = _frame(root["obs"], f"obs of {file}")
    lacking = [name for name in joint.columns if name not in obs.columns and ":" not in str(name)]
    if not lacking or not joint.index.is_unique or not obs.index.isin(joint.index).all():
        return obs
    joined = joint.loc[obs.index, lacking]
    return pd.concat([obs, joined], axis=1)


def _frame(stored: Any, name: str) -> pd.DataFrame:
    """A table of annotations with text for bytes. Columns that cannot be read are named and left out."""
    from anndata.io import read_elem

    try:
        frame = read_elem(stored)
    except Exception as error:
        frame = _readable_columns(stored, name, error)
    if not isinstance(frame, pd.DataFrame):  # written without the attributes of a table
        frame = _readable_columns(stored, name, ValueError("it is no table"))
    return with_names(with_text(frame))


def _readable_columns(stored: Any, name: str, error: Exception) -> pd.DataFrame:
    """The columns of a table that can be read, one by one."""
    from anndata.io import read_elem

    key = names_key(stored)
    if key is None:
        raise error
    index = pd.Index([str(text_of(value)) for value in np.asarray(read_elem(stored[key]))], dtype=object)
    order = [str(text_of(column)) for column in np.ravel(stored.attrs.get("column-order", np.array([], dtype=object)))]
    columns: dict[str, Any] = {}
    for column in order or [column for column in stored if column not in (key, "__categories")]:
        try:
            values = read_elem(stored[column])
            if len(values) != len(index) or np.ndim(values) != 1:
                raise ValueError(f"it has the shape {np.shape(values)} for {len(index)} rows")
            columns[column] = values
        except Exception as fault:
            logger.warning("the column %r of %s cannot be read and is left out: %s", column, name, _line(fault))
    return pd.DataFrame(columns, index=index)


def n_rows(stored: Any) -> int:
    """Rows of a stored table that has names, also names that may be missing, as anndata 0.13 writes them."""
    names = stored[names_key(stored)]
    return int((names["values"] if _is_group(names) else names).shape[0])


def column_names(stored: Any) -> tuple[str, ...]:
    """Columns of a stored table, in order."""
    order = [str(text_of(column)) for column in np.ravel(stored.attrs.get("column-order", np.array([], dtype=object)))]
    key = names_key(stored)
    return tuple(order or [str(name) for name in stored if name not in (key, "__categories")])


def names_key(stored: Any) -> str | None:
    """Key of the names of the rows of a table."""
    if not _is_group(stored):
        return None
    given = text_of(stored.attrs.get("_index"))
    keys = [key for key in (given, "_index", "index") if isinstance(key, str) and key in stored]
    return keys[0] if keys else None


def _matrix(stored: Any, shape: tuple[int, int], name: str) -> Any:
    """A matrix on disk that can be sliced by rows; ``None`` if it is empty."""
    from anndata.io import sparse_dataset

    attrs = dict(stored.attrs)
    kind = str(text_of(attrs.get("encoding-type", "")))
    if kind == "null":
        return None
    if not _is_group(stored):
        _warn_of_missing_parts(stored, name)
        return stored
    if not {"data", "indices", "indptr"} <= set(stored.keys()):
        raise ValueError(f"{name} is no matrix: it is a group of {sorted(stored.keys())} ({kind or 'of unknown kind'})")
    if min(shape) > 1:  # all indices of one row, or of one column, are 0, and need not be stored
        _refuse_missing_parts(stored, name)
    has_shape = "shape" in attrs or "h5sparse_shape" in attrs
    if has_shape and (kind in ("csr_matrix", "csc_matrix") or "h5sparse_format" in attrs):
        return sparse_dataset(stored)
    # Other writers leave the attributes out; the number of pointers shows the order.
    rows = int(stored["indptr"].shape[0]) - 1
    if rows not in shape:
        raise ValueError(f"{name} does not fit: it has {rows} rows or columns, and there are {shape} cells and genes")
    encoding = "csr_matrix" if rows == shape[0] else "csc_matrix"
    return sparse_dataset(StoredCSR(stored, shape, encoding))


def _refuse_missing_parts(stored: Any, name: str) -> None:
    """Raise a ValueError for a sparse matrix of zarr with missing chunks, which would be read as zeros."""
    for part in ("data", "indices"):
        array = stored[part]
        if not hasattr(array, "nchunks_initialized") or not array.shape[0]:
            continue
        missing = array.nchunks - array.nchunks_initialized
        if missing > 0 and not (part == "indices" and _are_indices(array, stored["indptr"])):
            raise ValueError(
                f"{name} is not complete: {missing} of {array.nchunks} parts of its {part} are missing; copy the store "
                "again"
            )


def _are_indices(indices: Any, indptr: Any) -> bool:
    """Whether no row (or column) has the index 0 twice: a part of indices that are all 0 need not be stored."""
    rows = np.repeat(np.arange(indptr.shape[0] - 1), np.diff(np.asarray(indptr[:])))
    return bool(np.bincount(rows[np.asarray(indices[:]) == 0], minlength=1).max() <= 1)


def _warn_of_missing_parts(stored: Any, name: str) -> None:
    """Log a warning for an array of zarr with parts that are not stored: of zeros, or lost in a copy."""
    missing = stored.nchunks - stored.nchunks_initialized if hasattr(stored, "nchunks_initialized") else 0
    if missing > 0:
        logger.warning(
            "%d of %d parts of %s are not stored and are read as zeros. zarr leaves out parts that have only zeros; if "
            "the store was copied or unpacked, see whether that was complete",
            missing,
            stored.nchunks,
            name,
        )


def _line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
