"""Tables of scores: groups and their means beside each other, and a verdict on each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cell2sen.evaluation.inputs import label
from cell2sen.evaluation.metrics.metrics import Metric
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.arms import CEILING, NO_RIVALS, PREDICTION, SENTENCES
from cell2sen.evaluation.scoring.bootstrap import Score


@dataclass(frozen=True, kw_only=True)
class Overall:
    """A score over all groups, with what its intervals come from."""

    value: float
    by_cells: np.ndarray[Any, Any]
    by_units: np.ndarray[Any, Any]
    groups: tuple[tuple[str, ...], ...]
    reason: str


def assemble(scores: list[Score], chosen: list[Metric], arms: Sequence[str], unit: str, seed: int) -> dict[str, Any]:
    """Long table of groups and the means over groups, with what the verdicts need."""
    rows, overall = [], {}
    for one in chosen:
        by_arm = {
            arm: {score.group: score for score in scores if score.metric == one.name and score.arm == arm}
            for arm in arms
        }
        needed = {
            group
            for scores_of in by_arm.values()
            for group, score in scores_of.items()
            if group and math.isfinite(score.value)
        }
        for arm, scores_of in by_arm.items():
            if not scores_of:
                continue
            total = scores_of.get(()) or None
            found = _given(total) if total is not None else _mean(scores_of, needed, unit, seed)
            overall[one.name, arm] = found
            low, high = bootstrap.interval(found.value, found.by_cells, one.range)
            low_groups, high_groups = bootstrap.interval(found.value, found.by_units, one.range)
            counted = [scores_of[group] for group in found.groups]
            rows.append(
                {
                    "metric": one.name,
                    "arm": arm,
                    "group": "all",
                    "value": found.value,
                    "low": low,
                    "high": high,
                    "low_groups": low_groups,
                    "high_groups": high_groups,
                    "n_groups": len([group for group in found.groups if group]),
                    "n_predicted": sum(score.n_predicted for score in counted),
                    "n_real": sum(score.n_real for score in counted),
                    "reason": found.reason,
                }
            )
            for group, score in scores_of.items():
                if group:
                    low, high = bootstrap.interval(score.value, score.replicates, one.range)
                    rows.append(
                        {
                            "metric": one.name,
                            "arm": arm,
                            "group": label(group),
                            "value": score.value,
                            "low": low,
                            "high": high,
                            "low_groups": math.nan,
                            "high_groups": math.nan,
                            "n_groups": 1,
                            "n_predicted": score.n_predicted,
                            "n_real": score.n_real,
                            "reason": score.reason,
                        }
                    )
    return {"scores": pd.DataFrame(rows), "overall": overall}


def _given(score: Score) -> Overall:
    return Overall(
        value=score.value, by_cells=score.replicates, by_units=score.by_units, groups=((),), reason=score.reason
    )


def _mean(
    scores: Mapping[tuple[str, ...], Score],
    needed: set[tuple[str, ...]],
    unit: str,
    seed: int,
) -> Overall:
    """Mean over groups.

    An arm that has no value in a group where another arm has one is missing: it must not choose its groups.
    """
    have = [group for group in scores if math.isfinite(scores[group].value)]
    lacking = sorted(needed - set(have))
    reason = ""
    if not have:
        reason = next((score.reason for score in scores.values() if score.reason), "there are no values")
    elif lacking:
        mean = float(np.mean([scores[group].value for group in have]))
        why = next((scores[group].reason for group in lacking if group in scores), "no value")
        reason = (
            f"no value in {len(lacking)} of {len(needed)} groups ({label(lacking[0])}: {why}); "
            f"mean of the others {mean:.3f}"
        )
    if reason:
        return Overall(value=math.nan, by_cells=np.array([]), by_units=np.array([]), groups=tuple(have), reason=reason)
    values = np.array([scores[group].value for group in have])
    units = [label(group[1:]) if unit == "context" else group[0] for group in have]
    return Overall(
        value=float(values.mean()),
        by_cells=bootstrap.mean_of({group: scores[group].replicates for group in have}),
        by_units=bootstrap.over_units(values, units, seed),
        groups=tuple(have),
        reason="",
    )


def table(assembled: dict[str, Any], chosen: list[Metric], arms: Sequence[str]) -> pd.DataFrame:
    """One row per metric, of what :func:`assemble` made: see :attr:`cell2sen.evaluation.evaluate.Evaluation.table`."""
    overall: dict[tuple[str, str], Overall] = assembled["overall"]
    rows = []
    for one in chosen:
        values = {arm: overall[one.name, arm].value for arm in arms if (one.name, arm) in overall}
        found = overall[one.name, PREDICTION]
        low, high = bootstrap.interval(found.value, found.by_cells, one.range)
        low_groups, high_groups = bootstrap.interval(found.value, found.by_units, one.range)
        rivals = {arm: value for arm, value in values.items() if arm not in NO_RIVALS and math.isfinite(value)}
        best = (max if one.higher_is_better else min)(rivals, key=lambda arm: rivals[arm]) if rivals else ""
        rows.append(
            {
                "metric": one.name,
                "prediction": found.value,
                "low": low,
                "high": high,
                "low_groups": low_groups,
                "high_groups": high_groups,
                "best_baseline": best,
                "best_baseline_value": rivals.get(best, math.nan),
                "verdict": _verdict(found, overall[one.name, best], one)
                if best
                else "unknown"
                if math.isfinite(found.value)
                else "missing",
                "ceiling": values.get(CEILING, math.nan),
                **({SENTENCES: values[SENTENCES]} if SENTENCES in values else {}),
                "perfect": one.perfect,
                "better": "higher" if one.higher_is_better else "lower",
                "n_groups": len([group for group in found.groups if group]),
                **{arm: values.get(arm, math.nan) for arm in arms if arm not in NO_RIVALS},
                "reason": found.reason,
            }
        )
    return pd.DataFrame(rows).set_index("metric")


def _verdict(found: Overall, baseline: Overall, one: Metric) -> str:
    pairs = []
    for mine, other in ((found.by_cells, baseline.by_cells), (found.by_units, baseline.by_units)):
        pairs.append(mine - other if len(mine) and len(mine) == len(other) else np.array([]))
    return bootstrap.verdict(found.value, baseline.value, pairs[0], pairs[1], one.higher_is_better)
