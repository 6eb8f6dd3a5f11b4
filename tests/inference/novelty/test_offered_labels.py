"""Offered labels that fit no cell: which labels are others, their probability, the warning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from anndata_objects import QUIET
from cells import cells, fake

from cell2sen.inference.annotate import label_probabilities
from cell2sen.inference.novelty import offered_labels
from cell2sen.inference.novelty.offered_labels import NoneOfThese, none_of_these, other_labels, sampled_rows
from cell2sen.inference.session import start

TRAINED = {"T cell": 5, "CD4 T cell": 9, "CD8 T cell": 9, "B cell": 9, "neuron": 9, "platelet": 2}
SPELLINGS = {"CD4 T cell": ["T cell", "helper T cell"], "CD8 T cell": ["T cell"], "neuron": ["nerve cell"]}


def with_an_empty_cell(row: int) -> Any:
    adata = cells(12)
    adata.X = sp.csr_matrix(sp.diags((np.arange(12) != row).astype(np.float32)) @ adata.X)
    return adata


@pytest.mark.parametrize(
    ("offered", "others"),
    [
        (["hepatocyte", "cardiomyocyte"], {"T cell", "CD4 T cell", "CD8 T cell", "B cell", "neuron"}),
        (["T cells", "Nerve cell"], {"B cell"}),  # broader name, other spelling
        (["helper T cell", "naive B-cells"], {"CD8 T cell", "neuron"}),  # narrower than a trained one
        (list(TRAINED), set()),
    ],
)
def test_other_labels(offered: list[str], others: set[str]) -> None:
    assert set(other_labels(offered, TRAINED, SPELLINGS)) == others


def test_probability_is_that_of_the_labels_not_offered() -> None:
    adata = with_an_empty_cell(3)
    session = start(adata, "annotate", {"model": fake(), **QUIET})
    found = none_of_these(session, ["NK cells", "hepatocyte"])
    every = label_probabilities(session, ["NK cells", "hepatocyte", "B cell", "CD4 T cell"]).probabilities
    has_genes = np.arange(12) != 3
    assert found is not None
    np.testing.assert_allclose(found.probability, every[has_genes][:, 2:].sum(axis=1), atol=1e-9)
    expected = np.array(["B cell", "CD4 T cell"])[every[has_genes][:, 2:].argmax(axis=1)]
    assert list(found.preferred) == expected.tolist()
    some = none_of_these(session, ["NK cells", "hepatocyte"], np.array([5, 7]))
    assert some is not None
    np.testing.assert_allclose(some.probability, every[[5, 7]][:, 2:].sum(axis=1), atol=1e-9)
    assert none_of_these(session, ["NK cell", "B cell", "CD4 T cell"]) is None
    assert none_of_these(session.with_task("embed"), ["NK cell", "B cell"]) is None


def test_warning_names_what_is_more_probable() -> None:
    found = NoneOfThese(probability=np.array([0.9, 0.8, 0.2, np.nan]), preferred=("B cell", "B cell", "x", "x"))
    text = found.warning(["hepatocyte"], "own")
    assert text.startswith("for 67% of the cells none of the offered labels fits")
    assert "'B cell' is more probable than 'hepatocyte'" in text
    assert NoneOfThese(probability=np.full(20, 0.4), preferred=("x",) * 20).warning(["a"], "own") == ""


def test_sampled_rows_are_spread_and_have_genes(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = with_an_empty_cell(0)
    session = start(adata, "annotate", {"model": fake(), **QUIET})
    assert sampled_rows(session).tolist() == list(range(1, 12))
    monkeypatch.setattr(offered_labels, "N_SAMPLED", 3)
    assert sampled_rows(session).tolist() == [1, 6, 11]
