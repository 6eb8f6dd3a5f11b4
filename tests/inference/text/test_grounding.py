"""Genes that a text names, in the cells and out of them."""

from __future__ import annotations

import numpy as np
import pytest
from cells import GENES, cells, fake
from sessions import begin, sentences_of

from cell2sen.inference.session import start
from cell2sen.inference.text.grounding import CellGenes, ground, states


@pytest.mark.parametrize("max_genes", [2, 1000])
def test_states_are_those_of_the_matrix(max_genes: int) -> None:
    """Also of genes behind the limit of sentences."""
    adata = cells(6)
    counts = adata.X.toarray()
    first, second, third = (GENES.index(gene) for gene in ("CD4", "LYZ", "GNLY"))
    counts[:, [first, second, third]] = 0
    counts[1, first] = counts[2, first] = 1  # the weakest of these cells
    counts[5, second] = 100
    adata.X = counts
    session = start(adata, "ask", {"model": fake(), "max_genes": max_genes, "progress": False})
    genes = CellGenes(session, np.arange(6))
    named = ground("CD4+ cells with LYZ but no GNLY; IFNG and NOTAGENE1 were not measured. CD4 again.", genes, [1, 2])
    assert states(named) == {"present": ["CD4"], "absent": ["LYZ", "GNLY"], "unmeasured": ["IFNG"]}
    assert [gene.n_cells for gene in named] == [2, 0, 0, 0]
    ranks = [np.argsort(np.argsort(-counts[row], kind="stable"), kind="stable")[first] for row in (1, 2)]
    assert (named[0].rank is None) == (max_genes == 2)
    assert max_genes == 2 or (named[0].rank is not None and abs(named[0].rank - 1 - min(ranks)) <= 10)  # ties
    assert states(ground("LYZ", genes, [5])) == {"present": ["LYZ"], "absent": [], "unmeasured": []}
    assert ground("LYZ", genes, [5])[0].rank == 1


def test_genes_that_the_model_cannot_write_are_measured_all_the_same() -> None:
    adata = cells(3)
    adata.var_names = [*GENES[:-1], "CXCL13"]
    counts = adata.X.toarray()
    counts[:, -1] = [0, 4, 0]
    adata.X = counts
    session = start(adata, "ask", {"model": fake(genes=GENES[:-1]), "progress": False})
    assert "CXCL13" not in session.sentences.symbols
    genes = CellGenes(session, np.arange(3))
    assert [gene.state for gene in ground("CXCL13", genes, [0, 1])] == ["present"]
    assert [gene.state for gene in ground("CXCL13", genes, [0, 2])] == ["absent"]
    assert ground("CXCL13", genes, [1])[0].rank is None


def test_without_data_the_sentences_count() -> None:
    session = begin("ask", sentences_of("CD4 LYZ", "LYZ"))
    genes = CellGenes(session, np.arange(2))
    named = ground("LYZ then CD4", genes, [1])
    assert [(gene.gene, gene.state, gene.rank) for gene in named] == [("LYZ", "present", 1), ("CD4", "absent", None)]
