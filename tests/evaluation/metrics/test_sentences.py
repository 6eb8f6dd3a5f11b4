"""Validity and uniqueness, against counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen.evaluation.metrics import sentences


def test_validity_and_uniqueness() -> None:
    known = {"CD3D", "LYZ", "NKG7"}
    sentence = "CD3D LYZ CD3D FOO NKG7 CD3D."
    assert sentences.validity(sentence, known) == pytest.approx(5 / 6)
    assert sentences.uniqueness(sentence, known) == pytest.approx(3 / 5)
    # The validity of an empty sentence is 0, as in obs of tl.perturb and tl.generate.
    assert sentences.validity("", known) == 0
    assert sentences.uniqueness("FOO BAR", known) == 0


@given(st.lists(st.sampled_from(["A", "B", "C", "x"]), min_size=1, max_size=30))
def test_validity_equals_counting(words: list[str]) -> None:
    known = {"A", "B", "C"}
    genes = [word for word in words if word != "x"]
    assert sentences.validity(words, known) == pytest.approx(len(genes) / len(words))
    if genes:
        assert sentences.uniqueness(words, known) == pytest.approx(len(set(genes)) / len(genes))
