"""Cells that contradict the scale of a matrix: batches on another scale, found while blocks are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.scale.evidence import MIN_TESTS, RATIOS, WHOLE, clear_shares
from cell2sen.data.scale.noise import are_nearly_whole
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.refusals import are_compressed, are_constant
from cell2sen.data.scale.units import MAX_ROW_SUM, TRANSFORMATIONS, Scale

#: Sums of cells, as shares of the total, that need no further test; and those that no lost gene explains.
USUAL_SUMS, POSSIBLE_SUMS = (0.9, 1.05), (0.3, 1.05)

#: Values of a cell that are enough to test it.
_MIN_VALUES = 10

#: Counts that are tested: rounding of larger ones is larger, too.
_LARGE = 100.0

#: Suspects that are recognised alone, before cells are refused.
_MAX_CONFIRMED = 20

#: Values above 1 of a cell that are whole by chance only if there are fewer: square roots of 4 and 9.
_MIN_ABOVE_ONE = 5


def contradicting(rows: sp.csr_matrix, scale: Scale) -> NDArray[np.bool_]:
    """Which cells are not on this scale, bool (cells,). Empty cells and those with few values never contradict.

    Parameters
    ----------
    rows
        Cells over all genes, CSR without negative or missing values.
    """
    if not rows.nnz:
        return np.zeros(rows.shape[0], dtype=bool)
    suspects = _contradicting(rows, scale)
    return (suspects & _are_confirmed(rows, suspects, scale)) | are_no_counts(rows, scale)


def are_no_counts(rows: sp.csr_matrix, scale: Scale) -> NDArray[np.bool_]:
    """Which cells have no values of counts, though they may be whole numbers: binary, ranks, bins, bool (cells,)."""
    result = are_constant(rows)
    return result | are_compressed(rows) if scale.kind == "counts" and scale.certain else result


def _are_confirmed(rows: sp.csr_matrix, suspects: NDArray[np.bool_], scale: Scale) -> NDArray[np.bool_] | bool:
    """False if the first of the suspects are recognised as this scale, each alone: found by chance among many."""
    if not suspects.any() or not (scale.kind == "counts" and scale.decimals):
        return True
    return not all(_looks_like(rows[cell], scale) for cell in np.flatnonzero(suspects)[:_MAX_CONFIRMED])


def _looks_like(cell: sp.csr_matrix, scale: Scale) -> bool:
    try:
        return scale.agrees_with(recognise(cell))
    except ValueError:
        return False


def _contradicting(rows: sp.csr_matrix, scale: Scale) -> NDArray[np.bool_]:
    """Cells with values that others of this scale have not."""
    result = np.zeros(rows.shape[0], dtype=bool)
    lengths = np.diff(rows.indptr)
    filled = np.flatnonzero(lengths)
    starts = rows.indptr[filled]
    if scale.kind == "counts" and not scale.decimals:
        result[filled] = ~np.minimum.reduceat(are_nearly_whole(rows.data), starts)
        return result
    if scale.kind == "counts":
        whole = are_nearly_whole(rows.data)
        none, some = ~np.maximum.reduceat(whole, starts), ~np.minimum.reduceat(whole, starts)
        for other in (Scale(kind="sqrt"), Scale(kind="log", base="2")):  # of whole numbers, some are whole
            tested = ~whole & (other.linear(rows.data) <= _LARGE)
            enough = np.add.reduceat(tested.astype(np.int64), starts) >= MIN_TESTS
            result[filled] |= some & enough & np.minimum.reduceat(_are_counts_of(rows.data, other), starts)
        result[filled] &= lengths[filled] >= _MIN_VALUES
        result[filled[none]] |= _votes_for_another(rows[filled[none]], scale)
        return result
    if scale.of_counts:
        result[filled] = ~np.minimum.reduceat(_are_counts_of(rows.data, scale), starts)
        lowest = scale.linear(np.minimum.reduceat(np.where(rows.data > 0, rows.data, np.inf), starts))
        result[filled] |= (lowest > _LARGE) & (lengths[filled] >= _MIN_VALUES)
        result[filled] |= _are_whole_cells(rows)
        return result
    if scale.total and scale.certain and scale.complete:
        share = scale.row_sums(rows) / scale.total
        suspects = np.flatnonzero((share > 0) & ((share < USUAL_SUMS[0]) | (share > USUAL_SUMS[1])))
        impossible = (share[suspects] < POSSIBLE_SUMS[0]) | (share[suspects] > POSSIBLE_SUMS[1])
        result[suspects] = impossible & (lengths[suspects] >= _MIN_VALUES)
    else:
        if scale.total and scale.certain:
            result = (scale.row_sums(rows) > POSSIBLE_SUMS[1] * scale.total) & (lengths >= _MIN_VALUES)
        suspects = np.flatnonzero(_share_of_multiples(rows, scale) < 0.5)
    if scale.kind != "normalised":  # also of a usual sum, by chance
        result[filled] |= _are_whole_cells(rows)
    suspects = suspects[~result[suspects]]
    result[suspects] = _votes_for_another(rows[suspects], scale)
    return result


def _are_whole_cells(rows: sp.csr_matrix) -> NDArray[np.bool_]:
    """Which of the cells that are not empty have whole numbers only, several of them above 1."""
    lengths = np.diff(rows.indptr)
    starts = rows.indptr[:-1][lengths > 0]
    whole = np.minimum.reduceat(are_nearly_whole(rows.data), starts)
    whole &= np.add.reduceat((rows.data > 1.5).astype(np.int64), starts) >= _MIN_ABOVE_ONE
    return np.asarray(whole & (lengths[lengths > 0] >= _MIN_VALUES))


def refuse_overflow(data: NDArray[Any], scale: Scale) -> None:
    """Raise a ValueError if values cannot be of this scale, since their counts would be impossible."""
    if scale.kind in ("counts", "normalised") or not len(data):
        return
    largest = np.nanmax(data)
    if scale.linear(np.array([largest]))[0] > MAX_ROW_SUM:
        raise ValueError(
            f"the scale was given as {scale.transformation}, but there are values up to {largest:.4g}, for which "
            "counts would be impossible: they are on another scale"
        )


def _are_counts_of(data: NDArray[Any], scale: Scale) -> NDArray[np.bool_]:
    """Which values are transformed whole numbers; large ones are not tested."""
    linear = np.minimum(scale.linear(data), 2 * _LARGE)
    return np.asarray((linear > _LARGE) | (np.abs(linear - np.rint(linear)) < 0.01))


def _share_of_multiples(rows: sp.csr_matrix, scale: Scale) -> NDArray[np.float64]:
    """Share of whole multiples of a cell's smallest value, float64 (cells,); 1 where there are few. Quick."""
    filled = np.flatnonzero(np.diff(rows.indptr))
    linear = scale.linear(rows.data)
    linear = np.where(linear > 0, linear, np.inf)
    smallest = np.full(rows.shape[0], 1.0)
    smallest[filled] = np.minimum.reduceat(linear, rows.indptr[filled])
    cells = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    with np.errstate(invalid="ignore"):
        ratio = linear / smallest[cells]
        tested = (ratio > RATIOS[0]) & (ratio < RATIOS[1])
        whole = tested & (np.abs(ratio - np.round(ratio)) < WHOLE)
    tests = np.bincount(cells[tested], minlength=rows.shape[0])
    hits = np.bincount(cells[whole], minlength=rows.shape[0])
    return np.where(tests >= _MIN_VALUES, hits / np.maximum(tests, 1), 1.0)


def _votes_for_another(rows: sp.csr_matrix, scale: Scale) -> NDArray[np.bool_]:
    """Which cells have whole multiples under another transformation, and not under this one."""
    if not rows.shape[0]:
        return np.zeros(0, dtype=bool)
    rows = sp.csr_matrix(rows, dtype=np.float64, copy=True)
    rows.eliminate_zeros()
    own, others = np.zeros(rows.shape[0]), np.zeros(rows.shape[0])
    kind = "normalised" if scale.kind == "counts" else scale.kind
    for other in TRANSFORMATIONS:
        share = clear_shares(rows, other)
        if (other.kind, other.base) == (kind, scale.base):
            own = share
        else:
            others = np.maximum(others, share)
    return np.asarray((others > 0.9) & (own < 0.6))
