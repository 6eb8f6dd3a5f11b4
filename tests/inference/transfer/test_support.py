"""Support of genes: against cells whose count of a gene is set to zero, and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cells import LABELS, cells, fake
from sessions import begin

import cell2sen as c2s
from cell2sen.backend import Backend
from cell2sen.inference.annotate import closed_set
from cell2sen.inference.transfer.support import (
    CellSupport,
    sample_of,
    support_of_cells,
    table_of_support,
    without_each_gene,
)


def log_odds(probabilities: pd.DataFrame) -> np.ndarray:
    values = probabilities.to_numpy()
    return np.log(values) - np.log1p(-values)


def test_equals_cells_without_the_gene(any_backend: Backend) -> None:
    """The twin: a copy of the data with one count set to zero, annotated as a whole."""
    adata, rows = cells(), np.array([1, 4])
    session = begin("annotate", adata, model=any_backend)
    found = support_of_cells(session, closed_set(session.task, session.model, LABELS), rows, 4)
    for row, cell in zip(rows, found, strict=True):
        assert list(cell.genes) == session.sentences.gene_names()[row][:4]
        for number, gene in enumerate((None, *cell.genes)):
            changed = adata.copy()
            if gene is not None:
                dense = changed.X.toarray()
                dense[row, changed.var_names.get_loc(gene)] = 0
                changed.X = dense
            c2s.tl.annotate(changed, LABELS, model=any_backend, progress=False, scale="counts")
            expected = log_odds(c2s.tl.probabilities(changed))[row]
            np.testing.assert_allclose(cell.log_odds[number], expected, rtol=1e-4, atol=1e-4)


def test_a_cell_alone_or_among_others() -> None:
    session = begin("annotate")
    chosen = closed_set(session.task, session.model, LABELS)
    whole = support_of_cells(session, chosen, np.arange(6), 5)
    for row in (0, 3):
        alone = support_of_cells(session, chosen, np.array([row]), 5)[0]
        np.testing.assert_array_equal(alone.log_odds, whole[row].log_odds)


def test_context_is_that_of_the_cell() -> None:
    session = begin("annotate", context=["donor"])
    chosen = closed_set(session.task, session.model, LABELS)
    one = support_of_cells(session, chosen, np.array([3]), 3)[0]
    other = support_of_cells(begin("annotate"), chosen, np.array([3]), 3)[0]
    assert not np.allclose(one.log_odds, other.log_odds)
    probabilities = c2s.tl.annotate(cells(), LABELS, model=fake(), context=["donor"], copy=True, progress=False)
    assert probabilities is not None
    np.testing.assert_allclose(one.log_odds[0], log_odds(c2s.tl.probabilities(probabilities))[3])


def test_sentences_without_each_gene() -> None:
    sentences = begin().sentences
    variants, names = without_each_gene(sentences[[2, 5]], 3, None)
    expected = []
    for row in (2, 5):
        genes = sentences.gene_names()[row]
        expected += [genes, *([other for other in genes if other != gene] for gene in genes[:3])]
    assert variants.gene_names() == expected
    assert names == [tuple(sentences.gene_names()[row][:3]) for row in (2, 5)]
    assert without_each_gene(sentences[[2]], 99, 4)[1][0] == tuple(sentences.gene_names()[2][:4])


def test_table_by_hand() -> None:
    def cell(genes: tuple[str, ...], support: list[float]) -> CellSupport:
        odds = np.array([[2.0, 0.0], *([2.0 - value, value] for value in support)])
        return CellSupport(genes=genes, log_odds=odds)

    found = [cell(("A", "B"), [0.5, -0.25]), cell(("B", "C"), [0.75, 0.0])]
    table = table_of_support(found, {"g": [0, 1], "h": [1]}, ["x", "y"])
    assert table.to_numpy().tolist() == [
        ["g", "x", "A", 0.25, 1, 2],
        ["g", "x", "B", 0.25, 2, 2],
        ["g", "x", "C", 0.0, 1, 2],
        ["h", "x", "B", 0.75, 1, 1],
        ["h", "x", "C", 0.0, 1, 1],
    ]
    of_label = table_of_support(found, {"h": [1]}, ["x", "y"], "y")
    assert of_label[["gene", "support"]].to_numpy().tolist() == [["C", 0.0], ["B", -0.75]]
    assert len(table_of_support(found, {}, ["x"])) == 0


def test_samples_do_not_depend_on_the_order() -> None:
    names = [f"c{number}" for number in range(40)]
    chosen = {names[row] for row in sample_of(names, range(40), 7)}
    assert len(chosen) == 7
    backwards = names[::-1]
    assert {backwards[row] for row in sample_of(backwards, range(40), 7)} == chosen
    assert sample_of(names, [3, 1], 7) == [1, 3]


@pytest.mark.parametrize("n_genes", [1, 3])
def test_genes_of_short_sentences(n_genes: int) -> None:
    sentences = begin(max_genes=1).sentences
    variants, names = without_each_gene(sentences, n_genes, None)
    assert names == [()] * 6  # the only gene is not left out
    assert len(variants) == 6
