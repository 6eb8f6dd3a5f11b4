"""Plots of embeddings, predicted changes and gene-level attention (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cell2sen.inference.embed import attention_key

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which colour-blind readers can distinguish, then others for more categories.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666", "#8C6BB1", "#A1D99B",
    "#FDBF6F", "#B15928", "#80B1D3", "#BC80BD", "#1B9E77", "#E7298A",
)  # fmt: skip


def embedding(
    adata: AnnData, color: str, *, basis: str = "X_umap", ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Scatter plot of cells in two dimensions, coloured by an ``obs`` column.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm``.
    color
        ``obs`` column. Numbers get a colour bar, other values a legend with the number of cells.
    basis
        Key in ``obsm`` of an (n, 2) array, such as a UMAP.
    ax
        Axes to draw into; new ones by default.
    title
        Title; `color` by default.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column or basis; lists the available ones.
    ImportError
        matplotlib is not installed.
    """
    plt = _pyplot()
    from matplotlib.collections import PathCollection

    if color not in adata.obs:
        raise KeyError(f"adata.obs has no column {color!r}; available: {list(adata.obs.columns)}")
    if basis not in adata.obsm:
        raise KeyError(f"adata.obsm has no {basis!r}; available: {list(adata.obsm.keys())}")
    axes: Axes = ax if ax is not None else plt.subplots(figsize=(5, 4))[1]
    points, values = np.asarray(adata.obsm[basis])[:, :2], adata.obs[color]
    size = float(np.clip(8000 / max(1, len(points)), 2, 25))
    if pd.api.types.is_numeric_dtype(values):
        scatter = axes.scatter(points[:, 0], points[:, 1], c=values, s=size, cmap="viridis", linewidths=0)
        axes.figure.colorbar(scatter, ax=axes, shrink=0.6)
    else:
        names = values.astype("category").cat.remove_unused_categories()
        for number, name in enumerate(names.cat.categories):
            in_category = np.asarray(names == name)
            colour = "#C8C8C8" if name == "unknown" else COLOURS[number % len(COLOURS)]
            axes.scatter(
                points[in_category, 0],
                points[in_category, 1],
                s=size,
                color=colour,
                linewidths=0,
                label=f"{name} ({in_category.sum()})",
            )
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([25])  # points of many cells are too small for a legend
    axes.set(xticks=[], yticks=[], title=title or color)
    axes.set_xlabel(basis.removeprefix("X_") + " 1", fontsize=8)
    axes.set_ylabel(basis.removeprefix("X_") + " 2", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def top_changes(predicted: AnnData, *, n: int = 12, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Bar plot of the genes with the largest predicted mean change, up and down.

    Parameters
    ----------
    predicted
        Result of :func:`cell2sen.tl.perturb`.
    n
        Genes in each direction.
    ax
        Axes to draw into; new ones by default.
    title
        Title; the number of cells by default.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No layer ``"delta"``.
    ImportError
        matplotlib is not installed.
    """
    plt = _pyplot()
    change = mean_change(predicted)
    chosen = pd.concat([change.nsmallest(n), change.nlargest(n).iloc[::-1]])
    chosen = chosen[~chosen.index.duplicated()]
    axes: Axes = ax if ax is not None else plt.subplots(figsize=(4, 0.22 * len(chosen) + 1))[1]
    axes.barh(
        range(len(chosen)), chosen.to_numpy(), color=[COLOURS[5] if value > 0 else COLOURS[0] for value in chosen]
    )
    axes.set_yticks(range(len(chosen)), [str(gene) for gene in chosen.index], fontsize=7)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("predicted mean change, ln(1 + CP10k)", fontsize=8)
    axes.set_title(title or f"predicted change, {predicted.n_obs} cells")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def attention(adata: AnnData, cell: str, *, head: int | None = None, n: int = 30, ax: Axes | None = None) -> Axes:
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
    ax
        Axes to draw into; new ones by default.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No attention map of this cell; lists the available ones.
    ValueError
        No such head.
    ImportError
        matplotlib is not installed.
    """
    plt = _pyplot()
    maps: dict[str, Any] = adata.uns.get("cell2sen", {}).get("attention", {})
    key = attention_key(cell)
    if key not in maps:
        raise KeyError(
            f"there is no attention map of cell {cell!r}; available: {list(maps)}; tl.embed(adata, attention_for=[…]) "
            "computes them"
        )
    array = np.asarray(maps[key]["map"])
    if head is not None and not 0 <= head < len(array):
        raise ValueError(f"there is no head {head}; available: 0 to {len(array) - 1}")
    weights = (array.mean(axis=0) if head is None else array[head])[:n, :n]
    genes: Sequence[str] = list(maps[key]["genes"])[:n]
    axes: Axes = ax if ax is not None else plt.subplots(figsize=(6, 5))[1]
    image = axes.imshow(weights, cmap="viridis", norm="log" if weights.max() > 0 else None)
    axes.set_xticks(range(len(genes)), genes, rotation=90, fontsize=6)
    axes.set_yticks(range(len(genes)), genes, fontsize=6)
    axes.set(
        xlabel="attended gene",
        ylabel="attending gene",
        title=f"{cell}, {'mean of heads' if head is None else f'head {head}'}",
    )
    axes.figure.colorbar(image, ax=axes, shrink=0.7, label="attention (log)")
    return axes


def supporting_genes(table: pd.DataFrame, *, n: int = 8, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Bar plots of the genes that support the label of each group, and of those that speak against it.

    Parameters
    ----------
    table
        Result of :func:`cell2sen.tl.supporting_genes`.
    n
        Genes for the label, and at most as many against it.
    axes
        Axes to draw into, one per group; new ones by default, four in a row.

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
    plt = _pyplot()
    groups = list(table.groupby("group", sort=False, observed=True))
    if not groups or (axes is not None and len(axes) != len(groups)):
        raise ValueError(f"the table must have a group for each of the axes, found {len(groups)} groups")
    if axes is None:
        columns = min(4, len(groups))
        rows = -(-len(groups) // columns)
        size = (2.6 * columns, (0.36 * n + 0.9) * rows)
        grid = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False, layout="constrained")[1].ravel()
        for spare in grid[len(groups) :]:
            spare.set_visible(False)
        axes = list(grid[: len(groups)])
    for axis, (name, part) in zip(axes, groups, strict=True):
        against = part[part["support"] < 0].tail(n)
        shown = pd.concat([part[part["support"] > 0].head(n), against])
        colours = [COLOURS[5] if value > 0 else COLOURS[0] for value in shown["support"]]
        axis.barh(range(len(shown)), shown["support"], color=colours)
        axis.set_yticks(range(len(shown)), shown["gene"], fontsize=7)
        axis.invert_yaxis()
        axis.axvline(0, color="black", linewidth=0.6)
        label = part["label"].iloc[0]
        axis.set_title(str(name) if name == label else f"{name}: {label}", fontsize=8)
        axis.set_xlabel("log-odds with the gene − without it", fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return list(axes)


def mean_change(predicted: AnnData) -> pd.Series[float]:
    """Mean of ``layers["delta"]`` over the cells, one value per gene, ln(1 + CP10k).

    Parameters
    ----------
    predicted
        Result of :func:`cell2sen.tl.perturb`.

    Raises
    ------
    KeyError
        No layer ``"delta"``.
    """
    if "delta" not in predicted.layers:
        raise KeyError(f"there is no layer 'delta': pass the result of tl.perturb; available: {list(predicted.layers)}")
    mean = np.asarray(
        predicted.layers["delta"].mean(axis=0)
    ).ravel()  # the mean of a sparse matrix is a matrix of one row
    return pd.Series(mean, index=predicted.var_names)


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'cell2sen[plot]'") from error
    return plt
