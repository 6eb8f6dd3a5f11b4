"""Tables of the report."""

from __future__ import annotations

import math

import pytest

from cell2sen.evaluation.report.html_tables import all_methods, by_group, definitions, number, score_rows, setting_rows
from cell2sen.evaluation.result import Evaluation


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (math.nan, "–"),
        (-0.0001, "0.000"),
        (math.inf, "–"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_rows_of_scores_have_intervals_and_verdicts(perturbed: Evaluation, labelled: Evaluation) -> None:
    rows = {row["metric"]: row for row in score_rows(perturbed)}
    low, high = perturbed.table.loc["pearson_delta", ["low", "high"]]
    assert rows["pearson_delta"]["cells"] == f"{number(low)} to {number(high)}"
    assert rows["pearson_delta"]["perfect"] == "1 ↑"
    assert rows["e_distance"]["perfect"] == "0 ↓"
    assert rows["validity"]["verdict"] == "no baseline"
    assert rows["validity"]["sentence_ceiling"] == "–"
    assert {row["css"] for row in rows.values()} <= {"better", "worse", "missing", ""}
    assert {row["metric"] for row in score_rows(labelled)} == set(labelled.table.index)


def test_all_methods_have_a_value_or_a_reason(labelled: Evaluation) -> None:
    rows, reasons = all_methods(labelled)
    assert [len(row["cells"]) for row in rows] == [6] * len(labelled.table)
    missing = dict(reasons)["training cells are not known; pass train="]
    assert missing.startswith("accuracy of nearest training cell, accuracy of logistic regression, ")


def test_scores_by_group_compare_with_the_best_baseline(perturbed: Evaluation, labelled: Evaluation) -> None:
    by_perturbation, by_context = by_group(perturbed)
    assert by_perturbation["title"] == "By perturbation, averaged over cell_type"
    assert by_context["title"] == "By cell_type, averaged over perturbations"
    assert by_perturbation["metrics"][:2] == ["pearson_delta", "pearson_delta_top50"]
    assert len(by_perturbation["metrics"]) == 7
    row = next(row for row in by_perturbation["rows"] if row["name"] == "alpha")
    scores = perturbed.scores.query("metric == 'pearson_delta' and method == 'prediction'").set_index("group")["value"]
    expected = scores[[name for name in scores.index if name.startswith("alpha")]].mean()
    assert row["cells"][0]["value"] == number(expected)
    assert row["cells"][0]["title"].startswith("best baseline: ")
    assert row["n"] == 48
    assert [table["title"] for table in by_group(labelled)] == ["By true label"]


def test_definitions_and_settings_are_text(perturbed: Evaluation) -> None:
    metrics = {row["name"]: row for row in definitions(perturbed)}
    assert metrics["e_distance"]["span"] == "From 0 to ∞; perfect: 0."
    assert metrics["pearson"]["span"] == "From -1 to 1; perfect: 1."
    settings = dict(setting_rows(perturbed))
    assert settings["files"] == "predicted: AnnData in memory; real: AnnData in memory"
    assert settings["unit of group intervals"] == "context"
    assert "methods" not in settings
