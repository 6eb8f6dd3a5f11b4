from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cell2sen.sentences import counting_sort as rank_counts
from cell2sen.sentences.ranking import (
    Ranker,
    RankFit,
    RankFitter,
    Recipe,
    cell_generator,
    hash_order,
    rank_sums,
    run_sums,
)  # fmt: skip

SYMBOLS = ["CD4", "Actb", "ACTB", "B2M", "LYZ", "MT-CO1", "HLA-A", "7SK", "RP11-34P13.7", "GNLY"]


def slow_rank(row, symbols, place):
    """One cell, as the definition says it."""
    expressed = [gene for gene in range(len(symbols)) if not math.isnan(row[gene]) and row[gene] > 0]
    return sorted(expressed, key=lambda gene: (-row[gene], place[gene]))


def rank(values, symbols=SYMBOLS, recipe=None, names=None):
    indptr, genes, ordered = Ranker(symbols, recipe or Recipe()).rank(values, names)
    return [(genes[a:b].tolist(), ordered[a:b].tolist()) for a, b in pairwise(indptr)]


def words(values, symbols=SYMBOLS, recipe=None, names=None):
    return [[symbols[gene] for gene in genes] for genes, _ in rank(values, symbols, recipe, names)]


few_values = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 6), st.just(len(SYMBOLS))),
    elements=st.sampled_from([0.0, 0.0, 1.0, 2.0, 0.5, math.nan, 1e-300, 1e300, 1 / 3, np.nextafter(1 / 3, 1)]),
)  # fmt: skip
any_values = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.uint16, np.int32]),
    st.tuples(st.integers(1, 5), st.just(len(SYMBOLS))),
    elements=st.integers(0, 255),
)
large_counts = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.uint16]), st.tuples(st.integers(1, 5), st.just(len(SYMBOLS))),
    elements=st.sampled_from([0, 0, 1, 2, 253, 254, 255, 256, 257, 60_000]),
)  # fmt: skip


@given(
    values=few_values | any_values | large_counts, seed=st.integers(0, 3), compiled=st.booleans(),
    ties=st.sampled_from(["hash", "alphabetical"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_ranking_equals_its_definition(values, seed, ties, compiled):
    place = hash_order(SYMBOLS, seed) if ties == "hash" else np.argsort(np.argsort(SYMBOLS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_counts, "LEAST", 0 if compiled else 2**62)
        found = rank(sp.csr_matrix(values), recipe=Recipe(seed=seed, ties=ties))
    wanted = [slow_rank(row, SYMBOLS, place) for row in values.astype(float)]
    assert [genes for genes, _ in found] == wanted
    for row, (genes, ordered) in zip(values, found, strict=True):
        assert ordered == row[genes].astype(float).tolist()


def test_compiled_and_sorted_counts_are_the_same():
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    values = sp.random(300, 20_001, 0.05, format="csr", rng=random)
    values.data = np.ceil(random.pareto(0.7, values.nnz)).astype(np.float32)
    values.data[:3] = 255, 256, 2**17 - 1
    ranker = Ranker([f"G{gene}" for gene in range(20_001)], Recipe())
    indptr, counts = values.indptr.astype(np.int64), np.minimum(values.data, 2**17 - 1).astype(np.int32)
    wanted = ranker._sorted_counts(indptr, values.indices, counts.copy())
    indices = values.indices.astype(np.int64)
    for read_only in (indptr, indices, counts):
        read_only.flags.writeable = False
    kernel = rank_counts.compiled()
    found = rank_counts.rank_counts(kernel, indptr, indices, counts, ranker._place_of, ranker._gene_at)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_counts_are_ranked_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(rank_counts, "LEAST", 0)
    rank_counts.compiled.cache_clear()
    try:
        assert rank_counts.kernel(10, 1, 10) is None
        assert words([[0, 3, 1, 0, 0, 9, 0, 0, 0, 0]]) == [["MT-CO1", "Actb", "ACTB"]]
    finally:
        rank_counts.compiled.cache_clear()


def test_few_counts_and_sparse_cells_are_sorted(monkeypatch):
    monkeypatch.setattr(rank_counts, "compiled", lambda: "compiled")
    assert rank_counts.kernel(2**17, 100, 20_000) == "compiled"
    assert rank_counts.kernel(2**17 - 1, 100, 20_000) is None
    assert rank_counts.kernel(2**17, 500, 20_000) is None


def test_a_disk_without_room_does_not_stop_the_ranking(monkeypatch):
    numba = pytest.importorskip("numba")
    made = numba.njit

    def njit(*arguments, **named):
        if named.get("cache"):
            raise OSError("no space left on device")
        return made(*arguments, **named)

    monkeypatch.setattr(numba, "njit", njit)
    rank_counts.compiled.cache_clear()
    try:
        monkeypatch.setattr(rank_counts, "LEAST", 0)
        assert words([[0, 3, 1, 0, 0, 9, 0, 0, 0, 0]]) == [["MT-CO1", "Actb", "ACTB"]]
        assert rank_counts.compiled() is not None
    finally:
        rank_counts.compiled.cache_clear()


@given(
    values=few_values | any_values | large_counts, ties=st.sampled_from(["hash", "random"]), compiled=st.booleans(),
    max_genes=st.integers(1, len(SYMBOLS) + 2) | st.none(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_runs_and_a_limit_do_not_change_the_order(values, ties, compiled, max_genes):
    ranker, names = Ranker(SYMBOLS, Recipe(ties=ties)), [f"c{row}" for row in range(len(values))]
    wanted_indptr, wanted_genes, wanted_values = ranker.rank(values, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_counts, "LEAST", 0 if compiled else 2**62)
        found = ranker.ranked(sp.csr_matrix(values), names, max_genes)
    np.testing.assert_array_equal(found.indptr, wanted_indptr)
    for row, (start, stop) in enumerate(pairwise(wanted_indptr)):
        kept = found.genes[found.kept[row] : found.kept[row + 1]]
        np.testing.assert_array_equal(kept, wanted_genes[start:stop][:max_genes])
    expression = np.log1p(wanted_values)
    for one, other in zip(
        run_sums(found, np.log1p(found.values)), rank_sums(wanted_indptr, expression), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    if values.dtype.kind in "iu":
        np.testing.assert_array_equal(found.row_sums(), values.sum(1, dtype=float))


def test_sums_of_long_cells():
    """Positions from 999 on are not in the line."""
    values = np.random.default_rng(0).integers(0, 4, (5, 3000)) * (
        np.arange(3000) < [[3000], [0], [1300], [10], [3000]]
    )
    ranked = Ranker([f"G{gene}" for gene in range(3000)], Recipe()).ranked(values)
    entries = np.repeat(ranked.values, np.diff(ranked.starts, append=ranked.indptr[-1]))
    for one, other in zip(run_sums(ranked, ranked.values), rank_sums(ranked.indptr, entries), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint16, np.int64])
def test_negative_zeros_stored_zeros_and_missing_values_are_no_genes(dtype):
    data = np.array([1, 0, 2, -0.0, 1], dtype=dtype)
    if data.dtype.kind == "f":
        data[3:] = -0.0, np.nan
    stored = sp.csr_matrix((data, [4, 3, 2, 1, 0], [0, 3, 5, 5]), shape=(3, len(SYMBOLS)))
    indptr, genes, values = Ranker(SYMBOLS, Recipe()).rank(stored)
    last = [] if data.dtype.kind == "f" else [0]
    assert (indptr.tolist(), genes.tolist(), values.tolist()) == (
        [0, 2, 2 + len(last), 2 + len(last)], [2, 4, *last], [2, 1, *[1] * len(last)]
    )  # fmt: skip


@given(values=few_values, order=st.permutations(range(len(SYMBOLS))), ties=st.sampled_from(["hash", "random"]))
@settings(max_examples=100, deadline=None)
def test_order_of_columns_and_storage_do_not_matter(values, order, ties):
    # Fault 6 of the existing implementations.
    names = [f"cell {row}" for row in range(len(values))]
    recipe = Recipe(ties=ties)
    wanted = words(sp.csr_matrix(values), recipe=recipe, names=names)
    moved = [SYMBOLS[gene] for gene in order]
    for storage in (sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray):
        assert words(storage(values[:, order]), moved, recipe, names) == wanted


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


def test_identical_cells_give_identical_sentences_only_without_chance():
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
    with pytest.raises(ValueError, match="need the cells' names"):
        words(np.ones((1, 10)), recipe=Recipe(ties="random"))


def test_the_order_of_ties_is_fixed_for_ever():
    # Changing it changes every sentence ever written.
    assert " ".join(words(np.ones((1, 10)))[0]) == "B2M RP11-34P13.7 MT-CO1 LYZ GNLY 7SK Actb CD4 ACTB HLA-A"
    assert sorted(hash_order(SYMBOLS, 1)) == list(range(10))
    assert not np.array_equal(hash_order(SYMBOLS, 0), hash_order(SYMBOLS, 1))
    assert cell_generator(0, "AAAC-1").integers(1000) == 833


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float32, np.float64])
def test_repeated_and_unsorted_entries_count_as_their_sum(dtype):
    matrix = sp.csr_matrix(
        (np.array([1, 3, 1, 1, 0], dtype=dtype), np.array([4, 0, 4, 4, 2]), np.array([0, 5])), shape=(1, 10)
    )
    before = matrix.data.copy(), matrix.indices.copy()
    recipe = Recipe(ties="alphabetical")
    assert rank(matrix, recipe=recipe) == [([0, 4], [3.0, 3.0])]
    np.testing.assert_array_equal(matrix.data, before[0])
    np.testing.assert_array_equal(matrix.indices, before[1])


@pytest.mark.slow
def test_same_order_without_vector_instructions(tmp_path):
    code = (
        "import numpy as np; from cell2sen.sentences.ranking import *; g = np.random.default_rng(0);"
        "v = g.integers(0, 9, (30, 400)); r = Ranker([f'G{i}' for i in range(400)], Recipe());"
        "import hashlib; print(hashlib.sha256(r.rank(v)[1].tobytes() + r.rank(np.log1p(v))[1].tobytes()).hexdigest())"
    )
    found = set()
    for disabled in ("", "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"):
        environment = {"NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONPATH": ":".join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        if run.returncode and disabled:
            pytest.skip("this NumPy cannot switch its vector instructions off")
        found.add(run.stdout)
    assert len(found) == 1


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


# --- the fit


def slow_fit(cells, use):
    """NumPy's polynomial fit on the pooled entries of the first cells, R² on all."""
    x = [np.log10(1 + np.arange(len(cell))) for cell in cells]
    u, v = np.concatenate(x[:use]), np.concatenate(cells[:use])
    slope, intercept = np.polyfit(u[u < 3], v[u < 3], 1)
    x, y = np.concatenate(x), np.concatenate(cells)
    return slope, intercept, 1 - np.sum((y - intercept - slope * x) ** 2) / np.sum((y - y.mean()) ** 2)


@pytest.mark.parametrize(("max_cells", "use"), [(None, 30), (7, 7)])
@pytest.mark.parametrize("block", [1, 4, 30])
def test_fit_equals_polyfit(max_cells, use, block):
    generator = np.random.default_rng(0)
    cells = [-np.sort(-generator.gamma(1.0, size=n)) for n in generator.integers(0, 3000, size=30)]
    fitter = RankFitter(max_cells) if max_cells else RankFitter()
    for start in range(0, 30, block):
        part = cells[start : start + block]
        fitter.add(np.cumsum([0, *map(len, part)]), np.concatenate(part))
    fit = fitter.fit()
    np.testing.assert_allclose([fit.slope, fit.intercept, fit.r_squared], slow_fit(cells, use), rtol=1e-9)


def test_no_fit_from_single_positions():
    fitter = RankFitter()
    assert fitter.fit() is None
    fitter.add(np.array([0, 1, 2]), np.array([2.0, 1.0]))
    assert fitter.fit() is None


def test_inverse_is_clipped_and_inverts():
    fit = RankFit(slope=-0.6757, intercept=2.2379, r_squared=0.795)  # of the authors' tutorial
    positions = np.arange(2050)
    np.testing.assert_allclose(fit.position(fit.expression(positions)), positions, atol=1e-6)
    assert fit.expression(0) == 2.2379
    assert fit.expression(2050) > 0
    assert fit.expression(2051) == 0
    assert fit.position(99.0) == 0
    with pytest.raises(ValueError, match="falling line"):
        RankFit(slope=0.0, intercept=1.0, r_squared=0.0).position(1.0)


@pytest.mark.parametrize("largest", [3, 255, 2**28 - 1, 2**28, 2**40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_counts_of_any_size(largest, dtype):
    # Keys of 32 bits have 28 for the count of one of ten genes.
    if dtype == np.float32 and largest == 2**28 - 1:
        largest = 2**28 - 32
    values = np.array([[largest, 1, 2, largest, 3, 0, 1, largest - 1, 2, 3]], dtype=dtype)
    place = hash_order(SYMBOLS, 0)
    [(genes, ordered)] = rank(values)
    assert genes == slow_rank(values[0].astype(float), SYMBOLS, place)
    assert ordered == sorted(values[values > 0].astype(float), reverse=True)


def test_one_gene_only():
    assert words(np.array([[2.0], [0.0]]), ["CD4"]) == [["CD4"], []]
