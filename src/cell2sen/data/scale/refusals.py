"""Matrices without an order of genes or expression: only 0 and 1, moved zeros, scaled genes; and doubts of counts."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.scale.noise import are_nearly_whole

#: Values of a matrix of ones that is no matter of chance, and the number of larger values to expect among them.
_MIN_ONES, _MIN_EXPECTED = 100, 12.0

#: Genes of a cell that can be constant by chance only if there are fewer, whatever the number of genes.
_MAX_CONSTANT = 150

#: Zero after the transformations of Freeman-Tukey and Anscombe.
_MOVED_ZEROS = (1.0, 2 * math.sqrt(3 / 8))

#: Counts differ within a cell: largest over median value (of few cells each, of more the median), with at least so many
#: values, which are not mostly the smallest; and, of cells with thousands of genes and no 1, largest over smallest.
_RANGE_OF_FEW, _RANGE, _VALUES_OF_FEW, _VALUES = 3.5, 5.0, 50, 20
_RANGE_OF_LARGE, _LARGE_CELL = 30.0, 1000

#: Values of a cell that are 1, 2, 3, … once only if they are ranks, and the least largest value that tells anything.
_MIN_RANKS = 10

#: Expressed genes and median of a cell from which on its largest count is more than so many times the median.
COMPRESSED_GENES, COMPRESSED_MEDIAN, COMPRESSED_RANGE = 50, 2.0, 3.5

#: Variance over mean that counts whose largest is not far above the median have not.
_MAX_DISPERSION = 2.5

#: Cells from which a range is taken, and fewer of which each must agree.
_RANGE_CELLS, _MANY_CELLS = 60, 12


def are_constant(matrix: sp.csr_matrix) -> NDArray[np.bool_]:
    """Which cells have one value in more genes than counts can by chance: binarised cells, bool (cells,).

    With genes that are all alike, the number of counts above 1 among n expressed genes would be Poisson; real genes
    differ, so that there are more.
    """
    lengths = np.diff(matrix.indptr)
    result = np.zeros(matrix.shape[0], dtype=bool)
    candidates = np.flatnonzero(
        (lengths >= _MAX_CONSTANT) | (expected_above_one(lengths, matrix.shape[1]) >= _MIN_EXPECTED)
    )
    for cell in candidates:
        values = matrix.data[matrix.indptr[cell] : matrix.indptr[cell + 1]]
        # Most cells differ in their first values.
        result[cell] = values[0] > 0 and np.ptp(values[:20]) <= 1e-6 * values[0] and np.ptp(values) <= 1e-6 * values[0]
    return result


def are_compressed(matrix: sp.csr_matrix) -> NDArray[np.bool_]:
    """Which cells differ less in their values than counts can: ranks, bins, rounded logarithms, bool (cells,).

    The largest count of a cell is many times the median, unless nearly all counts are 1 or all genes are alike.
    """
    lengths = np.diff(matrix.indptr)
    result = np.zeros(matrix.shape[0], dtype=bool)
    filled = np.flatnonzero(lengths)
    if not len(filled) or lengths.max() < COMPRESSED_GENES:
        return result
    starts, n = matrix.indptr[filled], lengths[filled]
    mean = np.add.reduceat(matrix.data, starts, dtype=np.float64) / n
    # Half of the values are at least the median, so that the mean is at least half of it.
    low_mean = (n >= COMPRESSED_GENES) & (mean >= COMPRESSED_MEDIAN / 2)
    if not low_mean.any():
        return result
    suspects = low_mean & (np.maximum.reduceat(matrix.data, starts) < 2 * COMPRESSED_RANGE * mean)
    for cell in filled[suspects]:
        values = np.sort(matrix.data[matrix.indptr[cell] : matrix.indptr[cell + 1]])
        middle = values[len(values) // 2]
        if middle >= COMPRESSED_MEDIAN and values[-1] < COMPRESSED_RANGE * middle:
            result[cell] = not _are_alike(values)
    return result


def _are_alike(values: NDArray[np.float64]) -> bool:
    """Whether values vary at least as counts of genes that are all alike (1 + Poisson), and hardly more."""
    mean = values.mean()
    least = 1 - 1 / mean
    return bool(least * (1 - 3 * np.sqrt(2 / len(values))) <= values.var() / mean < _MAX_DISPERSION)


def expected_above_one(expressed: NDArray[np.integer], n_genes: int) -> NDArray[np.float64]:
    """Least number of counts above 1 to expect among the expressed genes of cells, float64 (cells,)."""
    share = np.minimum(expressed / n_genes, 1 - 1e-9)
    rate = -np.log1p(-share)
    one = np.divide(rate * np.exp(-rate), share, out=np.ones(len(rate)), where=share > 0)
    return np.asarray(expressed * (1 - one))


def refuse_binary(matrix: sp.csr_matrix, hint: str) -> None:
    """Raise a ValueError if all expressed genes of every cell have the same value, and not by chance."""
    lengths = np.diff(matrix.indptr)
    few = matrix.nnz < max(_MIN_ONES, min(10 * matrix.shape[0], 500))
    if few and expected_above_one(lengths, matrix.shape[1]).sum() < _MIN_EXPECTED:
        return
    starts = matrix.indptr[:-1]
    lowest, highest = np.minimum.reduceat(matrix.data, starts), np.maximum.reduceat(matrix.data, starts)
    if np.all(highest - lowest <= 1e-6 * highest):
        raise ValueError(
            f"all expressed genes of a cell have the same value ({highest[0]:.4g}): the matrix tells only whether a "
            f"gene was seen, so its genes have no order. Pass the counts: {hint or 'another matrix'}. If they are "
            "counts, pass scale='counts'"
        )


def refuse_moved_zeros(matrix: sp.csr_matrix, hint: str) -> None:
    """Raise a ValueError if there are no zeros, and many genes of each cell have its smallest value instead."""
    n_cells, n_genes = matrix.shape
    if matrix.nnz < n_cells * n_genes or n_genes < 20:
        return
    values = matrix.data.reshape(n_cells, n_genes)
    floors = values.min(axis=1)
    if n_cells < 3 and (
        are_nearly_whole(matrix.data).all() or not np.isclose(floors[0], _MOVED_ZEROS, rtol=1e-4).any()
    ):
        return  # a few cells over the genes that they express
    is_floor = values <= floors[:, None] * (1 + 1e-6)
    if is_floor.mean() > 0.2 and (is_floor.sum(axis=1) > 1).mean() > 0.9:
        raise ValueError(_moved(f"{is_floor.mean():.0%} are {floors[0]:.4g}, the smallest of their cell", hint))


def refuse_common_floor(matrix: sp.csr_matrix, hint: str) -> None:
    """Raise a ValueError if there are no zeros, and most cells have the same smallest value, though it is no count."""
    n_cells, n_genes = matrix.shape
    if matrix.nnz < n_cells * n_genes or n_genes < 20 or n_cells < 3:
        return
    values = matrix.data.reshape(n_cells, n_genes)
    floors = values.min(axis=1)
    is_floor = np.abs(values / floors.min() - 1) < 1e-6
    common = is_floor.any(axis=1)
    several = is_floor.sum(axis=1).mean() > 1.5  # predictions of one gene's mean are once in each cell
    if several and common.mean() > 0.8 and not are_nearly_whole(matrix.data).mean() > 0.3:
        raise ValueError(_moved(f"{floors.min():.4g} is the smallest value of {common.mean():.0%} of the cells", hint))


def _moved(what: str, hint: str) -> str:
    return (
        f"no value is 0, and {what}: a transformation has moved the zeros (Freeman-Tukey, Anscombe, or an added "
        f"constant), so that all genes look expressed. Pass the counts: {hint or 'another matrix'}"
    )


def refuse_scaled_genes(matrix: sp.csr_matrix, hint: str) -> None:
    """Raise a ValueError for genes divided by their standard deviation or largest value: their order is changed."""
    n_cells = matrix.shape[0]
    columns = matrix.tocsc()
    what = ""
    is_one = matrix.data > 1 - 1e-6
    if n_cells > 2 and abs(matrix.data.max() - 1) < 1e-6 and is_one.sum() >= 3 * n_cells and is_one.mean() < 0.5:
        what = "largest value"  # ones in several genes of a cell, and nothing above
    often = np.diff(columns.indptr) >= max(5, 0.05 * n_cells)
    if not what and n_cells >= 20 and often.sum() >= 20:
        mean = np.asarray(columns.mean(axis=0)).ravel()
        squares = np.asarray(columns.multiply(columns).mean(axis=0)).ravel()
        deviation = np.sqrt(np.maximum(squares - mean**2, 0))[often]
        highest = columns.max(axis=0).toarray().ravel()[often]
        if np.mean(np.abs(deviation - 1) < 0.2) > 0.8 and abs(np.median(deviation) - 1) < 0.15:
            what = "standard deviation"
        elif matrix.data.max() < 1 + 1e-6 and np.mean(np.abs(highest - 1) < 1e-3) > 0.8:
            what = "largest value"
    if what:
        raise ValueError(
            f"genes have a {what} of about 1: they were scaled per gene, which changes the order of genes within a "
            f"cell. Pass counts or log-normalised values: {hint or 'another matrix'}"
        )


def doubt_of_linear(matrix: sp.csr_matrix, *, whole: bool) -> str:
    """Why values are hardly linear, though they are whole numbers or multiples; empty if nothing speaks against it.

    Counts of a cell differ much more than ranks, bins and rounded logarithms do.

    Parameters
    ----------
    whole
        The values are whole numbers. The smallest count of a cell is 1, unless all are large.
    """
    cells = np.unique(np.linspace(0, matrix.shape[0] - 1, min(matrix.shape[0], _RANGE_CELLS)).astype(int))
    rows = [matrix.data[matrix.indptr[cell] : matrix.indptr[cell + 1]] for cell in cells]
    many = len(rows) >= _MANY_CELLS
    rows = [values for values in rows if len(values) >= _MIN_RANKS]
    if rows and all(_are_ranks(values) for values in rows):
        return "each cell has the values 1, 2, 3, … once: they are ranks"
    rows = [values for values in rows if len(values) >= _VALUES]
    if not rows:
        return ""
    low, middle, high = np.array([(values.min(), np.median(values), values.max()) for values in rows]).T
    if len(rows) > 2 and np.ptp(high) == 0 and high[0] >= _MIN_RANKS and len({values.sum() for values in rows}) > 2:
        return f"all cells have the same largest value, {high[0]:.4g}: bins, ranks or quantiles"
    spread = np.median([values.var() / values.mean() for values in rows])
    if whole and 0.6 < spread < 1.6:
        return ""  # as counts of genes that are all alike
    ratios = high / middle
    ratio = np.median(ratios) if many else np.max(ratios)
    n_values = np.median([len(values) for values in rows])
    varied = np.median(middle / low) > 1.5 and (many or n_values >= _VALUES_OF_FEW)
    if ratio < (_RANGE if many else _RANGE_OF_FEW) and (varied or (whole and np.median(low) > 1.5)):
        return (
            f"the largest value of a cell is only {ratio:.1f} times its median, as of ranks, bins or rounded logarithms"
        )
    extent = np.median(high / low)
    if whole and np.median(low) > 1.5 and extent < _RANGE_OF_LARGE and n_values >= _LARGE_CELL:
        return f"the largest of thousands of genes is only {extent:.0f} times the smallest, as of rounded logarithms"
    return ""


def _are_ranks(values: NDArray[np.float64]) -> bool:
    steps = np.sort(values) / values.min()
    return bool(np.allclose(steps, np.arange(1, len(steps) + 1), rtol=1e-3))
