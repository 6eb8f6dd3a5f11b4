"""Plots of cell sentences: genes of cells or groups in descending expression, coloured by difference or attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.pl import drawing
from cell2sen.pl.attention_maps import attention_map
from cell2sen.pl.palette import categories, text_colour
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.writing import from_expression

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Width of new figures and of names in front of sentences, distance of lines (inches), and size of genes (points).
_WIDTH, _NAME_WIDTH, _LINE, _GENE_SIZE = 9.0, 1.5, 0.235, 8.5

#: Most sentences in one plot, and least difference of a colour scale, ln(1 + CP10k).
_MAX_SENTENCES, _MIN_DIFFERENCE = 30, 0.1


def sentence(
    adata: AnnData,
    cells: str | Sequence[str] | None = None,
    *,
    groupby: str | None = None,
    groups: str | Sequence[str] | None = None,
    color: Literal["difference", "attention", "expression"] | None = "difference",
    n: int = 40,
    head: int | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    symbols: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Cell sentences as text, each gene on a coloured ground.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values.
    cells
        Names of cells, one or a list: the sentence of each, as models read it. Not with `groupby`.
    groupby, groups
        ``obs`` column, and those of its values that are drawn (all by default): genes of the whole group in descending
        mean expression.
    color
        ``"difference"``: ln(1 + CP10k) minus the mean of the rest (all other cells, or cells of other groups): red is
        higher, blue lower. ``"attention"``: attention that the gene receives from the other genes on average, for cells
        with a map (:func:`cell2sen.tl.embed` with ``attention_for``). ``"expression"``: ln(1 + CP10k).
        ``None``: no colours.
    n
        Genes of a sentence.
    head
        Attention head; the mean over heads by default.
    layer, use_raw, symbols
        Where the expression is: see :class:`cell2sen.inference.options.Options`.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such cell, column, group or attention map.
    ValueError
        Neither or both of `cells` and `groupby`, an unknown `color`, or more than 30 sentences.
    """
    if color not in ("difference", "attention", "expression", None):
        raise ValueError(f"no color {color!r}; available: 'difference', 'attention', 'expression', None")
    if (cells is None) == (groupby is None):
        raise ValueError("pass either cells= (names of cells) or groupby= (an obs column)")
    if color == "attention" and groupby is not None:
        raise ValueError("attention maps are of single cells: pass cells=, or another color=")
    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
    chosen = _rows_of_cells(adata, cells) if cells is not None else _rows_of_groups(adata, str(groupby), groups)
    if len(chosen) > _MAX_SENTENCES:
        raise ValueError(f"{len(chosen)} sentences are more than {_MAX_SENTENCES}: name some (cells= or groups=)")
    with Expression.open(adata, layer=layer, use_raw=use_raw, symbols=symbols) as expression:
        lines = _lines(adata, expression, chosen, of_cells=cells is not None, color=color, n=n, head=head)
    return _draw(lines, color, title, ax, show, save)


def _rows_of_cells(adata: AnnData, cells: str | Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Row of each cell, by name."""
    names = [cells] if isinstance(cells, str) else list(cells)
    if not names:
        raise ValueError("cells= is an empty list")
    found = {}
    for name in names:
        rows = np.flatnonzero(adata.obs_names == name)
        if not len(rows):
            raise KeyError(f"there is no cell {name!r}; the first cells are {list(adata.obs_names[:3])}")
        found[str(name)] = rows[:1].astype(np.int64)
    return found


def _rows_of_groups(adata: AnnData, groupby: str, groups: str | Sequence[str] | None) -> dict[str, NDArray[np.int64]]:
    """Rows of each group."""
    if groupby not in adata.obs:
        raise KeyError(f"adata.obs has no column {groupby!r}; available: {list(adata.obs.columns)}")
    values = categories(adata.obs[groupby])
    names = list(values.cat.categories) if groups is None else [groups] if isinstance(groups, str) else list(groups)
    if wrong := [name for name in names if name not in values.cat.categories]:
        raise KeyError(f"no cell has {wrong[0]!r} in obs[{groupby!r}]; available: {list(values.cat.categories)[:20]}")
    if not names:
        raise ValueError(f"obs[{groupby!r}] has no value ({adata.n_obs} cells)")
    return {name: np.flatnonzero((values == name).to_numpy()) for name in names}


def _lines(
    adata: AnnData,
    expression: Expression,
    chosen: dict[str, NDArray[np.int64]],
    *,
    of_cells: bool,
    color: str | None,
    n: int,
    head: int | None,
) -> dict[str, pd.Series[float]]:
    """Genes of each sentence with the values of their colours (NaN: none)."""
    values = expression.ln_cp10k()
    total, n_cells = np.asarray(values.sum(axis=0, dtype=np.float64)).ravel(), values.shape[0]
    lines = {}
    for name, rows in chosen.items():
        of_group = np.asarray(values[rows].sum(axis=0, dtype=np.float64)).ravel()
        mean = of_group / len(rows)
        expressed = int((mean > 0).sum())
        if of_cells:
            (genes,) = from_expression(expression[rows], Recipe()).gene_names(n)
        else:
            order = np.lexsort((np.array(expression.symbols), -mean))[: min(n, expressed)]
            genes = [expression.symbols[at] for at in order]
        by_gene = pd.Series(mean, index=list(expression.symbols))
        if color == "difference":
            by_gene -= (total - of_group) / max(1, n_cells - len(rows))
        elif color == "attention":
            by_gene = _received(adata, name, head)
        elif color is None:
            by_gene[:] = np.nan
        shown = f"{name} ({len(rows):,})" if not of_cells else name
        lines[shown] = by_gene.reindex(genes)
    return lines


def _received(adata: AnnData, cell: str, head: int | None) -> pd.Series[float]:
    """Mean attention that each gene receives from the other genes of the cell."""
    weights, genes = attention_map(adata, cell, head)
    others = ~np.eye(len(genes), dtype=bool)
    with np.errstate(invalid="ignore"):
        received = np.where(others, weights, 0).sum(axis=0) / np.maximum(others.sum(axis=0), 1)
    series = pd.Series(received, index=genes)
    return series[~series.index.duplicated()]


def _draw(
    lines: dict[str, pd.Series[float]],
    color: str | None,
    title: str | None,
    ax: Axes | None,
    show: bool | None,
    save: str | Path | None,
) -> Axes:
    """Text in lines as wide as the axes."""
    from matplotlib.patches import FancyBboxPatch

    plt = drawing.pyplot()
    if ax is None:
        width = _WIDTH
    else:
        figure_of_ax: Any = ax.get_figure(root=True)
        width = float(ax.get_window_extent().width / figure_of_ax.dpi)
    boxes, height = _layout(lines, width)
    axes: Axes
    if ax is None:
        top, bottom = 0.35, 0.15 if color is None else 0.6
        figure = plt.figure(figsize=(width + 0.2, height + top + bottom))
        whole = height + top + bottom
        axes = figure.add_axes((0.1 / (width + 0.2), bottom / whole, width / (width + 0.2), height / whole))
    else:
        axes = ax
    norm, shades = _colours(lines, color)
    axes.set(xlim=(0, width), ylim=(max(height, 0.01), 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for text, x, y, wide, value in boxes:
        ground: Any = "none" if not np.isfinite(value) or norm is None else shades(norm(value))
        if wide == 0:  # the name of a sentence
            axes.text(x, y, text, fontsize=drawing.FONT, weight="bold", va="center")
            continue
        if norm is not None and np.isfinite(value):
            corners = "round,pad=0.018,rounding_size=0.03"
            box = FancyBboxPatch((x, y - 0.078), wide, 0.156, boxstyle=corners, linewidth=0, facecolor=ground)
            axes.add_patch(box)
        ink = "black" if ground == "none" else text_colour(ground)
        axes.text(x + wide / 2, y, text, fontsize=_GENE_SIZE, ha="center", va="center", color=ink)
    if norm is not None:
        _scale_below(axes, norm, shades, color)
    default = {"difference": "difference to the rest", "attention": "attention received", "expression": "expression"}
    axes.set_title(title or f"most expressed genes{', by ' + default[color] if color else ''}", fontsize=10, loc="left")
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def _layout(
    lines: dict[str, pd.Series[float]], width: float
) -> tuple[list[tuple[str, float, float, float, float]], float]:
    """Text, left end, middle height, width and value of each word, and the height of all, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    measure, font = TextToPath(), FontProperties(size=_GENE_SIZE)
    boxes, y = [], _LINE / 2
    above = max(map(len, lines)) * 0.075 > _NAME_WIDTH
    for name, genes in lines.items():
        left = 0.05 if above or len(lines) == 1 else _NAME_WIDTH
        boxes.append((drawing.shorten(name, 90), 0.0, y, 0.0, np.nan))
        if left < 1:
            y += _LINE
        x = left
        for gene, value in genes.items():
            wide = measure.get_text_width_height_descent(str(gene), font, ismath=False)[0] / 72
            if x + wide > width and x > left:
                x, y = left, y + _LINE
            boxes.append((str(gene), x, y, wide, float(value)))
            x += wide + 0.085
        y += _LINE * 1.45
    return boxes, y - _LINE


def _colours(lines: dict[str, pd.Series[float]], color: str | None) -> tuple[Any, Any]:
    """Scale of the values, and colours: blue, white, red around 0, or white to blue from 0."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    values = np.concatenate([line.to_numpy(dtype=np.float64) for line in lines.values()])
    values = values[np.isfinite(values)]
    if color is None or not len(values):
        return None, None
    if color == "difference":
        end = max(_MIN_DIFFERENCE, float(np.abs(values).max()))
        return Normalize(-end, end), colormaps["RdBu_r"]
    return Normalize(0, max(1e-12, float(values.max()))), colormaps["Blues"]


def _scale_below(axes: Axes, norm: Any, shades: Any, color: str | None) -> None:
    """Colour bar below the text, a quarter as wide."""
    from matplotlib.cm import ScalarMappable

    label = {
        "difference": "ln(1 + CP10k) minus the mean of the rest",
        "attention": "mean attention from the other genes",
        "expression": "ln(1 + CP10k)",
    }[str(color)]
    figure: Any = axes.get_figure(root=True)
    height = axes.get_window_extent().height / figure.dpi
    below = axes.inset_axes((0.0, -0.22 / height, 0.25, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(norm, shades), cax=below, orientation="horizontal")
    bar.outline.set_visible(False)
    below.tick_params(labelsize=drawing.FONT - 1, length=2)
    below.text(1.04, 0.5, label, transform=below.transAxes, fontsize=drawing.FONT, va="center")
