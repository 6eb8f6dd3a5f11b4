"""Measured cells behind predicted ones: the control itself, or the most similar cell of the data of a generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.scale.units import COUNTS

#: Cells compared at a time with all generated ones.
_BLOCK = 2048


def refuse_without_counts(data: Any, what: str) -> None:
    """Raise a ValueError unless `data` is an :class:`Expression` of counts.

    Parameters
    ----------
    what
        The measured cells that are needed, for the message.
    """
    if not isinstance(data, Expression):
        raise ValueError(
            f"output='counts' needs {what} with their counts, found none: predicted counts are those of measured "
            "cells, thinned and scaled. Pass cells with counts, or output='expression'"
        )
    if data.scale != COUNTS:
        raise ValueError(
            f"output='counts' needs {what} with their counts, found {data.scale} in {data.reader.where}: name the "
            "matrix of counts (layer= or use_raw=), or choose output='expression'"
        )


def counts_of(data: Expression, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Counts of some cells over the symbols of `data`, float32 CSR (rows, symbols); a cell may be there twice."""
    different, places = np.unique(rows, return_inverse=True)
    parts = [block.values.astype(np.float32) for block in data[different].blocks()]
    return sp.csr_matrix(sp.vstack(parts)[places])


def most_similar(data: Expression, generated: sp.csr_matrix) -> NDArray[np.int64]:
    """Row of the measured cell whose expression correlates best with each generated cell, int64 (cells,).

    Parameters
    ----------
    data
        Measured cells. Of equally similar ones the first is taken; cells without counts are never taken.
    generated
        ln(1 + CP10k), CSR (cells, symbols of `data`).

    Raises
    ------
    ValueError
        No measured cell has counts of these genes.
    """
    drawn = _standardised(generated)
    best = np.full(generated.shape[0], -np.inf)
    rows = np.full(generated.shape[0], -1, dtype=np.int64)
    for first in range(0, len(data), _BLOCK):
        chosen = np.arange(first, min(first + _BLOCK, len(data)))
        block = data[chosen].ln_cp10k()
        likeness = drawn @ _standardised(block).T
        likeness[:, np.diff(block.indptr) == 0] = -np.inf
        nearest = likeness.argmax(axis=1)
        value = likeness[np.arange(len(nearest)), nearest]
        better = value > best
        best[better], rows[better] = value[better], chosen[nearest[better]]
    if (rows < 0).any():
        raise ValueError("none of the measured cells in genes= has counts of these genes, so no counts can follow")
    return rows


def _standardised(expression: sp.csr_matrix) -> NDArray[np.float64]:
    values = np.asarray(expression.toarray(), dtype=np.float64)
    values -= values.mean(axis=1, keepdims=True)
    norm = np.sqrt((values**2).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(values, norm, out=np.zeros_like(values), where=norm > 0))
