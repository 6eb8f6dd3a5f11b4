"""Scores of groups, against computing by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from experiment import REAL, TWIN, groups_of, means, own_prediction, perturbed, run

from cell2sen.evaluation import metrics
from cell2sen.evaluation.scoring import cells
from cell2sen.evaluation.scoring.bootstrap import generator
from cell2sen.evaluation.scoring.resampling import Profile


@pytest.mark.slow
def test_groups_of_one_cell_have_no_distances_and_a_reason() -> None:
    keep = np.ones(REAL.n_obs, bool)
    keep[np.flatnonzero(((REAL.obs["drug"] == "beta") & (REAL.obs["cell_type"] == "B")).to_numpy())[1:]] = False
    evaluation = run(perturbed(TWIN), REAL[keep].copy())
    scores = evaluation.scores.set_index(["metric", "method", "group"])
    row = scores.loc[("e_distance", "prediction", "beta | B")]
    assert math.isnan(row["value"])
    assert "at least 10 of each are needed (min_cells=)" in row["reason"]
    assert "fewer than two real cells" in scores.loc[("pearson_delta", "prediction", "beta | B"), "reason"]
    assert "cannot be split" in scores.loc[("pearson", "ceiling", "beta | B"), "reason"]
    assert any("beta | B: 1" in note for note in evaluation.notes)
    # The mean is over the groups that can be scored; the table contains their number.
    assert evaluation.table.loc["e_distance", "n_groups"] == 5
    assert math.isfinite(evaluation.table.loc["e_distance", "prediction"])


def test_changes_from_split_controls_equal_computing_by_hand() -> None:
    evaluation = run(perturbed(TWIN), controls="split", metrics=["pearson_delta", "pearson_delta_disjoint"])
    groups = groups_of(perturbed(TWIN), controls="split")
    real = groups.real.cells
    halves = [real.rows(half).toarray().mean(axis=0) for half in groups.control_halves[("B",)]]
    order = np.argsort(REAL.var_names)
    true, predicted = means(REAL)["alpha", "B"][order], means(TWIN)["alpha", "B"][order]
    # Predicted cells of unknown origin are measured from all controls, the truth from one half, then from the other.
    control = means(REAL)["control", "B"][order]
    expected = np.mean([np.corrcoef(true - half, predicted - control)[0, 1] for half in halves])
    scores = evaluation.scores.set_index(["metric", "method", "group"])["value"]
    for metric in ("pearson_delta", "pearson_delta_disjoint"):
        assert scores[metric, "prediction", "alpha | B"] == pytest.approx(expected, abs=1e-5)


def test_sentences_are_counted_or_parsed() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    metrics = ["validity", "uniqueness"]
    predicted.obs["validity"] = np.where(np.arange(predicted.n_obs) % 2, 0.5, 1.0)
    predicted.obs["sentence"] = ["GENE1 GENE1 GENE2 NOGENE."] * predicted.n_obs
    table = run(predicted, metrics=metrics).table["prediction"]
    assert table["validity"] == 0.75  # the column of obs
    assert table["uniqueness"] == pytest.approx(2 / 3)  # no such column: the sentences are parsed
    del predicted.obs["validity"]
    predicted.obs["sentence"] = ["", *predicted.obs["sentence"][1:]]  # an empty answer has no valid word
    scores = run(predicted, metrics=metrics).scores.set_index(["metric", "method", "group"])
    assert scores.loc[("validity", "prediction", "alpha | B"), "value"] == pytest.approx(0.75 * 35 / 36)
    assert scores.loc[("validity", "prediction", "alpha | B"), "n_predicted"] == 36
    assert set(scores.loc["validity"].index.get_level_values("method")) == {"prediction"}
    del predicted.obs["sentence"]
    assert "obs has no column 'sentence'" in run(predicted, metrics=metrics).table.loc["validity", "reason"]


@pytest.mark.slow
def test_results_do_not_depend_on_which_metrics_are_computed() -> None:
    some = run(perturbed(TWIN), metrics=["e_distance", "pearson"]).table
    every = run(perturbed(TWIN)).table
    assert some.loc["e_distance", "low"] == every.loc["e_distance", "low"]
    assert some.loc["pearson", "high"] == every.loc["pearson", "high"]
    assert generator(0, "a").random() != generator(0, "b").random()


def test_one_perturbation_cannot_be_discriminated() -> None:
    predicted = perturbed(TWIN)
    predicted = predicted[predicted.obs["drug"] == "alpha"].copy()
    row = run(predicted, metrics=["discrimination"]).table.loc["discrimination"]
    assert math.isnan(row["prediction"])
    assert row["reason"] == "the context has only one predicted perturbation"


def test_threads_change_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, maps = [], []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4), raising=False)
        evaluation = run(perturbed(TWIN))
        scores.append(evaluation.scores)
        maps.append(evaluation.details["map"])
    pd.testing.assert_frame_equal(*scores)
    np.testing.assert_array_equal(maps[0]["coordinates"], maps[1]["coordinates"])
    assert maps[0]["group"].tolist() == maps[1]["group"].tolist()


@pytest.mark.parametrize("name", [name for name in metrics.names() if metrics.get(name).level in ("profile", "change")])
def test_an_answer_without_samples_is_compared_with_each_sample_of_the_truth(name: str) -> None:
    rng = np.random.default_rng(0)
    truth = Profile(point=rng.normal(size=60), samples=rng.normal(size=(7, 60)))
    point = truth.point + rng.normal(size=60)
    context = {"genes": np.arange(60), "others": rng.normal(size=(3, 60))}
    repeated = Profile(point=point, samples=np.repeat(point[None], 7, axis=0))
    answers = Profile.constant(point), repeated
    found = [cells._compare(metrics.get(name), truth, answer, context) for answer in answers]
    assert found[0].value == found[1].value
    np.testing.assert_allclose(found[0].by_cells, found[1].by_cells, rtol=1e-12)
    assert len(found[0].by_cells) == 7
