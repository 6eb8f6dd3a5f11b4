"""Refusals and doubts: binarised cells, moved zeros, genes scaled apart, whole numbers that are no counts."""

from __future__ import annotations

from collections.abc import Callable

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from totals import to_total

from cell2sen.data.expression import Expression
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.refusals import are_compressed, are_constant, doubt_of_linear, expected_above_one
from cell2sen.sentences.writing import from_anndata

Matrix = np.ndarray


def counts_of(cells: int, genes: int = 400, depth: float = 2000, seed: int = 0) -> Matrix:
    generator = np.random.default_rng(seed)
    shares = np.random.default_rng(7).gamma(0.3, 1.0, genes)
    return generator.poisson(depth * generator.lognormal(0, 0.4, (cells, 1)) * shares / shares.sum()).astype(float)


def adata_of(values: Matrix) -> anndata.AnnData:
    adata = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)))
    adata.obs_names = [f"cell{n}" for n in range(values.shape[0])]
    adata.var_names = [f"GENE{n}" for n in range(values.shape[1])]
    return adata


def ranks(counts: Matrix) -> Matrix:
    order = np.argsort(np.argsort(counts, axis=1, kind="stable"), axis=1) + 1.0
    values = np.where(counts > 0, order, 0)
    return np.where(counts > 0, values - (counts == 0).sum(axis=1, keepdims=True), 0)


def bins(counts: Matrix) -> Matrix:
    result = np.zeros_like(counts)
    for row, values in enumerate(counts):
        expressed = values > 0
        edges = np.quantile(values[expressed], np.linspace(0, 1, 50))
        result[row, expressed] = np.digitize(values[expressed], edges)
    return result


NO_COUNTS: dict[str, Callable[[Matrix], Matrix]] = {
    "ranks": ranks,
    "bins": bins,
    "rounded ln CP10k": lambda c: np.rint(np.log1p(to_total(c))),
    "rounded log2 CPM": lambda c: np.rint(np.log2(1 + to_total(c, 1e6))),
    "ln CP10k in hundredths": lambda c: np.rint(100 * np.log1p(to_total(c))),
    "0 to 255": lambda c: np.rint(255 * np.log1p(to_total(c)) / np.log1p(to_total(c)).max()),
}


@pytest.mark.parametrize("name", NO_COUNTS)
def test_whole_numbers_that_are_no_counts_are_doubted(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values = NO_COUNTS[name](counts_of(60))
    with caplog.at_level("WARNING", "cell2sen"):
        scale = Expression.open(adata_of(values)).scale
    assert not scale.certain
    assert "is not certain" in caplog.text
    assert "scale=" in caplog.text


@pytest.mark.parametrize("depth", [300, 2000, 30000])
@pytest.mark.parametrize("change", [lambda c: c, lambda c: np.rint(to_total(c)), lambda c: np.rint(to_total(c, 1e6))])
@pytest.mark.parametrize("n", [1, 3, 60])
def test_whole_numbers_that_are_linear_are_not_doubted(
    depth: float, change: Callable[[Matrix], Matrix], n: int
) -> None:
    counts = change(counts_of(n, depth=depth, seed=n))
    assert not doubt_of_linear(sp.csr_matrix(counts), whole=True)
    assert recognise(counts).certain


def test_binarised_cells_among_others_are_refused_wherever_they_are() -> None:
    counts = counts_of(1000)
    logs = np.log1p(to_total(counts))
    for most in (counts, logs):
        for rows in (slice(300, 304), slice(996, 1000), slice(0, 200)):
            values = most.copy()
            values[rows] = counts[rows] > 0
            n = len(range(1000)[rows])
            for read in (from_anndata, lambda adata: Expression.open(adata).ln_cp10k()):
                with pytest.raises(ValueError, match=rf"{n} of 1,000 cells in X are on another scale"):
                    read(adata_of(values))


@pytest.mark.parametrize("genes", [50, 2000, 20000])
def test_shallow_cells_are_not_binarised(genes: int) -> None:
    counts = np.random.default_rng(0).poisson(20 / genes, (500, genes))
    constant = (counts.max(axis=1) == 1) & (counts.sum(axis=1) > 5)
    assert constant.any()
    assert not are_constant(sp.csr_matrix(counts[constant].astype(float))).any()
    from_anndata(adata_of(counts))


def test_counts_above_one_to_expect() -> None:
    """As drawn: 40 % of 5,000 genes with one rate."""
    rate = -np.log(0.6)
    drawn = np.random.default_rng(0).poisson(rate, 5000)
    expected = expected_above_one(np.array([(drawn > 0).sum()]), 5000)[0]
    assert expected == pytest.approx((drawn > 1).sum(), rel=0.1)


def test_a_binary_panel_is_refused_with_few_cells() -> None:
    binary = (counts_of(3, genes=60) > 0).astype(float)
    assert binary.sum() > 30
    with pytest.raises(ValueError, match="the same value"):
        recognise(np.ones((1, 60)))


def test_a_constant_before_the_logarithm_is_refused() -> None:
    counts = np.random.default_rng(0).poisson(8, (30, 50)) * np.random.default_rng(1).gamma(1, 3, 50)
    counts[:, :3] = 0
    with pytest.raises(ValueError, match="a transformation has moved the zeros"):
        recognise(np.log2(4 + to_total(np.rint(counts), 3000.0)))


@pytest.mark.parametrize("n", [3, 10, 60])
def test_genes_over_their_largest_value_are_refused_with_few_cells(n: int) -> None:
    logs = np.log1p(to_total(counts_of(60, genes=4000)))
    scaled = logs / np.maximum(logs.max(axis=0), 1e-9)
    with pytest.raises(ValueError, match="scaled per gene"):
        recognise(scaled[:n])


def test_cells_of_unit_length_are_over_their_own_sums() -> None:
    counts = counts_of(40)
    unit = counts / np.sqrt((counts**2).sum(axis=1, keepdims=True))
    scale = recognise(unit)
    assert (scale.kind, scale.total) == ("normalised", None)
    logs = np.log1p(to_total(counts))
    assert not recognise(logs / np.sqrt((logs**2).sum(axis=1, keepdims=True))).certain


def test_quantiles_have_no_certain_scale() -> None:
    logs = np.log1p(to_total(counts_of(40))) + np.random.default_rng(0).uniform(0, 1e-6, (40, 400))
    order = np.argsort(np.argsort(logs, axis=1), axis=1)
    assert not recognise(np.sort(logs, axis=1).mean(axis=0)[order] * (logs > 1e-3)).certain


@pytest.mark.parametrize("unit", [2.53, 0.01])
def test_expected_counts_of_reads_are_no_contradiction(unit: float) -> None:
    """RSEM, FPKM: some values are whole, large ones have no digits after the point in 32 bits."""
    generator = np.random.default_rng(0)
    counts = counts_of(40) * 50
    counts += np.where((counts > 0) & (generator.random(counts.shape) < 0.5), generator.normal(0, 5, counts.shape), 0)
    counts = np.round(np.maximum(counts, 0), 2)
    lengths = generator.lognormal(0, 0.8, 400) if unit == 0.01 else np.ones(400)
    values = counts / lengths
    found = Expression.open(adata_of(values)).ln_cp10k().toarray()
    np.testing.assert_allclose(found, np.log1p(to_total(values)), atol=1e-3)


@pytest.mark.parametrize("rate", [0.3, 1, 2, 5, 30])
@pytest.mark.parametrize("genes", [60, 300])
def test_counts_of_genes_that_are_alike_are_not_compressed(rate: float, genes: int) -> None:
    counts = np.random.default_rng(0).poisson(rate, (500, genes)).astype(float)
    assert are_compressed(sp.csr_matrix(counts)).mean() < 0.01
    assert are_compressed(sp.csr_matrix(np.tile(np.arange(1.0, genes + 1), (3, 1)))).all()


@pytest.mark.parametrize("cells", [1, 3])
def test_few_values_that_are_all_one_are_doubted(cells: int, caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((cells, 20))
    values[:, ::4] = 1
    adata = anndata.AnnData(values)
    adata.var_names = [f"GENE{number}" for number in range(20)]
    assert not Expression.open(adata).scale.certain
    assert "the scale of X is not certain" in caplog.text
    assert "the same value (1)" in caplog.text
    assert "so does the order of genes, if the values were scaled per gene" in caplog.text


def test_few_cells_of_genes_that_are_all_alike_are_counts() -> None:
    """Every gene is expressed at one level: such values differ little, as small cells of a simulation do."""
    for seed in range(40):
        counts = np.random.default_rng(seed).poisson(3, (4, 114)) + 1.0
        assert not are_compressed(sp.csr_matrix(counts)).any()
    logs = np.rint(np.log2(1 + np.random.default_rng(0).gamma(2.0, 10.0, (4, 300)))) + 1
    assert are_compressed(sp.csr_matrix(logs)).all()
