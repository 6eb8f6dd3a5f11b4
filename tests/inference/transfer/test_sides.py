"""Query and reference over shared genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import GENES, cells, fake
from typed_cells import typed

from cell2sen.inference.transfer.sides import MIN_IDENTICAL, open_sides

OPTIONS: dict[str, Any] = {"progress": False}
MANY = [f"GENE{number}" for number in range(120)]


def options() -> Any:
    return {**OPTIONS, "model": fake()}


def test_genes_are_cut_to_the_shared_ones() -> None:
    query, reference = typed(6, seed=0, genes=GENES[3:]), typed(7, seed=1, genes=GENES[:-4][::-1])
    with open_sides(query, reference, options()) as sides:
        assert sides.symbols == tuple(sorted(GENES[3:-4]))
        assert sides.n_genes == (len(GENES) - 3, len(GENES) - 4)
        lists = sides.query.session.sentences.gene_names()
        assert not {gene for genes in lists for gene in genes} & {*GENES[:3], *GENES[-4:]}
        values, share = sides.reference.expression(sides.symbols)
    counts = reference.to_df()[list(sides.symbols)].to_numpy()
    np.testing.assert_allclose(values.toarray(), np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), rtol=1e-5)
    assert share == pytest.approx(np.mean(counts.sum(axis=1) / reference.X.sum(axis=1).A1), rel=1e-4)


def test_sentences_do_not_depend_on_other_genes_of_the_file() -> None:
    whole, cut = typed(6, seed=0), typed(6, seed=0, genes=GENES[:-6])
    reference = typed(7, seed=1, genes=GENES[:-6])
    vectors = []
    for query in (whole, cut):
        with open_sides(query, reference, options()) as sides:
            vectors.append(sides.query.embedding())
    np.testing.assert_array_equal(*vectors)


def test_too_few_shared_genes() -> None:
    with (
        pytest.raises(ValueError, match="must share at least 20 genes"),
        open_sides(typed(6, seed=0, genes=GENES[:25]), typed(6, seed=0, genes=GENES[10:]), options()),
    ):
        pass


def test_options_of_the_reference() -> None:
    query, reference = typed(6, seed=0), typed(6, seed=1)
    reference.layers["counts"], reference.X = reference.X.copy(), -reference.X
    with open_sides(query, reference, options(), {"layer": "counts"}) as sides:
        assert sides.reference.session.matrix == "counts"
        assert sides.query.session.matrix == "X"
    with (
        pytest.raises(TypeError, match="unknown reference options"),
        open_sides(query, reference, options(), {"model": "x"}),
    ):
        pass


def test_cells_that_are_in_both() -> None:
    reference = cells(12, genes=MANY)
    reference.obs_names = [f"AAACCCTTTGGG{'ACGT'[row % 4]}{'ACGT'[row // 4]}-1_r" for row in range(12)]
    query = cells(4, seed=3, genes=MANY)
    copies = reference[[5, 2]].copy()
    copies.obs_names = ["renamed", "too"]
    named = cells(1, seed=9, genes=MANY)
    named.obs_names = [reference.obs_names[7].replace("_r", "_q")]
    import anndata

    both = anndata.concat([query, copies, named])
    both.uns["organism"] = "Homo sapiens"
    with open_sides(both, reference, {**options(), "max_genes": 1000}) as sides:
        assert (sides.reference.session.sentences.n_genes >= MIN_IDENTICAL).all()
        overlap = sides.in_reference(sides.reference.contents(sides.symbols), np.arange(12))
        some = sides.in_reference(sides.reference.contents(sides.symbols), np.array([2, 3]))
    assert overlap.same_content.tolist() == [-1] * 4 + [5, 2, -1]
    assert overlap.same_name.tolist() == [-1] * 6 + [7]
    assert some.twin.tolist() == [-1] * 5 + [2, -1]
    assert overlap.twin.tolist() == [-1] * 4 + [5, 2, 7]


def test_names_that_count_cells_prove_nothing() -> None:
    with open_sides(cells(4, seed=1), cells(8), options()) as sides:  # c0, c1, …
        contents = sides.reference.contents(sides.symbols)
        assert (sides.in_reference(contents, np.arange(8)).same_name == -1).all()
