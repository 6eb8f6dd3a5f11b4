"""Collecting: shards of a finished run into one file, or beside the inputs, one shard in memory at a time."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from cell2sen.atlas import shards
from cell2sen.atlas.plan_file import Plan
from cell2sen.data.output import complete_file, complete_folder, write_results
from cell2sen.data.progress import Progress, Report
from cell2sen.tl.results import UNS

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Rows that are written together into arrays of zarr, and rows of a chunk.
_ROWS, _CHUNK = 4096, 512


def collect(
    out: str | Path,
    target: str | Path | None = None,
    *,
    beside: str | Path | None = None,
    progress: bool | Report = True,
) -> list[Path]:
    """Collect the shards of a finished run. All checksums are compared.

    Parameters
    ----------
    out
        Folder of a run without missing shards.
    target
        ``.zarr`` (for :func:`anndata.experimental.read_lazy`) or ``.h5ad`` with the results of all cells; of a screen
        ``.csv`` or ``.parquet``. ``obs`` has the columns ``file`` and ``row``, and with several inputs names of cells
        have the file in front.
    beside
        Folder that gets, instead, a file per input: its copy with the results, or its predicted cells.

    Returns
    -------
    The files that were written.

    Raises
    ------
    ValueError
        Shards are missing, damaged or of another plan; predictions of inputs with different genes in one file.
    """
    folder = Path(out)
    plan = Plan.read(folder)
    if (target is None) == (beside is None):
        raise ValueError("pass either target= (a .zarr or .h5ad file) or beside= (a folder)")
    if left := shards.left_to_do(folder, plan):
        raise ValueError(f"{len(left)} of {len(plan.shards)} shards of {folder} are missing: cell2sen run {folder}")
    run = _Run(folder, plan, shards.read_manifest(folder, plan) or shards.write_manifest(folder, plan))
    if len(run.manifest["environments"]) > 1:
        logger.warning("the shards are of several kinds of machines (status lists them): their last bits may differ")
    with Progress(len(plan.shards), "collecting", "shard", show=progress) as run.bar:
        if beside is not None:
            return _beside(run, Path(beside))
        assert target is not None
        path = Path(target)
        if plan.verb == "screen":
            _write_tables(run, path)
        else:
            _check_suffix(path, ".zarr", ".h5ad")
            _write(run, range(len(plan.shards)), path)
        return [path]


class _Run:
    """Shards of a finished run, each compared with the manifest when it is read."""

    def __init__(self, folder: Path, plan: Plan, manifest: Mapping[str, Any]) -> None:
        self.folder, self.plan, self.manifest = folder, plan, manifest
        self.bar: Any = None

    def read(self, number: int) -> tuple[pa.Table, dict[str, Any]]:
        """Table and metadata of a shard."""
        file = shards.shard_file(self.folder, number)
        table, metadata = shards.read_shard(file, self.plan, number)
        if shards.sha256(file) != self.manifest["shards"][number]["sha256"]:
            raise shards.Damaged(
                f"{file} is not that of the manifest: remove it (cell2sen status {self.folder} --verify --clean), and "
                "run again"
            )
        self.bar.update(1)
        return table, metadata

    def tables(self, numbers: Sequence[int]) -> Iterator[tuple[int, pa.Table, dict[str, Any]]]:
        """Shard, table and metadata, in order."""
        for number in numbers:
            yield (number, *self.read(number))

    @property
    def record(self) -> dict[str, Any]:
        """What ``uns`` keeps of the run."""
        return {"plan": self.plan.id, "sha256": self.manifest["sha256"], "shards": len(self.plan.shards)}

    def genes(self, inputs: Sequence[int]) -> pd.DataFrame | None:
        """Genes of the predictions of inputs, which must be the same.

        Raises
        ------
        ValueError
            They differ.
        """
        found: list[pd.DataFrame] = []
        for number in inputs:
            file = shards.genes_file(self.folder, number)
            if not file.exists():
                continue
            table = pq.read_table(file, page_checksum_verification=True).replace_schema_metadata(None)
            frame = table.to_pandas().set_index(table.column_names[-1])
            frame.index.name = None
            if found and list(found[0].index) != list(frame.index):
                raise ValueError("the inputs have different genes, so that one file cannot hold them: use beside=")
            found.append(frame)
        return found[0] if found else None


def _beside(run: _Run, folder: Path) -> list[Path]:
    """A file per input."""
    plan = run.plan
    if not plan.inputs or plan.verb == "screen":
        raise ValueError(f"{plan.verb} has no results of the cells of its inputs: collect into one file")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; create it first")
    written = []
    for place, source in enumerate(plan.inputs):
        numbers = [number for number, (own, _, _) in enumerate(plan.shards) if own == place]
        file = folder / f"{Path(source.name.replace('/', '_')).stem}.h5ad"
        if plan.verb == "perturb":
            _write(run, numbers, file)
        else:
            adata = _results(run, numbers)
            with complete_file(file, source.path) as temporary:
                write_results(source.path, temporary, adata, obsm=list(adata.obsm), obs=list(adata.obs))
        written.append(file)
    return written


def _results(run: _Run, numbers: Sequence[int]) -> AnnData:
    """Results of the cells of one input, in memory."""
    from anndata import AnnData

    frames, arrays, metadata = [], {}, []
    for _, table, described in run.tables(numbers):
        frames.append((table, described))
        metadata.append(described)
    obs = _obs(run, frames, with_place=False)
    adata = AnnData(obs=obs)
    for key, columns in _obsm_keys(metadata).items():
        width = _width([table for table, _ in frames if key in table.column_names], key)
        arrays[key] = np.concatenate([_array(table, key, width) for table, _ in frames])
        adata.obsm[key] = (
            arrays[key] if columns is None else pd.DataFrame(arrays[key], columns=columns, index=obs.index)
        )
    adata.uns[UNS] = {run.plan.verb: _uns(metadata) | {"run": run.record}}
    return adata


def _write(run: _Run, numbers: Sequence[int], target: Path) -> None:
    """One AnnData file of some shards, streamed."""
    from anndata.io import write_elem

    inputs = sorted({run.plan.shards[number][0] for number in numbers}) if run.plan.inputs else [0]
    genes = run.genes(inputs)
    n_rows = sum(int(run.manifest["shards"][number]["rows"]) for number in numbers)
    with _root(target, [source.path for source in run.plan.inputs]) as root:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(root, name, {})
        writer = _Arrays(root, n_rows)
        matrices: dict[str, Any] = {}
        frames, metadata = [], []
        for _, table, described in run.tables(numbers):
            metadata.append(described)
            obsm = [key for key, column in described["columns"].items() if column["in"] == "obsm"]
            kept = [name for name, column in described["columns"].items() if column["in"] == "obs"]
            frames.append((table.select(["cell", "row", *kept]), described))
            writer.add(table, {key: described["columns"][key].get("columns") for key in obsm})
            if genes is not None:
                _append(root, matrices, table, described, len(genes))
        obs = _obs(run, frames, with_place=True)
        writer.close(obs.index)
        write_elem(root, "obs", obs)
        write_elem(root, "var", pd.DataFrame(index=pd.Index([], dtype=object)) if genes is None else genes)
        write_elem(root, "uns", {UNS: {run.plan.verb: _uns(metadata) | {"run": run.record}}})


class _Arrays:
    """Arrays of obsm that grow by the rows of each shard."""

    def __init__(self, root: Any, n_rows: int) -> None:
        self.root, self.n_rows, self.n_written = root, n_rows, 0
        self.arrays: dict[str, tuple[list[Any], list[str] | None, list[np.ndarray[Any, Any]]]] = {}
        self.n_flushed = 0

    def add(self, table: pa.Table, keys: Mapping[str, list[str] | None]) -> None:
        """Add the rows of a shard; those before a key's first are missing."""
        for key, columns in keys.items():
            if key not in self.arrays:
                width = _width([table], key)
                dtype = table.schema.field(key).type.value_type.to_pandas_dtype()
                arrays = self._make(key, width, np.dtype(dtype), columns)
                self.arrays[key] = (arrays, columns, [np.full((self.n_written - self.n_flushed, width), np.nan, dtype)])
        for key, (arrays, columns, waiting) in self.arrays.items():
            width = arrays[0].shape[1] if columns is None else len(columns)
            waiting.append(_array(table, key, width).astype(waiting[0].dtype if waiting else arrays[0].dtype))
        self.n_written += table.num_rows
        if self.n_written - self.n_flushed >= 2 * _ROWS:
            self._flush((self.n_written // _ROWS) * _ROWS)

    def close(self, names: pd.Index[str]) -> None:
        """Write what waits, and the names of rows of tables."""
        from anndata.io import write_elem

        self._flush(self.n_written)
        for key, (_, columns, _) in self.arrays.items():
            if columns is not None:
                write_elem(self.root["obsm"][key], "_index", np.asarray(names, dtype=object))

    def _make(self, key: str, width: int, dtype: np.dtype[Any], columns: list[str] | None) -> list[Any]:
        group = self.root["obsm"]
        if columns is None:
            return [_create(group, key, (self.n_rows, width), dtype)]
        table = group.create_group(key)
        order = np.array(columns, dtype=object)
        is_h5 = hasattr(group, "id")
        import h5py

        table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
        table.attrs["column-order"] = order.astype(h5py.string_dtype()) if is_h5 else list(columns)
        return [_create(table, name, (self.n_rows,), dtype) for name in columns]

    def _flush(self, stop: int) -> None:
        start, self.n_flushed = self.n_flushed, stop
        for arrays, columns, waiting in self.arrays.values():
            rows = np.concatenate(waiting)
            now, later = rows[: stop - start], rows[stop - start :]
            waiting[:] = [later]
            for place, array in enumerate(arrays):
                array[start:stop] = now if columns is None else now[:, place]


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    chunks = (min(_CHUNK, max(shape[0], 1)), *shape[1:])
    if hasattr(group, "create_dataset") and hasattr(group, "id"):
        array = group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks if shape[0] else None)
    else:
        sharded = {"shards": (_ROWS, *shape[1:])} if shape[0] >= _ROWS else {}
        array = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, **sharded)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def _append(root: Any, matrices: dict[str, Any], table: pa.Table, described: Mapping[str, Any], n_genes: int) -> None:
    """Append the predicted and control expression of a shard, and their difference."""
    from anndata.io import sparse_dataset, write_elem

    found = {}
    for column in described["columns"].values():
        if column["in"] == "matrix":
            found[column["name"]] = _csr(table, column["name"], n_genes)
    if "control" in found and "delta" not in found:
        found["delta"] = (found["X"] - found["control"]).tocsr()
    for place, matrix in found.items():
        name = place if place == "X" else f"layers/{place}"
        if name in matrices:
            sparse_dataset(root[name]).append(matrix)
        else:
            write_elem(root, name, matrix)
            matrices[name] = True


def _csr(table: pa.Table, name: str, n_genes: int) -> sp.csr_matrix:
    genes, values = (table.column(f"{name}_{part}").combine_chunks() for part in ("genes", "values"))
    lengths = np.asarray(genes.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
    indptr = np.append(0, np.cumsum(lengths))
    indices, data = genes.flatten().to_numpy(), values.flatten().to_numpy()
    return sp.csr_matrix((data, indices, indptr), shape=(table.num_rows, n_genes))


def _obs(run: _Run, frames: Sequence[tuple[pa.Table, Mapping[str, Any]]], *, with_place: bool) -> pd.DataFrame:
    """Obs of all rows: names, file and row, and the columns of the verb."""
    plan = run.plan
    names: list[str] = []
    files: list[str] = []
    rows: list[Any] = []
    for table, described in frames:
        cells = table.column("cell").to_pylist()
        names += cells
        rows.append(table.column("row").to_numpy())
        if plan.inputs:
            files += [plan.inputs[plan.shards[described["shard"]][0]].name] * len(cells)
    several = len(plan.inputs) > 1 and with_place
    index = [f"{file}:{name}" for file, name in zip(files, names, strict=True)] if several else names
    columns: dict[str, Any] = {}
    if with_place and plan.inputs:
        columns["file"] = pd.Categorical(files, categories=[source.name for source in plan.inputs])
        columns["row"] = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    if several:
        columns["cell"] = names
    keys = [name for _, described in frames for name, column in described["columns"].items() if column["in"] == "obs"]
    for key in dict.fromkeys(keys):
        columns[key] = _column(key, frames)
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object))


def _column(key: str, frames: Sequence[tuple[pa.Table, Mapping[str, Any]]]) -> Any:
    parts = [
        table.column(key).to_pandas().array if key in table.column_names else np.full(table.num_rows, np.nan)
        for table, _ in frames
    ]
    lists = [described["columns"][key].get("categories") for _, described in frames if key in described["columns"]]
    if lists and lists[0] is not None:
        names = list(dict.fromkeys(name for own in lists for name in own or ()))
        if all(list(own or ()) == sorted(own or ()) for own in lists):
            names.sort()
        values = [value for part in parts for value in np.asarray(part, dtype=object)]
        return pd.Categorical([None if pd.isna(value) else value for value in values], categories=names)
    return (
        pd.concat([pd.Series(part) for part in parts if len(part)], ignore_index=True).to_numpy()
        if any(len(part) for part in parts)
        else np.zeros(0)
    )


def _obsm_keys(metadata: Sequence[Mapping[str, Any]]) -> dict[str, list[str] | None]:
    return {
        key: column.get("columns")
        for described in metadata
        for key, column in described["columns"].items()
        if column["in"] == "obsm"
    }


def _width(tables: Sequence[pa.Table], key: str) -> int:
    """Length of the rows of a column of lists; 0 if all are missing."""
    for table in tables:
        lengths = [value.as_py() for value in table.column(key).combine_chunks().value_lengths().unique()]
        if lengths := [length for length in lengths if length]:
            return int(lengths[0])
    return 0


def _array(table: pa.Table, key: str, width: int) -> np.ndarray[Any, Any]:
    """Rows of a column of lists, NaN where they are missing."""
    if key not in table.column_names:
        return np.full((table.num_rows, width), np.nan)
    column = table.column(key).combine_chunks()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy()
    result = np.full((table.num_rows, width), np.nan, dtype=values.dtype)
    result[present] = values.reshape(-1, width) if width else result[present]
    return result


def _uns(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Provenance of the verb, from the first shard that has it."""
    record: Mapping[str, Any] = next((described["record"] for described in metadata if described["record"]), {})
    stored: dict[str, Any] = _stored(record)
    return stored


def _stored(value: Any) -> Any:
    """Plain values as anndata stores them."""
    if isinstance(value, Mapping):
        return {str(key).replace("/", "%2F"): _stored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        if all(isinstance(inner, int | float) for inner in value):
            return np.array(value)
        return np.array([str(inner) for inner in value], dtype=object)
    return "" if value is None else value


def _write_tables(run: _Run, target: Path) -> None:
    """Ranked tables of all inputs, with their file, as one table."""
    _check_suffix(target, ".csv", ".parquet")
    frames = []
    for number, table, _ in run.tables(range(len(run.plan.shards))):
        frame = table.replace_schema_metadata(None).to_pandas()
        frame.insert(0, "file", run.plan.inputs[run.plan.shards[number][0]].name)
        frames.append(frame)
    whole = pd.concat(frames, ignore_index=True)
    with complete_file(target) as temporary:
        if target.suffix == ".csv":
            whole.to_csv(temporary, index=False)
        else:
            whole.to_parquet(temporary, index=False)


def _check_suffix(path: Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}")


@contextlib.contextmanager
def _root(target: Path, inputs: Sequence[str]) -> Iterator[Any]:
    """Open root of a new .h5ad or .zarr, which appears complete or not at all."""
    if target.suffix == ".h5ad":
        import h5py

        with complete_file(target, *inputs) as temporary, h5py.File(temporary, "w") as root:
            yield root
        return
    import zarr

    if target.exists():
        raise ValueError(f"{target} exists; choose another name, or remove it")
    with complete_folder(target) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")  # of small arrays
        yield zarr.open_group(str(folder), mode="w", zarr_format=3)
