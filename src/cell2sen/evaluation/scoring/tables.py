"""Tables of scores: every metric of every method, and a verdict on each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from cell2sen.evaluation.inputs import group_name
from cell2sen.evaluation.metrics import Metric
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.baselines.cells import Ceiling, LabelShuffle, Prediction, SentenceCeiling
from cell2sen.evaluation.scoring.baselines.method import Method
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.groups import Key


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one method in one group."""

    metric: str
    method: str
    group: Key
    """Values that name the group; empty for all cells together."""

    estimate: Estimate
    n_predicted: int = 0
    n_real: int = 0


class Overall(NamedTuple):
    """A score over all groups, and the groups that it is the mean of."""

    estimate: Estimate
    groups: tuple[Key, ...]

    @property
    def n_groups(self) -> int:
        """Number of named groups."""
        return len([group for group in self.groups if group])


def over_groups(
    scores: Sequence[Score], metrics: Sequence[Metric], methods: Sequence[Method], unit: str, seed: int
) -> dict[tuple[str, str], Overall]:
    """(metric, method) → score over all groups: that of all cells together if there is one, else the mean over groups.

    Parameters
    ----------
    unit
        Unit of the interval over groups: ``"context"``, else the first value of a group's name.
    """
    overall, indexed = {}, _indexed(scores)
    for metric in metrics:
        by_method = {method.name: indexed.get((metric.name, method.name), {}) for method in methods}
        needed = {
            group
            for by_group in by_method.values()
            for group, score in by_group.items()
            if group and math.isfinite(score.estimate.value)
        }
        for name, by_group in by_method.items():
            if () in by_group:
                overall[metric.name, name] = Overall(by_group[()].estimate, ((),))
            elif by_group:
                overall[metric.name, name] = _mean(by_group, needed, unit, seed)
    return overall


def long_table(
    scores: Sequence[Score],
    overall: Mapping[tuple[str, str], Overall],
    metrics: Sequence[Metric],
    methods: Sequence[Method],
) -> pd.DataFrame:
    """One row per metric, method and group: see :attr:`cell2sen.evaluation.result.Evaluation.scores`."""
    rows, indexed = [], _indexed(scores)
    for metric in metrics:
        for method in methods:
            if (metric.name, method.name) not in overall:
                continue
            total, by_group = overall[metric.name, method.name], indexed[metric.name, method.name]
            counted = [by_group[group] for group in total.groups]
            names = {"metric": metric.name, "method": method.name}
            rows.append(
                {**names, "group": "all", **_values(total.estimate, metric), "n_groups": total.n_groups}
                | _sizes(counted)
                | {"reason": total.estimate.reason}
            )
            rows += [
                {**names, "group": group_name(group), **_values(score.estimate, metric), "n_groups": 1}
                | _sizes([score])
                | {"reason": score.estimate.reason}
                for group, score in by_group.items()
                if group
            ]
    return pd.DataFrame(rows)


def table(
    overall: Mapping[tuple[str, str], Overall], metrics: Sequence[Metric], methods: Sequence[Method]
) -> pd.DataFrame:
    """One row per metric: see :attr:`cell2sen.evaluation.result.Evaluation.table`."""
    rows = []
    for metric in metrics:
        estimates = {
            method.name: overall[metric.name, method.name].estimate
            for method in methods
            if (metric.name, method.name) in overall
        }
        values = {name: estimate.value for name, estimate in estimates.items()}
        baselines = [method.name for method in methods if method.role == "baseline"]
        prediction, best = estimates[Prediction.name], best_of({name: values.get(name) for name in baselines}, metric)
        if best:
            verdict = bootstrap.verdict(prediction, estimates[best], metric.higher_is_better)
        else:
            verdict = "unknown" if math.isfinite(prediction.value) else "missing"
        intervals = _values(prediction, metric)
        rows.append(
            {"metric": metric.name, "prediction": intervals.pop("value"), **intervals}
            | {"best_baseline": best, "best_baseline_value": values.get(best, math.nan), "verdict": verdict}
            | {"ceiling": values.get(Ceiling.name, math.nan)}
            | _calibrated(prediction.value, values, metric)
            | {name: value for name, value in values.items() if name == SentenceCeiling.name}
            | {"perfect": metric.perfect, "better": "higher" if metric.higher_is_better else "lower"}
            | {"n_groups": overall[metric.name, Prediction.name].n_groups}
            | {name: values.get(name, math.nan) for name in baselines}
            | {"reason": prediction.reason}
        )
    return pd.DataFrame(rows).set_index("metric")


def _calibrated(value: float, values: Mapping[str, float], metric: Metric) -> dict[str, float]:
    """Dynamic range of a metric of perturbations, and where the prediction is in it; nothing for other metrics.

    The range is from the prediction of other groups (``label_shuffle``) to real cells (``ceiling``), positive where the
    metric can tell them apart; ``scaled`` is 0 and 1 there, missing without a range.
    """
    if LabelShuffle.name not in values or Ceiling.name not in values:
        return {}
    sign = 1.0 if metric.higher_is_better else -1.0
    span = sign * (values[Ceiling.name] - values[LabelShuffle.name])
    scaled = sign * (value - values[LabelShuffle.name]) / span if span > 0 else math.nan
    return {"dynamic_range": span, "scaled": scaled}


def best_of(values: Mapping[str, float | None], metric: Metric) -> str:
    """Name of the best value, the first of equal ones; "" if no value is finite."""
    finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    if not finite:
        return ""
    return (max if metric.higher_is_better else min)(finite, key=lambda name: finite[name])


def _indexed(scores: Sequence[Score]) -> dict[tuple[str, str], dict[Key, Score]]:
    """(metric, method) → group → score."""
    indexed: dict[tuple[str, str], dict[Key, Score]] = {}
    for score in scores:
        indexed.setdefault((score.metric, score.method), {})[score.group] = score
    return indexed


def _values(estimate: Estimate, metric: Metric) -> dict[str, float]:
    low, high = bootstrap.interval(estimate.value, estimate.by_cells, metric.range)
    low_groups, high_groups = bootstrap.interval(estimate.value, estimate.by_units, metric.range)
    return {"value": estimate.value, "low": low, "high": high, "low_groups": low_groups, "high_groups": high_groups}


def _sizes(scores: Sequence[Score]) -> dict[str, int]:
    return {
        "n_predicted": sum(score.n_predicted for score in scores),
        "n_real": sum(score.n_real for score in scores),
    }


def _mean(scores: Mapping[Key, Score], needed: set[Key], unit: str, seed: int) -> Overall:
    """Mean over groups.

    A method without a value in a group where another method has one is missing: it must not choose its groups.
    """
    have = [group for group in scores if math.isfinite(scores[group].estimate.value)]
    lacking = sorted(needed - set(have))
    values = np.array([scores[group].estimate.value for group in have])
    if not have:
        reasons = (score.estimate.reason for score in scores.values() if score.estimate.reason)
        return Overall(Estimate(reason=next(reasons, "there are no values")), ())
    if lacking:
        why = next((scores[group].estimate.reason for group in lacking if group in scores), "no value")
        reason = (
            f"no value in {len(lacking)} of {len(needed)} groups ({group_name(lacking[0])}: {why}); "
            f"mean of the others {float(np.mean(values)):.3f}"
        )
        return Overall(Estimate(reason=reason), tuple(have))
    units = [group_name(group[1:]) if unit == "context" else group[0] for group in have]
    estimate = Estimate(
        value=float(values.mean()),
        by_cells=bootstrap.mean_of({group: scores[group].estimate.by_cells for group in have}),
        by_units=bootstrap.over_units(values, units, seed),
    )
    return Overall(estimate, tuple(have))
