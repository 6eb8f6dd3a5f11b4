"""Measured change beside a predicted one: treated minus control cells of the file, of the same label only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.app.page_cells import PageCells
from cell2sen.data.names.perturbations import usual_controls
from cell2sen.data.names.text import as_texts
from cell2sen.evaluation.metrics.changes import pearson_delta

#: Cells of a label and condition below which a measured change is marked as uncertain.
FEW_CELLS = 20

#: Most values of a column that are offered as treatments.
MAX_TREATMENTS = 200


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Column with the treatment of each cell, its values for controls and treated cells, and the column of labels."""

    column: str
    control: str
    treated: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Contrast | None:
        """From the settings of a job; ``None`` if they name no column and control: all cells are untreated."""
        column, control = settings.get("column"), settings.get("control")
        if not column or control in (None, ""):
            return None
        treated, label = settings.get("treated"), settings.get("label")
        return cls(
            column=str(column),
            control=str(control),
            treated=str(treated) if treated else None,
            label=str(label) if label else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Measured change, and the cells that it is of."""

    change: NDArray[np.float64] | None
    """float64 (genes,), ln(1 + CP10k); NaN for genes that were not measured; ``None`` without such cells."""

    groups: list[dict[str, Any]]
    """Label, weight and numbers of control and treated cells of each label of the predicted cells."""

    def values(self, predicted: NDArray[np.float64]) -> dict[str, Any]:
        """Plain values for the page, with the correlation of both changes."""
        few = [group["label"] for group in self.groups if min(group["n_control"], group["n_treated"]) < FEW_CELLS]
        correlation = None
        if self.change is not None:
            both = np.isfinite(self.change)
            if both.sum() > 1 and np.ptp(self.change[both]) and np.ptp(predicted[both]):
                correlation = float(pearson_delta(self.change[both], predicted[both]))
        return {"groups": self.groups, "few": few, "few_cells": FEW_CELLS, "correlation": correlation}


def contrast_of(obs: pd.DataFrame, trained: Collection[str]) -> dict[str, Any]:
    """Columns that may hold treatments, and the first with usual names of controls beside others.

    Parameters
    ----------
    obs
        Annotations of the cells.
    trained
        Perturbations of the model, which are no controls.
    """
    columns: dict[str, list[str]] = {}
    found: dict[str, Any] = {"column": None, "control": None}
    for column in obs.columns:
        if pd.api.types.is_numeric_dtype(obs[column]) or not _is_short(obs[column]):
            continue
        names = sorted({text for text in as_texts(obs[column]) if text is not None})
        if len(names) < 2:
            continue
        columns[str(column)] = names
        if found["column"] is None:
            controls = [name for name in usual_controls(names) if name not in trained]
            if controls and set(names) - set(controls):
                found = {"column": str(column), "control": controls[0]}
    return {**found, "columns": columns}


def _is_short(values: pd.Series[Any]) -> bool:
    """Whether a column has few different values."""
    try:
        return int(values.nunique()) <= MAX_TREATMENTS
    except TypeError:  # lists or other values that are no names
        return False


def untreated(obs: pd.DataFrame, rows: NDArray[np.int64], contrast: Contrast | None) -> NDArray[np.int64]:
    """The controls among some cells; all of them without a contrast.

    Raises
    ------
    ValueError
        There are none.
    """
    if contrast is None:
        return rows
    values = _texts(obs, contrast.column)
    found: NDArray[np.int64] = rows[values[rows] == contrast.control]
    if not len(found):
        raise ValueError(
            f"none of the {len(rows):,} selected cells is {contrast.control!r} in {contrast.column!r}: select "
            "controls, or set the column to none, which takes all selected cells as untreated"
        )
    return found


def measured_change(
    cells: PageCells, obs: pd.DataFrame, rows: NDArray[np.int64], contrast: Contrast, columns: NDArray[np.int64]
) -> Measured:
    """Mean of treated minus mean of control cells, label by label, weighted by the labels of the predicted cells.

    Cells of different labels are never compared: a difference of composition would be taken for a change.

    Parameters
    ----------
    rows
        Cells that were predicted.
    columns
        Places of the predicted genes among those of `cells`; -1: not measured.
    """
    treatment = _texts(obs, contrast.column)
    labels = np.full(len(obs), "all cells", dtype=object) if contrast.label is None else _texts(obs, contrast.label)
    groups: list[dict[str, Any]] = []
    change = np.zeros(len(cells.expression.symbols))
    weight = 0.0
    for label in sorted({label for label in labels[rows] if label is not None}):
        share = float((labels[rows] == label).mean())
        control = np.flatnonzero((labels == label) & (treatment == contrast.control))
        treated = np.flatnonzero((labels == label) & (treatment == contrast.treated))
        groups.append({"label": label, "share": share, "n_control": len(control), "n_treated": len(treated)})
        if len(control) and len(treated):
            change += share * (cells.means(treated) - cells.means(control))
            weight += share
    if not weight:
        return Measured(change=None, groups=groups)
    found = np.where(columns >= 0, (change / weight)[np.maximum(columns, 0)], np.nan)
    return Measured(change=found, groups=groups)


def _texts(obs: pd.DataFrame, column: str) -> NDArray[Any]:
    """Values of a column as text, object (n,); ``None`` where they are missing.

    Raises
    ------
    KeyError
        No such column.
    """
    if column not in obs:
        raise KeyError(f"there is no column {column!r} in obs; available: {list(obs.columns)}")
    return np.array([*as_texts(obs[column]), None], dtype=object)[:-1]
