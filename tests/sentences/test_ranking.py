"""Ranker: the order of genes equals its definition, whatever the storage, dtype, scale and neighbours of a cell."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import SYMBOLS, any_values, few_values, rank, slow_rank, words

from cell2sen.sentences import counting_sort
from cell2sen.sentences.ranking import Ranker, Recipe, cell_generator, hash_order


@given(
    values=any_values,
    seed=st.integers(0, 3),
    compiled=st.booleans(),
    ties=st.sampled_from(["hash", "alphabetical"]),
)
@settings(max_examples=300, deadline=None)
def test_ranking_equals_its_definition(values, seed, ties, compiled):
    place = hash_order(SYMBOLS, seed) if ties == "hash" else np.argsort(np.argsort(SYMBOLS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting_sort, "MIN_COUNTS", 0 if compiled else 2**62)
        ranked = rank(sp.csr_matrix(values), recipe=Recipe(seed=seed, ties=ties))
    expected = [slow_rank(row, SYMBOLS, place) for row in values.astype(float)]
    assert [genes for genes, _ in ranked] == expected
    for row, (genes, ordered) in zip(values, ranked, strict=True):
        assert ordered == row[genes].astype(float).tolist()


@given(
    values=any_values,
    ties=st.sampled_from(["hash", "random"]),
    compiled=st.booleans(),
    max_genes=st.integers(1, len(SYMBOLS) + 2) | st.none(),
)
@settings(max_examples=200, deadline=None)
def test_runs_and_a_limit_do_not_change_the_order(values, ties, compiled, max_genes):
    ranker, names = Ranker(SYMBOLS, Recipe(ties=ties)), [f"c{row}" for row in range(len(values))]
    indptr, genes, of_entries = ranker.rank(values, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting_sort, "MIN_COUNTS", 0 if compiled else 2**62)
        ranked = ranker.ranked(sp.csr_matrix(values), names, max_genes)
    np.testing.assert_array_equal(ranked.indptr, indptr)
    for row, (start, stop) in enumerate(pairwise(indptr)):
        kept = ranked.genes[ranked.kept[row] : ranked.kept[row + 1]]
        np.testing.assert_array_equal(kept, genes[start:stop][:max_genes])
    np.testing.assert_array_equal(ranked.of_entries(), of_entries)
    if values.dtype.kind in "iu":
        np.testing.assert_array_equal(ranked.row_sums(), values.sum(1, dtype=float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint16, np.int64])
def test_negative_zeros_stored_zeros_and_missing_values_are_no_genes(dtype):
    data = np.array([1, 0, 2, -0.0, 1], dtype=dtype)
    if data.dtype.kind == "f":
        data[3:] = -0.0, np.nan
    stored = sp.csr_matrix((data, [4, 3, 2, 1, 0], [0, 3, 5, 5]), shape=(3, len(SYMBOLS)))
    indptr, genes, values = Ranker(SYMBOLS, Recipe()).rank(stored)
    last = [] if data.dtype.kind == "f" else [0]
    assert indptr.tolist() == [0, 2, 2 + len(last), 2 + len(last)]
    assert genes.tolist() == [2, 4, *last]
    assert values.tolist() == [2, 1, *[1] * len(last)]


@given(values=few_values, order=st.permutations(range(len(SYMBOLS))), ties=st.sampled_from(["hash", "random"]))
@settings(max_examples=100, deadline=None)
def test_order_of_columns_and_storage_do_not_matter(values, order, ties):
    names = [f"cell {row}" for row in range(len(values))]
    recipe = Recipe(ties=ties)
    expected = words(sp.csr_matrix(values), recipe=recipe, names=names)
    moved = [SYMBOLS[gene] for gene in order]
    for storage in (sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray):
        assert words(storage(values[:, order]), moved, recipe, names) == expected


@given(values=few_values, order=st.permutations(range(6)), ties=st.sampled_from(["hash", "random"]))
@settings(max_examples=50, deadline=None)
def test_a_cell_does_not_depend_on_its_neighbours(values, order, ties):
    names, order = [f"cell {row}" for row in range(len(values))], [row for row in order if row < len(values)]
    recipe = Recipe(ties=ties)
    together = words(sp.csr_matrix(values), recipe=recipe, names=names)
    moved = words(sp.csr_matrix(values[order]), recipe=recipe, names=[names[row] for row in order])
    alone = [words(sp.csr_matrix(values[[row]]), recipe=recipe, names=[names[row]])[0] for row in range(len(values))]
    assert alone == together
    assert moved == [together[row] for row in order]


@pytest.mark.parametrize("transform", [lambda x: x, np.log1p, np.log2, lambda x: x * 1e4 / 37, np.sqrt])
def test_monotone_transforms_do_not_matter(transform):
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 6, size=(20, len(SYMBOLS))).astype(float)
    changed = np.where(counts > 0, transform(counts + 1.0), 0)
    names = [str(row) for row in range(20)]
    for ties in ("hash", "random", "alphabetical"):
        recipe = Recipe(ties=ties, seed=3)
        assert words(counts, recipe=recipe, names=names) == words(changed, recipe=recipe, names=names)


def test_identical_cells_have_identical_sentences_unless_ties_are_random():
    values = np.tile([1.0, 1, 1, 1, 1, 1, 2, 2, 2, 1], (2, 1))
    first, second = words(values)
    assert first == second
    first, second = words(values, recipe=Recipe(ties="random"), names=["a", "b"])
    assert first != second
    assert sorted(first[:3]) == sorted(second[:3]) == sorted(SYMBOLS[6:9])
    assert words(values, recipe=Recipe(ties="random"), names=["b", "a"]) == [second, first]
    assert words(values, recipe=Recipe(ties="random", seed=1), names=["a", "b"])[0] != first


def test_random_ties_are_uniform():
    values = np.ones((6000, 3))
    orders = words(values, ["A", "B", "C"], Recipe(ties="random"), [str(row) for row in range(6000)])
    _, counts = np.unique([" ".join(order) for order in orders], return_counts=True)
    assert len(counts) == 6
    assert np.all(np.abs(counts - 1000) < 150)  # five standard deviations


def test_random_ties_need_names():
    with pytest.raises(ValueError, match="need names= of the cells"):
        words(np.ones((1, 10)), recipe=Recipe(ties="random"))


def test_the_order_of_ties_never_changes():
    # A change would change all stored sentences and trained models.
    assert " ".join(words(np.ones((1, 10)))[0]) == "B2M RP11-34P13.7 MT-CO1 LYZ GNLY 7SK Actb CD4 ACTB HLA-A"
    assert sorted(hash_order(SYMBOLS, 1)) == list(range(10))
    assert not np.array_equal(hash_order(SYMBOLS, 0), hash_order(SYMBOLS, 1))
    assert cell_generator(0, "AAAC-1").integers(1000) == 833


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float32, np.float64])
def test_repeated_and_unsorted_entries_count_as_their_sum(dtype):
    matrix = sp.csr_matrix(
        (np.array([1, 3, 1, 1, 0], dtype=dtype), np.array([4, 0, 4, 4, 2]), np.array([0, 5])), shape=(1, 10)
    )
    data, indices = matrix.data.copy(), matrix.indices.copy()
    recipe = Recipe(ties="alphabetical")
    assert rank(matrix, recipe=recipe) == [([0, 4], [3.0, 3.0])]
    np.testing.assert_array_equal(matrix.data, data)
    np.testing.assert_array_equal(matrix.indices, indices)


@pytest.mark.slow
def test_same_order_without_vector_instructions(tmp_path):
    code = (
        "import numpy as np; from cell2sen.sentences.ranking import *; g = np.random.default_rng(0);"
        "v = g.integers(0, 9, (30, 400)); r = Ranker([f'G{i}' for i in range(400)], Recipe());"
        "import hashlib; print(hashlib.sha256(r.rank(v)[1].tobytes() + r.rank(np.log1p(v))[1].tobytes()).hexdigest())"
    )
    hashes = set()
    for disabled in ("", "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"):
        environment = {"NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONPATH": ":".join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        if run.returncode and disabled:
            pytest.skip("this NumPy cannot disable vector instructions")
        hashes.add(run.stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_genes": 0}, "at least 1"),
        ({"ties": "stable"}, "hash.*random.*alphabetical"),
        ({"case": "lower"}, "keep.*upper"),
    ],
)
def test_recipe_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)


@pytest.mark.parametrize("largest", [3, 255, 2**28 - 1, 2**28, 2**40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_counts_of_any_size(largest, dtype):
    # A key of 32 bits has 28 for the count, with ten genes.
    if dtype == np.float32 and largest == 2**28 - 1:
        largest = 2**28 - 32
    values = np.array([[largest, 1, 2, largest, 3, 0, 1, largest - 1, 2, 3]], dtype=dtype)
    place = hash_order(SYMBOLS, 0)
    [(genes, ordered)] = rank(values)
    assert genes == slow_rank(values[0].astype(float), SYMBOLS, place)
    assert ordered == sorted(values[values > 0].astype(float), reverse=True)


def test_one_gene_only():
    assert words(np.array([[2.0], [0.0]]), ["CD4"]) == [["CD4"], []]


@pytest.mark.parametrize("max_genes", [None, 3])
def test_a_later_call_does_not_change_earlier_results(max_genes, monkeypatch):
    monkeypatch.setattr(counting_sort, "MIN_COUNTS", 0)
    random = np.random.default_rng(0)
    first, second = (sp.csr_matrix(random.poisson(2.0, (20, len(SYMBOLS))).astype(np.float32)) for _ in range(2))
    ranker = Ranker(SYMBOLS, Recipe())
    earlier = ranker.ranked(first, max_genes=max_genes)
    before = [np.array(part) for part in earlier]
    ranker.ranked(second, max_genes=max_genes)
    for part, expected in zip(earlier, before, strict=True):
        np.testing.assert_array_equal(part, expected)
