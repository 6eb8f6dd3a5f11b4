"""Baselines and ceilings equal their definitions; a new one is one class."""

from __future__ import annotations

import math

import numpy as np
import pytest
from experiment import DRUGS, REAL, TWIN, TYPES, groups_of, means, own_prediction, perturbed, run

from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.scoring.baselines import cells as baselines
from cell2sen.evaluation.scoring.baselines import method as menu
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.resampling import Group, Profile

KEY = ("alpha", "B")
FIT = {"slope": -0.8, "intercept": 2.5, "r_squared": 0.9}


def test_methods_equal_their_definitions(answers: dict[str, Evaluation]) -> None:
    true, predicted = means(REAL), means(TWIN)
    overall = (
        answers["good"].scores.query("group != 'all'").set_index(["metric", "method", "group"])["value"].sort_index()
    )
    for kind in TYPES:
        other = TYPES[1 - TYPES.index(kind)]
        control = true["control", kind]
        for drug in DRUGS:
            group = f"{drug} | {kind}"
            delta = true[drug, kind] - control
            shift = true[drug, other] - true["control", other]
            expected = {
                ("pearson_delta", "prediction"): np.corrcoef(delta, predicted[drug, kind] - control)[0, 1],
                ("pearson_delta", "mean_shift"): np.corrcoef(delta, shift)[0, 1],
                ("pearson_delta", "mean_of_perturbed"): np.corrcoef(delta, true[drug, other] - control)[0, 1],
                ("pearson", "no_change"): np.corrcoef(true[drug, kind], control)[0, 1],
                ("pearson", "mean_shift"): np.corrcoef(true[drug, kind], np.maximum(control + shift, 0))[0, 1],
                ("rmse_delta", "no_change"): math.sqrt(np.mean(delta**2)),
                ("pearson", "control_mean"): np.corrcoef(
                    true[drug, kind], (true["control", "B"] + true["control", "T"]) / 2
                )[0, 1],
            }
            for (metric, method), value in expected.items():
                assert overall[metric, method, group] == pytest.approx(value, abs=1e-5), (metric, method, group)
            own = np.abs(predicted[drug, kind] - true[drug, kind]).sum()
            others = [true[other, kind] for other in DRUGS if other != drug]
            nearer = sum(np.abs(predicted[drug, kind] - other).sum() < own for other in others)
            assert overall["discrimination", "prediction", group] == 1 - nearer / 2
    total = answers["good"].table.loc["pearson_delta", "prediction"]
    assert total == pytest.approx(overall["pearson_delta", "prediction"].mean())


@pytest.mark.slow
def test_training_cells_feed_the_baselines() -> None:
    evaluation = run(perturbed(TWIN), train=TWIN, leaks="report")
    assert evaluation.settings["baselines_learn_from"] == "train"
    # The training cells are of the scored groups: their mean is as good as these cells allow.
    assert evaluation.table.loc["pearson_delta", "mean_of_perturbed"] > 0.9
    assert (
        evaluation.table.loc["e_distance", "nearest_training_cell"]
        < 0.3 * evaluation.table.loc["e_distance", "no_change"]
    )


def test_a_baseline_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(menu, "_METHODS", {task: dict(methods) for task, methods in menu._METHODS.items()})

    @menu.baseline("perturb")
    class TwiceTheShift(baselines.Baseline):
        """Twice the mean change in training."""

        def change(self, group: Group, fold: int | None) -> Profile:
            """The change."""
            return Profile.constant(2 * baselines.MeanShift().change(group, fold).point)

    evaluation = run(perturbed(TWIN), metrics=["pearson_delta", "pearson", "e_distance"], resamples=0)
    assert evaluation.table.loc["pearson_delta", "twice_the_shift"] == pytest.approx(
        evaluation.table.loc["pearson_delta", "mean_shift"]
    )
    scores = evaluation.scores.query("method == 'twice_the_shift' and group == 'all'").set_index("metric")
    assert scores.loc["pearson", "reason"] == "twice_the_shift predicts no expression"
    assert scores.loc["e_distance", "reason"] == "twice_the_shift predicts no cells"
    assert evaluation.settings["methods"]["twice_the_shift"] == "twice the mean change in training"


def test_cells_of_each_method_are_near_controls_or_real_cells() -> None:
    groups = groups_of(perturbed(TWIN))
    embedding = Embedding.fit("pca", groups.real.cells, np.arange(REAL.n_obs), 5)
    group = Group(groups, KEY, embedding)
    control = embedding.cells(groups.real.cells, groups.real.controls[("B",)])
    real = embedding.cells(groups.real.cells, group.real_rows)
    for method in menu.methods("perturb"):
        if not method.run.available(groups):
            assert method.name == "sentence_ceiling"
            continue
        cells = method.run.cells(group, 18)
        assert cells.shape == (18, 5), method.name
        distances = [np.linalg.norm(cells.mean(axis=0) - side.mean(axis=0)) for side in (control, real)]
        if method.name in ("prediction", "ceiling", "mean_shift"):
            assert distances[1] < distances[0], method.name
        if method.name == "no_change":
            assert distances[0] < distances[1]
        if method.name in ("control_mean", "mean_of_perturbed"):
            assert (cells == cells[0]).all()


def test_a_delta_layer_is_the_change_of_a_prediction() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    groups = groups_of(predicted)
    rows = groups.predicted.groups[KEY]
    change = baselines.Prediction().change(Group(groups, KEY, None), None)
    delta = predicted.layers["delta"][rows].toarray().mean(axis=0)[np.argsort(predicted.var_names)]
    np.testing.assert_allclose(change.point, delta, atol=1e-6)
    # In a fold, only cells made from that half of the controls count.
    half = baselines.Prediction().change(Group(groups, KEY, None), 0)
    kept = rows[groups.source_halves[rows] == 0]
    assert len(kept) == len(rows) // 2
    expected = predicted.layers["delta"][kept].toarray().mean(axis=0)[np.argsort(predicted.var_names)]
    np.testing.assert_allclose(half.point, expected, atol=1e-6)


def test_the_ceiling_of_sentences_is_below_that_of_cells() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    metrics = ["pearson_delta", "pearson"]
    assert "sentence_ceiling" not in run(predicted, metrics=metrics).table
    predicted.uns["cell2sen"]["perturb"]["fit"] = FIT
    table = run(predicted, metrics=metrics).table
    assert (table["sentence_ceiling"] < table["ceiling"]).all()
    assert (table["sentence_ceiling"] > 0.2).all()


def test_one_group_has_no_partner_and_one_cell_no_halves() -> None:
    one_drug = perturbed(TWIN)
    one_drug = one_drug[(one_drug.obs["drug"] == "alpha") & (one_drug.obs["cell_type"] == "B")].copy()
    group = Group(groups_of(one_drug), KEY, None)
    with pytest.raises(Missing, match="only one group, so there is none to exchange with"):
        baselines.LabelShuffle().expression(group)
    lonely = REAL[np.r_[0:36, 36, 72 : REAL.n_obs]].copy()
    with pytest.raises(Missing, match="one real cell: it cannot be split"):
        baselines.Ceiling().expression(Group(groups_of(one_drug, lonely), KEY, None))
