"""Scale: recognised from values of all kinds, and converted to log10(1 + CP10k) as by definition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.data.scale.noise import are_counts
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.units import BASES, LN_CP10K, Scale

BASE = pytest.mark.parametrize("base", ["e", "2", "10"])
TOTAL = pytest.mark.parametrize("total", [1e4, 1e6, 1853.0])


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    """300 cells with 500 to 5,000 counts on 1,000 genes, which differ as much as real genes."""
    generator = np.random.default_rng(0)
    genes = generator.gamma(0.2, size=1000)
    depth = np.exp(generator.uniform(np.log(500), np.log(5000), size=300))
    return sp.csr_matrix(generator.poisson(np.outer(depth, genes / genes.sum())).astype(np.float32))


def normalise(counts, total):
    matrix = counts.astype(np.float64)
    matrix.data *= np.repeat(total / np.asarray(matrix.sum(axis=1)).ravel(), np.diff(matrix.indptr))
    return matrix


def log(matrix, base):
    matrix = matrix.copy()
    matrix.data = np.log1p(matrix.data) / np.log(BASES[base])
    return matrix


def rounded(matrix, decimals):
    matrix = matrix.copy()
    matrix.data = np.round(matrix.data, decimals)
    return matrix


def variable(matrix):
    """A quarter of the genes, as after a choice of variable genes."""
    return matrix[:, np.random.default_rng(0).permutation(matrix.shape[1])[: matrix.shape[1] // 4]]


def with_holes(matrix):
    matrix = matrix.copy()
    matrix.data[::97] = np.nan
    return matrix


def slow_log10_cp10k(counts):
    dense = counts.toarray().astype(float)
    return np.log10(1 + dense / dense.sum(axis=1, keepdims=True) * 1e4)


def through(scale, matrix):
    """log10(1 + CP10k) of all values of a matrix by its recognised scale."""
    values = matrix.copy().astype(float)
    values.data = scale.log10_cp10k(matrix.data, np.repeat(scale.row_sums(matrix), np.diff(matrix.indptr)))
    return values.toarray()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_counts(counts, dtype):
    matrix = counts.astype(dtype)
    assert recognise(matrix) == recognise(matrix.toarray()) == recognise(matrix[:1]) == Scale(kind="counts")
    np.testing.assert_allclose(through(recognise(matrix), matrix), slow_log10_cp10k(counts))


@TOTAL
@pytest.mark.parametrize("change", [lambda m: m, lambda m: rounded(m, 3), lambda m: m.astype(np.float32)])
def test_linear(counts, total, change):
    matrix = change(normalise(counts, total))
    scale = recognise(matrix)
    assert (scale.kind, scale.base, scale.certain) == ("normalised", "", True)
    assert scale.total == pytest.approx(total, rel=0.01)
    np.testing.assert_allclose(through(scale, matrix), slow_log10_cp10k(counts), atol=0.005)


@BASE
@TOTAL
@pytest.mark.parametrize("change", [lambda m: m, lambda m: rounded(m, 3), lambda m: m.astype(np.float32)])
def test_logarithms(counts, base, total, change):
    matrix = change(log(normalise(counts, total), base))
    scale = recognise(matrix)
    assert (scale.kind, scale.base, scale.certain) == ("log", base, True)
    assert scale.total == pytest.approx(total, rel=0.01)
    np.testing.assert_allclose(through(scale, matrix), slow_log10_cp10k(counts), atol=0.01)


@BASE
@TOTAL
@pytest.mark.parametrize("change", [variable, lambda m: rounded(variable(m), 3), with_holes])
def test_logarithms_after_genes_were_left_out(counts, base, total, change):
    scale = recognise(change(log(normalise(counts, total), base)))
    assert (scale.kind, scale.base) == ("log", base)
    if total == 1e6:  # cells with a sum above 1e4 cannot be CP10k
        assert scale.total > 1e5


def test_a_subset_of_log_cp10k_is_recognised_as_cp10k(counts):
    matrix = log(normalise(counts, 1e4), "e")
    scale = recognise(variable(matrix))
    assert not scale.certain  # sums differ, and 250 genes may be a choice
    np.testing.assert_allclose(
        through(scale, variable(matrix)), variable(sp.csr_matrix(slow_log10_cp10k(counts))).toarray(), rtol=1e-4
    )


@BASE
def test_one_cell(counts, base):
    cell = log(normalise(counts, 1e4), base)[:1]
    assert recognise(cell) == Scale(kind="log", base=base, total=1e4)


@BASE
def test_logarithm_of_counts_is_normalised(counts, base):
    matrix = log(counts, base)
    scale = recognise(matrix)
    assert scale == Scale(kind="log", base=base, of_counts=True)
    np.testing.assert_allclose(through(scale, matrix), slow_log10_cp10k(counts), rtol=1e-4)


def test_normalised_input_is_not_normalised_again(counts):
    """A subset of genes of CP10k must not be scaled up to 1e4."""
    matrix = log(normalise(counts, 1e4), "10")
    np.testing.assert_allclose(through(recognise(matrix), matrix), matrix.toarray(), rtol=1e-4)


def test_bulk_logarithms_are_not_recognised_as_linear():
    """Sums of logarithms over many genes are nearly the same in all samples."""
    generator = np.random.default_rng(0)
    values = generator.gamma(1.0, size=5000) * generator.gamma(20.0, size=(12, 5000))
    matrix = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    sums = matrix.sum(axis=1)
    assert sums.std() < 0.01 * sums.mean()
    assert recognise(matrix) == Scale(kind="log", base="e", total=1e4)


def test_unrecognised_scales_are_marked_as_assumed(counts):
    generator = np.random.default_rng(0)
    noisy = counts.copy()
    noisy.data = noisy.data * generator.uniform(0.7, 1, size=noisy.nnz)
    scale = recognise(noisy)
    assert scale == Scale(kind="counts", decimals=True, certain=False)
    assert "assumed" in str(scale)
    means = log(normalise(counts, 1e4), "e").toarray().reshape(30, 10, -1).mean(axis=1)
    assert recognise(means * 0.9) == Scale(kind="log", base="e", total=1e4, certain=False)


@pytest.mark.parametrize("values", [np.zeros((3, 4)), sp.csr_matrix((3, 4)), np.full((3, 4), np.nan)])
def test_nothing_to_recognise(values):
    assert recognise(values) == Scale(kind="counts")


def test_input_is_not_changed(counts):
    matrix = with_holes(log(counts, "e"))
    before = matrix.data.copy()
    recognise(matrix)
    np.testing.assert_array_equal(matrix.data, before)


def test_scaled_values_are_refused(counts):
    dense = np.log1p(counts.toarray())
    scaled = dense - dense.mean(axis=0)
    with pytest.raises(ValueError, match=r"not be negative.*-\d.*z-scores.*instead: there is layer='counts'"):
        recognise(scaled, "there is layer='counts'")


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (Scale(kind="counts"), "counts"),
        (Scale(kind="log", base="e", total=1e4), "log base e of 1 + x, total 1e+04 per cell"),
        (Scale(kind="log", base="2", of_counts=True), "log base 2 of 1 + x of counts"),
        (Scale(kind="normalised", certain=False), "linear, normalised, each cell over its own sum, assumed"),
    ],
)
def test_text_of_a_scale(scale, text):
    assert str(scale) == text


REAL = (
    "kang_ifnb_2000x9015.h5ad", "papalexi_thp1_20729x299.h5ad", "mouse_brain_merfish_1000x1122.h5ad",
    "spatial_mouse_olfactory_bulb_260x15928.h5ad", "pancreas_human_mouse_328x12474.h5ad",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_data(shared_data, name):
    import anndata

    real = anndata.read_h5ad(shared_data / name).X[:256]
    real = real[np.asarray(real.sum(axis=1)).ravel() > 0]
    assert recognise(real).kind == "counts"
    for base in BASES:
        matrix = log(normalise(real, 1e4), base)
        assert recognise(matrix) == Scale(kind="log", base=base, total=1e4)
        subset = recognise(rounded(variable(matrix), 3))
        assert (subset.kind, subset.base) == ("log", base)
    assert recognise(normalise(real, 1e6)) == Scale(kind="normalised", total=1e6)


def test_pbmc68k_reduced_raw():
    scanpy = pytest.importorskip("scanpy")
    adata = scanpy.datasets.pbmc68k_reduced()
    assert not recognise(adata.raw.X).certain  # 765 genes
    scale = recognise(adata.raw.X, depths=adata.obs["n_counts"].to_numpy())
    assert scale == LN_CP10K


def test_a_base_with_impossible_totals_is_excluded():
    """One cell of log2 CPM with small counts, whose few distinct values are whole multiples also as log10."""
    counts = np.array([[1] * 50 + [2] * 10 + [5]], dtype=float)
    scale = recognise(np.log2(1 + counts / counts.sum() * 1e6))
    assert (scale.kind, scale.base) == ("log", "2")
    assert scale.total == pytest.approx(1e6, rel=0.01)


@pytest.mark.parametrize(
    ("value", "whole"), [(3, True), (0, True), (0.5, False), (-1, False), (np.nan, False), (np.inf, False)]
)
@pytest.mark.parametrize("place", [0, 2**16, 2**17 + 4])
def test_are_counts_agrees_with_recognise(value, whole, place):
    values = np.resize([1.0, 1.0, 2.0, 50.0], (1, 2**17 + 5))
    values[0, place] = value
    assert are_counts(values[0]) == whole
    if value >= 0 and np.isfinite(value):
        assert (recognise(values) == Scale(kind="counts")) == whole


def test_batches_that_were_normalised_apart_are_taken_over_their_own_sums(counts):
    """Equal sums within each batch show that no gene was left out."""
    first, second = normalise(counts[:120], 1500.0), normalise(counts[120:], 2700.0)
    matrix = log(sp.csr_matrix(sp.vstack([first, second])), "e")
    scale = recognise(matrix)
    assert scale == Scale(kind="log", base="e")
    assert "groups of cells have equal sums" in scale.evidence[-1]
    np.testing.assert_allclose(through(scale, matrix), slow_log10_cp10k(counts), rtol=1e-4)


def test_sums_just_below_a_usual_total_show_that_few_genes_were_left_out(counts):
    matrix = log(normalise(counts, 1e4), "e").tolil()
    matrix[:, ::40] = 0
    matrix = sp.csr_matrix(matrix)
    sums = np.expm1(matrix.toarray()).sum(axis=1)
    assert 0.8e4 < np.quantile(sums, 0.1) < sums.max() < 0.9999e4
    assert recognise(matrix) == LN_CP10K


def test_size_factors_over_all_genes_and_over_some():
    generator = np.random.default_rng(3)
    many = generator.poisson(np.outer(generator.lognormal(0, 0.4, 40), generator.gamma(0.3, 2.0, 7000))).astype(float)
    factors = many.sum(axis=1) / many.sum(axis=1).mean() * generator.lognormal(0, 0.2, 40)
    matrix = sp.csr_matrix(np.log2(1 + many / factors[:, None]))
    scale = recognise(matrix)
    assert scale == Scale(kind="log", base="2")
    assert "7,000 genes are all, so each cell is taken over its own sum" in scale.evidence[-1]
    np.testing.assert_allclose(through(scale, matrix), slow_log10_cp10k(sp.csr_matrix(many)), rtol=1e-4)
    some = recognise(matrix[:, :2000])
    assert not some.certain
    assert "2,000 genes may be a choice, so the total of a cell is unknown" in some.evidence[-1]


def test_equal_sums_of_logarithms_are_no_linear_values(counts):
    """PFlog1pPF: counts over their sums, a logarithm, and over the sums again."""
    matrix = normalise(log(normalise(counts, 2000.0), "e"), 300.0)
    scale = recognise(matrix)
    assert (scale.kind, scale.certain) == ("log", False)
    assert "PFlog1pPF" in scale.evidence[0]


def test_averages_of_counts_are_corrected_counts(counts):
    """Means of three cells are whole multiples of a third in all cells."""
    means = counts[:90].toarray().reshape(30, 3, -1).mean(axis=1)
    scale = recognise(means)
    assert scale == Scale(kind="counts", decimals=True)
    np.testing.assert_allclose(through(scale, sp.csr_matrix(means)), slow_log10_cp10k(sp.csr_matrix(means)), atol=1e-6)


def test_most_cells_decide(counts):
    """Ten cells of another scale change nothing: the test of each block finds them."""
    for values, others, expected in (
        (counts, log(normalise(counts, 1e4), "e"), Scale(kind="counts")),
        (log(normalise(counts, 1e4), "e"), counts, LN_CP10K),
        (log(normalise(counts, 1e4), "e"), normalise(counts, 1e6), LN_CP10K),
        (log(normalise(counts, 1e4), "2"), log(normalise(counts, 1e4), "e"), Scale(kind="log", base="2", total=1e4)),
    ):
        mixed = sp.csr_matrix(sp.vstack([values[:200], others[200:210], values[210:]]))
        assert recognise(mixed) == expected


def test_many_genes_with_sums_below_a_usual_total_are_doubted():
    """Two thirds of 9,000 genes of ln(1 + CP10k): either these or size factors."""
    generator = np.random.default_rng(3)
    counts = generator.poisson(np.outer(generator.lognormal(0, 0.4, 40), generator.gamma(0.3, 2.0, 9000))).astype(float)
    scale = recognise(log(normalise(sp.csr_matrix(counts), 1e4), "e")[:, :6500])
    assert (scale.kind, scale.base, scale.certain) == ("log", "e", False)


def test_few_cells_with_decimals_among_counts_are_doubted() -> None:
    random = np.random.default_rng(0)
    share = random.gamma(0.3, 1.0, 300)
    counts = random.poisson(2000 * share / share.sum(), (100, 300)).astype(float)
    values = counts.copy()
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    values[50:54] = (logs / np.where(logs.std(axis=0) > 0, logs.std(axis=0), 1))[50:54]
    scale = recognise(values)
    assert not scale.certain
    assert "4 of 100 cells have decimals" in scale.evidence[0]


def test_cells_of_few_genes_with_decimals_among_whole_ones_are_doubted() -> None:
    counts = np.random.default_rng(0).poisson(4.0, (12, 9)).astype(np.float64) + 1
    assert recognise(sp.csr_matrix(counts)).certain
    counts[5] = np.log1p(counts[5] / counts[5].sum() * 1e3)
    for values in (counts, counts.astype(np.float32).astype(np.float64)):
        scale = recognise(sp.csr_matrix(values))
        assert not scale.certain
        assert "1 of 12 cells have hardly any whole number" in scale.evidence
