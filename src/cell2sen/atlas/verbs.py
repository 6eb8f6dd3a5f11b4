"""Verbs of a run in shards: what each takes, and the table of one shard."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cell2sen.atlas.plan_file import Input, Plan
from cell2sen.backend import SENTENCE_END, Backend, Sampling
from cell2sen.data.files.opening import open_anndata
from cell2sen.data.files.rows import StoredRows
from cell2sen.data.genes.organism import KEYS
from cell2sen.data.names.text import as_text
from cell2sen.data.obs import context_columns
from cell2sen.inference.generate import generate_cells, generation_session
from cell2sen.inference.session import Session, start
from cell2sen.sentences.writing import NoGenes
from cell2sen.tl.results import COUNTS_UNIT, UNIT, UNS, add_sentences, record, sampling_record

if TYPE_CHECKING:
    from anndata import AnnData

_logger = logging.getLogger("cell2sen")

#: obs column that carries the numbers of rows through a verb.
_ROW = "cell2sen_row"

_WHOLE = "it depends on all cells of a file: do it after collect"
_FEW = "it is for a few cells: use cell2sen embed"
_ADAPT = "all shards need one model: adapt it before, with cell2sen train --adapt, and pass it as the model"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Table of one shard, and what describes it."""

    table: pa.Table
    record: dict[str, Any] = field(default_factory=dict)
    """Provenance of the verb, as plain values."""

    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Column of the table → where it belongs: ``obs``, ``obsm`` (with the names of its columns) or a matrix."""

    genes: pd.DataFrame | None = None
    """Genes of predicted expression."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of :mod:`cell2sen.tl`."""

    name: str
    cells: int
    """Cells of a shard, unless the plan sets another number: minutes of work."""

    compute: Callable[[Shard], Result]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Argument → why a run in shards does not take it."""

    files: tuple[str, ...] = ()
    """Arguments that name files."""

    by_cells: bool = True
    """Shards are rows of the inputs; else a whole input, or cells of a type."""

    @property
    def arguments(self) -> set[str]:
        """Names of the verb's arguments."""
        from cell2sen import tl

        parameters = inspect.signature(getattr(tl, self.name)).parameters.values()
        of_data = {"adata", "query", "options", "copy"}
        return {parameter.name for parameter in parameters} - of_data - set(self.refused)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """What a shard is computed from."""

    plan: Plan
    number: int
    backend: Backend
    folder: Path
    stored: StoredRows | None
    """Open input."""

    @property
    def place(self) -> tuple[int, int, int]:
        """Input (or label), first and last cell (exclusive)."""
        return self.plan.shards[self.number]

    @property
    def input(self) -> Input:
        """The input of the shard."""
        return self.plan.inputs[self.place[0]]

    def options(self, *, of_rows: bool = True) -> dict[str, Any]:
        """Options of the verb, with the loaded model."""
        options = dict(self.plan.options) | {"model": self.backend, "progress": False}
        options.pop("backend", None)
        for name in ("gene_table", "aliases", "templates"):
            if name in self.plan.files:
                options[name] = self.plan.files[name]["path"]
        if of_rows:
            options.pop("layer", None)
            options.pop("use_raw", None)
            options["whole"] = self.input.whole
        return {name: value for name, value in options.items() if value is not None}

    def arguments(self) -> dict[str, Any]:
        """Arguments of the verb, with the places of files."""
        places = {name: file["path"] for name, file in self.plan.files.items() if name in self.plan.arguments}
        return dict(self.plan.arguments) | places

    def cells(self, columns: Sequence[str] = ()) -> AnnData:
        """Cells of the shard in memory."""
        assert self.stored is not None
        _, first, stop = self.place
        lower = {name.lower(): name for name in reversed(self.stored.names)}
        organism = [key if key in self.stored.names else lower[key] for key in KEYS if key in lower]
        wanted = [*organism, *context_columns(self.plan.options.get("context")), *columns]
        return self.stored.read(first, stop, list(dict.fromkeys(wanted)))


def _of_cells(shard: Shard) -> Result:
    """Shard of a verb that writes into obs and obsm."""
    from cell2sen import tl

    adata, (_, first, _) = shard.cells(), shard.place
    before = list(adata.obs.columns)
    arguments = shard.arguments()
    if shard.plan.verb == "transfer":
        cache = shard.folder / "reference"
        cache.mkdir(exist_ok=True)
        arguments |= {"cache": cache, "majority_voting": False}
    names = adata.obs_names
    try:
        getattr(tl, shard.plan.verb)(adata, **arguments, **shard.options())
    except NoGenes:  # of these cells; others of the file may have genes
        return Result(table=pa.table({"cell": pa.array(names, pa.string()), "row": np.arange(len(names)) + first}))
    arrays: dict[str, Any] = {
        "cell": pa.array(list(names), pa.string()),
        "row": pa.array(np.arange(first, first + adata.n_obs, dtype=np.int64)),
    }
    columns: dict[str, dict[str, Any]] = {}
    _add_obs(adata.obs.drop(columns=before), arrays, columns)
    for key in adata.obsm:
        values = adata.obsm[key]
        columns[key] = {"in": "obsm"}
        if isinstance(values, pd.DataFrame):
            columns[key]["columns"] = list(map(str, values.columns))
        arrays[key] = _lists(np.asarray(values))
    return Result(table=pa.table(arrays), record=_record(adata, shard), columns=columns)


def _perturb(shard: Shard) -> Result:
    """Shard of predicted responses."""
    from cell2sen import tl

    column = shard.input.column
    adata, (_, first, _) = shard.cells(() if column is None else (column,)), shard.place
    names = dict(shard.input.perturbations)
    values = [None] * adata.n_obs if column is None else [as_text(value) for value in adata.obs[column]]
    perturbations = [names.get(value) for value in values]
    if not any(perturbations):
        return Result(table=_nothing())
    adata.obs = pd.DataFrame({**{name: adata.obs[name] for name in adata.obs}, _ROW: np.arange(adata.n_obs) + first})
    arguments = shard.arguments()
    for name in ("perturbation", "perturbation_column", "control"):
        arguments.pop(name, None)
    try:
        predicted = tl.perturb(adata, perturbations, control=(), **arguments, **shard.options())
    except NoGenes:
        return Result(table=_nothing())
    return _predictions(predicted, shard, rows=predicted.obs[_ROW].to_numpy(dtype=np.int64))


def _generate(shard: Shard) -> Result:
    """Shard of generated cells."""
    from cell2sen import tl

    label, first, stop = shard.place
    arguments = shard.arguments()
    sampling = Sampling(
        max_new_tokens=arguments.get("max_new_tokens", 2048),
        temperature=arguments.get("temperature", 1.0),
        top_k=arguments.get("top_k"),
        top_p=arguments.get("top_p"),
        seed=arguments.get("seed", 0),
        stop=SENTENCE_END,
    )
    session, organism = _generation(shard.backend, shard.plan)
    guided = arguments.get("guided", True)
    cells = generate_cells(
        session,
        [arguments["cell_type"][label]],
        n=stop - first,
        first=first,
        organism=organism,
        sampling=sampling,
        guided=guided,
        n_genes=arguments.get("n_genes"),
        candidates=arguments.get("candidates", 1),
    )
    from anndata import AnnData

    obs = pd.DataFrame({"cell_type": cells.cell_types}, index=cells.names)
    add_sentences(obs, cells.answers)
    adata = AnnData(X=cells.expression, obs=obs, var=session.var())
    if in_counts := arguments.get("output") == "counts":
        tl.cells.add_counts(adata, _measured(shard.backend, shard.plan), sampling.seed)
    unit = COUNTS_UNIT if in_counts else UNIT
    provenance = session.provenance(
        unit=unit,
        guided=guided,
        n_genes=cells.n_genes,
        candidates=arguments.get("candidates", 1),
        organism=organism,
        **sampling_record(sampling),
    )
    record(adata, "generate", provenance)
    return _predictions(adata, shard, rows=np.arange(first, stop, dtype=np.int64))


@lru_cache(maxsize=1)
def _generation(backend: Backend, plan: Plan) -> tuple[Session, str]:
    """Session over the genes of a plan, read once per process."""
    shard = Shard(plan=plan, number=0, backend=backend, folder=Path(), stored=None)
    genes = shard.arguments().get("genes")
    options: Any = shard.options(of_rows=False)
    return generation_session(genes, options)


@lru_cache(maxsize=1)
def _measured(backend: Backend, plan: Plan) -> Session:
    """Measured cells behind the counts of generated ones, open as long as the process lives."""
    shard = Shard(plan=plan, number=0, backend=backend, folder=Path(), stored=None)
    options: Any = shard.options(of_rows=False)
    return start(shard.arguments()["genes"], "generate", options)


def _screen(shard: Shard) -> Result:
    """Ranked table of a whole input, whose finished parts are kept."""
    from cell2sen import tl

    with open_anndata(shard.input.path) as adata:
        options: dict[str, Any] = shard.options(of_rows=False)
        table = tl.screen(adata, **shard.arguments(), resume=shard.folder / "parts", **options)
        result = adata.uns[UNS][str(shard.plan.arguments.get("key_added", "screen"))]
    plain = {name: value for name, value in result.items() if name != "table"}
    return Result(table=pa.Table.from_pandas(table, preserve_index=False), record=_plain(plain))


def _predictions(adata: AnnData, shard: Shard, rows: np.ndarray[Any, Any]) -> Result:
    """Table of predicted cells: obs, and of X and the layers the columns and values of each cell.

    The difference of expression follows from X and the control, unless X has counts.
    """
    arrays: dict[str, Any] = {"cell": pa.array(list(adata.obs_names), pa.string()), "row": pa.array(rows)}
    columns: dict[str, dict[str, Any]] = {}
    kept = [name for name in ("cell_type", "perturbation", "measured_cell", *_SENTENCE) if name in adata.obs]
    _add_obs(adata.obs[kept], arrays, columns)
    in_counts = shard.plan.arguments.get("output") == "counts"
    matrices = {"X": adata.X} | {name: adata.layers[name] for name in adata.layers if name != "delta" or in_counts}
    for name, matrix in matrices.items():
        csr = sp.csr_matrix(matrix)
        offsets = pa.array(csr.indptr.astype(np.int32))
        for part, data in (("genes", csr.indices.astype(np.int32)), ("values", csr.data.astype(np.float32))):
            arrays[f"{name}_{part}"] = pa.ListArray.from_arrays(offsets, pa.array(data))
        columns[f"{name}_values"] = {"in": "matrix", "name": name, "genes": adata.n_vars}
    return Result(table=pa.table(arrays), record=_record(adata, shard), columns=columns, genes=adata.var)


_SENTENCE = ("sentence", "validity", "uniqueness", "n_unknown", "n_repeated")


def _nothing() -> pa.Table:
    return pa.table({"cell": pa.array([], pa.string()), "row": pa.array([], pa.int64())})


def _add_obs(frame: pd.DataFrame, arrays: dict[str, Any], columns: dict[str, dict[str, Any]]) -> None:
    for name in frame:
        values = frame[name]
        columns[str(name)] = {"in": "obs"}
        if isinstance(values.dtype, pd.CategoricalDtype):
            columns[str(name)]["categories"] = list(map(str, values.cat.categories))
            texts = [None if pd.isna(value) else str(value) for value in values]
            arrays[str(name)] = pa.array(texts, pa.string())
        else:
            arrays[str(name)] = pa.array(values.to_numpy(), from_pandas=values.dtype == object)


def _lists(values: np.ndarray[Any, Any]) -> pa.ListArray:
    """Rows as lists; missing for rows that are NaN throughout."""
    missing = np.isnan(values).all(axis=1)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    array = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel()))
    if not missing.any():
        return array
    rows = pa.array([None if gone else row for row, gone in enumerate(missing.tolist())], pa.int64())
    return array.take(rows)


def _record(adata: AnnData, shard: Shard) -> dict[str, Any]:
    """Provenance of the verb, without what is of the shard's cells alone."""
    found = dict(adata.uns[UNS][shard.plan.verb])
    for name in ("fit", "genes", "basis"):
        found.pop(name, None)
    options = shard.plan.options
    if found.get("matrix"):
        found["matrix"] = "raw.X" if options.get("use_raw") else options.get("layer") or "X"
    plain: dict[str, Any] = _plain(found)
    return plain


def _plain(value: Any) -> Any:
    """Arrays, frames and numbers of NumPy as plain values of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, pd.DataFrame):
        return _plain(value.reset_index().to_dict(orient="list"))
    if isinstance(value, np.ndarray):
        return [_plain(inner) for inner in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


class Warnings(logging.Handler):
    """Warnings of one shard, which go into its metadata instead of being shown again for each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning once."""
        if (text := record.getMessage()) not in self.texts:
            self.texts.append(text)


@contextlib.contextmanager
def kept_warnings() -> Iterator[Warnings]:
    """Context in which this package's warnings are kept and nothing is shown."""
    kept, handlers, propagate = Warnings(), _logger.handlers, _logger.propagate
    _logger.handlers, _logger.propagate = [kept], False
    try:
        yield kept
    finally:
        _logger.handlers, _logger.propagate = handlers, propagate


_CACHE = "a run keeps the embeddings of the reference in its own folder"
_SAMPLES = ("sample_by", "n_cells", "distinct", "seed", "majority_voting", "cluster")
_KEY = "results have their default names"

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="embed", cells=8192, compute=_of_cells,
            refused={"attention_for": _FEW, "attention_layer": _FEW, "key_added": _KEY, "adapt": _ADAPT},
        ),
        Verb(
            name="annotate", cells=8192, compute=_of_cells,
            refused=dict.fromkeys(_SAMPLES, _WHOLE) | {"key_added": _KEY},
        ),
        Verb(
            name="transfer", cells=8192, compute=_of_cells, files=("reference",),
            refused=dict.fromkeys(("majority_voting", "cluster", "resolution"), _WHOLE)
            | {"cache": _CACHE, "key_added": _KEY},
        ),
        Verb(name="perturb", cells=512, compute=_perturb),
        Verb(name="generate", cells=512, compute=_generate, files=("genes",), by_cells=False),
        Verb(
            name="screen", cells=0, compute=_screen, files=("gmt",), by_cells=False,
            refused={"resume": "a run keeps finished parts in its own folder"},
        ),
    )
}  # fmt: skip
