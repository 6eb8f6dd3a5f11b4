"""Maps of cells: embeddings and tissues, coloured by obs columns or genes, with one palette for all panels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.labels import normalise_label
from cell2sen.pl import drawing
from cell2sen.pl.palette import (
    GREY,
    LIGHT_GREY,
    MAX_CATEGORIES,
    MAX_SHOWN,
    NO_LABEL,
    categories,
    category_colours,
    is_categorical,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

#: Number of points from which vector files hold them as a picture.
_MANY_POINTS = 20_000

#: Entries of a legend in one column, at most.
_LEGEND_ROWS = 18


def embedding(
    adata: AnnData,
    color: str | Sequence[str | None] | None = None,
    *,
    basis: str = "X_umap",
    use_raw: bool | None = None,
    layer: str | None = None,
    groups: str | Sequence[str] | None = None,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    cmap: str = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    size: float | None = None,
    legend_loc: str | None = "right margin",
    ncols: int = 4,
    title: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | list[Axes]:
    """Scatter plot of cells in two dimensions, coloured by obs columns or genes: a panel for each.

    A name has the same colour in all panels, also if it differs in case, punctuation or plural only. Cells are drawn in
    random order (seed 0), numbers in ascending order. `adata` is not changed.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm``.
    color
        ``obs`` columns or genes, one or a list. Numbers have a colour bar, other values a legend with numbers of cells;
        missing values are grey. Of more than 60 categories the 40 most frequent have colours. ``None``: all in grey.
    basis
        Key in ``obsm`` of an (n, 2) array, such as a UMAP; with or without ``"X_"``.
    use_raw, layer
        Where values of genes come from, as they are there. Default: ``raw`` if there is one, else ``X``, as in scanpy.
    groups
        Only these categories have colours, the others are grey.
    palette
        Colour of each category, by name or in order. Default: those in ``uns["<column>_colors"]`` if they are there
        (of one panel only), else :func:`cell2sen.pl.category_colours`.
    cmap, vmin, vmax
        Colours of numbers and their ends.
    size
        Area of a point, in points². Default: by the number of cells.
    legend_loc
        ``"right margin"``, ``"on data"`` (names at the medians of their cells) or ``None``.
    ncols
        Panels in a row.
    title
        Title of each panel; the columns by default.
    ax
        Axes to draw into, as many as panels; new ones by default.
    show
        Show the figure. Default: if it is new and not saved, and matplotlib has windows; notebooks show it themselves.
    save
        File (``.png``, ``.svg``, ``.pdf``, …).

    Returns
    -------
    The axes, or a list of them if `color` is a list.

    Raises
    ------
    KeyError
        No such column, gene or basis; lists the available ones.
    ValueError
        No cells with coordinates, coordinates of one dimension, or an unusable palette, `title` or `ax`.
    ImportError
        matplotlib is not installed.
    """
    names = [color] if color is None or isinstance(color, str) else list(color)
    if not names:
        raise ValueError("color= is an empty list: name obs columns or genes")
    points, label = _coordinates(adata, basis)
    values = [_values(adata, name, use_raw, layer) for name in names]
    colours = _shared_colours(adata, names, values, palette)
    titles = [title] if title is None or isinstance(title, str) else list(title)
    if len(titles) not in (1, len(names)) or (titles[0] is not None and len(titles) != len(names)):
        raise ValueError(f"title= needs one for each of the {len(names)} panels, found {len(titles)}")
    width = max(_legend_size(series, legend_loc)[1] for series in values)
    axes = drawing.panels(ax, len(names), (4.2 + width, 4.0), ncols)
    shown = [groups] if isinstance(groups, str) else groups
    point_size = size if size is not None else float(np.clip(12_000 / len(points), 1.5, 30))
    for number, (panel, name, series) in enumerate(zip(axes, names, values, strict=True)):
        if series is not None and is_categorical(series):
            _draw_categories(panel, points, series, colours, point_size, shown, legend_loc)
        else:
            _draw_numbers(panel, points, series, point_size, {"cmap": cmap, "vmin": vmin, "vmax": vmax})
        given = titles[number] if number < len(titles) else None
        panel.set_title(given if given is not None else drawing.shorten(name or ""), fontsize=10)
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel(f"{label} 1", fontsize=drawing.FONT)
        panel.set_ylabel(f"{label} 2", fontsize=drawing.FONT)
        drawing.plain(panel)
    drawing.finish(axes[0], new=ax is None, show=show, save=save)
    return axes[0] if color is None or isinstance(color, str) else axes


def spatial(
    adata: AnnData,
    color: str | Sequence[str | None] | None = None,
    *,
    coordinates: str = "spatial",
    section: tuple[str, str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    **options: Any,
) -> Axes | list[Axes]:
    """Cells of a tissue at their places, coloured by obs columns (niches, given and predicted) or genes.

    Parameters
    ----------
    adata
        Cells or spots with coordinates in ``obsm``.
    color
        ``obs`` columns or genes, one or a list, such as ``["layer", "cell2sen_niche"]``.
    coordinates
        Key in ``obsm`` of an (n, 2) array. The second axis points down, as in images.
    section
        Column and value of ``obs``: only this section (slide).
    show, save, **options
        See :func:`embedding`.

    Returns
    -------
    The axes, or a list of them if `color` is a list. Both axes have the same scale.

    Raises
    ------
    KeyError, ValueError, ImportError
        As :func:`embedding`; or no cell is of this section.
    """
    if section is not None:
        column, value = section
        if column not in adata.obs:
            raise KeyError(f"adata.obs has no column {column!r}; available: {list(adata.obs.columns)}")
        chosen = (adata.obs[column].astype(str) == str(value)).to_numpy()
        if not chosen.any():
            values = sorted(set(adata.obs[column].astype(str)))
            raise ValueError(f"no cell has {value!r} in obs[{column!r}]; available: {values[:20]}")
        adata = adata[chosen]
    axes = embedding(adata, color, basis=coordinates, show=False, **options)
    for panel in axes if isinstance(axes, list) else [axes]:
        panel.set_aspect("equal")
        panel.set(xlabel="", ylabel="")
        panel.spines[:].set_visible(False)
        if not panel.yaxis_inverted():
            panel.invert_yaxis()
    first = axes[0] if isinstance(axes, list) else axes
    drawing.finish(first, new=options.get("ax") is None, show=show, save=save)
    return axes


def _coordinates(adata: AnnData, basis: str) -> tuple[NDArray[np.float64], str]:
    """Coordinates of all cells, float64 (n, 2), and the name of the axes."""
    key = next((name for name in (basis, f"X_{basis}") if name in adata.obsm), None)
    if key is None:
        hint = ""
        if "X_cell2sen" in adata.obsm and "umap" in basis:
            hint = (
                '; sc.pp.neighbors(adata, use_rep="X_cell2sen") and sc.tl.umap(adata) compute a UMAP of the embedding'
            )
        raise KeyError(f"adata.obsm has no {basis!r}; available: {list(adata.obsm.keys())}{hint}")
    points = np.asarray(adata.obsm[key], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"obsm[{key!r}] must have two columns at least, found shape {points.shape}")
    points = points[:, :2]
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        raise ValueError(f"no cell has coordinates in obsm[{key!r}] ({len(points)} cells): there is nothing to draw")
    if not finite.all():
        logger.warning(
            "%d of %d cells have no coordinates in obsm[%r] and are not drawn", int((~finite).sum()), len(points), key
        )
    label = key.removeprefix("X_")
    return points, label.upper() if label in ("umap", "pca") else label


def _values(adata: AnnData, name: str | None, use_raw: bool | None, layer: str | None) -> pd.Series[Any] | None:
    """Column of obs, or values of a gene."""
    if name is None:
        return None
    if name in adata.obs:
        in_obs: pd.Series[Any] = adata.obs[name]
        return in_obs
    if layer is not None and use_raw:
        raise ValueError("pass either layer= or use_raw=True, not both")
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"adata.layers has no {layer!r}; available: {list(adata.layers)}")
    raw = adata.raw if layer is None and use_raw is not False else None
    if use_raw and raw is None:
        raise ValueError("use_raw=True, but the object has no raw")
    source, var = (raw.X, raw.var) if raw is not None else (adata.layers[layer] if layer else adata.X, adata.var)
    at = np.flatnonzero(var.index == name)
    for column in ("symbol", "gene_symbols", "feature_name", "gene_name"):
        if not len(at) and column in var:
            at = np.flatnonzero(var[column].astype(str) == name)
    if not len(at) or source is None:
        near = [gene for gene in var.index.astype(str) if gene.lower() == name.lower()]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(
            f"{name!r} is no obs column and no gene; columns: {list(adata.obs.columns)}; "
            f"genes: {list(var.index[:5])}, …{hint}"
        )
    column_values: Any = source[:, int(at[0])]
    dense = np.asarray(column_values.todense() if hasattr(column_values, "todense") else column_values)
    return pd.Series(dense.ravel().astype(np.float64), index=adata.obs_names)


def _shared_colours(
    adata: AnnData,
    names: Sequence[str | None],
    values: Sequence[pd.Series[Any] | None],
    palette: Mapping[str, str] | Sequence[str] | None,
) -> dict[str, str]:
    """Colour of each category of all panels; panels without a common category have palettes of their own."""
    series = {
        name: categories(column)
        for name, column in zip(names, values, strict=True)
        if name is not None and column is not None and is_categorical(column)
    }
    if palette is None and len(series) == 1:
        ((name, column),) = series.items()
        palette = _stored_palette(adata, name, column)
    colours: dict[str, str] = {}
    for together in _related(series):
        used = list(dict.fromkeys(category for column in together for category in column.cat.categories))
        if len(used) > MAX_CATEGORIES:
            counts = pd.concat([column.astype(object) for column in together]).value_counts()
            frequent = set(map(str, counts.index[:MAX_CATEGORIES]))
            used = [category for category in used if category in frequent]
        colours |= category_colours(used, palette)
    return colours


def _stored_palette(adata: AnnData, name: str, column: pd.Series[Any]) -> dict[str, str] | None:
    """Colours that scanpy stored for a column, if there is one for each of its categories."""
    stored = adata.uns.get(f"{name}_colors")
    if stored is None or name not in adata.obs:
        return None
    original = adata.obs[name].astype("category").cat.categories.astype(str)
    return dict(zip(original, map(str, stored), strict=True)) if len(stored) == len(original) else None


def _related(series: Mapping[str, pd.Series[Any]]) -> list[list[pd.Series[Any]]]:
    """Columns that have a category in common, directly or through others: these share a palette."""
    groups: list[tuple[set[str], list[pd.Series[Any]]]] = []
    for column in series.values():
        meanings = {normalise_label(str(category)) for category in column.cat.categories} - NO_LABEL
        joined, members = set(meanings), [column]
        for group in [group for group in groups if group[0] & meanings]:
            groups.remove(group)
            joined |= group[0]
            members = [*group[1], *members]
        groups.append((joined, members))
    return [members for _, members in groups]


def _draw_categories(
    axes: Axes,
    points: NDArray[np.float64],
    values: pd.Series[Any],
    colours: Mapping[str, str],
    size: float,
    groups: Sequence[str] | None,
    legend_loc: str | None,
) -> None:
    """Points of all categories in random order, and a legend."""
    series = categories(values)
    counts = series.value_counts()
    names = list(series.cat.categories)
    if groups is not None and (wrong := [name for name in groups if name not in names]):
        raise ValueError(f"no cell of {values.name!r} is {wrong[0]!r}; available: {names[:20]}")
    shown = names if groups is None else [name for name in names if name in groups]
    if len(shown) > MAX_CATEGORIES or any(name not in colours for name in shown):
        frequent = set(counts[[name for name in shown if name in colours]].nlargest(MAX_SHOWN).index)
        shown = [name for name in shown if name in frequent]
    of_name = {name: colours[name] for name in shown}
    labels = series.astype(object).where(series.notna(), None).to_numpy()
    point_colours = np.array([of_name.get(name, LIGHT_GREY) for name in labels], dtype=object)
    order = np.random.default_rng(0).permutation(len(points))
    in_front = np.array([name in of_name and of_name[name] != GREY for name in labels[order]], dtype=bool)
    order = np.concatenate([order[~in_front], order[in_front]])
    axes.scatter(
        points[order, 0], points[order, 1], s=size, c=list(point_colours[order]), linewidths=0,
        rasterized=len(points) > _MANY_POINTS,
    )  # fmt: skip
    entries = [(f"{drawing.shorten(name)} ({counts[name]:,})", of_name[name]) for name in shown]
    if others := [name for name in names if name not in of_name]:
        entries.append((f"{len(others):,} others ({int(counts[others].sum()):,})", LIGHT_GREY))
    if n_missing := int(series.isna().sum()):
        entries.append((f"no value ({n_missing:,})", LIGHT_GREY))
    if legend_loc == "on data":
        _names_on_data(axes, points, labels, of_name)
    elif legend_loc is not None:
        _legend(axes, entries, None if legend_loc == "right margin" else legend_loc)


def _legend(axes: Axes, entries: Sequence[tuple[str, str]], loc: str | None) -> None:
    """Legend beside the axes, or at `loc` inside them."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5.5, markeredgewidth=0, color=colour, label=label)
        for label, colour in entries
    ]
    place: dict[str, Any] = {"loc": loc} if loc else {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    axes.legend(
        handles=handles, frameon=False, fontsize=drawing.FONT - (1 if len(entries) > _LEGEND_ROWS else 0),
        ncols=-(-len(entries) // _LEGEND_ROWS), handletextpad=0.1, labelspacing=0.35, columnspacing=0.8, **place,
    )  # fmt: skip


def _names_on_data(axes: Axes, points: NDArray[np.float64], labels: NDArray[Any], names: Iterable[str]) -> None:
    """Each name at the median of its cells, moved down where it would cover another one."""
    from matplotlib.patheffects import withStroke

    figure: Any = axes.get_figure(root=True)
    figure.canvas.draw()  # the limits of the axes are final, so that text can be measured
    boxes: list[Any] = []
    medians = {name: np.nanmedian(points[labels == name], axis=0) for name in names}
    for name, place in sorted(medians.items(), key=lambda item: -item[1][1]):
        text = axes.text(
            float(place[0]), float(place[1]), drawing.shorten(name, 24), ha="center", va="center",
            fontsize=drawing.FONT, path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=5,
        )  # fmt: skip
        box = text.get_window_extent(figure.canvas.get_renderer())
        while any(box.overlaps(other) for other in boxes):
            box = box.translated(0, -0.5 * box.height)
        boxes.append(box)
        x, y = axes.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        text.set_position((float(x), float(y)))


def _draw_numbers(
    axes: Axes, points: NDArray[np.float64], values: pd.Series[Any] | None, size: float, scale: Mapping[str, Any]
) -> None:
    """Points in ascending order of their values, those without one in grey behind them."""
    many = len(points) > _MANY_POINTS
    if values is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=GREY, linewidths=0, rasterized=many)
        return
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(numbers)
    if not known.all():
        axes.scatter(points[~known, 0], points[~known, 1], s=size, color=LIGHT_GREY, linewidths=0, rasterized=many)
        axes.text(
            0.01, 0.01, f"no value: {int((~known).sum()):,} cells, grey", transform=axes.transAxes,
            fontsize=drawing.FONT - 1, va="bottom",
        )  # fmt: skip
    if known.any():
        order = np.flatnonzero(known)[np.argsort(numbers[known], kind="stable")]
        image = axes.scatter(
            points[order, 0], points[order, 1], s=size, c=numbers[order], linewidths=0, rasterized=many, **scale
        )
        figure: Any = axes.get_figure(root=True)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.02, 0.2, 0.035, 0.6)))
        bar.ax.tick_params(labelsize=drawing.FONT - 1)
        bar.outline.set_visible(False)


def _legend_size(values: pd.Series[Any] | None, legend_loc: str | None) -> tuple[int, float]:
    """Columns of a legend and its width in inches, as far as its text tells before it is drawn."""
    if values is None or not is_categorical(values):
        return 0, 0.6
    if legend_loc != "right margin":
        return 0, 0.0
    counts = values.astype(str).value_counts()
    lengths = [len(drawing.shorten(str(name))) + len(f"{n:,}") + 3 for name, n in counts[:MAX_CATEGORIES].items()]
    shown = min(len(counts), MAX_CATEGORIES)
    columns = -(-shown // _LEGEND_ROWS)
    return columns, columns * (0.058 * max(lengths, default=0) + 0.35)
