"""Pseudobulk: sums of the counts of groups of cells, read in blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.obs import contexts, group_cells, warn_of_missing
from cell2sen.data.scale.units import Scale

logger = logging.getLogger(__name__)

#: Separator of the values in the name of a pseudobulk sample.
JOIN = " | "


@dataclass(frozen=True, kw_only=True, eq=False)
class Pseudobulk:
    """Summed profiles of groups of cells, in the order of their first cells."""

    values: sp.csr_matrix
    """Sums over all columns of the matrix, float64 CSR (groups, columns)."""

    keys: list[tuple[str, ...]]
    """Values of the obs columns of each group."""

    rows: list[NDArray[np.int64]]
    """Cells of each group, int64 (cells,)."""

    @property
    def names(self) -> list[str]:
        """Name of each group: its values, joined by ``" | "``."""
        return [JOIN.join(key) for key in self.keys]

    @property
    def n_cells(self) -> NDArray[np.int64]:
        """Cells of each group, int64 (groups,)."""
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)


def sum_groups(expression: Expression, by: Sequence[str], *, min_cells: int = 1) -> Pseudobulk:
    """Sums of the cells with the same values in obs columns.

    Cells with a missing value are in no group; a warning counts them, and groups with fewer than `min_cells` cells.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No column, no group with enough cells, or values that cannot be summed (:func:`check_summable`).
    """
    if not by:
        raise ValueError("pseudobulk needs at least one obs column whose values define the groups, such as cell_type")
    if min_cells < 1:
        raise ValueError(f"min_cells must be at least 1, found {min_cells}")
    values = contexts(expression.obs, by)
    check_summable(expression.scale, expression.reader.where, expression.reader.hint)
    for name in by:
        warn_of_missing(expression.obs, name, "adata.obs", "they are in no pseudobulk sample")
    groups = group_cells(*zip(*values, strict=True)) if values else {}
    kept = {key: rows for key, rows in groups.items() if len(rows) >= min_cells}
    if not kept:
        largest = max(map(len, groups.values()), default=0)
        raise ValueError(
            f"none of the {len(groups)} groups of {', '.join(by)} has {min_cells} cells; the largest has {largest}"
        )
    if small := [JOIN.join(key) for key in groups if key not in kept]:
        logger.warning("%d groups have fewer than %d cells and are left out: %s", len(small), min_cells, small[:5])
    rows = list(kept.values())
    group = np.repeat(np.arange(len(rows)), [len(cells) for cells in rows])
    ones = np.ones(len(group))
    weights = sp.csr_matrix((ones, (group, np.concatenate(rows))), shape=(len(rows), len(expression)))
    return Pseudobulk(values=weighted_sums(expression, weights), keys=list(kept), rows=rows)


def weighted_sums(expression: Expression, weights: sp.csr_matrix) -> sp.csr_matrix:
    """Weighted sums of cells over all columns of the matrix, float64 CSR (samples, columns).

    Logarithms and other transformations are undone first, so that counts are added, or normalised values where there
    are no counts.

    Parameters
    ----------
    weights
        Number of times that each cell is in each sample, CSR (samples, cells).
    """
    by_cell = sp.csc_matrix(weights, dtype=np.float64)
    total = sp.csr_matrix((weights.shape[0], len(expression.reader.var)), dtype=np.float64)
    for block in expression.blocks():
        cells = block.all_genes
        linear = sp.csr_matrix((expression.scale.linear(cells.data), cells.indices, cells.indptr), shape=cells.shape)
        if expression.scale.of_counts:
            linear.data = np.rint(linear.data)
        total = sp.csr_matrix(total + by_cell[:, block.first : block.first + cells.shape[0]] @ linear)
    return total


def check_summable(scale: Scale, where: str, hint: str = "") -> None:
    """Raise a ValueError for values whose sums over cells have no meaning: arcsinh(x / c), since c is not known."""
    if scale.kind == "arcsinh":
        raise ValueError(
            f"{where} holds arcsinh(x / c) with an unknown c, which cannot be turned back into values to add: pass the "
            f"counts{f' ({hint})' if hint else ''}"
        )


def unit_of_sums(scale: Scale) -> str:
    """Unit of sums of such values: counts, or normalised values by the total that each cell has."""
    if scale.kind == "counts" or scale.of_counts:
        return "counts"
    return f"normalised values, total {scale.total:.4g} per cell" if scale.total else "normalised values"


def obs_of(bulk: Pseudobulk, by: Sequence[str]) -> pd.DataFrame:
    """Annotations of the samples: the columns of the groups, and ``n_cells``, int64."""
    columns = {name: pd.Categorical([key[place] for key in bulk.keys]) for place, name in enumerate(by)}
    return pd.DataFrame({**columns, "n_cells": bulk.n_cells}, index=pd.Index(bulk.names, dtype=object))
