"""Inputs of an evaluation: predicted, real and training cells over common genes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.files.opening import read_anndata
from cell2sen.data.gene_reader import only_genes
from cell2sen.data.names.text import as_text
from cell2sen.data.obs import group_cells, text_column
from cell2sen.data.reader import Reader, open_reader
from cell2sen.data.scale.units import LN_CP10K, Scale, ScaleName
from cell2sen.evaluation.input_scales import scale_of_cells, usable_layers
from cell2sen.evaluation.settings import TASKS, TEXT_VERBS, Case, Task, Values

logger = logging.getLogger(__name__)

#: Separator of the values in the name of a group.
JOIN = " | "

#: Key of uns with the records of predictions by this package.
UNS = "cell2sen"

#: Cells that are read at once.
BLOCK_CELLS = 4096


@dataclass(kw_only=True, eq=False)
class Cells:
    """Predicted, real or training cells. Expression is computed for the rows that are read, never for all at once."""

    name: str
    """``"predicted"``, ``"real"`` or ``"train"``, for messages."""

    expression: Expression
    """All genes that have a symbol, in memory."""

    columns: NDArray[np.int64]
    """Positions of the compared genes in ``expression.symbols``, int64 (genes,), in the order of the common genes."""

    obsm: Mapping[str, Any] = field(default_factory=dict)
    obsp: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)
    layer_scales: Mapping[str, Scale] = field(default_factory=dict)
    """Scales of the layers that are not ln(1 + CP10k)."""

    def __len__(self) -> int:
        return len(self.expression)

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells."""
        return self.expression.obs

    @property
    def scale(self) -> Scale:
        """Scale of the values."""
        return self.expression.scale

    @cached_property
    def names(self) -> NDArray[Any]:
        """Cell names, object (n,)."""
        return self.expression.names

    @cached_property
    def _position(self) -> NDArray[np.int64]:
        """Position of each cell among the sorted names, int64 (n,)."""
        return np.argsort(np.argsort(self.names.astype(str), kind="stable"), kind="stable")

    def by_name(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Rows without repetition in the order of their names, so that draws do not depend on the order of files."""
        rows = np.unique(rows)
        return rows[np.argsort(self._position[rows], kind="stable")]

    @property
    def verb(self) -> Task | None:
        """Task that this package recorded in a prediction; None for other tools."""
        stored = self.uns.get(UNS, {})
        recorded = next((task for task in TASKS if task in stored), None)
        return "text" if recorded is None and self.text_verb is not None else recorded

    @property
    def text_verb(self) -> str | None:
        """Last of the verbs with text as answer that this package recorded."""
        stored = self.uns.get(UNS, {})
        return next((verb for verb in reversed(list(stored)) if verb in TEXT_VERBS), None)

    def record(self, task: Task | None) -> Mapping[str, Any]:
        """Record of a task that this package stored in a prediction; empty without one."""
        verb = self.text_verb if task == "text" else task
        return dict(self.uns.get(UNS, {}).get(verb, {}))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Record that this package stored in a prediction; empty for other tools."""
        return self.record(self.verb)

    @property
    def vocabulary(self) -> frozenset[str]:
        """Words that are genes in the sentences of these cells: names of the model that predicted them, or symbols."""
        var = self.expression.reader.var
        return frozenset(map(str, var["symbol"]) if self.verb and "symbol" in var else self.expression.symbols)

    def rows(
        self, index: Sequence[int] | NDArray[Any], layer: str | None = None, *, genes: NDArray[np.int64] | None = None
    ) -> sp.csr_matrix:
        """ln(1 + CP10k) of some cells over the compared genes, or some of them, float32 CSR (cells, genes).

        Counts are divided by the cell's sum over all its genes, not only over the compared ones.
        """
        columns = self.columns if genes is None else self.columns[genes]
        rows = np.asarray(index)
        block = sp.csr_matrix(self.layers[layer][rows]) if layer else self.expression.reader.read(rows)
        block = _ln_cp10k(block, self.layer_scales.get(layer, LN_CP10K) if layer else self.scale)
        values = self.expression.over_symbols(block.astype(np.float32, copy=False))
        if np.array_equal(columns, np.arange(values.shape[1])):  # choosing columns takes as long as reading
            return sp.csr_matrix(values)
        return sp.csr_matrix(values[:, columns])

    def mean(self, index: NDArray[Any], layer: str | None = None) -> NDArray[np.float64]:
        """Mean of :meth:`rows` over some cells, float64 (genes,)."""
        total = np.zeros(len(self.columns))
        for start in range(0, len(index), BLOCK_CELLS):
            rows = index[start : start + BLOCK_CELLS]
            total += np.asarray(self.rows(rows, layer).sum(axis=0, dtype=np.float64)).ravel()
        return total / max(1, len(index))

    def moments(self, index: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and unbiased variance of :meth:`rows` over some cells, each float64 (genes,)."""
        sums, squares = np.zeros(len(self.columns)), np.zeros(len(self.columns))
        for start in range(0, len(index), BLOCK_CELLS):
            block = self.rows(index[start : start + BLOCK_CELLS])
            sums += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
            squares += np.asarray(block.multiply(block).sum(axis=0, dtype=np.float64)).ravel()
        n = len(index)
        mean = sums / max(1, n)
        return mean, np.maximum(squares - n * mean**2, 0) / max(1, n - 1)

    def column(self, name: str) -> NDArray[Any]:
        """Values of an obs column as text, object (n,); ``None`` for missing values."""
        return text_column(self.obs, name, f"obs of the {self.name} cells")


def read(
    data: Any, name: str, *, layer: str | None = None, scale: ScaleName = "auto", symbols: str | None = None
) -> Cells:
    """Validated cells of an AnnData object (or ``.h5ad`` / ``.zarr`` file), over all genes that have a symbol.

    Raises
    ------
    FileNotFoundError, TypeError, KeyError, ValueError
        The file or layer does not exist, or the object is no AnnData or is empty; names of cells are repeated; values
        are NaN, infinite or scaled per gene. The message gives examples.
    """
    adata = _load(data, name)
    raw = ["raw"] if adata.raw is not None else []
    if layer == "raw" and raw and layer not in adata.layers:
        adata, layer = adata.raw.to_adata(), None
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"the {name} cells have no layer {layer!r}; available: {[*adata.layers.keys(), *raw]}")
    matrix: Any = adata.X if layer is None else adata.layers[layer]
    if matrix is None or 0 in matrix.shape:
        raise ValueError(
            f"the {name} AnnData has no values: {adata.n_obs} cells × {adata.n_vars} genes; pass "
            f"{'layer' if name == 'predicted' else 'real_layer'}= if they are not in X: there is "
            f"{[*adata.layers.keys(), *raw]}"
        )
    if not adata.obs_names.is_unique:
        raise ValueError(f"cell names of the {name} cells are not unique; adata.obs_names_make_unique() repairs it")
    reader = only_genes(open_reader(adata, layer=layer))
    _refuse_nan(reader, name)
    verbs = reader.uns.get(UNS, {})
    values = scale_of_cells(reader, name, scale, verbs)
    expression = Expression.of(reader, symbols=symbols, scale=values)
    if scale == "auto" and values.certain and not set(verbs) & set(TASKS):
        expression.refuse_contradictions()
    layers = usable_layers(adata, reader, values, verbs) if name == "predicted" else {}
    return Cells(
        name=name,
        expression=expression,
        columns=np.arange(len(expression.symbols)),
        obsm=adata.obsm,
        obsp=adata.obsp,
        uns=adata.uns,
        layers={layer: adata.layers[layer] for layer in layers},
        layer_scales=layers,
    )


@dataclass(kw_only=True, eq=False)
class Sides:
    """Validated inputs of an evaluation. Genes are aligned later, as labels are compared without them."""

    predicted: Cells
    real: Cells
    train: Cells | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Side → file name, or "AnnData in memory"."""

    genes: list[str] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)
    """Numbers of compared and left out genes; empty where genes are not compared."""

    def align(self, case: Case, *, labels: bool = False) -> None:
        """Restrict all sides to their common genes; with `labels` the predicted cells are left out."""
        sides = [self.real] if labels else [self.predicted, self.real]
        self.genes, self.account = align(*sides, *([] if self.train is None else [self.train]), case=case)


def read_sides(predicted: Any, real: Any, train: Any, values: Values) -> Sides:
    """Read and validate predicted, real and training cells (None for no training cells)."""
    sides = {"predicted": predicted, "real": real, "train": train}
    files = {
        name: Path(data).name if isinstance(data, str | Path) else "AnnData in memory"
        for name, data in sides.items()
        if data is not None
    }
    cells = {
        name: read(
            sides[name],
            name,
            layer=values.layer if name == "predicted" else values.real_layer,
            scale=values.scale if name == "predicted" else values.real_scale,
            symbols=values.symbols,
        )
        for name in files
    }
    return Sides(predicted=cells["predicted"], real=cells["real"], train=cells.get("train"), files=files)


def align(first: Cells, *others: Cells, case: Case = "auto") -> tuple[list[str], dict[str, Any]]:
    """Restrict all sides to the genes that they share, in alphabetical order.

    Parameters
    ----------
    case
        ``"upper"``: symbols that differ in case only are the same gene. ``"auto"``: ``"upper"`` if the recorded recipe
        of `first` writes symbols in upper case, else ``"keep"``.

    Returns
    -------
    The genes, and the numbers of compared and left out genes.

    Raises
    ------
    ValueError
        No gene in common; shows some names of all sides.
    """
    if case == "auto":
        case = "upper" if dict(first.provenance.get("recipe", {})).get("case") == "upper" else "keep"
    sides = (first, *others)
    symbols: dict[str, Sequence[str]] = {side.name: side.expression.symbols for side in sides}
    if first.verb:
        symbols[first.name] = _symbols_of_input(first, others[0])
    positions = {name: _positions(names, case) for name, names in symbols.items()}
    common = sorted(
        symbol for symbol in positions[others[0].name] if all(symbol in table for table in positions.values())
    )
    if not common:
        raise ValueError(
            "predicted and real cells have no gene in common: "
            + "; ".join(f"{name} has {list(table)[:4]}" for name, table in positions.items())
            + ". Both sides need symbols of the same organism: name the var column that holds them (symbols=), or "
            "ignore case with case='upper'"
        )
    for side in sides:
        side.columns = np.array([positions[side.name][symbol] for symbol in common])
    if len(common) < 0.5 * min(len(table) for table in positions.values()):
        logger.warning(
            "only %d genes are shared (%s); the others are not scored",
            len(common),
            ", ".join(f"{name}: {len(table)}" for name, table in positions.items()),
        )
    lost = {name: len(table) - len(common) for name, table in positions.items()}
    return common, {"compared": len(common), "left_out": lost, "case": case, "examples": common[:5]}


def group_rows(
    cells: Cells,
    columns: Sequence[str],
    rename: Mapping[str, str] | None = None,
    first: Sequence[str | None] | None = None,
) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Rows of each combination of values, ``{(value, …): rows}``; cells with a missing value are in no group.

    Parameters
    ----------
    rename
        Value of the first column → another name.
    first
        Values of the cells instead of those of the first column.
    """
    values = [cells.column(column) for column in columns]
    if first is not None:
        values[0] = np.array(first, dtype=object)
    if rename:
        names = {as_text(name): as_text(other) for name, other in rename.items()}
        values[0] = np.array([names.get(value, value) for value in values[0]], dtype=object)
    return {key: cells.by_name(rows) for key, rows in sorted(group_cells(*values).items())}


def refuse_empty(shared: Iterable[Any], predicted: Iterable[Any], real: Iterable[Any], kind: str) -> None:
    """Raise ValueError if no group is on both sides; the message lists both."""
    if not list(shared):
        raise ValueError(
            f"no {kind} is in both predicted and real cells: predicted has {_menu(predicted)}, real has {_menu(real)}. "
            f"rename={{'name in the prediction': 'name in the real cells'}} maps other spellings of the {kind}; values "
            "of further columns must be equal"
        )


def group_name(key: Sequence[str]) -> str:
    """Name of a group in tables and messages."""
    return JOIN.join(value.replace(JOIN, JOIN.strip()) for value in key)


def some_of(names: Sequence[str], limit: int = 6) -> str:
    """The first `limit` names as text, and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _load(data: Any, name: str) -> Any:
    if isinstance(data, str | Path):
        try:
            return read_anndata(data)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} with the {name} cells") from error
    if not (hasattr(data, "obs") and hasattr(data, "var")):
        raise TypeError(f"the {name} cells must be AnnData or the path of a file, found {type(data).__name__}")
    return data.to_memory() if data.isbacked else data


def _refuse_nan(reader: Reader, name: str) -> None:
    n_rows = reader.n_obs
    bad: list[str] = []
    n_bad = 0
    for start, block in reader.blocks(BLOCK_CELLS, shared=True):
        finite = np.isfinite(block.data)
        if finite.all():
            continue
        rows = np.unique(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[~finite])
        n_bad += len(rows)
        bad += [str(reader.names[start + row]) for row in rows[:3]]
    if n_bad:
        raise ValueError(
            f"{n_bad} of {n_rows} {name} cells hold NaN or infinite values (for example {bad[:3]}), which cannot be "
            "scored. Remove these cells, or write 0 where a gene is known not to be expressed"
        )


def _ln_cp10k(block: sp.csr_matrix, scale: Scale) -> sp.csr_matrix:
    if scale.is_ln_cp10k:
        return block
    block = block.astype(np.float64)
    return scale.ln_cp10k(block, scale.row_sums(block))


def _symbols_of_input(predicted: Cells, real: Cells) -> list[str]:
    """Symbols of a prediction by this package: those of the real cells' columns of the same name, else its own.

    Predictions have the names of their input, which symbols alone may not find again: ``CD4-1`` without the antibody.
    """
    real_symbols = real.expression.gene_map.by_column
    of_name = dict(zip(real.expression.reader.var.index.astype(str), real_symbols, strict=True))
    expression = predicted.expression
    names = expression.reader.var.index[expression.input_columns].astype(str)
    return [of_name.get(name) or symbol for name, symbol in zip(names, expression.symbols, strict=True)]


def _positions(symbols: Sequence[str], case: str) -> dict[str, int]:
    """Symbol → position; of symbols that differ in case only, the first."""
    table: dict[str, int] = {}
    for position, symbol in enumerate(symbols):
        table.setdefault(symbol.upper() if case == "upper" else symbol, position)
    return table


def _menu(keys: Iterable[Any], limit: int = 6) -> str:
    names = [group_name(key) if isinstance(key, tuple) else str(key) for key in keys]
    return str(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
