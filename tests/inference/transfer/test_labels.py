"""Labels of a reference, carried over: against scikit-learn by hand, and what must not change them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata_objects import PromptRecorder
from cells import GENES, fake
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from typed_cells import TYPES, typed

from cell2sen.inference.transfer.labels import (
    Transferred,
    TransferSettings,
    compared_cells,
    transfer_labels,
)
from cell2sen.inference.transfer.sides import open_sides


def transferred(query: Any, reference: Any, **settings: Any) -> Transferred:
    with open_sides(query, reference, {"model": fake(), "progress": False}) as sides:
        return transfer_labels(sides, TransferSettings(label="cell_type", **settings))


def probabilities(result: Transferred) -> np.ndarray:
    return result.probabilities.probabilities


def test_labels_are_right_and_the_choice_is_recorded() -> None:
    query, reference = typed(60, seed=1), typed(120, seed=2)
    result = transferred(query, reference)
    assert result.probabilities.labels == TYPES
    np.testing.assert_allclose(probabilities(result).sum(axis=1), 1)
    picked, _ = result.probabilities.pick()
    assert np.mean(np.array(picked) == query.obs["cell_type"]) > 0.9
    assert len(result.record["candidates"]) == 6
    table = result.record["candidates"]["log_loss"]
    chosen = f"{result.record['classifier']} on {result.record['features']}"
    assert result.record["held_out"]["log_loss"] == table[chosen] <= table.min() + 0.02
    assert result.record["cells_per_label"].sum() == result.record["n_reference"] == 120
    assert not result.in_reference.any()


def test_against_scikit_learn_by_hand() -> None:
    query, reference = typed(30, seed=1), typed(90, seed=2)
    result = transferred(query, reference, classifier="logistic", features="embedding")
    with open_sides(query, reference, {"model": fake(), "progress": False}) as sides:
        vectors, cells = (side.embedding().astype(float) for side in (sides.reference, sides.query))
    centre, width = vectors.mean(axis=0), vectors.std(axis=0)
    labels = reference.obs["cell_type"]
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-6).fit((vectors - centre) / width, labels)
    logits = model.decision_function((cells - centre) / width) / result.probabilities.temperature
    np.testing.assert_allclose(probabilities(result), softmax(logits, axis=1), atol=2e-3)


@pytest.mark.parametrize("settings", [{}, {"classifier": "neighbours"}, {"features": "both"}])
def test_a_cell_is_labelled_alone(settings: Any) -> None:
    query, reference = typed(30, seed=1), typed(90, seed=2)
    whole = transferred(query, reference, **settings)
    rows = [21, 3, 4]
    part = transferred(query[rows].copy(), reference, **settings)
    np.testing.assert_allclose(probabilities(part), probabilities(whole)[rows], atol=1e-9)
    np.testing.assert_allclose(part.distance, whole.distance[rows], atol=1e-9)
    np.testing.assert_allclose(part.unseen, whole.unseen[rows], atol=1e-9)


def test_order_and_names_of_other_columns_of_the_reference_do_not_matter() -> None:
    query, reference = typed(30, seed=1), typed(90, seed=2)
    order = np.random.default_rng(0).permutation(90)
    shuffled = reference[order].copy()
    shuffled.obs["cell_type"] = shuffled.obs["cell_type"].astype(str)
    first, second = transferred(query, reference), transferred(query, shuffled)
    np.testing.assert_allclose(probabilities(first), probabilities(second), atol=1e-9)
    np.testing.assert_allclose(first.unseen, second.unseen, atol=1e-9)


def test_genes_that_one_file_has_alone_do_not_matter() -> None:
    cut = GENES[:-5]
    first = transferred(typed(20, seed=1), typed(90, seed=2, genes=cut))
    second = transferred(typed(20, seed=1, genes=cut), typed(90, seed=2, genes=cut))
    np.testing.assert_allclose(probabilities(first), probabilities(second), atol=1e-6)


def test_missing_and_rare_labels_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    labels = reference.obs["cell_type"].astype(object).copy()
    labels.iloc[:7] = [None, "", "nan", float("nan"), "unknown", "alone", "Unassigned"]
    kept = reference[7:].copy()
    reference.obs["cell_type"] = labels
    with caplog.at_level(logging.WARNING):
        result = transferred(query, reference)
    assert "alone (1)" in caplog.text
    assert "unknown" in caplog.text
    assert set(result.record["labels_left_out"]) == {"unknown", "Unassigned", "alone"}
    assert result.record["n_without_label"] == 6
    assert result.probabilities.labels == TYPES
    np.testing.assert_allclose(probabilities(result), probabilities(transferred(query, kept)), atol=1e-9)
    alone = transferred(query, reference, min_cells=1)
    assert alone.probabilities.labels == (*TYPES, "alone")
    np.testing.assert_allclose(probabilities(alone).sum(axis=1), 1)


def test_fewer_than_two_labels() -> None:
    reference = typed(20, seed=2, types=["B cell"])
    with pytest.raises(ValueError, match="at least two labels"):
        transferred(typed(5, seed=1), reference)
    reference.obs = reference.obs.drop(columns="cell_type")
    with pytest.raises(KeyError, match=r"reference\.obs has no column"):
        transferred(typed(5, seed=1), reference)


def test_labels_that_differ_in_spelling(caplog: pytest.LogCaptureFixture) -> None:
    reference = typed(60, seed=2)
    reference.obs["cell_type"] = [
        "b cells" if row % 2 and label == "B cell" else label for row, label in enumerate(reference.obs["cell_type"])
    ]
    with caplog.at_level(logging.WARNING):
        transferred(typed(5, seed=1), reference)
    assert "differ in spelling only" in caplog.text


def test_cells_of_the_reference_are_not_labelled_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    """Random labels cannot be learned: cells that are in the reference must not get theirs back."""
    reference = typed(200, seed=2, types=["T cell"])
    reference.obs["cell_type"] = np.random.default_rng(0).choice(["x", "y"], 200)
    query = reference[:100].copy()
    with caplog.at_level(logging.WARNING):
        for settings in ({}, {"classifier": "neighbours"}):
            result = transferred(query, reference, **settings)
            assert result.in_reference.all()
            picked, _ = result.probabilities.pick()
            assert 0.3 < np.mean(np.array(picked) == query.obs["cell_type"]) < 0.7
    assert "labelled by the other cells" in caplog.text
    one = transferred(query[[4]].copy(), reference)
    np.testing.assert_allclose(probabilities(one)[0], probabilities(transferred(query, reference))[4], atol=1e-9)


def test_the_models_own_probabilities() -> None:
    import cell2sen as c2s

    query, reference = typed(10, seed=1), typed(40, seed=2)
    result = transferred(query, reference, classifier="model")
    c2s.tl.annotate(query, list(TYPES), model=fake(), progress=False)
    np.testing.assert_allclose(probabilities(result), c2s.tl.probabilities(query))
    assert result.record["classifier"] == "model"
    assert result.record["held_out"] == {}
    calibrated = fake(calibration={"annotate": {"temperature": 2.0, "accuracy": 0.75, "ece_after": 0.1}})
    with open_sides(query, reference, {"model": calibrated, "progress": False}) as sides:
        result = transfer_labels(sides, TransferSettings(label="cell_type", classifier="model"))
    assert result.record["held_out"] == {"accuracy": 0.75, "ece": 0.1}
    assert result.record["calibrated"]


def test_donors_are_held_out_whole() -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    result = transferred(query, reference, held_out_by="donor")
    assert result.record["held_out_by"] == "donor"
    reference.obs["one"] = "d"
    with pytest.raises(ValueError, match="at least two"):
        transferred(query, reference, held_out_by="one")


def test_a_type_that_the_reference_does_not_have_stands_out() -> None:
    from sklearn.metrics import roc_auc_score

    query = anndata.concat([typed(40, seed=1), typed(20, seed=3, types=["platelet"])])
    query.uns["organism"] = "Homo sapiens"
    result = transferred(query, typed(150, seed=2))
    # 0.5 is chance; the vectors are sums of random ones, in which types are less far from each other than in a model.
    assert roc_auc_score(query.obs["cell_type"] == "platelet", result.unseen) > 0.75


def test_cells_without_genes() -> None:
    query, reference = typed(5, seed=1), typed(90, seed=2)
    dense = query.X.toarray()
    dense[2] = 0
    query.X = dense
    result = transferred(query, reference)
    assert np.isnan(probabilities(result)[2]).all()
    assert np.isnan(result.unseen).tolist() == [False, False, True, False, False]
    assert result.probabilities.pick()[0][2] == "unknown"


def test_settings_that_do_not_exist() -> None:
    for wrong in ({"classifier": "forest"}, {"features": "genes"}, {"min_cells": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TransferSettings(label="cell_type", **wrong)  # type: ignore[arg-type]


def test_compared_cells_keep_rare_labels() -> None:
    codes = np.array([0] * 900 + [1] * 80 + [2] * 10)
    sample = compared_cells(np.arange(990), codes, 200)
    counts = np.bincount(codes[sample])
    assert counts.tolist() == [182, 25, 10]
    assert compared_cells(np.arange(990), codes, 990).tolist() == list(range(990))


def test_embeddings_are_kept(tmp_path: Path) -> None:
    from cell2sen.inference.transfer.stored import stored_embeddings

    query, reference = typed(10, seed=1), typed(90, seed=2)
    results = []
    model = PromptRecorder()
    for _ in range(2):
        with open_sides(query, reference, {"model": model.backend, "progress": False}) as sides:
            stored = stored_embeddings(sides.reference.session, tmp_path, "r")
            results.append(transfer_labels(sides, TransferSettings(label="cell_type"), stored))
    assert len(model.prompts) == 90 + 10 + 10
    np.testing.assert_array_equal(probabilities(results[0]), probabilities(results[1]))
