"""Plots of labels: confusion with given labels, probabilities per cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.labels import normalise_label
from cell2sen.pl import drawing
from cell2sen.pl.palette import categories

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Most names at one side of a matrix; of more, the most frequent ones, and one for all others.
MAX_NAMES = 40


def confusion(
    adata: AnnData | pd.DataFrame,
    given: str,
    predicted: str = "cell2sen_cell_type",
    *,
    normalize: bool = True,
    cmap: str = "Blues",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Confusion matrix: given labels in rows, predicted ones in columns, agreement on the diagonal.

    Parameters
    ----------
    adata
        Annotated cells, or their ``obs``. Cells without one of the labels are left out, and counted in the title.
    given, predicted
        ``obs`` columns. The two may have different names for the same types.
    normalize
        Shares of the cells of each row (0–1); otherwise numbers of cells.
    cmap, title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No cell has both labels.
    """
    counts, n_missing = confusion_counts(adata, given, predicted)
    values = counts.to_numpy(dtype=np.float64)
    if normalize:
        values = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    rows, columns = ([drawing.shorten(str(name)) for name in names] for names in (counts.index, counts.columns))
    rows = [f"{name} ({int(n):,})" for name, n in zip(rows, counts.sum(axis=1), strict=True)]
    axes = drawing.new_axes(ax, _matrix_size(rows, columns))
    top = 1.0 if normalize else float(values.max())
    image = drawing.heat_map(axes, values, rows, columns, cmap=cmap, limits=(0.0, top), numbers=normalize)
    drawing.colour_bar(axes, image, "share of the row" if normalize else "cells")
    axes.set_xlabel(predicted, fontsize=drawing.FONT + 1)
    axes.set_ylabel(given, fontsize=drawing.FONT + 1)
    left_out = f"; {n_missing:,} without a label left out" if n_missing else ""
    axes.set_title(title or f"{int(counts.to_numpy().sum()):,} cells{left_out}", fontsize=10)
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def confusion_counts(adata: AnnData | pd.DataFrame, given: str, predicted: str) -> tuple[pd.DataFrame, int]:
    """Numbers of cells with each pair of labels, given × predicted, as :func:`confusion` draws them.

    Returns
    -------
    The counts, int64, columns in an order that puts agreement on the diagonal, and the number of cells left out, which
    have no label.
    """
    obs = adata if isinstance(adata, pd.DataFrame) else adata.obs
    if missing := [name for name in (given, predicted) if name not in obs]:
        raise KeyError(f"adata.obs has no column {missing[0]!r}; available: {list(obs.columns)}")
    rows, columns = (_frequent(categories(obs[name])) for name in (given, predicted))
    both = (rows.notna() & columns.notna()).to_numpy()
    if not both.any():
        raise ValueError(f"no cell has both labels, {given!r} and {predicted!r} ({len(obs)} cells)")
    counts = pd.crosstab(categories(rows[both]).astype(object), categories(columns[both]).astype(object))
    counts = counts.reindex(
        index=[name for name in rows.cat.categories if name in counts.index],
        columns=[name for name in columns.cat.categories if name in counts.columns],
    )
    counts.index.name, counts.columns.name = given, predicted
    return counts.iloc[:, _diagonal(counts)], int((~both).sum())


def probabilities(
    adata: AnnData,
    groupby: str,
    *,
    key: str | None = None,
    n_labels: int = 30,
    cmap: str = "Blues",
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Mean probability of each label in each cluster, as a heat map.

    Parameters
    ----------
    adata
        Cells after :func:`cell2sen.tl.annotate`.
    groupby
        ``obs`` column of the clusters.
    key
        ``key_added`` of :func:`cell2sen.tl.annotate`; by default that of its last call.
    n_labels
        Labels that are drawn: those with the highest probability in any cluster.
    cmap, title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column, or no probabilities; lists the available ones.
    ValueError
        No cell of a cluster has probabilities.
    """
    if groupby not in adata.obs:
        raise KeyError(f"adata.obs has no column {groupby!r}; available: {list(adata.obs.columns)}")
    table = _stored_probabilities(adata, key)
    clusters = _frequent(categories(adata.obs[groupby]))
    usable = (clusters.notna() & table.notna().all(axis=1)).to_numpy()
    if not usable.any():
        raise ValueError(f"no cell has a value of {groupby!r} and probabilities ({len(table)} cells)")
    means = table[usable].groupby(categories(clusters[usable]), observed=True).mean()
    kept = means.max().nlargest(n_labels).index
    means = means[[name for name in means.columns if name in set(kept)]]
    means = means.iloc[:, _diagonal(means)]
    sizes = clusters[usable].value_counts()
    rows = [f"{drawing.shorten(str(name))} ({sizes[name]:,})" for name in means.index]
    columns = [drawing.shorten(str(name)) for name in means.columns]
    axes = drawing.new_axes(ax, _matrix_size(rows, columns))
    image = drawing.heat_map(axes, means.to_numpy(dtype=np.float64), rows, columns, cmap=cmap)
    drawing.colour_bar(axes, image, "mean probability")
    axes.set_ylabel(groupby, fontsize=drawing.FONT + 1)
    left_out = len(table.columns) - len(columns)
    axes.set_title(title or ("probabilities of labels" + (f" ({left_out} rarer ones left out)" if left_out else "")),
                   fontsize=10)  # fmt: skip
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def _stored_probabilities(adata: AnnData, key: str | None) -> pd.DataFrame:
    """Probabilities that tl.annotate wrote, cells × labels."""
    name = f"{key or adata.uns.get('cell2sen', {}).get('annotate', {}).get('key')}_probabilities"
    if name not in adata.obsm:
        raise KeyError(f"adata.obsm has no {name!r}, which tl.annotate writes; available: {list(adata.obsm.keys())}")
    stored: Any = adata.obsm[name]
    labels = [str(column).replace("%2F", "/") for column in stored.columns]
    return pd.DataFrame(np.asarray(stored, dtype=np.float64), index=adata.obs_names, columns=labels)


def _frequent(values: pd.Series[Any]) -> pd.Series[Any]:
    """The most frequent categories, and one for all others if there are too many."""
    names = list(values.cat.categories)
    if len(names) <= MAX_NAMES:
        return values
    kept = set(values.value_counts().index[: MAX_NAMES - 1])
    rest = f"{len(names) - len(kept):,} others"
    order = [*(name for name in names if name in kept), rest]
    texts = [value if value in kept else None if value is None else rest for value in _objects(values)]
    return pd.Series(pd.Categorical(texts, categories=order), index=values.index)


def _objects(values: pd.Series[Any]) -> list[str | None]:
    return list(values.astype(object).where(values.notna(), None))


def _diagonal(counts: pd.DataFrame) -> NDArray[np.int64]:
    """Order of the columns: that of the rows that they agree with most, the same name first."""
    from scipy.optimize import linear_sum_assignment

    shares = counts.to_numpy(dtype=np.float64) / np.maximum(counts.to_numpy().sum(axis=1, keepdims=True), 1e-12)
    rows, columns = ([normalise_label(str(name)) for name in names] for names in (counts.index, counts.columns))
    same = np.array([[row == column for column in columns] for row in rows], dtype=np.float64)
    of_row, of_column = linear_sum_assignment(-(shares + 2 * same))
    place = np.full(len(columns), np.nan)
    place[of_column] = of_row
    free = np.isnan(place)
    place[free] = shares.argmax(axis=0)[free] + 0.5
    return np.asarray(np.argsort(place, kind="stable"), dtype=np.int64)


def _matrix_size(rows: Sequence[str], columns: Sequence[str]) -> tuple[float, float]:
    """Size of a figure of a matrix with these names, in inches."""
    size = drawing.font_size(max(len(rows), len(columns)))
    letters = [max(map(len, names)) * 0.0085 * size for names in (rows, columns)]
    field = 0.034 * size if max(len(rows), len(columns)) > 15 else 0.36
    return letters[0] + field * len(columns) + 1.6, 0.8 * letters[1] + field * len(rows) + 1.1
