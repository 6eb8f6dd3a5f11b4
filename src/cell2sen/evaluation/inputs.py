"""Matching: predicted and real cells on the same genes, on one scale, in the same groups."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.obs import group_cells, obs_column, stripped
from cell2sen.data.reader import Reader, open_reader
from cell2sen.data.scale import Scale, recognise

logger = logging.getLogger(__name__)

ScaleName = Literal["auto", "counts", "cp10k", "log1p"]

#: Between the values of a group's columns in its printed name.
JOIN = " | "

UNS = "cell2sen"

_SCALES = {
    "counts": Scale(kind="counts"),
    "cp10k": Scale(kind="normalised", total=1e4),
    "log1p": Scale(kind="log", base="e", total=1e4),
}
_BLOCK = 4096


@dataclass(kw_only=True, eq=False)
class Cells:
    """One side of the comparison. Values are read row by row as they are needed, never all at once."""

    name: str
    """``"predicted"``, ``"real"`` or ``"train"``, for messages."""

    expression: Expression
    """All genes that have a symbol, in memory."""

    columns: NDArray[np.int64]
    """int64 (genes,): the places in ``expression.symbols`` of the genes that are compared, in common order."""

    obsm: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)

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
    def _place(self) -> NDArray[np.int64]:
        """Place of each cell among the sorted names, int64 (n,)."""
        return np.argsort(np.argsort(self.names.astype(str), kind="stable"), kind="stable")

    def by_name(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Rows without repetition in the order of their names, so that draws do not depend on the order of the file."""
        rows = np.unique(rows)
        return rows[np.argsort(self._place[rows], kind="stable")]

    @property
    def verb(self) -> str | None:
        """``"perturb"``, ``"annotate"`` or ``"generate"`` for predictions made by this package."""
        stored = self.uns.get(UNS, {})
        return next((verb for verb in ("perturb", "generate", "annotate") if verb in stored), None)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the prediction says about its making; empty for other tools."""
        return dict(self.uns.get(UNS, {}).get(self.verb, {})) if self.verb else {}

    def rows(self, index: Sequence[int] | NDArray[Any], layer: str | None = None) -> sp.csr_matrix:
        """ln(1 + CP10k) of some cells over the compared genes, float32 CSR (cells, genes).

        Counts are divided by the cell's sum over all its genes, not only over the compared ones. The layers
        ``control`` and ``delta`` of a prediction are on the scale of ``X`` already.
        """
        rows = np.asarray(index)
        block = sp.csr_matrix(self.layers[layer][rows]) if layer else self._log(self.expression.reader.read(rows))
        return sp.csr_matrix(self.expression.over_symbols(block.astype(np.float32))[:, self.columns])

    def mean(self, index: NDArray[Any], layer: str | None = None) -> NDArray[np.float64]:
        """Mean over some cells, float64 (genes,)."""
        total = np.zeros(len(self.columns))
        for start in range(0, len(index), _BLOCK):
            total += np.asarray(self.rows(index[start : start + _BLOCK], layer).sum(axis=0, dtype=np.float64)).ravel()
        return total / max(1, len(index))

    def moments(self, index: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and unbiased variance over some cells, each float64 (genes,)."""
        first, second = np.zeros(len(self.columns)), np.zeros(len(self.columns))
        for start in range(0, len(index), _BLOCK):
            block = self.rows(index[start : start + _BLOCK])
            first += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
            second += np.asarray(block.multiply(block).sum(axis=0, dtype=np.float64)).ravel()
        n = len(index)
        mean = first / max(1, n)
        return mean, np.maximum(second - n * mean**2, 0) / max(1, n - 1)

    def column(self, name: str) -> NDArray[Any]:
        """An obs column as text, object (n,); ``None`` where it is missing."""
        return np.array(stripped(obs_column(self.obs, name, f"obs of the {self.name} cells")), dtype=object)

    def _log(self, block: sp.csr_matrix) -> sp.csr_matrix:
        if self.scale == _SCALES["log1p"] or (
            self.scale.kind == "log" and self.scale.base == "e" and not self.scale.total
        ):
            return block
        block = block.astype(np.float64)
        return self.scale.ln_cp10k(block, self.scale.row_sums(block))


def read(
    data: Any, name: str, *, layer: str | None = None, scale: ScaleName = "auto", symbols: str | None = None
) -> Cells:
    """Cells of an AnnData object (or ``.h5ad`` / ``.zarr`` file), validated, over all genes that have a symbol.

    Raises
    ------
    FileNotFoundError, TypeError, KeyError, ValueError
        No such file, no AnnData, no such layer; nothing in it, NaN or infinite values (with the cells they are in).
    """
    adata = _load(data, name)
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"the {name} cells have no layer {layer!r}; available: {list(adata.layers.keys())}")
    matrix: Any = adata.X if layer is None else adata.layers[layer]
    if matrix is None or 0 in matrix.shape:
        raise ValueError(
            f"the {name} AnnData holds nothing: {adata.n_obs} cells × {adata.n_vars} genes; pass layer= if not in X"
        )
    if not adata.obs_names.is_unique:
        raise ValueError(f"cell names of the {name} cells are not unique; adata.obs_names_make_unique() repairs it")
    reader = open_reader(adata, layer=layer)
    _refuse_nan(reader, name)
    expression = Expression.of(reader, symbols=symbols, scale=_scale_of(reader, name, scale))
    return Cells(
        name=name,
        expression=expression,
        columns=np.arange(len(expression.symbols)),
        obsm=adata.obsm,
        uns=adata.uns,
        layers=adata.layers,
    )


Case = Literal["auto", "keep", "upper"]


def align(predicted: Cells, *others: Cells, case: Case = "auto") -> tuple[list[str], dict[str, Any]]:
    """Restrict all sides to the genes that they share, in alphabetical order.

    Parameters
    ----------
    case
        ``"upper"``: symbols that differ in case only are the same gene. ``"auto"``: where the prediction's recipe
        writes symbols in upper case.

    Returns
    -------
    The genes, and an account of what each side lost.

    Raises
    ------
    ValueError
        No gene in common; shows what the names of both sides look like.
    """
    if case == "auto":
        case = "upper" if dict(predicted.provenance.get("recipe", {})).get("case") == "upper" else "keep"
    tables = [_table(side.expression.symbols, case) for side in (predicted, *others)]
    common = sorted(symbol for symbol in tables[1] if all(symbol in table for table in tables))
    if not common:
        raise ValueError(
            "predicted and real cells have no gene in common: "
            + "; ".join(
                f"{side.name} has {list(table)[:4]}" for side, table in zip((predicted, *others), tables, strict=True)
            )
            + ". Both sides need symbols of the same organism: name the var column that holds them (symbols=), or "
            "ignore case with case='upper'"
        )
    for side, table in zip((predicted, *others), tables, strict=True):
        side.columns = np.array([table[symbol] for symbol in common])
    lost = {side.name: len(table) - len(common) for side, table in zip((predicted, *others), tables, strict=True)}
    if len(common) < 0.5 * min(len(table) for table in tables):
        logger.warning(
            "only %d genes are shared (%s); scores say nothing about the others",
            len(common),
            ", ".join(f"{side.name}: {len(table)}" for side, table in zip((predicted, *others), tables, strict=True)),
        )
    return common, {"compared": len(common), "left_out": lost, "case": case, "examples": common[:5]}


def groups(
    cells: Cells, columns: Sequence[str], rename: Mapping[str, str] | None = None
) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Cells of each combination of values, ``{(value, …): rows}``; cells without one of the values are in no group."""
    values = [cells.column(column) for column in columns]
    if rename:
        values[0] = np.array([rename.get(value, value) for value in values[0]], dtype=object)
    return {key: cells.by_name(rows) for key, rows in sorted(group_cells(*values).items())}


def refuse_empty(shared: Iterable[Any], predicted: Iterable[Any], real: Iterable[Any], what: str) -> None:
    """Raise ValueError where no group is on both sides, listing both."""
    if not list(shared):
        raise ValueError(
            f"no {what} is in both predicted and real cells: predicted has {_menu(predicted)}, real has {_menu(real)}; "
            "rename={'name in the prediction': 'name in the real cells'} maps other spellings"
        )


def label(key: Sequence[str]) -> str:
    """A group's printed name."""
    return JOIN.join(key)


def fingerprints(matrix: sp.csr_matrix, decimals: int = 3) -> NDArray[np.uint64]:
    """A number per row that rows with the same values (rounded to `decimals`) share, uint64 (rows,)."""
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**63, size=matrix.shape[1], dtype=np.uint64)
    matrix = matrix.tocsr()
    whole = np.rint(matrix.data.astype(np.float64) * 10**decimals).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (whole * np.uint64(0x9E3779B97F4A7C15)) ^ (whole >> np.uint64(7))
        products = np.append(mixed * keys[matrix.indices] * np.sign(whole), np.uint64(0))
        sums = np.cumsum(products, dtype=np.uint64)
        starts, stops = matrix.indptr[:-1], matrix.indptr[1:]
        before = np.where(starts > 0, sums[starts - 1], np.uint64(0))
        return np.where(stops > starts, sums[np.maximum(stops - 1, 0)] - before, np.uint64(0))


def _load(data: Any, name: str) -> Any:
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path} with the {name} cells")
        import anndata

        return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
    if not (hasattr(data, "obs") and hasattr(data, "var")):
        raise TypeError(
            f"the {name} cells must be AnnData or the path of an .h5ad or .zarr file, found {type(data).__name__}"
        )
    return data.to_memory() if data.isbacked else data


def _refuse_nan(reader: Reader, name: str) -> None:
    n_rows = reader.n_obs
    bad: list[str] = []
    n_bad = 0
    for start, block in reader.blocks(_BLOCK, shared=True):
        finite = np.isfinite(block.data)
        if finite.all():
            continue
        rows = np.unique(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[~finite])
        n_bad += len(rows)
        bad += [str(reader.names[start + row]) for row in rows[:3]]
    if n_bad:
        raise ValueError(
            f"{n_bad} of {n_rows} {name} cells hold NaN or infinite values (for example {bad[:3]}): a score over "
            "them would be "
            "invented. Remove these cells, or write 0 where a gene is known not to be expressed"
        )


def _scale_of(reader: Reader, name: str, scale: ScaleName) -> Scale:
    if scale != "auto":
        if scale not in _SCALES:
            raise ValueError(f"scale must be 'auto' or one of {sorted(_SCALES)}, found {scale!r}")
        return _SCALES[scale]
    if set(reader.uns.get(UNS, {})) & {"perturb", "generate"}:
        return _SCALES["log1p"]
    sample = reader.read(np.linspace(0, reader.n_obs - 1, min(512, reader.n_obs)).astype(int))
    highest = float(sample.data.max()) if sample.nnz else 0.0
    if sample.nnz and sample.data.min() < 0:
        # Regression models predict slightly negative logarithms; z-scores look the same but for their size.
        if highest >= 20 or sample.data.min() < -2:
            raise ValueError(
                f"the {name} cells hold values from {sample.data.min():.3g} to {highest:.3g}: they look scaled per "
                "gene (z-scores). "
                "Pass counts or log-normalised values, as X or layer="
            )
        return _SCALES["log1p"]
    found = recognise(sample)
    if found.kind == "normalised" and highest < 20:
        # Predictions of equal rows (a mean, sentences of one length) have equal sums without being normalised.
        found = _SCALES["log1p"]
    return found


def _table(symbols: Sequence[str], case: str) -> dict[str, int]:
    """Symbol → place; of symbols that case alone tells apart, the first."""
    table: dict[str, int] = {}
    for place, symbol in enumerate(symbols):
        table.setdefault(symbol.upper() if case == "upper" else symbol, place)
    return table


def _menu(keys: Iterable[Any], most: int = 6) -> str:
    names = [label(key) if isinstance(key, tuple) else str(key) for key in keys]
    return str(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
