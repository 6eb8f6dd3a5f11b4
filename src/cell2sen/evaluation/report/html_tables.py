"""Tables of a report: scores with verdicts, all methods, scores by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cell2sen.evaluation.inputs import JOIN, some_of
from cell2sen.evaluation.metrics import get
from cell2sen.evaluation.report.methods import readable, scored_methods
from cell2sen.evaluation.scoring.baselines.cells import Prediction, SentenceCeiling
from cell2sen.evaluation.scoring.baselines.method import Method
from cell2sen.evaluation.scoring.tables import best_of
from cell2sen.evaluation.settings import as_list

if TYPE_CHECKING:
    from cell2sen.evaluation.result import Evaluation

#: Rows and metrics of a table by group.
_MAX_ROWS, _MAX_METRICS = 40, 7

_CSS = {"better": "better", "worse": "worse", "missing": "missing", "unknown": "missing"}


def number(value: float) -> str:
    """Text of a number: 3 decimals below 10, 1 below 100, else none; a dash if it is not finite."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def score_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row per metric: prediction with intervals, best baseline, ceilings, verdict."""
    return [_score_row(str(name), row) for name, row in evaluation.table.rename(columns=str).iterrows()]


def _score_row(name: str, row: pd.Series[Any]) -> dict[str, Any]:
    verdict = str(row["verdict"])
    unknown = "not judged" if row["best_baseline"] else "no baseline"
    return {
        "metric": name,
        "prediction": number(row["prediction"]),
        "cells": _interval(row["low"], row["high"]),
        "groups": _interval(row["low_groups"], row["high_groups"]),
        "best_baseline": readable(str(row["best_baseline"])) or "–",
        "best_baseline_value": number(row["best_baseline_value"]) if row["best_baseline"] else "",
        "ceiling": number(row["ceiling"]),
        "perfect": f"{row['perfect']:g} {'↑' if row['better'] == 'higher' else '↓'}",
        "sentence_ceiling": number(row.get(SentenceCeiling.name, math.nan)),
        "verdict": unknown if verdict == "unknown" else verdict,
        "css": _CSS.get(verdict, ""),
        "reason": row["reason"],
    }


def _interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "–"


def all_methods(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Values of all methods, one row per metric; and each reason of missing values, with the metrics and methods."""
    overall = evaluation.scores[evaluation.scores["group"] == "all"].set_index(["metric", "method"])
    rows: list[dict[str, Any]] = []
    missing: dict[str, list[str]] = {}
    for name in evaluation.table.index:
        cells = []
        for method in scored_methods(evaluation):
            if (name, method.name) not in overall.index:
                cells.append({"value": "–", "reason": ""})
                continue
            value, reason = overall.loc[(name, method.name), "value"], str(overall.loc[(name, method.name), "reason"])
            cells.append({"value": number(value), "reason": reason})
            if reason:
                missing.setdefault(reason, []).append(f"{name} of {readable(method.name)}")
        rows.append({"metric": name, "cells": cells})
    return rows, [(reason, some_of(scores)) for reason, scores in missing.items()]


def challenge_rows(evaluation: Evaluation) -> dict[str, Any]:
    """Scored metrics of cell-eval2 and the names of their columns; empty where it did not run."""
    table = evaluation.challenge
    if table is None:
        return {"challenge": [], "challenge_columns": []}
    columns = [name for name in ("prediction", "baseline", "replicate", "scaled") if name in table]
    rows = [
        {
            "context": row["context"],
            "metric": row["metric"],
            "values": [number(float(row[name])) for name in columns],
            "does_not_show": row["does_not_show"],
        }
        for _, row in table[table["does_not_show"] != ""].iterrows()
    ]
    return {"challenge": rows, "challenge_columns": columns}


def by_group(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Scores by group; where groups are perturbations in contexts, by perturbation and by context."""
    scores = evaluation.scores[evaluation.scores["group"] != "all"]
    predicted = scores["method"].eq(Prediction.name) & scores["value"].notna()
    scored = set(scores.loc[predicted, "metric"])
    names = [name for name in evaluation.table.index if name in scored and get(name).shown == "groups"][:_MAX_METRICS]
    if scores.empty or not names:
        return []
    methods = scored_methods(evaluation)
    if evaluation.task in ("annotate", "text"):
        return [_part("By true label", "true label", scores.assign(part=scores["group"]), names, methods)]
    parts = scores["group"].str.split(JOIN, n=1, regex=False, expand=True)
    first = "perturbation" if evaluation.task == "perturb" else "label"
    if parts.shape[1] == 1:
        return [_part(f"By {first}", first, scores.assign(part=scores["group"]), names, methods)]
    context = JOIN.join(as_list(evaluation.settings["arguments"]["context"]))
    tables = []
    if parts[0].nunique() > 1:
        title = f"By {first}, averaged over {context or 'contexts'}"
        tables.append(_part(title, first, scores.assign(part=parts[0]), names, methods))
    if parts[1].nunique() > 1:
        title = f"By {context or 'context'}" + (f", averaged over {first}s" if parts[0].nunique() > 1 else "")
        tables.append(_part(title, context or "context", scores.assign(part=parts[1]), names, methods))
    return tables or [_part("By group", "group", scores.assign(part=scores["group"]), names, methods)]


def _part(
    title: str, column: str, scores: pd.DataFrame, names: Sequence[str], methods: Sequence[Method]
) -> dict[str, Any]:
    """Means of the scores of each value of the column ``part``, those of most real cells first."""
    means = scores.groupby(["part", "metric", "method"])["value"].mean()
    predicted = scores[scores["method"].eq(Prediction.name)]
    sizes = predicted.groupby(["part", "group"])["n_real"].max().groupby("part").sum()
    ordered = sorted(sizes.index, key=lambda part: -sizes[part])
    rows = [
        {"name": part, "n": int(sizes[part]), "cells": [_cell(means, part, name, methods) for name in names]}
        for part in ordered[:_MAX_ROWS]
    ]
    return {"title": title, "column": column, "metrics": names, "rows": rows, "more": max(0, len(ordered) - _MAX_ROWS)}


def _cell(means: pd.Series[Any], part: str, name: str, methods: Sequence[Method]) -> dict[str, str]:
    """The prediction's value, coloured by its distance from the best baseline."""
    metric, value = get(name), means.get((part, name, Prediction.name), math.nan)
    baselines = {
        method.name: means.get((part, name, method.name), math.nan) for method in methods if method.role == "baseline"
    }
    best = best_of(baselines, metric)
    if not best:
        return {"value": number(value), "colour": _colour(math.nan), "title": "no baseline"}
    gain = (value - baselines[best]) * (1 if metric.higher_is_better else -1)
    return {
        "value": number(value),
        "colour": _colour(gain),
        "title": f"best baseline: {readable(best)} {number(baselines[best])}",
    }


def _colour(gain: float) -> str:
    if not math.isfinite(gain) or abs(gain) < 1e-9:
        return "transparent"
    return "#dcf3e1" if gain > 0 else "#fde3e0"


def definitions(evaluation: Evaluation) -> list[dict[str, str]]:
    """Definition of each metric, with its range and perfect value."""
    rows = []
    for name in evaluation.table.index:
        metric = get(name)
        low, high = ("−∞" if metric.range[0] == -math.inf else f"{metric.range[0]:g}"), f"{metric.range[1]:g}"
        span = f"From {low} to {high.replace('inf', '∞')}; perfect: {metric.perfect:g}."
        rows.append({"name": name, "summary": metric.summary, "span": span})
    return rows


def setting_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Settings and versions as (name, text)."""
    shown = {
        name: value
        for name, value in evaluation.settings.items()
        if name not in ("methods", "size_of_predicted_change")
    }
    return [(readable(name), _text(value) or "–") for name, value in shown.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items() if item not in (None, "", [], {}))
    return some_of(list(map(str, value)), 30) if isinstance(value, list) else str(value)
