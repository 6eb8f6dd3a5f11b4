from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from cells import GENES, cells, fake

from cell2sen.inference.screen.edits import Edit, EditedSentences, parse_edits
from cell2sen.inference.session import start


@pytest.fixture(scope="module")
def session():
    with start(cells(), "embed", {"model": fake(), "progress": False}) as opened:
        yield opened


@pytest.mark.parametrize("length", [None, 5])
@pytest.mark.parametrize("name", ["CD4", "B2M", "CD4+B2M", "NKG7+CD4+LYZ"])
def test_edits_by_hand(session, name: str, length: int | None) -> None:
    """Slow twin: lists of names."""
    symbols = session.sentences.symbols
    rows = np.array([0, 2, 5])
    edited = EditedSentences(session.sentences, rows, length)
    genes = name.split("+")
    for kind in ("delete", "overexpress"):
        (edit,) = parse_edits([name], kind, symbols)
        places, lists = edited.changed(edit)
        expected = {}
        for place, row in enumerate(rows):
            before = session.sentences.gene_names()[row]
            after = [gene for gene in before if gene not in genes]
            after = after if kind == "delete" else genes + after
            if after[:length] != before[:length]:
                expected[place] = after
        assert {place: [symbols[gene] for gene in ids] for place, ids in zip(places, lists, strict=True)} == expected
        written = edited.sentences(places, lists)
        assert written.gene_names() == list(expected.values())
        assert list(written.names) == [f"c{rows[place]}" for place in places]


def test_names_are_checked() -> None:
    assert parse_edits(["cd4 + B2M", "CD4+B2M"], "delete", GENES) == [
        Edit("delete", (GENES.index("CD4"), GENES.index("B2M")), "CD4+B2M")
    ]
    with pytest.raises(ValueError, match="delete: 1 genes are not in the data or not known to the model, such as 'X1'"):
        parse_edits(["CD4+X1"], "delete", GENES)


def test_a_cell_of_one_gene_is_not_emptied() -> None:
    adata = cells()
    dense = adata.X.toarray()
    dense[0] = 0
    dense[0, GENES.index("CD4")] = 3
    adata.X = sp.csr_matrix(dense)
    with start(adata, "embed", {"model": fake(), "progress": False}) as opened:
        edited = EditedSentences(opened.sentences, np.array([0]), None)
        assert edited.changed(parse_edits(["CD4"], "delete", opened.sentences.symbols)[0]) == ([], [])
