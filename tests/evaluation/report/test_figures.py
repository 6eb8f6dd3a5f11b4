"""Figures of the report: what is drawn, not how it looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cell2sen.evaluation.report import figures
from cell2sen.evaluation.report.methods import scored_methods
from cell2sen.evaluation.result import Evaluation

pytest.importorskip("matplotlib")


def test_each_metric_with_a_value_is_a_row(perturbed: Evaluation) -> None:
    figure = figures.scores(perturbed.scores, perturbed.table, scored_methods(perturbed))
    axis = figure.axes[0]
    drawn = [label.get_text().replace(" ", "_") for label in axis.get_yticklabels()]
    assert drawn == [name for name in perturbed.table.index if math.isfinite(perturbed.table.loc[name, "prediction"])]
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend[0] == "prediction"
    assert legend[-2:] == ["ceiling", "best baseline"]
    assert "mean shift" in legend


def test_the_better_end_is_on_the_right(perturbed: Evaluation) -> None:
    axis = figures.scores(perturbed.scores, perturbed.table, scored_methods(perturbed)).axes[0]
    names = [label.get_text().replace(" ", "_") for label in axis.get_yticklabels()]
    overall = perturbed.scores.query("group == 'all'").set_index(["metric", "method"])["value"]
    for metric, sign in (("pearson", 1), ("rmse_delta", -1)):
        places = {
            line.get_color(): line.get_xdata()[0]
            for line in axis.lines
            if list(line.get_ydata()) == [names.index(metric)] and line.get_color() in (figures.BLUE, figures.ORANGE)
        }
        better = sign * (overall[metric, "prediction"] - perturbed.table.loc[metric, "best_baseline_value"]) > 0
        assert (places[figures.BLUE] > places[figures.ORANGE]) == better


def test_changes_have_a_panel_per_group(perturbed: Evaluation) -> None:
    figure = figures.changes(perturbed.details["changes"])
    assert [axis.get_title() for axis in figure.axes] == list(perturbed.details["changes"])
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], next(iter(perturbed.details["changes"].values()))["true"])


def test_confusion_rows_are_shares_of_the_true_label(labelled: Evaluation) -> None:
    both = figures.calibration(labelled.details["calibration"], labelled.details["confusion"])
    assert len(both.axes) == 2
    only = figures.calibration(None, labelled.details["confusion"])
    shares = only.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_map_has_a_panel_of_kinds_and_one_of_groups(perturbed: Evaluation) -> None:
    figure, text = figures.cell_map(perturbed.details["map"], "pca", "pca")
    kinds, groups = (axis.get_legend() for axis in figure.axes)
    assert sorted(entry.get_text().split(" (")[0] for entry in kinds.get_texts()) == ["control", "predicted", "real"]
    assert len(groups.get_texts()) == 4
    assert text.startswith("The first two principal components that distances were computed on.")
