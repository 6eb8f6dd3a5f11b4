"""Overlap of lists of genes and words of names, counted by hand."""

from __future__ import annotations

import pytest

from cell2sen.evaluation.metrics.gene_sets import exact_name, jaccards, set_jaccard, set_overlap, word_f1, word_f1s

TRUTH = [("A", "B", "C", "D"), ("A", "B")]


def test_lists() -> None:
    answer = [("B", "A", "X"), ("Y",)]
    assert set_overlap(TRUTH, answer) == (2 / 4 + 0) / 2
    assert set_jaccard(TRUTH, answer) == (2 / 5 + 0) / 2
    assert set_overlap(TRUTH, TRUTH) == set_jaccard(TRUTH, TRUTH) == 1
    assert jaccards([()], [()]).tolist() == [0]
    assert set_overlap([()], [("A",)]) == 0


def test_names() -> None:
    truth = ["HALLMARK_HYPOXIA", "response to IL-6"]
    assert exact_name(truth, ["hallmark hypoxia", "Response to IL 6."]) == 1
    assert exact_name(truth, ["hypoxia hallmark", "response"]) == 0
    assert word_f1s(truth, ["hypoxia", ""]).tolist() == pytest.approx([2 * 1 / 3, 0])
    assert word_f1(truth, ["hypoxia hallmark", "response to IL-6"]) == 1
    assert word_f1s(["a a b"], ["a b b"]).tolist() == pytest.approx([2 * 2 / 6])
