"""The user's labels find the model's."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.inference.labels import members, pool

TRAINED = ["CD4 T cell", "CD8 T cell", "B cell", "CD14+ monocyte", "FCGR3A+ monocyte"]
SPELLINGS = {
    "CD4 T cell": ["T cell", "CD4 T"],
    "CD8 T cell": ["T cell", "CD8+ T cell"],
    "B cell": ["B"],
    "CD14+ monocyte": ["CD14+ Mono", "monocyte"],
    "FCGR3A+ monocyte": ["monocyte"],
}


def test_spellings_plurals_and_case_find_the_trained_label():
    found = members(["B", "CD14+ Mono", "cd4 t cells", "Podocyte"], TRAINED, SPELLINGS)
    assert found == [("B cell",), ("CD14+ monocyte",), ("CD4 T cell",), ("Podocyte",)]
    assert members(["CD4 T-cell", "B cell."], TRAINED, SPELLINGS) == [("CD4 T cell",), ("B cell",)]


def test_a_broad_label_stands_for_several():
    assert members(["T cells", "Monocytes"], TRAINED, SPELLINGS) == [
        ("CD4 T cell", "CD8 T cell"),
        ("CD14+ monocyte", "FCGR3A+ monocyte"),
    ]


def test_the_narrower_label_takes_what_both_could_mean():
    assert members(["T cell", "CD8 T cell"], TRAINED, SPELLINGS) == [("CD4 T cell",), ("CD8 T cell",)]
    assert members(["CD8+ T cell", "T cell"], TRAINED, SPELLINGS) == [("CD8 T cell",), ("CD4 T cell",)]


def test_a_label_that_lost_all_its_members_is_scored_by_its_own_words():
    assert members(["CD14+ monocyte", "FCGR3A+ monocyte", "monocyte"], TRAINED, SPELLINGS)[2] == ("monocyte",)


def test_a_trained_label_takes_the_finer_ones_that_nobody_else_names():
    spellings = {"naive CD4 T cell": ["CD4 T cell"], "CD4 T cell": []}
    trained = ["CD4 T cell", "naive CD4 T cell"]
    assert members(["CD4 T cell", "B cell"], trained, spellings)[0] == ("CD4 T cell", "naive CD4 T cell")
    assert members(["CD4 T cell", "naive CD4 T cell"], trained, spellings) == [("CD4 T cell",), ("naive CD4 T cell",)]


def test_pooled_likelihoods_add_up():
    scores = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(np.exp(pool(scores, [(0, 1), (2,)])), [[0.3, 0.7], [0.75, 0.25]])


def test_two_names_of_the_same_label_are_refused():
    with pytest.raises(ValueError, match="'B cell' and 'B' mean the same"):
        members(["B cell", "B", "T cell"], TRAINED, SPELLINGS)
