"""Plots of tables: metrics of methods (scIB, evaluate), ranked screens, shares of cell types in niches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cell2sen.pl import drawing
from cell2sen.pl.labels import MAX_NAMES, confusion_counts
from cell2sen.pl.palette import LIGHT_GREY, OKABE_ITO, text_colour

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: False discovery rate below which an item of a screen is dark.
MAX_FDR = 0.05

#: Names of mean scores in tables of scib-metrics, which are drawn as bars.
_TOTALS = ("bio conservation", "batch correction", "total", "mean", "overall")


def metrics(
    table: pd.DataFrame,
    *,
    totals: Sequence[str] | None = None,
    sort_by: str | None = None,
    lower_is_better: Sequence[str] = (),
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Table of metrics: a row per method, a circle per score, bars for mean scores; the best of each column is bold.

    Parameters
    ----------
    table
        Scores, methods × metrics, such as ``Benchmarker.get_results(min_max_scale=False)`` of scib-metrics (its row
        ``"Metric Type"`` is left out). The numbers are shown as they are; shades go from the worst to the best method
        of a column.
    totals
        Columns that are drawn as bars. Default: "Bio conservation", "Batch correction", "Total", if they are there.
    sort_by
        Column whose best method is at the top. Default: the last of `totals`, else the order of the table.
    lower_is_better
        Columns in which small numbers are good.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No method, or no column of numbers.
    """
    scores = table.drop(index=[name for name in table.index if str(name) == "Metric Type"])
    scores = scores.apply(pd.to_numeric, errors="coerce").dropna(axis=1, how="all")
    if not len(scores) or not len(scores.columns):
        raise ValueError(f"the table has no scores: {table.shape[0]} rows, columns {list(table.columns)[:10]}")
    named = list(totals) if totals is not None else [name for name in scores if str(name).lower() in _TOTALS]
    for name in (*named, *([sort_by] if sort_by else []), *lower_is_better):
        if name not in scores:
            raise KeyError(f"the table has no column of numbers {name!r}; available: {list(scores.columns)}")
    scores = scores[[*(name for name in scores if name not in named), *named]]
    order = sort_by or (named[-1] if named else None)
    if order is not None:
        scores = scores.sort_values(order, ascending=order in lower_is_better, kind="stable")
    n_rows, n_columns = scores.shape
    names = [drawing.shorten(str(name), 30) for name in scores.index]
    width = 0.62 * n_columns + 0.075 * max(map(len, names)) + 0.6
    axes = drawing.new_axes(ax, (width, 0.42 * n_rows + 1.75))
    for place, column in enumerate(scores):
        _draw_column(axes, place, scores[column].to_numpy(np.float64), column in named, column in lower_is_better)
    axes.set(xlim=(-0.6, n_columns - 0.4), ylim=(n_rows - 0.45, -0.55), aspect="equal" if ax is None else "auto")
    axes.set_yticks(range(n_rows), names, fontsize=drawing.FONT + 1)
    labels = [f"{name}{' ↓' if name in lower_is_better else ''}" for name in scores]
    axes.set_xticks(range(n_columns), labels, rotation=40, ha="left", rotation_mode="anchor", fontsize=drawing.FONT)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if named and len(named) < n_columns:
        axes.axvline(n_columns - len(named) - 0.5, color="#888888", linewidth=0.8)
    if title:
        axes.set_title(title, fontsize=10)
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def _draw_column(axes: Axes, place: int, values: Any, total: bool, lower: bool) -> None:
    """Scores of one metric: circles or bars, with numbers."""
    from matplotlib import colormaps
    from matplotlib.patches import Circle, Rectangle

    finite = np.isfinite(values)
    goodness = -values if lower else values
    low, high = (goodness[finite].min(), goodness[finite].max()) if finite.any() else (0.0, 0.0)
    for row, value in enumerate(values):
        if not finite[row]:
            axes.text(place, row, "–", ha="center", va="center", fontsize=drawing.FONT, color="#888888")
            continue
        share = (goodness[row] - low) / (high - low) if high > low else 1.0
        colour = colormaps["Blues"](0.12 + 0.68 * share)
        if total:
            axes.add_patch(Rectangle((place - 0.45, row - 0.3), 0.9, 0.6, color="#F2F2F2", linewidth=0))
            axes.add_patch(
                Rectangle((place - 0.45, row - 0.3), 0.9 * (0.15 + 0.85 * share), 0.6, color=colour, linewidth=0)
            )
        else:
            axes.add_patch(Circle((place, row), 0.38, color=colour, linewidth=0))
        weight = "bold" if goodness[row] == high and len(values) > 1 else "normal"
        ink = text_colour(colour) if not total or share > 0.4 else "black"
        text = f"{value:.2f}" if abs(value) < 99.5 else f"{value:.0f}"
        axes.text(place, row, text, ha="center", va="center", fontsize=drawing.FONT - 1, weight=weight, color=ink)


def screen(
    table: pd.DataFrame | AnnData,
    score: str | None = None,
    *,
    context: str | None = None,
    name: str | None = None,
    low: str | None = None,
    high: str | None = None,
    highlight: Sequence[str] = (),
    n: int = 10,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Ranked screen: the score of each perturbation against its rank, the extremes and chosen ones named.

    Parameters
    ----------
    table
        A row per perturbation: of :func:`cell2sen.tl.screen`, an AnnData with its result, or any other table.
    score
        Column of the score; the largest has rank 1. Missing ones are left out, and counted in the title. Default:
        ``"effect"``, with the names, interval and order of :func:`cell2sen.tl.screen`.
    context
        Context of the table of :func:`cell2sen.tl.screen`. Default: the last one, which is the contrast if there is
        one.
    name
        Column of the names. Default: the index.
    low, high
        Columns of the ends of an interval, drawn as lines. Items with ``fdr`` below 0.05 are dark, others grey.
    highlight
        Names that are marked and named wherever they are, such as known hits and controls.
    n
        Perturbations named at the top and at the bottom, as many as there is room for.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column, or no row with a name of `highlight`.
    ValueError
        No finite score, or only one of `low` and `high`.
    """
    if hasattr(table, "uns"):
        table = _stored_screen(table)
    if context is not None or (score is None and "context" in table):
        table = _of_context(table, context)
    ranked = score is None
    if score is None:
        score, name = "effect", "item" if name is None and "item" in table else name
        low, high = ("low", "high") if low is high is None and {"low", "high"} <= set(table) else (low, high)
    for column in (score, name, low, high):
        if column is not None and column not in table:
            raise KeyError(f"the table has no column {column!r}; available: {list(table.columns)}")
    if (low is None) != (high is None):
        raise ValueError("pass both low= and high=, or neither")
    names = (table[name] if name is not None else pd.Series(table.index)).astype(str).to_numpy()
    if missing := [mark for mark in highlight if mark not in names]:
        raise KeyError(f"no row is named {missing[0]!r}; the first are {list(names[:5])}")
    values = table[score].to_numpy(dtype=np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        raise ValueError(f"column {score!r} has no finite score ({len(values)} rows)")
    is_downward = ranked and "rank" in table and bool(table["rank"].corr(table[score]) > 0)
    order = finite[np.argsort(values[finite] * (1 if is_downward else -1), kind="stable")]
    y, names, ranks = values[order], names[order], np.arange(1, len(order) + 1, dtype=np.float64)
    axes = drawing.new_axes(ax, (6.0, 3.8))
    axes.axhline(0, color="#D5D5D5", linewidth=0.8, zorder=0)
    lowest = highest = y
    if low is not None and high is not None:
        lowest, highest = (table[column].to_numpy(dtype=np.float64)[order] for column in (low, high))
        axes.vlines(ranks, lowest, highest, color="#C4D3E0", linewidth=1, zorder=1)
    is_dark = table["fdr"].to_numpy(np.float64)[order] < MAX_FDR if ranked and "fdr" in table else y == y
    colours = np.where(is_dark, OKABE_ITO[0], LIGHT_GREY)
    axes.scatter(ranks, y, s=12, color=colours.tolist(), linewidths=0, zorder=2, rasterized=len(y) > 20_000)
    marked = np.flatnonzero(np.isin(names, list(highlight)))
    axes.scatter(ranks[marked], y[marked], s=26, color=OKABE_ITO[5], linewidths=0, zorder=3)
    axes.margins(x=0.06, y=0.1)
    axes.tick_params(labelsize=drawing.FONT)
    axes.set_xlabel("rank", fontsize=drawing.FONT + 1)
    axes.set_ylabel(score, fontsize=drawing.FONT + 1)
    left_out = f"; {len(values) - len(y):,} without a score left out" if len(y) < len(values) else ""
    axes.set_title(title or f"{len(y):,} perturbations{left_out}", fontsize=10)
    drawing.plain(axes)
    texts = [drawing.shorten(text, 24) for text in names]
    top, bottom = range(min(n, len(y))), range(len(y) - 1, max(len(y) - 1 - n, n - 1), -1)
    drawing.list_names(axes, ranks, y, texts, list(top), side="right", edge=highest)
    drawing.list_names(axes, ranks, y, texts, list(bottom), side="left", edge=lowest)
    others = [int(at) for at in marked if at not in top and at not in bottom]
    drawing.place_names(axes, ranks, y, texts, others, len(others))
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def _stored_screen(adata: Any) -> pd.DataFrame:
    """The table of the last :func:`cell2sen.tl.screen`."""
    stored = adata.uns.get("cell2sen", {}).get("screen", {})
    if "table" not in stored:
        raise KeyError("uns['cell2sen'] has no 'screen': call tl.screen first, or pass its table")
    return pd.DataFrame(stored["table"])


def _of_context(table: pd.DataFrame, context: str | None) -> pd.DataFrame:
    """Rows of one context; of the last one by default."""
    if "context" not in table:
        raise KeyError(f"the table has no column 'context'; available: {list(table.columns)}")
    chosen = str(table["context"].iloc[-1]) if context is None else context
    rows = table[table["context"] == chosen].reset_index(drop=True)
    if not len(rows):
        raise KeyError(f"the table has no context {chosen!r}; available: {list(table['context'].unique())}")
    return rows


def composition(
    adata: AnnData | pd.DataFrame,
    groupby: str,
    label: str = "cell_type",
    *,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Share of each label among the cells of each group (niche, cluster, donor), as stacked bars.

    Parameters
    ----------
    adata
        Cells, or their ``obs``.
    groupby, label
        ``obs`` columns of the groups and of the labels.
    palette
        Colour of each label, by name or in order.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No cell has both values.
    """
    from cell2sen.pl.palette import category_colours

    counts, _ = confusion_counts(adata, groupby, label)
    counts = counts[counts.sum().sort_values(ascending=False, kind="stable").index]
    shares = counts.div(counts.sum(axis=1), axis=0)
    colours = category_colours(map(str, counts.columns), palette)
    colours |= {name: LIGHT_GREY for name in colours if len(colours) >= MAX_NAMES and name.endswith(" others")}
    rows = [f"{drawing.shorten(str(name))} ({int(total):,})" for name, total in counts.sum(axis=1).items()]
    size = drawing.font_size(len(rows))
    height = max(0.03 * size * len(rows) + 0.9, 0.17 * min(len(colours), 20) + 0.6)
    axes = drawing.new_axes(ax, (4.6 + 0.062 * size * max(map(len, rows)) / 6 + 2.0 * -(-len(colours) // 20), height))
    left = np.zeros(len(rows))
    for name, share in shares.items():
        axes.barh(
            range(len(rows)), share, left=left, color=colours[str(name)], height=0.8, label=drawing.shorten(str(name))
        )
        left += share.to_numpy()
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(axis="x", labelsize=drawing.FONT)
    axes.set_xlabel(f"share of cells by {label}", fontsize=drawing.FONT + 1)
    axes.set_ylabel(groupby, fontsize=drawing.FONT + 1)
    axes.set_title(title or f"{int(counts.to_numpy().sum()):,} cells", fontsize=10)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=drawing.FONT - 0.5,
        ncols=-(-len(colours) // 20), handlelength=0.9, labelspacing=0.3,
    )  # fmt: skip
    drawing.plain(axes)
    return drawing.finish(axes, new=ax is None, show=show, save=save)
