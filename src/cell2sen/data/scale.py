"""Scale of a matrix: counts, CP10k or logarithm, recognised from its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Base = Literal["", "e", "2", "10"]

#: Bases of logarithms, the most usual first: the order in which they are tried.
BASES: dict[Base, float] = {"e": math.e, "2": 2.0, "10": 10.0}

_MAX_ROW_SUM = 1e9  # counts of a cell or sample: a larger sum means that the base is wrong
_MAX_LOG = 20  # e**20 is more than any count, and 2**20 more than any normalised value

TARGET = 1e4
"""Counts per cell of the normalisation that the rank fit is defined on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Unit of the values of a matrix."""

    kind: Literal["counts", "normalised", "log"]
    base: Base = ""
    """Base of the logarithm of 1 + x, for ``kind="log"``."""

    total: float | None = None
    """Sum of each cell before the logarithm, if it is the same in all cells (1e4 for CP10k)."""

    of_counts: bool = False
    """The logarithm is of counts that were not normalised before."""

    certain: bool = True
    """False if the scale is an assumption, for which the values are no evidence."""

    def __str__(self) -> str:
        if self.kind == "counts":
            return "counts"
        name = "linear, normalised" if self.kind == "normalised" else f"log base {self.base} of 1 + x"
        total = f", total {self.total:.4g} per cell" if self.total else ", total unknown (genes were left out)"
        return name + (" of counts" if self.of_counts else total) + ("" if self.certain else ", assumed")

    def row_sums(self, matrix: Any) -> NDArray[np.float64]:
        """Sum of each cell of a CSR matrix, float64 (cells,); of the counts, if it has logarithms :attr:`of_counts`."""
        linear = _unlog(matrix, BASES[self.base]) if self.of_counts else matrix
        return np.asarray(linear.sum(axis=1, dtype=np.float64), dtype=np.float64).ravel()

    def counts(self, matrix: sp.csr_matrix) -> NDArray[np.int64]:
        """Counts of the stored entries, int64 (nnz,), in their order; estimated if the values are no counts.

        The estimate assumes that a cell's smallest value is one count: nearly every cell has a gene with one count.
        """
        if self.kind == "counts":
            return np.asarray(matrix.data, dtype=np.int64)
        linear = np.asarray((_unlog(matrix, BASES[self.base]) if self.kind == "log" else matrix).data, dtype=np.float64)
        lengths = np.diff(matrix.indptr)
        positive = np.where(linear > 0, linear, np.inf)
        smallest = np.minimum.reduceat(positive, matrix.indptr[:-1][lengths > 0]) if len(positive) else positive
        counts = np.rint(np.minimum(linear / np.repeat(smallest, lengths[lengths > 0]), _MAX_ROW_SUM))
        return np.asarray(counts, dtype=np.int64)

    @property
    def needs_row_sums(self) -> bool:
        """Whether :meth:`log10_cp10k` needs the sums of the cells."""
        return not self.total and (self.kind != "log" or self.of_counts)

    def log10_cp10k(self, values: NDArray[Any], row_sums: NDArray[Any]) -> NDArray[np.float64]:
        """Values → log10(1 + CP10k).

        Parameters
        ----------
        values
            (nnz,), not negative.
        row_sums
            (nnz,): :meth:`row_sums` of each value's cell. Used only if :attr:`needs_row_sums`: normalised values are
            not normalised again.
        """
        linear = np.asarray(values, dtype=np.float64)
        if self.kind == "log":
            linear = np.expm1(linear * math.log(BASES[self.base]))
        if self.total:
            linear = linear * (TARGET / self.total)
        elif self.needs_row_sums:
            linear = linear * (TARGET / np.asarray(row_sums, dtype=np.float64))
        # Else genes were left out and the total is unknown: assume 1e4, the usual target in scanpy.
        return np.log10(1.0 + linear)

    def ln_cp10k(self, matrix: sp.csr_matrix, row_sums: NDArray[np.float64]) -> sp.csr_matrix:
        """Values of cells → ln(1 + CP10k), the unit of ``scanpy.pp.log1p``.

        Parameters
        ----------
        matrix
            CSR (cells, genes), not negative. Not changed; some or all of the genes.
        row_sums
            float64 (cells,): :meth:`row_sums` over all genes.

        Returns
        -------
        float64 CSR (cells, genes).
        """
        sums = np.repeat(np.where(row_sums > 0, row_sums, 1.0), np.diff(matrix.indptr))
        values = self.log10_cp10k(matrix.data, sums) * math.log(10)
        return sp.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)


#: Scale of whole numbers.
COUNTS = Scale(kind="counts")


def recognise(values: Any, hint: str = "") -> Scale:
    """Scale of a sample of cells, recognised from its values.

    Parameters
    ----------
    values
        (cells, genes), sparse or dense. A few hundred cells are enough.
    hint
        How to pass other matrices, for the error on negative values.

    Raises
    ------
    ValueError
        Negative values (centred per gene, which changes the order of genes within a cell) or infinite ones.
    """
    matrix = sp.csr_matrix(values).astype(np.float64)  # a copy
    refuse_unrankable(matrix.data, hint)
    matrix.data = np.nan_to_num(matrix.data)
    matrix.eliminate_zeros()
    if not np.any(matrix.data % 1):
        return COUNTS
    fits_log = bool(matrix.data.max() < _MAX_LOG)
    candidates: dict[Base, Any] = {"": matrix}
    if fits_log:
        candidates |= {base: _unlog(matrix, BASES[base]) for base in BASES}
    sums = {base: _positive_sums(linear) for base, linear in candidates.items()}
    candidates = {base: linear for base, linear in candidates.items() if not base or sums[base].max() < _MAX_ROW_SUM}

    if len(sums[""]) > 1:
        spread = {base: float(sums[base].std() / sums[base].mean()) for base in candidates}
        base = min(spread, key=lambda base: spread[base])
        # Sums of logarithms over thousands of genes are nearly constant, too: without a base the limit is stricter.
        if spread[base] < (0.001 if fits_log and not base else 0.01):
            return Scale(kind=_kind(base), base=base, total=_round_total(float(np.median(sums[base]))))

    # The sums vary, so genes were left out after normalisation: use the size of one count within each cell.
    shares = {base: _share_of_whole_counts(matrix, linear) for base, linear in candidates.items()}
    base, *others = sorted(shares, key=lambda base: -shares[base])  # among equal shares, the more usual base
    # The share is 0.04 by chance. Cells without a count of one lower the share of the right base only.
    best, second = shares[base], max((shares[other] for other in others), default=0.0)
    certain = best > 0.9 or best > max(0.5, 2 * second)
    if not certain:
        base = next((base for base in BASES if base in candidates), "")
    if not base:
        return Scale(kind="normalised", certain=certain)
    linear = candidates[base]
    small = linear.data[linear.data < 10]
    if certain and len(small) and np.all(np.abs(small - np.round(small)) < 0.02):
        return Scale(kind="log", base=base, of_counts=True)
    if len(sums[base]) == 1:
        return Scale(kind="log", base=base, total=_round_total(float(sums[base][0])), certain=certain)
    if sums[base].max() > 1.01 * TARGET:  # not CP10k; the total is at least the largest sum
        return Scale(kind="log", base=base, total=_round_total(float(sums[base].max())), certain=False)
    return Scale(kind="log", base=base, certain=certain)


def _kind(base: Base) -> Literal["normalised", "log"]:
    return "log" if base else "normalised"


def _positive_sums(matrix: Any) -> NDArray[np.float64]:
    sums = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    return sums[sums > 0]


def refuse_unrankable(data: NDArray[Any], hint: str = "") -> None:
    """Raise a ValueError on negative or infinite values."""
    if len(data) == 0 or (data.min() >= 0 and data.max() < np.inf):  # both are false with NaN
        return
    low, high = np.nanmin(data) if not np.all(np.isnan(data)) else 0.0, np.max(data, initial=0, where=~np.isnan(data))
    if low < 0:
        raise ValueError(
            f"expression must not be negative, found values down to {low:.4g}: they look scaled per gene (z-scores) or "
            "batch-corrected, which changes the order of genes within a cell. Pass counts or log-normalised values "
            + (f"instead: {hint}" if hint else "instead.")
        )
    if np.isinf(high):
        raise ValueError(
            "expression must be finite, found infinite values: look for a division by zero before this step"
        )


def are_counts(data: NDArray[Any]) -> bool:
    """Whether all values are whole numbers, not negative and finite. Tested in parts that fit into a core's cache."""
    for first in range(0, len(data), 2**16):
        part = data[first : first + 2**16]
        if not (part.min() >= 0 and part.max() < np.inf):  # false with NaN
            return False
        if part.dtype.kind == "f" and not np.array_equal(np.trunc(part), part):
            return False
    return True


def _unlog(matrix: Any, base: float) -> Any:
    """``base**x - 1`` of the stored values."""
    return sp.csr_matrix((np.expm1(matrix.data * math.log(base)), matrix.indices, matrix.indptr), shape=matrix.shape)


def _round_total(total: float) -> float:
    """The nearest round number (1, 2 or 5 times a power of 10) within 1 %, which sums miss if genes were left out."""
    power = 10.0 ** math.floor(math.log10(total))
    for nice in (1.0, 2.0, 5.0, 10.0):
        if abs(total / (nice * power) - 1) < 0.01:
            return nice * power
    return total


def _share_of_whole_counts(matrix: Any, linear: Any) -> float:
    """Share of the values of `linear` that are a whole multiple of their cell's smallest value.

    Cells whose smallest value in `matrix` (before :func:`_unlog`) is at most 0.01 are left out: near 0 a logarithm is
    linear, so that all bases fit.
    """
    lengths = np.diff(matrix.indptr)
    starts = matrix.indptr[:-1][lengths > 0]
    lengths = lengths[lengths > 0]
    smallest = np.repeat(np.minimum.reduceat(matrix.data, starts), lengths)
    ratio = linear.data / np.repeat(np.minimum.reduceat(linear.data, starts), lengths)
    ratio = ratio[(ratio > 1.01) & (ratio < 10) & (smallest > 0.01)]
    return float(np.mean(np.abs(ratio - np.round(ratio)) < 0.02)) if len(ratio) >= 5 else 0.0
