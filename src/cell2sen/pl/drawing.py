"""Axes of plots: new or given ones, shown and saved by scanpy's conventions, without a change of global settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cell2sen.data.output import complete_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

#: Size of text, in points: labels of axes and legends, and the smallest that is drawn.
FONT, SMALL_FONT = 8.0, 6.0

#: Corners of a point in which its name may be: across, up.
_CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))

#: Backends that have no window, or show figures by themselves (notebooks).
_NO_WINDOW = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template", "inline", "nbagg", "ipympl", "widget")


def pyplot() -> Any:
    """matplotlib.pyplot.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'cell2sen[plot]'") from error
    return plt


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """`ax`, or the axes of a new figure of `size`, in inches, in which legends and labels have room."""
    plt = pyplot()
    if ax is not None:
        return ax
    axes: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return axes


def panels(ax: Axes | Sequence[Axes] | None, n: int, size: tuple[float, float], n_columns: int = 4) -> list[Axes]:
    """`n` axes: the given ones, or those of a new figure with panels of `size`, in inches.

    Raises
    ------
    ValueError
        Another number of axes was given.
    """
    plt = pyplot()
    if ax is not None:
        given = list(ax) if isinstance(ax, Iterable) else [ax]
        if len(given) != n:
            raise ValueError(f"{n} panels need a list of {n} axes (ax=), found {len(given)}")
        return given
    columns = min(n, n_columns)
    rows = -(-n // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), layout="constrained", squeeze=False
    )
    for unused in grid.ravel()[n:]:
        figure.delaxes(unused)
    return list(grid.ravel()[:n])


def finish(axes: Axes, *, new: bool, show: bool | None, save: Any) -> Axes:
    """Save and show the figure of `axes`, and return them.

    Parameters
    ----------
    new
        Whether the figure was made for this plot.
    show
        Show the figure. ``None``: a new figure that is not saved, where matplotlib has windows; notebooks show figures
        by themselves.
    save
        File; its ending is the format (``.png``, ``.svg``, ``.pdf``).

    Raises
    ------
    ValueError
        matplotlib writes no such format, or `save` is no path.
    """
    plt = pyplot()
    figure: Any = axes.get_figure(root=True)
    if save is not None and save is not False:
        if save is True:
            raise ValueError("save= takes a path, such as 'figure.png', found True")
        save = Path(save)
        formats = sorted(figure.canvas.get_supported_filetypes())
        if save.suffix.lstrip(".").lower() not in formats:
            raise ValueError(f"{save} must end in a format of figures: {', '.join('.' + name for name in formats)}")
        with complete_file(save) as temporary:
            figure.savefig(temporary, format=save.suffix.lstrip(".").lower(), dpi=150, bbox_inches="tight")
    if show is None:
        show = (
            new
            and not save
            and not plt.get_backend().lower().rpartition(".")[2].removeprefix("backend_").startswith(_NO_WINDOW)
        )
    if show:
        plt.show()
    elif save and new:
        plt.close(figure)  # pyplot keeps open figures; the axes remain usable
    return axes


def plain(axes: Axes) -> None:
    """Remove the upper and the right line of a frame."""
    axes.spines[["top", "right"]].set_visible(False)


def heat_map(
    axes: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cmap: Any = "Blues",
    limits: tuple[float, float] = (0.0, 1.0),
    numbers: bool = True,
) -> Any:
    """Matrix with names at its sides and a number in each field where there is room; missing values are grey."""
    from matplotlib import colormaps

    from cell2sen.pl.palette import LIGHT_GREY, text_colour

    shades = (colormaps[cmap] if isinstance(cmap, str) else cmap).with_extremes(bad=LIGHT_GREY)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=limits[0], vmax=limits[1], aspect="auto")
    size = font_size(max(len(rows), len(columns)))
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if numbers and max(len(rows), len(columns)) <= 15:
        for row, column in np.argwhere(np.isfinite(values) & (np.abs(values) >= 0.005)):
            value = values[row, column]
            text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2g}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=size - 1, color=text_colour(image.to_rgba(value))
            )
    return image


def font_size(n: int) -> float:
    """Size of the names of `n` rows, in points."""
    return FONT if n <= 30 else max(SMALL_FONT, FONT * 30 / n)


def shorten(name: str, length: int = 38) -> str:
    """The name with an ellipsis instead of its middle if it is longer."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[: length - 1 - half]}…{name[-half:]}"


def colour_bar(axes: Axes, image: Any, label: str = "", shrink: float = 0.6) -> Any:
    """Colour bar beside the axes."""
    figure: Any = axes.get_figure(root=True)
    bar = figure.colorbar(image, ax=axes, shrink=shrink, pad=0.02)
    bar.ax.tick_params(labelsize=FONT - 1)
    bar.outline.set_visible(False)
    if label:
        bar.set_label(label, fontsize=FONT)
    return bar


def place_names(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Sequence[str], order: Iterable[int], limit: int
) -> list[int]:
    """Write names beside their points, in `order`, where they cover neither other names, named points nor the edge.

    Returns
    -------
    The points whose names were written, at most `limit`.
    """
    from matplotlib.patheffects import withStroke

    figure: Any = axes.get_figure(root=True)
    figure.canvas.draw()  # the limits of the axes are final, so that text can be measured
    order = list(order)
    places = axes.transData.transform(np.column_stack([x, y])[order])  # of the points that names should not hide
    frame = axes.get_window_extent()
    boxes: list[Any] = []
    written: list[int] = []
    for at in order:
        if len(written) == limit:
            break
        for across, up in _CORNERS:
            text = axes.annotate(
                names[at], (x[at], y[at]), xytext=(3 * across, 2 * up), textcoords="offset points",
                ha="left" if across > 0 else "right", va="bottom" if up > 0 else "top", fontsize=FONT - 1,
                path_effects=[withStroke(linewidth=2, foreground="white")], zorder=5,
            )  # fmt: skip
            box = text.get_window_extent(figure.canvas.get_renderer())
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            hides = (places > (box.x0, box.y0)) & (places < (box.x1, box.y1))
            if inside and not hides.all(axis=1).any() and not any(box.overlaps(other) for other in boxes):
                boxes.append(box)
                written.append(at)
                break
            text.remove()
    return written


def list_names(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    names: Sequence[str],
    order: Sequence[int],
    *,
    side: Literal["left", "right"],
    edge: NDArray[np.float64],
) -> None:
    """Write names of points of a falling curve in the corner beside them, with lines, as many as there is room for.

    Parameters
    ----------
    order
        Points to name: the first ones for the upper right corner, the last ones, backwards, for the lower left corner.
    edge
        Upper (right) or lower (left) end of the curve at each x, float64 (n,), which no name may cover.
    """
    if not order:
        return
    figure: Any = axes.get_figure(root=True)
    figure.canvas.draw()
    to_pixels, frame = axes.transData.transform, axes.get_window_extent()
    pixels, ends = to_pixels(np.column_stack([x, y])), to_pixels(np.column_stack([x, edge]))
    down = 1 if side == "right" else -1
    line = 1.25 * (FONT - 1) * figure.dpi / 72
    named = pixels[list(order), 0]
    column = (named.max() if down == 1 else named.min()) + down * 0.06 * frame.width
    beside = ends[(pixels[:, 0] - column) * down >= 0, 1]
    limit = (down * beside).max() if len(beside) else -math.inf
    height = frame.y1 - line if down == 1 else frame.y0 + line
    for at in order:
        if down * height - line / 2 < limit or not frame.y0 < height < frame.y1:
            break
        axes.annotate(
            names[at], (x[at], y[at]), xytext=tuple(axes.transData.inverted().transform((column, height))),
            textcoords="data", fontsize=FONT - 1, va="center", ha="left" if down == 1 else "right", zorder=5,
            arrowprops={
                "arrowstyle": "-", "color": "#9A9A9A", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2,
                "relpos": (0.0 if down == 1 else 1.0, 0.5),
            },
        )  # fmt: skip
        height -= down * line
