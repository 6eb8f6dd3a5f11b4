"""Figures of the report, drawn with matplotlib; no state outside of the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.evaluation.metrics.metrics import METRICS
from cell2sen.evaluation.scoring.arms import CEILING, NO_RIVALS, PREDICTION, SENTENCES

BLUE, ORANGE, GREEN, LIGHT, GREY, INK = "#0b5fa5", "#d97706", "#1a7f37", "#8fd19e", "#9aa4ae", "#1b1f24"
_MARKERS = "osD^vP"
_KINDS = {"real": "#1a7f37", "control": "#9aa4ae", "predicted": "#0b5fa5"}


def scores(long: pd.DataFrame, table: pd.DataFrame) -> Any:
    """One row a metric: prediction with interval, baselines and ceiling, the better end on the right."""
    overall = long[long["group"] == "all"].set_index(["metric", "arm"])["value"]
    names = [name for name in table.index if math.isfinite(table.loc[name, "prediction"]) or _has_any(overall, name)]
    arms = [arm for arm in dict.fromkeys(long["arm"]) if arm not in NO_RIVALS]
    figure = _figure(9.2, 0.36 * len(names) + 1.0)
    axis = figure.add_subplot()
    for at, name in enumerate(names):
        _score_row(axis, at, name, table.loc[name], overall, arms)
    axis.set(ylim=(len(names) - 0.4, -0.7), xlim=(-0.14, 1.14), xticks=[])
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.tick_params(left=False)
    for side in ("top", "right", "bottom", "left"):
        axis.spines[side].set_visible(False)
    axis.set_xlabel("worse  ←        →  better", color=INK)
    axis.plot([], [], "o", color=BLUE, markersize=9, label="prediction")
    axis.plot([], [], "|", color=GREEN, markersize=14, markeredgewidth=3, label="ceiling")
    if SENTENCES in set(long["arm"]):
        axis.plot([], [], "|", color=LIGHT, markersize=14, markeredgewidth=3, label="ceiling of sentences")
    for mark, arm in zip(_marks(arms), arms, strict=True):
        axis.plot([], [], mark, color=GREY, markersize=6, label=arm.replace("_", " "))
    axis.plot([], [], "s", color=ORANGE, markersize=6, label="best baseline")
    axis.legend(loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=4, frameon=False, fontsize=9)
    return figure


def _score_row(axis: Any, at: int, name: str, row: pd.Series[Any], overall: pd.Series[Any], arms: list[str]) -> None:
    sign = 1.0 if METRICS[name].higher_is_better else -1.0
    values = {arm: float(overall.get((name, arm), math.nan)) for arm in (PREDICTION, *arms, SENTENCES, CEILING)}
    seen = [value for value in (*values.values(), row["low"], row["high"]) if math.isfinite(value)]
    low, high = min(seen), max(seen)
    span = METRICS[name].range
    if sum(map(math.isfinite, values.values())) == 1 and all(map(math.isfinite, span)):
        low, high = span  # nothing to compare with but what is possible
    width = (high - low) or 1.0

    def place(value: float) -> float:
        share = float((value - low) / width)
        return share if sign > 0 else 1 - share

    axis.axhline(at, color="#e6eaee", linewidth=1, zorder=0)
    if math.isfinite(values[CEILING]):
        axis.plot(place(values[CEILING]), at, "|", color=GREEN, markersize=15, markeredgewidth=3, zorder=2)
    if math.isfinite(values[SENTENCES]):
        axis.plot(place(values[SENTENCES]), at, "|", color=LIGHT, markersize=15, markeredgewidth=3, zorder=2)
    for mark, arm in zip(_marks(arms), arms, strict=True):
        if math.isfinite(values[arm]):
            best = arm == row["best_baseline"]
            axis.plot(
                place(values[arm]), at, mark, color=ORANGE if best else GREY, markersize=6, zorder=4 if best else 3
            )
    if math.isfinite(values[PREDICTION]):
        if math.isfinite(row["low"]):
            axis.plot([place(row["low"]), place(row["high"])], [at, at], color=BLUE, linewidth=3, alpha=0.45, zorder=5)
        axis.plot(place(values[PREDICTION]), at, "o", color=BLUE, markersize=8.5, zorder=6)
    else:
        axis.text(1.02, at, "missing", color=GREY, va="center", fontsize=8.5, style="italic")
    ends = (low, high) if sign > 0 else (high, low)
    axis.text(-0.025, at, _short(ends[0]), ha="right", va="center", fontsize=7.5, color="#57606a")
    if math.isfinite(values[PREDICTION]):
        axis.text(1.025, at, _short(ends[1]), ha="left", va="center", fontsize=7.5, color="#57606a")


def changes(groups: Mapping[str, Mapping[str, Any]], most: int = 9) -> Any:
    """Predicted against true change of the top genes, one panel per group, genes with the largest true change named."""
    from matplotlib.patheffects import withStroke

    names = list(groups)[:most]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = _figure(3.3 * columns, 3.1 * rows)
    for at, name in enumerate(names):
        axis = figure.add_subplot(rows, columns, at + 1)
        true, predicted = np.asarray(groups[name]["true"]), np.asarray(groups[name]["predicted"])
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
                groups[name]["genes"][gene],
                (true[gene], predicted[gene]),
                fontsize=7,
                xytext=(-4 if right else 4, 2),
                textcoords="offset points",
                ha="right" if right else "left",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],  # readable on top of points
            )
        axis.set(xlim=ends, ylim=ends)
        axis.set_title(name, fontsize=9)
        if at % columns == 0:
            axis.set_ylabel("predicted change")
        if at // columns == rows - 1 or at + columns >= len(names):
            axis.set_xlabel("true change, ln(1 + CP10k)")
        axis.tick_params(labelsize=7.5)
    figure.tight_layout()
    return figure


def calibration(curve: Mapping[str, list[float]] | None, confusion: Mapping[str, Any], most: int = 25) -> Any:
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
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="stated probability of the label", ylabel="share that is right")
        axis.set_title("area of a point: number of cells", fontsize=9)
    counts = np.asarray(confusion["counts"], dtype=float)
    order = np.argsort(-(counts.sum(axis=1) + counts.sum(axis=0)), kind="stable")[:most]
    labels = [confusion["labels"][place] for place in order]
    shares = counts[np.ix_(order, order)] / np.maximum(counts[order].sum(axis=1, keepdims=True), 1)
    right.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    right.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7.5)
    right.set_yticks(range(len(labels)), labels, fontsize=7.5)
    right.set(xlabel="predicted", ylabel="true")
    if len(labels) <= 14:
        for row in range(len(labels)):
            for column in range(len(labels)):
                if shares[row, column] >= 0.005:
                    dark = shares[row, column] > 0.55
                    right.text(
                        column,
                        row,
                        f"{shares[row, column]:.2f}".lstrip("0"),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if dark else INK,
                    )
    figure.tight_layout()
    return figure


def cell_map(cells: Mapping[str, NDArray[Any]], layout: str, key: str) -> tuple[Any, str]:
    """Two panels: kinds of cells, and groups; and what the axes are."""
    kinds = cells["kind"]
    flat, text = _flatten(cells["coordinates"], layout, key)
    wanted = "not on the controls" if "control" in kinds else "each group on its own"
    text += f" Left: kinds of cells. Right: groups. Predicted cells should lie on the real ones, {wanted}."
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
    for one in (axis, other):
        one.set(xticks=[], yticks=[])
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
                    "a UMAP needs umap-learn: pip install 'cell2sen[scanpy]'; layout='pca' does without"
                ) from None
        else:
            reducer = umap.UMAP(n_neighbors=min(15, len(coordinates) - 1), random_state=0, n_jobs=1)
    if reducer is not None:
        flat = np.asarray(reducer.fit_transform(coordinates), dtype=np.float64)
        return (
            flat,
            f"UMAP (seed 0) of the {source} that distances were computed on; distances in it mean little.",
        )
    return coordinates[:, :2].astype(np.float64), f"The first two {source} that distances were computed on."


def _spread(true: NDArray[Any], predicted: NDArray[Any], ends: tuple[float, float], most: int = 8) -> list[int]:
    """Points with the largest changes whose names do not cover each other."""
    span = ends[1] - ends[0]
    chosen: list[int] = []
    for gene in np.argsort(-np.maximum(np.abs(true), np.abs(predicted)), kind="stable"):
        near = any(
            abs(true[gene] - true[one]) < 0.3 * span and abs(predicted[gene] - predicted[one]) < 0.075 * span
            for one in chosen
        )
        if not near:
            chosen.append(int(gene))
        if len(chosen) == most:
            break
    return chosen


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _marks(arms: list[str]) -> list[str]:
    return [_MARKERS[at % len(_MARKERS)] for at in range(len(arms))]


def _has_any(overall: pd.Series[Any], name: str) -> bool:
    return bool(overall[name].notna().any()) if name in overall.index.get_level_values(0) else False


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"
