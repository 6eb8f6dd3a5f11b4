"""Values that no scale has: rounding noise, which is zero, and negative or infinite values, which are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

#: Values below this share of a cell's smallest usual value are rounding noise, and below this size where the largest
#: value of the cell is not small itself; values above the last one never.
NOISE_SHARE, NOISE_SIZE, NOT_SMALL, MAX_NOISE = 1e-6, 1e-9, 0.1, 1e-4

#: The smallest usual value of a cell is the smallest above this share of its largest.
USUAL_SHARE = 1e-4

#: Counts that went through logarithms and back differ from whole numbers by this share of themselves, at most by 0.05.
ROUNDING = 1e-5


def rankable(rows: sp.csr_matrix, hint: str = "") -> tuple[sp.csr_matrix, int]:
    """:func:`without_noise`, after which :func:`refuse_unrankable` finds nothing. The usual counts are read once."""
    if rows.nnz:
        low, high = rows.data.min(), rows.data.max()
        if low > MAX_NOISE and high < np.inf:
            return rows, 0
    rows, n_noise = without_noise(rows)
    refuse_unrankable(rows.data, hint)
    return rows, n_noise


def without_noise(rows: sp.csr_matrix) -> tuple[sp.csr_matrix, int]:
    """Cells with rounding noise (positive or negative) set to 0, and the number of these values.

    Values such as 1e-16 take the place of zeros where a matrix went through arithmetic. The same matrix is returned if
    there are none, else a copy; NaN stays.
    """
    if rows.dtype.kind in "iu" or not rows.nnz or not _may_have_noise(rows.data):
        return rows, 0
    size = np.abs(np.nan_to_num(rows.data, posinf=0, neginf=0))
    lengths = np.diff(rows.indptr)
    starts = rows.indptr[:-1][lengths > 0]
    largest = np.repeat(np.maximum.reduceat(size, starts), lengths[lengths > 0])
    usual = np.where(size > USUAL_SHARE * largest, size, np.inf)
    step = np.repeat(np.minimum.reduceat(usual, starts), lengths[lengths > 0])
    limit = np.maximum(np.minimum(NOISE_SHARE * step, MAX_NOISE), np.where(largest > NOT_SMALL, NOISE_SIZE, 0))
    noise = (size < limit) & (size > 0)
    if not noise.any():
        return rows, 0
    cleaned = rows.copy()
    cleaned.data[noise] = 0
    return cleaned, int(noise.sum())


def _may_have_noise(data: NDArray[Any]) -> bool:
    """Whether any value can be noise: quick, since most matrices have none."""
    low, high = data.min(), data.max()  # NaN if one value is
    if low == 0:
        low = np.min(data, initial=np.inf, where=data > 0)
    return not low >= max(min(NOISE_SHARE * high, MAX_NOISE), NOISE_SIZE)


def refuse_unrankable(data: NDArray[Any], hint: str = "") -> None:
    """Raise a ValueError on negative or infinite values."""
    if len(data) == 0 or (data.min() >= 0 and data.max() < np.inf):  # both are false with NaN
        return
    low, high = np.nanmin(data) if not np.all(np.isnan(data)) else 0.0, np.max(data, initial=0, where=~np.isnan(data))
    if low < 0:
        raise ValueError(
            f"expression must not be negative, found values down to {low:.4g}: they look scaled per gene (z-scores), "
            "like Pearson residuals or batch-corrected, which changes the order of genes within a cell. Pass counts or "
            "log-normalised values " + (f"instead: {hint}" if hint else "instead.")
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


def are_nearly_whole(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are whole numbers but for rounding: counts that went through a logarithm and back."""
    tolerance = np.minimum(ROUNDING * np.maximum(np.abs(data), 1), 0.05)
    whole = np.rint(data)
    return np.asarray((np.abs(data - whole) <= tolerance) & ((whole > 0) | (data == 0)))
