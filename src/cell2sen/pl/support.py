"""Plots of the genes that support the labels of cells or clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cell2sen.pl import drawing
from cell2sen.pl.palette import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of genes for and against a label.
_FOR, _AGAINST = OKABE_ITO[5], OKABE_ITO[0]


def supporting_genes(
    table: pd.DataFrame,
    *,
    n: int = 8,
    ncols: int = 4,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes]:
    """Bars of the genes that support the label of each group, and of those that speak against it.

    Parameters
    ----------
    table
        Result of :func:`cell2sen.tl.supporting_genes`.
    n
        Genes for the label, and at most as many against it.
    ncols
        Panels in a row.
    ax
        Axes to draw into, one per group; new ones by default.
    show, save
        As in :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes, one per group, all with the same scale.

    Raises
    ------
    ValueError
        An empty table, or another number of axes than groups.
    ImportError
        matplotlib is not installed.
    """
    groups = list(table.groupby("group", sort=False, observed=True))
    if not groups:
        raise ValueError("the table of supporting genes has no rows")
    axes = drawing.panels(ax, len(groups), (2.6, 0.36 * n + 0.9), ncols)
    parts = [pd.concat([part[part["support"] > 0].head(n), part[part["support"] < 0].tail(n)]) for _, part in groups]
    values = pd.concat(parts)["support"]
    margin = 0.05 * max(1e-9, float(values.max() - min(0.0, values.min())))
    for axis, (name, _), part in zip(axes, groups, parts, strict=True):
        colours = [_FOR if value > 0 else _AGAINST for value in part["support"]]
        axis.barh(range(len(part)), part["support"], color=colours)
        axis.set_yticks(range(len(part)), part["gene"], fontsize=drawing.FONT - 1)
        axis.invert_yaxis()
        axis.set_xlim(min(0.0, values.min()) - margin, max(0.0, values.max()) + margin)
        axis.axvline(0, color="black", linewidth=0.6)
        label = part["label"].iloc[0] if len(part) else ""
        axis.set_title(drawing.shorten(str(name) if name == label else f"{name}: {label}", 30), fontsize=drawing.FONT)
        axis.set_xlabel("log-odds with the gene − without it", fontsize=drawing.FONT - 1)
        drawing.plain(axis)
    drawing.finish(axes[0], new=ax is None, show=show, save=save)
    return axes
