"""Scale: counts, CP10k or logarithm, recognised from the values; used for the rank fit only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

#: Logarithms are tried in the order in which they are met in practice.
BASES = {"e": math.e, "2": 2.0, "10": 10.0}

TARGET = 1e4
"""Counts per cell of the normalisation that the rank fit is defined on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the values of a matrix are."""

    kind: Literal["counts", "normalised", "log"]
    base: Literal["", "e", "2", "10"] = ""
    """Base of the logarithm of 1 + x, for ``kind="log"``."""

    total: float | None = None
    """Sum of a cell before the logarithm, where it is the same in all cells (1e4 for CP10k)."""

    certain: bool = True
    """False where nothing in the values speaks for or against the assumption."""

    def __str__(self) -> str:
        if self.kind == "counts":
            return "counts"
        name = "linear, normalised" if self.kind == "normalised" else f"log base {self.base} of 1 + x"
        total = f", total {self.total:.4g} per cell" if self.total else ", total unknown (genes were left out)"
        return name + total + ("" if self.certain else ", assumed")

    def log10_cp10k(self, values: NDArray[Any], row_sums: NDArray[Any]) -> NDArray[np.float64]:
        """Values → log10(1 + CP10k).

        Parameters
        ----------
        values
            (nnz,), not negative.
        row_sums
            (nnz,): sum of the value's cell over all genes on the scale of the input (used for counts, and for linear
            values of unknown total). Already normalised values are not normalised again.
        """
        linear = np.asarray(values, dtype=np.float64)
        if self.kind == "log":
            # Cells were normalised before the logarithm. Where left-out genes hide the total, 1e4 is scanpy's usual one.
            linear = np.expm1(linear * math.log(BASES[self.base])) * (TARGET / (self.total or TARGET))
        elif self.kind == "normalised" and self.total:
            linear = linear * (TARGET / self.total)
        else:
            linear = linear * (TARGET / np.asarray(row_sums, dtype=np.float64))
        return np.log10(1.0 + linear)


def recognise(values: Any, hint: str = "") -> Scale:
    """Recognise the scale of a sample of cells.

    Parameters
    ----------
    values
        (cells, genes), sparse or dense. A few hundred cells are enough.
    hint
        What to pass instead, for the error on values that cannot be ranked.

    Raises
    ------
    ValueError
        Negative values: they were centred per gene, which changes the order of genes within a cell.
    """
    matrix = sp.csr_matrix(values)
    data = matrix.data[matrix.data > 0].astype(np.float64)
    refuse_unrankable(matrix.data, hint)
    if not len(data) or not np.any(data % 1):
        return Scale(kind="counts")
    fits_log = data.max() < 20  # e**20 is beyond any count
    candidates: list[tuple[Literal["", "e", "2", "10"], Any]] = [("", matrix)]
    if fits_log:
        for name in ("e", "2", "10"):
            candidates.append((name, _unlog(matrix, BASES[name])))  # type: ignore[arg-type]
    for name, linear in candidates:
        sums = np.asarray(linear.sum(axis=1)).ravel()
        sums = sums[sums > 0]
        if len(sums) > 1 and sums.std() < 0.01 * sums.mean():
            return Scale(kind="log" if name else "normalised", base=name, total=_round_total(float(np.median(sums))))
    # Genes were left out after normalisation: look for the step of one count within each cell instead.
    best = max(candidates, key=lambda pair: _share_of_whole_counts(pair[1]))
    if _share_of_whole_counts(best[1]) > 0.9:
        return Scale(kind="log" if best[0] else "normalised", base=best[0])
    return Scale(kind="log", base="e", certain=False) if fits_log else Scale(kind="normalised", certain=False)


def refuse_unrankable(data: NDArray[Any], hint: str = "") -> None:
    """Raise ValueError on negative or infinite values, saying what was found."""
    if len(data) == 0:
        return
    low, high = np.nanmin(data) if not np.all(np.isnan(data)) else 0.0, np.max(data, initial=0, where=~np.isnan(data))
    if low < 0:
        raise ValueError(
            f"expression must not be negative, found values down to {low:.4g}: they look scaled per gene (z-scores) or "
            f"batch-corrected, which changes the order of genes within a cell. Pass counts or log-normalised values instead"
            + (f": {hint}" if hint else ".")
        )
    if np.isinf(high):
        raise ValueError("expression must be finite, found infinite values; look for a division by an empty cell's total")


def _unlog(matrix: Any, base: float) -> Any:
    linear = matrix.copy()
    linear.data = np.expm1(np.nan_to_num(linear.data.astype(np.float64)) * math.log(base))
    return linear


def _round_total(total: float) -> float:
    """The nearest round number if within 1 %: sums miss it by the genes that were filtered out."""
    power = 10.0 ** math.floor(math.log10(total))
    for nice in (1.0, 2.0, 5.0, 10.0):
        if abs(total / (nice * power) - 1) < 0.01:
            return nice * power
    return total


def _share_of_whole_counts(matrix: Any) -> float:
    """Share of values that are a whole multiple of their cell's smallest value, over cells with repeated steps."""
    whole, seen = 0, 0
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        row = matrix.data[start:stop]
        row = row[row > 0]
        if len(row) < 5:
            continue
        ratio = row / row.min()
        ratio = ratio[(ratio > 1.01) & (ratio < 10)]
        whole += int(np.sum(np.abs(ratio - np.round(ratio)) < 0.02))
        seen += len(ratio)
    return whole / seen if seen else 0.0
