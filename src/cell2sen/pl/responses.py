"""Plots of responses to perturbations: largest changes, predicted against measured change, volcano."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.names.perturbations import control_names, usual_controls
from cell2sen.data.obs import perturbations_of_cells
from cell2sen.pl import drawing
from cell2sen.pl.palette import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Colours of falling and rising genes, and of others.
DOWN, UP, NEITHER = OKABE_ITO[0], OKABE_ITO[5], "#9A9A9A"

#: Columns of tables of differential expression: scanpy's, and those of other tools.
_CHANGES = ("logfoldchanges", "log2FoldChange", "log2fc", "logFC", "lfc", "change")
_P_VALUES = ("pvals_adj", "padj", "adj.P.Val", "FDR", "fdr", "qval", "pvals", "pvalue", "p_value")
_NAMES = ("names", "gene", "symbol", "feature")


def top_changes(
    predicted: AnnData,
    *,
    n: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Bar plot of the genes with the largest predicted mean change, up and down.

    Parameters
    ----------
    predicted
        Result of :func:`cell2sen.tl.perturb`.
    n
        Genes in each direction.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`. Default of the title: the number of cells.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No layer ``"delta"``.
    ValueError
        No cells.
    ImportError
        matplotlib is not installed.
    """
    change = mean_change(predicted)
    chosen = pd.concat([change.nsmallest(n), change.nlargest(n).iloc[::-1]])
    chosen = chosen[~chosen.index.duplicated()]
    axes = drawing.new_axes(ax, (4, 0.19 * len(chosen) + 1))
    axes.barh(range(len(chosen)), chosen.to_numpy(), color=[UP if value > 0 else DOWN for value in chosen])
    size = drawing.font_size(len(chosen))
    axes.set_yticks(range(len(chosen)), [drawing.shorten(str(gene), 20) for gene in chosen.index], fontsize=size)
    axes.set_ylim(-0.7, len(chosen) - 0.3)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.tick_params(axis="x", labelsize=drawing.FONT)
    axes.set_xlabel("predicted mean change, ln(1 + CP10k)", fontsize=drawing.FONT + 1)
    axes.set_title(title or f"predicted change, {predicted.n_obs:,} cells", fontsize=10)
    drawing.plain(axes)
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def response(
    predicted: AnnData,
    measured: AnnData | pd.Series[float],
    *,
    column: str | None = None,
    perturbation: str | None = None,
    control: str | Sequence[str | None] | None = "auto",
    n: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Predicted against measured mean change of each gene, with their correlation; the largest changes are named.

    Parameters
    ----------
    predicted
        Result of :func:`cell2sen.tl.perturb`.
    measured
        Measured change of each gene, ln(1 + CP10k), by the names in ``predicted.var``; or real cells, treated ones and
        controls, from which :func:`measured_change` computes it.
    column, perturbation, control
        For real cells: see :func:`measured_change`. `perturbation`: by default that of `predicted`.
    n
        Genes that are named, at most: those with the largest change on either side.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes. In the title: Pearson's correlation over the common genes, which a change that all perturbations share
    makes high; compare with baselines (:func:`cell2sen.evaluate`).

    Raises
    ------
    KeyError
        No layer ``"delta"``, or no such column.
    ValueError
        Fewer than three common genes with finite changes, or real cells without `column`.
    """
    change = mean_change(predicted)
    if not isinstance(measured, pd.Series):
        if column is None:
            raise ValueError("name the obs column with the perturbation of the real cells: column=")
        names = sorted(set(predicted.obs["perturbation"].astype(str))) if "perturbation" in predicted.obs else []
        if perturbation is None and len(names) != 1:
            raise ValueError(f"perturbation= names one of the predicted perturbations: {names[:10]}")
        measured = measured_change(measured, column, perturbation or names[0], control=control)
    measured = measured[~measured.index.duplicated()]
    both = pd.concat([measured.rename("measured"), change[~change.index.duplicated()].rename("predicted")], axis=1)
    both = both[np.isfinite(both.to_numpy(dtype=np.float64)).all(axis=1)]
    if len(both) < 3:
        raise ValueError(
            f"{len(both)} genes have a predicted and a measured change; predicted: {list(change.index[:3])}, "
            f"measured: {list(measured.index[:3])}"
        )
    x, y = both["measured"].to_numpy(dtype=np.float64), both["predicted"].to_numpy(dtype=np.float64)
    axes = drawing.new_axes(ax, (4.6, 4.6))
    ends = min(0.0, x.min(), y.min()), max(0.0, x.max(), y.max())
    pad = 0.08 * ((ends[1] - ends[0]) or 1.0)
    ends = ends[0] - pad, ends[1] + pad
    axes.axhline(0, color="#E2E2E2", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#E2E2E2", linewidth=0.8, zorder=0)
    axes.plot(ends, ends, "--", color=NEITHER, linewidth=0.9, zorder=1)
    axes.scatter(x, y, s=9, color=DOWN, alpha=0.6, linewidths=0, rasterized=len(x) > 20_000, zorder=2)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.tick_params(labelsize=drawing.FONT)
    axes.set_xlabel("measured change, ln(1 + CP10k)", fontsize=drawing.FONT + 1)
    axes.set_ylabel("predicted change, ln(1 + CP10k)", fontsize=drawing.FONT + 1)
    correlation = f"r = {np.corrcoef(x, y)[0, 1]:.2f}" if np.ptp(x) and np.ptp(y) else "no correlation: no change"
    axes.set_title(title or f"{correlation}, {len(both):,} genes", fontsize=10)
    drawing.plain(axes)
    order = np.argsort(-np.maximum(np.abs(x), np.abs(y)), kind="stable")[: 4 * n]
    drawing.place_names(axes, x, y, [str(name) for name in both.index], order.tolist(), n)
    return drawing.finish(axes, new=ax is None, show=show, save=save)


def volcano(
    data: AnnData | pd.DataFrame,
    *,
    change: str | None = None,
    p_value: str | None = None,
    names: str | None = None,
    min_change: float | None = None,
    max_p: float = 0.05,
    n: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Volcano plot of a table of differential expression, or of a predicted response.

    Parameters
    ----------
    data
        A table with a row per gene, such as ``scanpy.get.rank_genes_groups_df``; or the result of
        :func:`cell2sen.tl.perturb`. A prediction has no p-value, since its cells are no independent samples: the y axis
        is then the mean change divided by its standard deviation among the cells.
    change, p_value, names
        Columns of the table. Default: recognised; without a column of names the index.
    min_change, max_p
        Limits of coloured genes. `min_change`: 1 for tables (log2), 0.1 for predictions (ln(1 + CP10k)) by default.
    n
        Genes that are named, at most.
    title, ax, show, save
        See :func:`cell2sen.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        No such column in the table, or no layer ``"delta"``.
    ValueError
        No gene with a finite change.
    """
    genes, x, y, label, y_label, passes = (
        _of_table(data, change, p_value, names, max_p) if isinstance(data, pd.DataFrame) else _of_prediction(data)
    )
    least = min_change if min_change is not None else 1.0 if isinstance(data, pd.DataFrame) else 0.1
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        raise ValueError(f"none of the {len(x)} genes has a finite change")
    genes, x, y, passes = genes[finite], x[finite], y[finite], passes[finite]
    chosen = passes & (np.abs(x) >= least)
    axes = drawing.new_axes(ax, (5.0, 4.4))
    many = len(x) > 20_000
    for mask, colour in ((~chosen, NEITHER), (chosen & (x < 0), DOWN), (chosen & (x > 0), UP)):
        axes.scatter(x[mask], y[mask], s=8, color=colour, alpha=0.7, linewidths=0, rasterized=many)
    for at in (-least, least):
        axes.axvline(at, color="#BBBBBB", linewidth=0.7, linestyle="--", zorder=0)
    axes.margins(x=0.12, y=0.08)
    axes.tick_params(labelsize=drawing.FONT)
    axes.set_xlabel(label, fontsize=drawing.FONT + 1)
    axes.set_ylabel(y_label, fontsize=drawing.FONT + 1)
    rising, falling = int((chosen & (x > 0)).sum()), int((chosen & (x < 0)).sum())
    axes.set_title(title or f"{rising:,} genes up, {falling:,} down, of {len(x):,}", fontsize=10)
    drawing.plain(axes)
    spread = (np.abs(x) / (np.abs(x).max() or 1)) + y / (np.abs(y).max() or 1)
    order = [int(at) for at in np.argsort(-spread, kind="stable") if chosen[at]][: 4 * n]
    drawing.place_names(axes, x, y, list(map(str, genes)), order, n)
    return drawing.finish(axes, new=ax is None, show=show, save=save)


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
    ValueError
        No cells.
    """
    if "delta" not in predicted.layers:
        raise KeyError(f"there is no layer 'delta': pass the result of tl.perturb; available: {list(predicted.layers)}")
    if not predicted.n_obs:
        raise ValueError("there are no predicted cells")
    mean = np.asarray(
        predicted.layers["delta"].mean(axis=0)
    ).ravel()  # the mean of a sparse matrix is a matrix of one row
    return pd.Series(mean, index=predicted.var_names)


def measured_change(
    adata: AnnData,
    column: str,
    perturbation: str,
    *,
    control: str | Sequence[str | None] | None = "auto",
    layer: str | None = None,
    use_raw: bool = False,
) -> pd.Series[float]:
    """Mean expression of treated cells minus that of controls, one value per gene of ``var``, ln(1 + CP10k).

    Parameters
    ----------
    adata
        Real cells, as counts or log-normalised values: treated ones and controls.
    column
        ``obs`` column with the perturbation of each cell.
    perturbation
        Its value in treated cells.
    control
        Its values in controls; ``None`` or "": cells without a value. ``"auto"``: the usual names.
    layer, use_raw
        Where the expression is.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No treated cells, or no controls.
    """
    values = perturbations_of_cells(adata.obs, column)
    found = sorted({value for value in values if value})
    names = usual_controls(found) if control == "auto" else control_names(control)
    treated = np.array([value == perturbation for value in values])
    controls = np.array([value in names for value in values])
    if not treated.any():
        raise ValueError(f"no cell has {perturbation!r} in obs[{column!r}]; available: {found[:20]}")
    if not controls.any():
        raise ValueError(f"no cell of obs[{column!r}] is a control; name controls (control=), found: {found[:20]}")
    with Expression.open(adata, layer=layer, use_raw=use_raw) as expression:
        means = [
            np.asarray(expression[np.flatnonzero(rows)].ln_cp10k().mean(axis=0, dtype=np.float64)).ravel()
            for rows in (treated, controls)
        ]
        genes = adata.raw.var_names if use_raw else adata.var_names
        return pd.Series(means[0] - means[1], index=genes[expression.input_columns])


def _of_table(
    table: pd.DataFrame, change: str | None, p_value: str | None, names: str | None, max_p: float
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], str, str, NDArray[np.bool_]]:
    """Genes, changes, −log10 p, names of the axes, and which genes are below the limit."""
    columns = []
    for given, usual, what in ((change, _CHANGES, "change"), (p_value, _P_VALUES, "p_value")):
        chosen = given or next((name for name in usual if name in table), None)
        if chosen is None or chosen not in table:
            raise KeyError(
                f"the table has no column {chosen or what!r}: name it ({what}=); found {list(table.columns)}"
            )
        columns.append(chosen)
    given_names = names or next((name for name in _NAMES if name in table), None)
    if given_names is not None and given_names not in table:
        raise KeyError(f"the table has no column {given_names!r}; found {list(table.columns)}")
    genes = table[given_names] if given_names is not None else pd.Series(table.index)
    p = table[columns[1]].to_numpy(dtype=np.float64)
    smallest = p[p > 0].min() if (p > 0).any() else 1e-300
    shown = -np.log10(np.maximum(p, smallest))  # p = 0 is below the smallest number: at the upper end
    return (
        genes.to_numpy(),
        table[columns[0]].to_numpy(dtype=np.float64),
        shown,
        columns[0],
        f"−log10 {columns[1]}",
        p <= max_p,
    )


def _of_prediction(
    predicted: AnnData,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64], str, str, NDArray[np.bool_]]:
    """Genes, mean changes, mean over standard deviation, names of the axes, and all genes as chosen."""
    mean = mean_change(predicted)
    if predicted.n_obs < 2:
        raise ValueError("the standard deviation of a change needs two cells at least, found one")
    delta = sp.csr_matrix(predicted.layers["delta"]).astype(np.float64)
    squares = np.asarray(delta.multiply(delta).mean(axis=0)).ravel()
    change: Any = mean.to_numpy(dtype=np.float64)
    deviation = np.sqrt(np.maximum(squares - change**2, 0) * predicted.n_obs / (predicted.n_obs - 1))
    ratio: Any = np.divide(np.abs(change), deviation, out=np.full(len(change), np.nan), where=deviation > 0)
    ratio[change == 0] = 0.0
    label = "predicted mean change, ln(1 + CP10k)"
    return (
        np.asarray(mean.index),
        change,
        ratio,
        label,
        "mean / standard deviation among cells",
        np.ones(len(change), bool),
    )
