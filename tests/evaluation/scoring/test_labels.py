"""Labels beside their baselines and ceiling, by cell and by donor."""

from __future__ import annotations

import math

import anndata as ad
import numpy as np
import pytest
from experiment import TWIN

from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.leakage import LeakError
from cell2sen.evaluation.metrics import metric


def test_labels_beside_their_baselines(labelled: ad.AnnData) -> None:
    pytest.importorskip("sklearn")
    evaluation = evaluate(labelled, labelled, resamples=30, context="donor", train_names=["x"])
    table = evaluation.table
    right = float((labelled.obs["cell2sen_cell_type"] + "s" == labelled.obs["cell_type"]).mean())
    assert table.loc["accuracy", "prediction"] == 0
    assert table.loc["normalised_accuracy", "prediction"] == pytest.approx(right)
    assert table.loc["normalised_accuracy", "majority_label"] == 0.5
    assert table.loc["normalised_accuracy", "verdict"] == "better"
    assert table.loc["normalised_accuracy", "ceiling"] > 0.95
    assert 0.4 < table.loc["normalised_accuracy", "label_shuffle"] < 0.55
    assert table.loc["normalised_accuracy", "low"] < right < table.loc["normalised_accuracy", "high"]
    assert math.isfinite(table.loc["macro_f1", "low_groups"])
    expected = abs(0.9 * right - right) + 0.6 * (1 - right)
    assert table.loc["expected_calibration_error", "prediction"] == pytest.approx(expected)
    missing = evaluation.scores.query("metric == 'accuracy' and method == 'nearest_training_cell'")
    assert missing["reason"].iloc[0] == "training cells are not known; pass train="
    assert set(evaluation.scores["group"]) == {"all", "B cells", "T cells"}


def test_nearest_training_cell_needs_training_cells(labelled: ad.AnnData) -> None:
    train = TWIN.copy()
    train.obs["cell_type"] = train.obs["cell_type"].map({"B": "B cells", "T": "T cells"}).astype(str)
    evaluation = evaluate(labelled, labelled, train=train, resamples=5, metrics=["normalised_accuracy"])
    assert evaluation.table.loc["normalised_accuracy", "nearest_training_cell"] > 0.95
    assert evaluation.table.loc["normalised_accuracy", "logistic_regression"] > 0.95


def test_labels_of_other_tools(labelled: ad.AnnData) -> None:
    predicted = labelled.copy()
    del predicted.uns["cell2sen"]
    predicted.obs["celltypist"] = np.where(labelled.obs["cell_type"] == "B cells", "B lymphocyte", "T lymphocyte")
    options = {"predicted_label": "celltypist", "resamples": 5}
    unknown = evaluate(predicted, labelled, **options)
    assert unknown.table.loc["normalised_accuracy", "prediction"] == 0
    assert any(
        "2 of 2 predicted labels (B lymphocyte, T lymphocyte) are none of the real" in note for note in unknown.notes
    )
    names = {"B lymphocyte": "B cells", "T lymphocyte": "T cells"}
    evaluation = evaluate(predicted, labelled, rename=names, **options).table
    assert evaluation.loc["normalised_accuracy", "prediction"] == 1
    assert "obs has no column 'celltypist_score'" in evaluation.loc["brier", "reason"]


def test_label_errors(labelled: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="no column 'annotation'"):
        evaluate(labelled, labelled, label="annotation")
    other = labelled.copy()
    other.obs_names = [f"x{name}" for name in other.obs_names]
    with pytest.raises(ValueError, match="no cell is in both files"):
        evaluate(other, labelled)
    with pytest.raises(LeakError, match="test cells are among"):
        evaluate(other, other, train_names=list(other.obs_names[:3]))


def test_cells_that_are_matched_by_numbers_must_look_the_same(labelled: ad.AnnData) -> None:
    assert not any("only count them" in note for note in evaluate(labelled, labelled, resamples=0).notes)
    other = TWIN.copy()
    other.obs_names = labelled.obs_names
    other.obs["cell2sen_cell_type"] = labelled.obs["cell2sen_cell_type"].to_numpy()
    notes = evaluate(other, labelled, task="annotate", resamples=0).notes
    assert any("names, which only count them (cell0, …)" in note for note in notes)


def test_normalised_labels_are_those_of_scores_and_figures(labelled: ad.AnnData) -> None:
    evaluation = evaluate(labelled, labelled, resamples=0)
    assert evaluation.details["confusion"]["labels"] == ["b cell", "nk cell", "t cell"]
    counts = np.array(evaluation.details["confusion"]["counts"])
    assert counts.sum() == labelled.n_obs
    right = np.trace(counts) / counts.sum()
    assert evaluation.table.loc["normalised_accuracy", "prediction"] == pytest.approx(right)
    curve = evaluation.details["calibration"]
    assert sum(curve["cells"]) == labelled.n_obs
    assert curve["stated"] == pytest.approx([0.6, 0.9])
    assert curve["right"] == pytest.approx([0, 1])


def test_a_metric_of_labels_without_resampling_is_called_for_each_sample(
    labelled: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cell2sen.evaluation import metrics

    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))

    @metric(level="labels", perfect=1.0, range=(0.0, 1.0))
    def share_of_b(truth: list[str], answer: list[str]) -> float:
        """Share of B cells among the answers."""
        return answer.count("b cell") / len(answer)

    row = evaluate(labelled, labelled, resamples=20, metrics=["share_of_b"]).table.loc["share_of_b"]
    assert row["prediction"] == (labelled.obs["cell2sen_cell_type"] == "B cell").mean()
    assert row["low"] < row["prediction"] < row["high"]


def test_texts_without_an_encoder_have_a_reason(labelled: ad.AnnData) -> None:
    row = evaluate(labelled, labelled, resamples=0, metrics=["bertscore"]).table.loc["bertscore"]
    assert row["reason"] == "no text encoder; pass encoder= (a directory or hub id)"


def test_one_object_needs_two_columns(labelled: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="are the same column 'cell_type'"):
        evaluate(labelled, labelled, predicted_label="cell_type")
    with pytest.raises(ValueError, match="need a column of predictions each, found"):
        evaluate(labelled, labelled, label=["cell_type", "donor"])
    unlabelled = labelled.copy()
    unlabelled.obs["truth"] = None
    with pytest.raises(ValueError, match=r"no cell has a true label in obs\['truth'\]"):
        evaluate(unlabelled, unlabelled, label="truth")


def test_several_columns_are_right_together(labelled: ad.AnnData) -> None:
    predicted = labelled.copy()
    del predicted.uns["cell2sen"]
    generator = np.random.default_rng(0)
    sex = generator.choice(["male; old", "female"], len(labelled))
    predicted.obs["sex"] = sex
    predicted.obs["guess"] = np.where(generator.random(len(labelled)) < 0.7, sex, "female")
    predicted.obs["type"] = predicted.obs["cell2sen_cell_type"].astype(str) + "s"
    predicted.obs["guess_score"], predicted.obs["type_score"] = 0.5, 0.8
    predicted.obs.loc[predicted.obs_names[:3], "sex"] = None
    evaluation = evaluate(
        predicted,
        predicted.copy(),
        label=["sex", "cell_type"],
        predicted_label=["guess", "type"],
        resamples=5,
        task="annotate",
    )
    obs = predicted.obs[3:]
    right = (obs["guess"] == obs["sex"]) & (obs["type"] == obs["cell_type"].astype(str))
    assert evaluation.table.loc["accuracy", "prediction"] == pytest.approx(right.mean())
    assert evaluation.table.loc["brier", "prediction"] == pytest.approx(np.mean((0.4 - right) ** 2))
    assert "male, old; B cells" in evaluation.settings["true_labels"]
    assert any("3 cells have no true label" in note for note in evaluation.notes)
    with pytest.raises(ValueError, match="must name a column for each of the labels"):
        evaluate(predicted, predicted.copy(), label=["sex", "cell_type"], predicted_label="guess", task="annotate")


def test_true_labels_that_could_not_be_chosen_are_named(labelled: ad.AnnData) -> None:
    predicted, real = labelled.copy(), labelled.copy()
    predicted.uns["cell2sen"] = {"annotate": {"key": "cell2sen_cell_type", "labels": np.array(["B cell", "T cell"])}}
    real.obs["cell_type"] = ["monocyte", *real.obs["cell_type"].astype(str)[1:]]
    notes = evaluate(predicted, real, resamples=5, task="annotate").notes
    assert "1 cells have a true cell_type (monocyte) that was not among the labels to choose from" in " ".join(notes)
    assert not any(
        "to choose from" in note for note in evaluate(predicted, labelled, resamples=5, task="annotate").notes
    )
