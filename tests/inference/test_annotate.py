from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from cells import LABELS
from sessions import begin

import cell2sen as c2s
from cell2sen.inference import annotate
from cell2sen.inference.annotate import LabelProbabilities, label_probabilities, pool_scores, trained_labels


def test_probabilities_do_not_depend_on_the_order_of_labels() -> None:
    session = begin("annotate")
    forward, backward = label_probabilities(session, LABELS), label_probabilities(session, LABELS[::-1])
    np.testing.assert_allclose(forward.probabilities, backward.probabilities[:, ::-1])
    assert forward.pick()[0] == backward.pick()[0]


def test_pick_abstains() -> None:
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [np.nan, np.nan]])
    choices = LabelProbabilities(labels=("a", "b"), probabilities=probabilities, temperature=1.0, calibrated=False)
    assert choices.pick()[0] == ["a", "b", "unknown"]
    picked, scores = choices.pick(0.56, "?")
    assert picked == ["a", "?", "?"]
    assert scores.tolist() == [0.6, 0.55, 0.0]


TRAINED = ["CD4 T cell", "CD8 T cell", "B cell", "CD14+ monocyte", "FCGR3A+ monocyte"]
SPELLINGS = {
    "CD4 T cell": ["T cell", "CD4 T"],
    "CD8 T cell": ["T cell", "CD8+ T cell"],
    "B cell": ["B"],
    "CD14+ monocyte": ["CD14+ Mono", "monocyte"],
    "FCGR3A+ monocyte": ["monocyte"],
}


def test_spellings_plurals_and_case_find_the_trained_label() -> None:
    labels = trained_labels(["B", "CD14+ Mono", "cd4 t cells", "Podocyte"], TRAINED, SPELLINGS)
    assert labels == [("B cell",), ("CD14+ monocyte",), ("CD4 T cell",), ("Podocyte",)]
    assert trained_labels(["CD4 T-cell", "B cell."], TRAINED, SPELLINGS) == [("CD4 T cell",), ("B cell",)]


def test_a_broad_label_stands_for_several() -> None:
    assert trained_labels(["T cells", "Monocytes"], TRAINED, SPELLINGS) == [
        ("CD4 T cell", "CD8 T cell"),
        ("CD14+ monocyte", "FCGR3A+ monocyte"),
    ]


def test_shared_trained_labels_go_to_the_narrower_label() -> None:
    assert trained_labels(["T cell", "CD8 T cell"], TRAINED, SPELLINGS) == [("CD4 T cell",), ("CD8 T cell",)]
    assert trained_labels(["CD8+ T cell", "T cell"], TRAINED, SPELLINGS) == [("CD8 T cell",), ("CD4 T cell",)]


def test_labels_without_trained_labels_of_their_own_stand_for_themselves() -> None:
    assert trained_labels(["CD14+ monocyte", "FCGR3A+ monocyte", "monocyte"], TRAINED, SPELLINGS)[2] == ("monocyte",)


def test_trained_labels_stand_for_finer_ones_that_are_not_listed() -> None:
    spellings = {"naive CD4 T cell": ["CD4 T cell"], "CD4 T cell": []}
    trained = ["CD4 T cell", "naive CD4 T cell"]
    assert trained_labels(["CD4 T cell", "B cell"], trained, spellings)[0] == ("CD4 T cell", "naive CD4 T cell")
    assert trained_labels(["CD4 T cell", "naive CD4 T cell"], trained, spellings) == [
        ("CD4 T cell",),
        ("naive CD4 T cell",),
    ]


def test_pooled_likelihoods_add_up() -> None:
    scores = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(np.exp(pool_scores(scores, [(0, 1), (2,)])), [[0.3, 0.7], [0.75, 0.25]])


def test_two_names_of_the_same_label_are_refused() -> None:
    with pytest.raises(ValueError, match="'B cell' and 'B' mean the same"):
        trained_labels(["B cell", "B", "T cell"], TRAINED, SPELLINGS)


def test_upper_bounds_of_improbable_labels_change_no_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = sc.datasets.pbmc68k_reduced()[:12].raw.to_adata()
    probabilities = []
    for negligible in (annotate.NEGLIGIBLE, np.inf):  # with infinity each sum over the vocabulary is computed
        monkeypatch.setattr(annotate, "NEGLIGIBLE", negligible)
        c2s.tl.annotate(cells, progress=False)
        probabilities.append(c2s.tl.probabilities(cells).to_numpy())
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-4)
    assert (probabilities[0].argmax(axis=1) == probabilities[1].argmax(axis=1)).all()
