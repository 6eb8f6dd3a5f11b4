"""Means over groups, intervals, best baselines and verdicts."""

from __future__ import annotations

import math

import anndata as ad
import numpy as np
import pytest
from experiment import REAL, TWIN, perturbed, run

from cell2sen.evaluation.metrics import get
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.scoring.baselines.method import methods
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.tables import Score, best_of, long_table, over_groups, table


def test_missing_values_have_reasons_and_no_value_is_invented(answers: dict[str, Evaluation]) -> None:
    for answer in answers.values():
        missing = answer.scores["value"].isna()
        assert (answer.scores.loc[missing, "reason"] != "").all()
        assert (answer.scores.loc[~missing, "reason"] == "").all()


def test_intervals_contain_their_values(answers: dict[str, Evaluation]) -> None:
    for answer in answers.values():
        for low, high in (("low", "high"), ("low_groups", "high_groups")):
            some = answer.scores.dropna(subset=[low])
            assert len(some) > 20
            assert (some[low] <= some["value"] + 1e-9).all()
            assert (some[high] >= some["value"] - 1e-9).all()
    assert answers["good"].settings["unit_of_group_intervals"] == "perturbation"


@pytest.mark.slow
def test_an_answer_must_not_choose_its_groups() -> None:
    """Undefined in one hard group: the mean over the others is in the reason only."""
    predicted = perturbed(TWIN)
    controls = REAL[(REAL.obs["drug"] == "control") & (REAL.obs["cell_type"] == "T")].copy()
    controls.obs["drug"] = "gamma"
    controls.obs_names = [f"copy-{name}" for name in controls.obs_names]
    others = predicted[~((predicted.obs["drug"] == "gamma") & (predicted.obs["cell_type"] == "T"))]
    row = run(ad.concat([others, controls])).table.loc["pearson_delta"]
    assert math.isnan(row["prediction"])
    assert row["reason"].startswith("no value in 1 of 6 groups (gamma | T:")
    assert "mean of the others 0.9" in row["reason"]


def scored(method: str, group: tuple[str, ...], value: float, spread: float = 0.01) -> Score:
    replicates = value + spread * np.linspace(-1, 1, 50)
    return Score(
        metric="pearson", method=method, group=group, estimate=Estimate(value=value, by_cells=replicates), n_real=7
    )


def test_tables_of_scores_by_hand() -> None:
    scores = [scored("prediction", (drug, "B"), value) for drug, value in zip("abc", (0.7, 0.8, 0.9), strict=True)]
    scores += [scored("no_change", (drug, "B"), value) for drug, value in zip("abc", (0.1, 0.2, 0.3), strict=True)]
    scores += [scored("mean_shift", ("a", "B"), 0.95)]
    metrics, scored_methods = [get("pearson")], methods("perturb")
    overall = over_groups(scores, metrics, scored_methods, "perturbation", 0)
    assert overall["pearson", "prediction"].estimate.value == pytest.approx(0.8)
    assert len(overall["pearson", "prediction"].estimate.by_units) == 2000
    assert (
        overall["pearson", "mean_shift"].estimate.reason
        == "no value in 2 of 3 groups (b | B: no value); mean of the others 0.950"
    )
    row = table(overall, metrics, scored_methods).loc["pearson"]
    assert (row["best_baseline"], row["best_baseline_value"]) == ("no_change", pytest.approx(0.2))
    assert (row["verdict"], row["n_groups"], row["better"]) == ("better", 3, "higher")
    long = long_table(scores, overall, metrics, scored_methods).set_index(["method", "group"])
    assert long.loc[("prediction", "all"), "n_real"] == 21
    assert long.loc[("prediction", "b | B"), "value"] == 0.8
    assert math.isnan(long.loc[("mean_shift", "all"), "value"])


def test_contexts_are_the_units_where_there_are_few_perturbations() -> None:
    scores = [
        scored("prediction", ("a", context), value) for context, value in zip("xyz", (0.1, 0.5, 0.9), strict=True)
    ]
    for unit, n in (("context", 2000), ("perturbation", 0)):
        overall = over_groups(scores, [get("pearson")], methods("perturb"), unit, 0)
        assert len(overall["pearson", "prediction"].estimate.by_units) == n


def test_the_best_value_depends_on_the_metric() -> None:
    values = {"a": 0.3, "b": 0.1, "c": math.nan, "d": None}
    assert best_of(values, get("pearson")) == "a"
    assert best_of(values, get("e_distance")) == "b"
    assert best_of({"c": math.nan}, get("pearson")) == ""
