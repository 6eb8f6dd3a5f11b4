"""Scores with the Cell Ontology, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.data.names.ontology import cell_ontology
from cell2sen.evaluation.metrics.ontology import f1_of_terms, ontology_accuracy, ontology_f1, right_at_common_parent


def test_right_at_a_common_parent() -> None:
    truth = ["naive cd4 t cell", "memory cd4 t cell", "cd8 t cell", "cd8 t cell", "b cell", "memory cd4 t cell"]
    answer = ["cd4 t cell", "cd4 t cell", "cd4 t cell", "cd8 t cell", "naive b cell", "b cell"]
    assert right_at_common_parent(truth, answer).tolist() == [1, 1, 0, 1, 1, 0]
    assert ontology_accuracy(truth, answer) == pytest.approx(4 / 6)
    assert right_at_common_parent(["naive t cell", "b cell"], ["cd4 t cell"] * 2).tolist() == [1, 0]


def test_a_constant_answer_is_right_for_its_own_type_only() -> None:
    truth = ["cd4 t cell", "cd8 t cell", "nk cell", "b cell", "cd14+ monocyte", "dendritic cell"]
    assert right_at_common_parent(truth, ["cd4 t cell"] * 6).tolist() == [1, 0, 0, 0, 0, 0]


def test_a_parent_that_is_too_general_is_not_enough() -> None:
    assert right_at_common_parent(["neuron", "t cell"], ["b cell", "b cell"]).tolist() == [0, 0]
    assert right_at_common_parent(["monocyte"], ["b cell"]).tolist() == [0]


def test_labels_without_id_are_compared_as_text() -> None:
    assert right_at_common_parent(["cluster 1", "cluster 2"], ["cluster 1", "cluster 1"]).tolist() == [1, 0]
    assert f1_of_terms(["cluster 1", "cluster 2"], ["cluster 1", "t cell"]).tolist() == [1, 0]


def test_same_term_in_other_words() -> None:
    truth, answer = ["nk cell", "natural killer cell", "b cell"], ["natural killer cell", "nk cell", "nk cell"]
    assert right_at_common_parent(truth, answer).tolist() == [1, 1, 0]
    assert f1_of_terms(truth, answer)[:2].tolist() == [1, 1]


def test_f1_of_terms() -> None:
    ontology = cell_ontology()
    above = {name: ontology.above(ontology.id_of(name) or "") for name in ("b cell", "t cell")}
    expected = 2 * len(above["b cell"] & above["t cell"]) / (len(above["b cell"]) + len(above["t cell"]))
    np.testing.assert_allclose(f1_of_terms(["b cell", "b cell"], ["t cell", "b cell"]), [expected, 1])
    assert ontology_f1(["b cell", "b cell"], ["t cell", "b cell"]) == pytest.approx((expected + 1) / 2)
    assert 0 < expected < 1
