"""Figures of a report: scores, changes of top genes, calibration, map of cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.evaluation.metrics import Metric, get
from cell2sen.evaluation.report.methods import readable
from cell2sen.evaluation.scoring.baselines.method import Method

BLUE, ORANGE, GREEN, LIGHT, GREY, INK = "#0b5fa5", "#d97706", "#1a7f37", "#8fd19e", "#9aa4ae", "#1b1f24"
_MARKERS = "osD^vP"
#: Panels of changes, labels of the confusion matrix, and labels of one with numbers in it, at most.
_MAX_PANELS, _MAX_LABELS, _MAX_NUMBERED_LABELS = 9, 25, 14
_KINDS = {"real": "#1a7f37", "control": "#9aa4ae", "predicted": "#0b5fa5"}


def scores(long: pd.DataFrame, table: pd.DataFrame, methods: Sequence[Method]) -> Any:
    """Figure of all scores: prediction with interval, baselines and ceilings of each metric, better on the right.

    Parameters
    ----------
    long, table
        ``scores`` and ``table`` of an :class:`cell2sen.evaluation.result.Evaluation`.
    methods
        The scored methods.
    """
    overall = long[long["group"] == "all"].set_index(["metric", "method"])["value"]
    names = [name for name in table.index if math.isfinite(table.loc[name, "prediction"]) or _any_value(overall, name)]
    styles = _styles([method for method in methods if method.name in set(long["method"])])
    figure = _figure(9.2, 0.36 * len(names) + 1.0)
    axis = figure.add_subplot()
    for at, name in enumerate(names):
        values = {method: float(overall.get((name, method), math.nan)) for method in styles}
        _score_row(axis, at, table.loc[name], values, styles, get(name))
    axis.set(ylim=(len(names) - 0.4, -0.7), xlim=(-0.14, 1.14), xticks=[])
    axis.set_yticks(range(len(names)), [readable(name) for name in names])
    axis.tick_params(left=False)
    for side in ("top", "right", "bottom", "left"):
        axis.spines[side].set_visible(False)
    axis.set_xlabel("worse  ←        →  better", color=INK)
    for name, style in reversed(styles.items()):
        axis.plot([], [], **style, label=readable(name))
    axis.plot([], [], "s", color=ORANGE, markersize=6, label="best baseline")
    axis.legend(loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=4, frameon=False, fontsize=9)
    return figure


def _styles(methods: Sequence[Method]) -> dict[str, dict[str, Any]]:
    """Marker of each method, from the back to the front: ceilings, baselines, prediction."""
    styles: dict[str, dict[str, Any]] = {}
    bar: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 15, "markeredgewidth": 3, "zorder": 2}
    ceilings = [method.name for method in methods if method.role == "ceiling"]
    for name in reversed(ceilings):  # the last one is the ceiling of the data
        styles[name] = bar | {"color": GREEN if name == ceilings[-1] else LIGHT}
    baselines = [method.name for method in methods if method.role == "baseline"]
    for marker, name in zip(itertools.cycle(_MARKERS), baselines, strict=False):
        styles[name] = {"marker": marker, "linestyle": "", "color": GREY, "markersize": 6, "zorder": 3}
    for method in methods:
        if method.role == "prediction":
            styles[method.name] = {"marker": "o", "linestyle": "", "color": BLUE, "markersize": 8.5, "zorder": 6}
    return styles


def _score_row(
    axis: Any,
    at: int,
    row: pd.Series[Any],
    values: Mapping[str, float],
    styles: Mapping[str, dict[str, Any]],
    metric: Metric,
) -> None:
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    shown = [*finite.values(), *(end for end in (row["low"], row["high"]) if math.isfinite(end))]
    low, high = min(shown), max(shown)
    if len(finite) == 1 and all(map(math.isfinite, metric.range)):
        low, high = metric.range  # a single value has nothing else to be compared with
    width = (high - low) or 1.0

    def place(value: float) -> float:
        share = float((value - low) / width)
        return share if metric.higher_is_better else 1 - share

    axis.axhline(at, color="#e6eaee", linewidth=1, zorder=0)
    for name, value in finite.items():
        best = {"color": ORANGE, "zorder": 4} if name == row["best_baseline"] else {}
        axis.plot(place(value), at, **(styles[name] | best))
    ends = (low, high) if metric.higher_is_better else (high, low)
    axis.text(-0.025, at, _short(ends[0]), ha="right", va="center", fontsize=7.5, color="#57606a")
    if not math.isfinite(row["prediction"]):
        axis.text(1.02, at, "missing", color=GREY, va="center", fontsize=8.5, style="italic")
        return
    axis.text(1.025, at, _short(ends[1]), ha="left", va="center", fontsize=7.5, color="#57606a")
    if math.isfinite(row["low"]):
        axis.plot([place(row["low"]), place(row["high"])], [at, at], color=BLUE, linewidth=3, alpha=0.45, zorder=5)


def changes(groups: Mapping[str, Mapping[str, Any]]) -> Any:
    """Predicted against true change of the top genes, one panel per group, genes with the largest changes named."""
    names = list(groups)[:_MAX_PANELS]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = _figure(3.3 * columns, 3.1 * rows)
    for at, name in enumerate(names):
        axis = figure.add_subplot(rows, columns, at + 1)
        _panel_of_changes(axis, **{side: np.asarray(values) for side, values in groups[name].items()})
        axis.set_title(name, fontsize=9)
        if at % columns == 0:
            axis.set_ylabel("predicted change")
        if at // columns == rows - 1 or at + columns >= len(names):
            axis.set_xlabel("true change, ln(1 + CP10k)")
        axis.tick_params(labelsize=7.5)
    figure.tight_layout()
    return figure


def _panel_of_changes(axis: Any, genes: NDArray[Any], true: NDArray[Any], predicted: NDArray[Any]) -> None:
    from matplotlib.patheffects import withStroke

    both = np.concatenate([true, predicted])
    pad = 0.08 * (np.ptp(both) or 1.0)
    ends = both.min() - pad, both.max() + pad
    axis.plot(ends, ends, "--", color=GREY, linewidth=1)
    axis.axhline(0, color="#e6eaee", linewidth=1, zorder=0)
    axis.axvline(0, color="#e6eaee", linewidth=1, zorder=0)
    axis.scatter(true, predicted, s=14, color=BLUE, alpha=0.75, linewidths=0)
    for gene in _spread(true, predicted, ends):
        right = true[gene] > ends[0] + 0.7 * (ends[1] - ends[0])
        axis.annotate(
            genes[gene],
            (true[gene], predicted[gene]),
            fontsize=7,
            xytext=(-4 if right else 4, 2),
            textcoords="offset points",
            ha="right" if right else "left",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],  # readable on top of points
        )
    axis.set(xlim=ends, ylim=ends)


def calibration(curve: Mapping[str, list[float]] | None, confusion: Mapping[str, Any]) -> Any:
    """Calibration curve with the number of cells of each bin, and the confusion matrix, rows summing to one."""
    figure = _figure(10.5 if curve else 5.25, 4.6)
    right = figure.add_subplot(1, 2 if curve else 1, 2 if curve else 1)
    if curve:
        axis = figure.add_subplot(1, 2, 1)
        axis.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        cells = np.asarray(curve["cells"])
        axis.plot(curve["stated"], curve["right"], "-", color=BLUE, linewidth=1, alpha=0.5)
        axis.scatter(
            curve["stated"], curve["right"], s=20 + 160 * cells / cells.max(), color=BLUE, alpha=0.8, linewidths=0
        )
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="probability of the label", ylabel="share that is right")
        axis.set_title("area of a point: number of cells", fontsize=9)
    _confusion_matrix(right, np.asarray(confusion["counts"], dtype=float), confusion["labels"])
    figure.tight_layout()
    return figure


def _confusion_matrix(axis: Any, counts: NDArray[Any], names: Sequence[str]) -> None:
    """Shares of each true label, for the most frequent labels."""
    order = np.argsort(-(counts.sum(axis=1) + counts.sum(axis=0)), kind="stable")[:_MAX_LABELS]
    labels = [names[place] for place in order]
    shares = counts[np.ix_(order, order)] / np.maximum(counts[order].sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7.5)
    axis.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axis.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(shares >= 0.005) if len(labels) <= _MAX_NUMBERED_LABELS else ():
        axis.text(
            column,
            row,
            f"{shares[row, column]:.2f}".lstrip("0"),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if shares[row, column] > 0.55 else INK,
        )


def cell_map(cells: Mapping[str, NDArray[Any]], layout: str, key: str) -> tuple[Any, str]:
    """Figure of the cells in two dimensions, a panel by kind and one by group; and its caption."""
    kinds = cells["kind"]
    flat, text = _flatten(cells["coordinates"], layout, key)
    expected = ", not the controls" if "control" in kinds else " of their group"
    text += f" Left: kinds of cells. Right: groups. Predicted cells should overlap the real ones{expected}."
    figure = _figure(10.5, 4.6)
    axis = figure.add_subplot(1, 2, 1)
    size = 5 if len(flat) > 1500 else 12
    order = np.random.default_rng(0).permutation(len(flat))
    colours = np.array([_KINDS[kind] for kind in kinds])
    axis.scatter(*flat[order].T, s=size, c=colours[order], linewidths=0, alpha=0.7)
    for kind, colour in _KINDS.items():
        if (kinds == kind).any():
            axis.scatter([], [], s=30, color=colour, label=f"{kind} ({int((kinds == kind).sum()):,})")
    axis.legend(frameon=False, fontsize=8.5, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.1))
    other = figure.add_subplot(1, 2, 2)
    groups = list(dict.fromkeys(cells["group"]))
    import matplotlib

    palette = matplotlib.colormaps["tab20"]
    for at, group in enumerate(groups):
        some = cells["group"] == group
        shown = group if at < 20 else None
        other.scatter(*flat[some].T, s=size, color=palette(at % 20), linewidths=0, alpha=0.7, label=shown)
    if len(groups) <= 20:
        other.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    for panel in (axis, other):
        panel.set(xticks=[], yticks=[])
    figure.tight_layout()
    return figure, text


def _flatten(coordinates: NDArray[Any], layout: str, key: str) -> tuple[NDArray[np.float64], str]:
    source = "principal components" if key == "pca" else f"obsm[{key!r}]"
    reducer: Any = None
    if layout in ("auto", "umap"):
        try:
            import umap
        except ImportError:
            if layout == "umap":
                raise ImportError(
                    "a UMAP needs umap-learn: pip install 'cell2sen[scanpy]', or pass layout='pca'"
                ) from None
        else:
            reducer = umap.UMAP(n_neighbors=min(15, len(coordinates) - 1), random_state=0, n_jobs=1)
    if reducer is not None:
        flat = np.asarray(reducer.fit_transform(coordinates), dtype=np.float64)
        return flat, f"UMAP (seed 0) of the {source} that distances were computed on; distances in it mean little."
    return coordinates[:, :2].astype(np.float64), f"The first two {source} that distances were computed on."


def _spread(true: NDArray[Any], predicted: NDArray[Any], ends: tuple[float, float], limit: int = 8) -> list[int]:
    """Points with the largest changes whose names do not cover each other."""
    span = ends[1] - ends[0]
    chosen: list[int] = []
    for gene in np.argsort(-np.maximum(np.abs(true), np.abs(predicted)), kind="stable"):
        near = any(
            abs(true[gene] - true[named]) < 0.3 * span and abs(predicted[gene] - predicted[named]) < 0.075 * span
            for named in chosen
        )
        if not near:
            chosen.append(int(gene))
        if len(chosen) == limit:
            break
    return chosen


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _any_value(overall: pd.Series[Any], name: str) -> bool:
    return bool(overall[name].notna().any()) if name in overall.index.get_level_values(0) else False


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
