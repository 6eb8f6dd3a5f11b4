"""The methods paragraph."""

from __future__ import annotations

import dataclasses

from cell2sen.evaluation.report.methods import paragraph, readable, scored_methods
from cell2sen.evaluation.result import Evaluation


def test_methods_paragraph_describes_the_evaluation(perturbed: Evaluation, labelled: Evaluation) -> None:
    text = paragraph(perturbed)
    for phrase in (
        "4 groups (perturbation × cell_type)",
        "60 shared genes",
        "drug = control; n = 48",
        "the same cells for truth and prediction",
        "8 principal components",
        "at most 500",
        "10 resamples",
        "mean shift",
        "Seed 0",
        "numpy",
    ):
        assert phrase in text, phrase
    assert "the labels in column 'cell_type'" in paragraph(labelled)


def test_methods_paragraph_names_baselines_ceiling_checks_and_model(perturbed: Evaluation) -> None:
    settings = {**perturbed.settings, "model": {"name": "nano", "weights_sha256": "ab12"}, "controls_used": "split"}
    text = paragraph(dataclasses.replace(perturbed, settings=settings))
    assert "no change (the control cells of the same context, unchanged), control mean" in text
    assert "label shuffle (the prediction itself, its groups exchanged), similar contexts (the changes in" in text
    assert " from other contexts); those that learn do so from" in text
    assert "The ceiling is one half of the real cells against the other half, which understates" in text
    assert "different halves of them for truth and prediction" in text
    assert "Leak checks passed: prediction is not a copied control" in text
    assert "Not established by the leak check: no test cell was trained on." in text
    assert "Predictions were made by model nano, weights ab12." in text
    assert "made by model" not in paragraph(perturbed)


def test_methods_are_those_that_were_scored(perturbed: Evaluation, labelled: Evaluation) -> None:
    assert [method.name for method in scored_methods(perturbed)] == list(perturbed.settings["methods"])
    assert "sentence_ceiling" not in perturbed.settings["methods"]
    assert [method.role for method in scored_methods(labelled)][-1] == "ceiling"
    assert readable("mean_shift") == "mean shift"
