"""Evidence for a transformation: equal sums of cells, and values that are whole multiples of a cell's smallest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.scale.noise import are_nearly_whole
from cell2sen.data.scale.units import MAX_ROW_SUM, Scale

#: A ratio to a cell's smallest value counts as whole within this distance: by chance 4 % of ratios do.
WHOLE = 0.02

#: Ratios that are tested. Larger ones are whole by chance, since the error of the smallest value grows with them.
RATIOS = (1.01, 10.0)

#: Cells whose smallest value is lower tell nothing: near 0 all logarithms are linear.
MIN_SMALLEST = 0.01

#: Cells of which half may differ from the others.
MANY_CELLS = 12

#: Distinct values that are enough to be sure of another scale (by chance one of 10⁷ cells has them), and their ratios.
MIN_TESTS, MAX_RATIO = 6, 20.0

#: Overflowed sums, small enough to be squared.
_HUGE = 1e100


@dataclass(frozen=True, kw_only=True, eq=False)
class Multiples:
    """Whole multiples of the smallest value among the distinct values of each cell."""

    hits: NDArray[np.int64]
    """Distinct values that are whole multiples, int64 (cells,)."""

    tests: NDArray[np.int64]
    """Distinct values that were tested, int64 (cells,)."""

    smallest: NDArray[np.float64]
    """Smallest value of each cell before the transformation, float64 (cells,); infinite for empty cells."""

    @property
    def share(self) -> float:
        """Share of whole multiples in all cells; 0 if fewer than five values were tested."""
        tests = int(self.tests.sum())
        return float(self.hits.sum() / tests) if tests >= 5 else 0.0

    def share_of_cells(self, min_tests: int = 4) -> NDArray[np.float64]:
        """Share of whole multiples in each cell, float64 (cells,); 0 where fewer than `min_tests` were tested."""
        return np.where(self.tests >= min_tests, self.hits / np.maximum(self.tests, 1), 0.0)


def multiples(matrix: sp.csr_matrix, scale: Scale, max_ratio: float = RATIOS[1]) -> Multiples:
    """Evidence of a transformation in cells without zeros among the stored values."""
    lengths = np.diff(matrix.indptr)
    cells = np.repeat(np.arange(matrix.shape[0]), lengths)
    order = np.lexsort((matrix.data, cells))
    values, cells = matrix.data[order], cells[order]
    distinct = np.ones(len(values), dtype=bool)
    distinct[1:] = (np.diff(values) > 1e-6 * values[1:]) | (np.diff(cells) > 0)
    values, cells = values[distinct], cells[distinct]
    linear = scale.linear(values)
    smallest = np.full(matrix.shape[0], np.inf)
    first = np.unique(cells, return_index=True)[1]
    smallest[cells[first]] = linear[first]
    before = np.full(matrix.shape[0], np.inf)
    before[cells[first]] = values[first]
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = np.minimum(np.nan_to_num(linear / smallest[cells]), 2 * max_ratio)
    tested = (ratio > RATIOS[0]) & (ratio < max_ratio) & (before[cells] > MIN_SMALLEST)
    if scale.kind != "normalised":  # squares, and powers of 2, of whole numbers are whole: no evidence
        tested &= ~are_nearly_whole(values)
    if scale.kind == "sqrt":
        tested &= np.abs(values / before[cells] - np.round(values / before[cells])) > WHOLE
    whole = tested & (np.abs(ratio - np.round(ratio)) < WHOLE)
    n = matrix.shape[0]
    return Multiples(
        hits=np.bincount(cells[whole], minlength=n), tests=np.bincount(cells[tested], minlength=n), smallest=smallest
    )


def clear_shares(matrix: sp.csr_matrix, scale: Scale) -> NDArray[np.float64]:
    """Share of whole multiples in each cell with enough of them to be sure, float64 (cells,); 0 in others."""
    return multiples(matrix, scale, MAX_RATIO).share_of_cells(MIN_TESTS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A transformation and the evidence for it in a sample of cells."""

    scale: Scale
    sums: NDArray[np.float64]
    """Sums before the transformation of the cells that are not empty, float64 (cells,)."""

    multiples: Multiples
    top_share: float
    """Median share of the largest value in the sum of its cell."""

    @property
    def share(self) -> float:
        """Share of whole multiples, see :class:`Multiples`."""
        return self.multiples.share

    @property
    def total(self) -> float:
        """Median of the sums."""
        return float(np.median(self.sums))

    @property
    def spread(self) -> float:
        """Median (of few cells: largest) distance of the sums from their median, relative; infinite for one cell."""
        if len(self.sums) == 1:
            return np.inf
        distances = np.abs(self.sums / self.total - 1)
        return float(np.median(distances) if len(distances) >= MANY_CELLS else distances.max())

    @property
    def variation(self) -> float:
        """Standard deviation of the sums over their mean; 0 for a single cell."""
        return float(self.sums.std() / self.sums.mean())

    @property
    def possible(self) -> bool:
        """Whether sums are those of cells or samples, but for a few cells."""
        return float(np.quantile(self.sums, 0.95, method="lower")) < MAX_ROW_SUM


def candidate(matrix: sp.csr_matrix, some: sp.csr_matrix, scale: Scale) -> Candidate:
    """Evidence for one transformation.

    Parameters
    ----------
    matrix
        Sample of cells, float64 CSR without stored zeros.
    some
        The cells of it whose distinct values are compared.
    """
    filled = np.flatnonzero(np.diff(matrix.indptr))
    linear = scale.linear(matrix.data)
    starts = matrix.indptr[filled]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(linear, starts)
        top = np.nan_to_num(np.maximum.reduceat(linear, starts) / sums, nan=1.0)
    return Candidate(
        scale=scale,
        sums=np.minimum(sums, _HUGE),
        multiples=multiples(some, scale),
        top_share=float(np.median(top)),
    )
