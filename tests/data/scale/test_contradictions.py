"""Contradictions: cells of another scale are found in every block, and cells of the same scale never."""

from __future__ import annotations

import contextlib
from itertools import permutations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from totals import to_total

from cell2sen.data import reader
from cell2sen.data.expression import Expression
from cell2sen.data.scale.contradictions import contradicting, refuse_overflow
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.units import NAMED
from cell2sen.sentences.writing import from_anndata

GENES = 400


def counts_of(cells: int, depth: float = 900, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    shares = np.random.default_rng(7).gamma(0.3, 1.0, GENES)
    return generator.poisson(depth * generator.lognormal(0, 0.4, (cells, 1)) * shares / shares.sum()).astype(float)


SCALES = {
    "counts": lambda c: c,
    "fractional": lambda c: np.where((c > 2) & (c % 2 == 0), c - 0.5, c),
    "cp10k": to_total,
    "cpm": lambda c: to_total(c, 1e6),
    "log1p": lambda c: np.log1p(to_total(c)),
    "log1p_cpm": lambda c: np.log1p(to_total(c, 1e6)),
    "log2": lambda c: np.log2(1 + to_total(c)),
    "log10": lambda c: np.log10(1 + to_total(c)),
    "ln": np.log1p,
    "sqrt": np.sqrt,
    "arcsinh": np.arcsinh,
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("depth", [150, 900, 20000])
def test_cells_of_one_scale_do_not_contradict_it(name: str, depth: float) -> None:
    values = sp.csr_matrix(SCALES[name](counts_of(300, depth)).astype(np.float32))
    scale = recognise(values[:40])
    assert scale.certain
    assert not contradicting(values, scale).any()


@pytest.mark.parametrize(("most", "others"), list(permutations(SCALES, 2)))
def test_every_other_scale_contradicts(most: str, others: str) -> None:
    linear = {"counts", "fractional", "cp10k", "cpm"}
    if most == "fractional" and others in linear:
        return  # each cell is divided by its own sum: the result is right
    scale = recognise(sp.csr_matrix(SCALES[most](counts_of(40))))
    found = contradicting(sp.csr_matrix(SCALES[others](counts_of(60, seed=1)).astype(np.float32)), scale)
    assert found.mean() > 0.8, scale


def test_an_assumed_total_is_no_reason_to_refuse() -> None:
    scale = recognise(sp.csr_matrix(SCALES["log1p"](counts_of(40))[:, :200]))
    assert (scale.total, scale.certain) == (1e4, False)
    high = sp.csr_matrix(np.log1p(to_total(counts_of(40, seed=1), 3e4)))
    assert not contradicting(high, scale).any()
    assert contradicting(sp.csr_matrix(counts_of(40, seed=1)), scale).all()


def test_genes_that_were_left_out_are_no_contradiction() -> None:
    """Sums are far below a total that is known from the counts in obs."""
    counts = counts_of(300)
    part = sp.csr_matrix(SCALES["log1p"](counts)[:, :60])
    scale = recognise(part[:40], depths=counts[:40].sum(axis=1))
    assert (scale, scale.complete) == (NAMED["log1p"], False)
    assert not contradicting(part, scale).any()
    assert contradicting(sp.csr_matrix(counts[:, :200]), scale).mean() > 0.8
    assert contradicting(sp.csr_matrix(SCALES["log1p_cpm"](counts)[:, :60]), scale).mean() > 0.8


def test_fractions_contradict_whole_counts() -> None:
    rows = sp.csr_matrix(np.array([[1.0, 2, 0], [1, 2.5, 0], [0, 0, 0], [3 + 1e-6, 0, 1]]))
    assert contradicting(rows, NAMED["counts"]).tolist() == [False, True, False, False]


@pytest.mark.parametrize("most", ["counts", "log1p", "log2", "sqrt"])
@pytest.mark.parametrize("others", ["counts", "log1p", "cpm"])
def test_a_matrix_of_two_scales_is_refused_wherever_its_cells_are(
    most: str, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most == others:
        return
    monkeypatch.setattr(reader, "BLOCK_ROWS", 64)
    counts = counts_of(1200)
    for rows in (slice(300, 420), slice(0, 200), slice(1199, 1200), slice(None, None, 3)):
        values = SCALES[most](counts).copy()
        values[rows] = SCALES[others](counts)[rows]
        adata = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)))
        adata.obs_names, adata.var_names = [f"cell{n}" for n in range(1200)], [f"GENE{n}" for n in range(GENES)]
        n = len(range(1200)[rows])
        if (most, others) == ("counts", "cpm"):  # all cells may be divided by their sums, or refused
            with contextlib.suppress(ValueError):
                found = Expression.open(adata).ln_cp10k().toarray()
                np.testing.assert_allclose(found, SCALES["log1p"](counts), atol=1e-3)
            continue
        with pytest.raises(ValueError, match=r"cells in X are on another scale .* cell 'cell\d+' has the") as raised:
            Expression.open(adata).ln_cp10k()
        # CPM of a cell with a thousand counts are whole numbers, so a few cells fit two scales.
        assert abs(int(str(raised.value).split()[0].replace(",", "")) - n) <= 0.05 * n


def test_values_that_are_no_logarithms_of_counts() -> None:
    for name in ("log1p", "ln", "log2", "log10", "arcsinh"):
        with pytest.raises(ValueError, match=r"values up to 400.*impossible"):
            refuse_overflow(np.array([1.0, 400.0]), NAMED[name])
    refuse_overflow(np.array([1.0, 9.2]), NAMED["log1p"])
    refuse_overflow(np.array([1.0, 1e12]), NAMED["counts"])
    refuse_overflow(np.array([]), NAMED["log1p"])


def ranks_of(counts: np.ndarray) -> np.ndarray:
    return (counts.argsort(axis=1, kind="stable").argsort(axis=1) - (counts == 0).sum(axis=1)[:, None] + 1) * (
        counts > 0
    )


WHOLE = {
    "ranks": ranks_of,
    "0 to 255": lambda c: np.rint(255 * np.log1p(c) / np.log1p(c).max()),
    "rounded logarithms": lambda c: np.rint(np.log2(1 + to_total(c, 1e6))),
    "bins": lambda c: np.ceil(ranks_of(c) / ranks_of(c).max(axis=1, keepdims=True) * 51),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_that_are_no_counts_contradict_counts_wherever_they_are(name: str) -> None:
    counts = counts_of(1200, 3000)
    for rows in (slice(300, 304), slice(1199, 1200), slice(0, 200)):
        values = counts.copy()
        values[rows] = WHOLE[name](counts)[rows]
        adata = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)))
        adata.obs_names, adata.var_names = [f"cell{n}" for n in range(1200)], [f"GENE{n}" for n in range(GENES)]
        n = len(range(1200)[rows])
        for read in (lambda: Expression.open(adata).ln_cp10k(), lambda: from_anndata(adata)):  # noqa: B023
            with pytest.raises(ValueError, match=rf"^{n} of 1,200 cells in X are on another scale"):
                read()


def test_corrected_counts_that_look_like_the_others_never_contradict_them() -> None:
    """Few values may be whole multiples under a logarithm by chance."""
    for seed in range(30):
        random = np.random.default_rng(seed)
        share = random.gamma(0.3, 1.0, 60)
        counts = random.poisson(2000 * share / share.sum() * random.lognormal(0, 0.4, (60, 1))).astype(float)
        corrected = np.maximum(counts - 0.05 * counts.mean(axis=0), 0) * (counts > 0)
        scale = recognise(corrected)
        assert (scale.kind, scale.decimals) == ("counts", True)
        assert not contradicting(sp.csr_matrix(corrected), scale).any()


def test_a_cell_of_counts_that_has_the_sum_of_the_others_by_chance() -> None:
    counts = np.random.default_rng(0).poisson(0.9, (3, 3000)).astype(np.float64)
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    ones = np.zeros(3000)
    ones[:1000], ones[1000:1031] = 1, 5
    sums = np.expm1(ones).sum()
    logs = np.log1p(np.expm1(logs) * (sums / 1e4))  # a total that this cell has, too
    mixed = sp.csr_matrix(np.vstack([logs, ones]))
    scale = recognise(sp.csr_matrix(logs))
    assert (scale.kind, scale.complete) == ("log", True)
    assert contradicting(mixed, scale).tolist() == [False, False, False, True]
