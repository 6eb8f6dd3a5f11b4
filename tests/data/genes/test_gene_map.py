"""GeneMap: columns are selected and merged as a slow twin does it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scipy.sparse as sp
from genes import ISG15, NO_NAME, frame, slow_apply
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.data.genes.gene_map import GeneMap
from cell2sen.data.genes.symbols import resolve_genes

names_and_values = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from(["A", "B", "a", "C", None, ISG15]), min_size=n, max_size=n),
        st.lists(
            st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.5, -1.0, np.nan]), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        ),
    )
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(names_and_values, st.sampled_from(["keep", "upper"]), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_apply_equals_its_slow_twin(case, casing, dtype, store_zeros):
    names, rows = case
    names = ["A", *names]
    dense = np.array([[3.0, *row] for row in rows], dtype=dtype)
    block = sp.csr_matrix(dense)
    if store_zeros:
        block = sp.csr_matrix(
            (dense.ravel(), np.tile(np.arange(len(names)), len(rows)), np.arange(len(rows) + 1) * len(names))
        )
    before = [array.copy() for array in (block.data, block.indices, block.indptr)]
    gene_map = resolve_genes(frame(names), case=casing)
    result = gene_map.apply(block)

    shown = [None if name in (None, ISG15) else (name.upper() if casing == "upper" else name) for name in names]
    symbols, expected = slow_apply(shown, dense)
    assert gene_map.symbols == symbols
    assert gene_map.by_column == tuple(shown)
    np.testing.assert_array_equal(result.toarray(), expected)
    assert result.dtype == dtype
    assert result.has_sorted_indices
    check = result.copy()
    check.sum_duplicates()
    assert check.nnz == result.nnz  # no entry twice
    for array, original in zip((block.data, block.indices, block.indptr), before, strict=True):
        np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("kind", [np.asarray, sp.csc_matrix, sp.csr_array, sp.coo_matrix])
@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32])
def test_apply_takes_any_block(kind, dtype):
    dense = np.array([[0, 2, 3], [1, 0, 5], [0, 0, 0]], dtype=dtype)
    result = resolve_genes(frame(["A", "B", "A"])).apply(kind(dense))
    np.testing.assert_array_equal(result.toarray(), [[3, 2], [5, 0], [0, 0]])
    assert result.dtype == dtype


def test_apply_leaves_unsorted_blocks_as_they_are():
    block = sp.csr_matrix(
        (np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    )  # column 2 twice
    for names, expected in ((["A", "B", "C"], [[2, 0, 5]]), (["A", "B", "A"], [[5, 0]])):
        np.testing.assert_array_equal(resolve_genes(frame(names)).apply(block).toarray(), expected)
    assert (block.indices.tolist(), block.data.tolist()) == ([2, 0, 2], [1, 2, 4])


def test_apply_keeps_the_order_on_every_scale():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, size=(20, 40)).astype(np.float64)
    gene_map = resolve_genes(frame([f"G{i % 25}" for i in range(40)]))
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    of_counts, of_logs = gene_map.apply(counts).toarray(), gene_map.apply(logged).toarray()
    np.testing.assert_array_equal(
        np.argsort(-of_counts, axis=1, kind="stable"), np.argsort(-of_logs.round(12), axis=1, kind="stable")
    )


def test_apply_to_blocks_without_cells_or_entries_and_to_a_wrong_one():
    gene_map = resolve_genes(frame(["A", "B", "A"]))
    assert gene_map.apply(sp.csr_matrix((0, 3))).shape == (0, 2)
    assert gene_map.apply(sp.csr_matrix((4, 3))).shape == (4, 2)
    with pytest.raises(ValueError, match="a block of 3 columns, found 2"):
        gene_map.apply(sp.csr_matrix((4, 2)))


def test_first_rule():
    var = frame(["A", "B", "A", "C", "B"])
    gene_map = resolve_genes(var, duplicates="first")
    assert (gene_map.symbols, gene_map.columns.tolist()) == (("A", "B", "C"), [0, 1, 3])
    assert gene_map.account["duplicates_rule"] == "first"
    assert (gene_map.account["mapped"], gene_map.account["duplicate_columns"]) == (5, 2)
    np.testing.assert_array_equal(gene_map.apply(sp.csr_matrix([[1, 2, 9, 4, 5]])).toarray(), [[1, 2, 4]])


def test_one_line_is_logged_and_great_loss_is_warned_of(caplog):
    with caplog.at_level(logging.INFO, logger="cell2sen.data.genes.gene_map"):
        resolve_genes(frame(["A", "B", "C", "D", "x y"]))
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "5 genes → 4 symbols from index; dropped 1 (x y)" in caplog.text
        caplog.clear()
        resolve_genes(frame(["A", "B", "C", "x z", "x y"]))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "2 of 5 genes have no symbol" in caplog.text


def test_gene_map_is_exported_as_a_plain_object():
    gene_map = resolve_genes(frame(["A", None, "B"]))
    assert isinstance(gene_map, GeneMap)
    assert gene_map.columns.dtype == gene_map.positions.dtype == np.int64
    assert (gene_map.columns.tolist(), gene_map.positions.tolist(), gene_map.n_columns) == ([0, 2], [0, 1], 3)


def test_account_survives_a_file(tmp_path):
    anndata = pytest.importorskip("anndata")
    names = ["A", "A", "two words", NO_NAME, *[f"word {i}" for i in range(40)]]
    gene_map = resolve_genes(frame(names))
    adata = anndata.AnnData(np.zeros((1, 1)), uns={"genes": gene_map.account})
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad").uns["genes"]
    for key, value in gene_map.account.items():
        if key == "examples":
            assert {k: list(v) for k, v in back[key].items()} == value
        else:
            assert back[key] == value
    assert gene_map.account["dropped_whitespace"] == 41
    assert len(gene_map.account["examples"]["dropped_whitespace"]) == 20
    assert gene_map.account["genes"] == gene_map.account["mapped"] + gene_map.account["dropped"]
