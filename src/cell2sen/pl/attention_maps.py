"""Plots of gene-level attention maps of single cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.inference.embed import attention_key
from cell2sen.pl import drawing

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def attention(
    adata: AnnData,
    cell: str,
    *,
    head: int | None = None,
    n: int = 30,
    cmap: str = "viridis",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Heat map of a cell's gene-level attention among its highest genes.

    Parameters
    ----------
    adata
        Cells after :func:`cell2sen.tl.embed` with ``attention_for``.
    cell
        Name of the cell.
    head
        Attention head; the mean over heads by default.
    n
        Number of genes, in descending expression.
    cmap, title, ax, show, save
        See :func:`cell2sen.pl.embedding`. The scale is logarithmic; fields without attention (a gene reads only those
        in front of it in causal models) are grey.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No attention map of this cell; lists the available ones.
    ValueError
        No such head, or `n` below 1.
    ImportError
        matplotlib is not installed.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    from cell2sen.pl.palette import LIGHT_GREY

    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
    weights, genes = attention_map(adata, cell, head)
    weights, genes = weights[:n, :n], genes[:n]
    size = drawing.font_size(len(genes))
    side = 0.034 * size * len(genes) * (1 if len(genes) > 15 else 1.3)
    axes = drawing.new_axes(ax, (side + 2.1, side + 1.2))
    positive = weights[weights > 0]
    shades = colormaps[cmap].with_extremes(bad=LIGHT_GREY)
    norm = LogNorm(float(positive.min()), float(positive.max())) if len(positive) and np.ptp(positive) else None
    image = axes.imshow(np.ma.masked_less_equal(weights, 0), cmap=shades, norm=norm)
    axes.set_xticks(range(len(genes)), genes, rotation=90, fontsize=size)
    axes.set_yticks(range(len(genes)), genes, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("attended gene", fontsize=drawing.FONT + 1)
    axes.set_ylabel("attending gene", fontsize=drawing.FONT + 1)
    axes.set_title(title or f"{cell}, {'mean of heads' if head is None else f'head {head}'}", fontsize=10)
    drawing.colour_bar(axes, image, "attention (logarithmic)")
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def attention_map(adata: AnnData, cell: str, head: int | None = None) -> tuple[NDArray[np.float64], list[str]]:
    """Stored attention of a cell, float64 (genes, genes), rows attend to columns, and the genes.

    Raises
    ------
    KeyError
        No attention map of this cell; lists the available ones.
    ValueError
        No such head.
    """
    maps: dict[str, Any] = adata.uns.get("cell2sen", {}).get("attention", {})
    key = attention_key(cell)
    if key not in maps:
        raise KeyError(
            f"there is no attention map of cell {cell!r}; available: {list(maps)}; tl.embed(adata, attention_for=[…]) "
            "computes them"
        )
    array = np.asarray(maps[key]["map"], dtype=np.float64)
    if head is not None and not 0 <= head < len(array):
        raise ValueError(f"there is no head {head}; available: 0 to {len(array) - 1}")
    return array.mean(axis=0) if head is None else array[head], list(map(str, maps[key]["genes"]))
