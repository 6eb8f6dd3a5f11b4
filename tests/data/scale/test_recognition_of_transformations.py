"""Known transformations of random counts: recognised rightly, refused, or doubted; never taken silently for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from totals import to_total

from cell2sen.data.scale.recognition import recognise

#: Expression that is off by more than this, in ln(1 + CP10k), is wrong.
TOLERANCE = 0.1

Matrix = np.ndarray


def scran(counts: Matrix) -> Matrix:
    factors = counts.sum(axis=1) * np.random.default_rng(1).lognormal(0, 0.15, len(counts))
    return counts / (factors / factors.mean())[:, None]


def ambient(counts: Matrix) -> Matrix:
    soup = counts.sum(axis=0) / counts.sum()
    return np.where(counts > 0, np.maximum(counts - 0.1 * counts.sum(axis=1, keepdims=True) * soup, 0), 0)


def shared(counts: Matrix) -> Matrix:
    """A fifth of the counts is shared with other genes, as alevin-fry and STARsolo write them."""
    generator = np.random.default_rng(3)
    part = generator.choice([0.5, 1 / 3, 2 / 3, 0.25], counts.shape)
    return counts - np.where((generator.random(counts.shape) < 0.2) & (counts > 0), part, 0)


def fitted(values: Matrix) -> Matrix:
    return to_total(values, values.sum(axis=1).mean())


@dataclass(frozen=True)
class Case:
    function: Callable[[Matrix], Matrix]
    certain: bool = True
    """Whether all cells over all genes must be recognised with certainty."""

    refused: bool = False
    """Whether many cells must be refused."""

    of_counts: bool = False
    """Whether a part of the genes has its own sum, as counts have."""

    corrected: bool = False
    """Whether the result is the truth, as corrected counts are."""


CASES = {
    "counts": Case(lambda c: c, of_counts=True),
    "counts after a logarithm and back": Case(lambda c: np.expm1(np.log1p(c.astype(np.float32))), of_counts=True),
    "ambient-corrected counts": Case(ambient, certain=False, of_counts=True, corrected=True),
    "decontaminated counts": Case(
        lambda c: c * np.random.default_rng(2).beta(8, 1, c.shape), certain=False, of_counts=True, corrected=True
    ),
    "fractional counts": Case(shared, of_counts=True, corrected=True),
    "CP10k": Case(to_total),
    "CPM": Case(lambda c: to_total(c, 1e6)),
    "shares": Case(lambda c: to_total(c, 1.0)),
    "median depth": Case(lambda c: to_total(c, float(np.median(c.sum(axis=1))))),
    "ln(1 + CP10k)": Case(lambda c: np.log1p(to_total(c))),
    "ln(1 + CPM)": Case(lambda c: np.log1p(to_total(c, 1e6))),
    "ln(1 + median depth)": Case(lambda c: np.log1p(to_total(c, float(np.median(c.sum(axis=1)))))),
    "ln(1 + counts)": Case(np.log1p, of_counts=True),
    "log2(1 + CP10k)": Case(lambda c: np.log2(1 + to_total(c))),
    "log2(1 + CPM)": Case(lambda c: np.log2(1 + to_total(c, 1e6))),
    "log2(1 + counts)": Case(lambda c: np.log2(1 + c), of_counts=True),
    "log10(1 + CP10k)": Case(lambda c: np.log10(1 + to_total(c))),
    "log10(1 + counts)": Case(lambda c: np.log10(1 + c), of_counts=True),
    "logcounts of scran": Case(lambda c: np.log2(1 + scran(c)), certain=False),
    "ln twice": Case(lambda c: np.log1p(np.log1p(to_total(c)))),
    "square root of counts": Case(np.sqrt, of_counts=True),
    "square root of CP10k": Case(lambda c: np.sqrt(to_total(c))),
    "arcsinh(CP10k / 5)": Case(lambda c: np.arcsinh(to_total(c) / 5)),
    "arcsinh(counts)": Case(np.arcsinh, of_counts=True),
    "PFlog1pPF": Case(lambda c: fitted(np.log1p(fitted(c))), certain=False),
    "Freeman-Tukey": Case(lambda c: np.sqrt(c) + np.sqrt(c + 1), refused=True),
    "Anscombe": Case(lambda c: 2 * np.sqrt(c + 3 / 8), refused=True),
    "0 and 1": Case(lambda c: (c > 0) * 1.0, refused=True),
    "logarithm of 0 and 1": Case(lambda c: np.log1p(c > 0), refused=True),
    "0 and 1 over their sums": Case(lambda c: np.log1p(to_total((c > 0) * 1.0)), refused=True),
    "Pearson residuals": Case(lambda c: (c - c.mean(axis=0)) / np.sqrt(c.mean(axis=0) + 1), refused=True),
    "z-scores": Case(lambda c: np.log1p(c) - np.log1p(c).mean(axis=0), refused=True),
    "unit variance": Case(lambda c: np.log1p(to_total(c)) / (np.log1p(to_total(c)).std(0) + 1e-9), refused=True),
    "0 to 1 per gene": Case(lambda c: np.log1p(to_total(c)) / (np.log1p(to_total(c)).max(0) + 1e-9), refused=True),
}


def draw(seed: int, genes: int, depth: float, cells: int) -> Matrix:
    generator = np.random.default_rng(seed)
    shares = generator.gamma(generator.choice([0.1, 0.3, 1.0]), 1.0, genes)
    depths = depth * generator.lognormal(0, generator.choice([0.05, 0.3, 0.8]), (cells, 1))
    counts = generator.poisson(depths * shares / shares.sum()).astype(np.float64)
    return counts[counts.sum(axis=1) > 0]


def outcome(case: Case, counts: Matrix, kept: Matrix) -> str:
    """``"right"``, ``"doubted"``, ``"refused"`` or ``"silent wrong"``."""
    values = case.function(counts)
    if case.corrected:
        counts = values
    values, base = values[:, kept], counts[:, kept]
    rows = base.sum(axis=1) > 0
    total = base.sum(axis=1, keepdims=True) if case.of_counts else counts.sum(axis=1, keepdims=True)
    truth = np.log1p(base[rows] / total[rows] * 1e4)
    matrix = sp.csr_matrix(values[rows].astype(np.float32))
    try:
        scale = recognise(matrix)
    except ValueError:
        return "refused"
    found = scale.ln_cp10k(matrix, scale.row_sums(matrix)).toarray()
    if np.abs(found - truth).max() < TOLERANCE and scale.certain and not case.refused:
        return "right"
    return "silent wrong" if scale.certain else "doubted"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("genes", "depth", "cells"),
    [(60, 300, 40), (300, 200, 40), (500, 3000, 40), (2000, 1000, 40), (6000, 30000, 12), (20000, 3000, 12)],
)
def test_all_genes(name: str, genes: int, depth: float, cells: int) -> None:
    case = CASES[name]
    result = outcome(case, draw(genes, genes, depth, cells), np.arange(genes))
    if case.refused and cells >= 20:
        assert result == "refused"
    elif not case.refused:
        assert result in ({"right"} if case.certain else {"right", "doubted"})
    assert result != "silent wrong"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
@pytest.mark.parametrize("n", [2, 3])
def test_a_few_cells_have_the_scale_of_all(name: str, n: int) -> None:
    case, counts = CASES[name], draw(5, 800, 900, 40)
    matrix = sp.csr_matrix(case.function(counts))
    all_cells, few = recognise(matrix), recognise(matrix[:n])
    if few.certain and all_cells.certain:
        assert (few.kind, few.base, few.of_counts) == (all_cells.kind, all_cells.base, all_cells.of_counts)
        assert few.total == all_cells.total or few.total == pytest.approx(all_cells.total, rel=1e-3)
    assert few.certain or not (case.certain and n == 3)


@pytest.mark.parametrize("seed", range(12))
def test_random_depths_genes_and_choices_of_genes(seed: int) -> None:
    wrong = []
    generator = np.random.default_rng(seed)
    genes, cells = int(generator.choice([50, 120, 500, 2500, 8000])), int(generator.choice([1, 2, 3, 12, 40]))
    counts = draw(
        seed, genes, float(np.exp(generator.uniform(np.log(100), np.log(40000)))), min(cells, 100000 // genes)
    )
    kept = np.sort(generator.permutation(genes)[: max(20, int(genes * generator.choice([1, 0.5, 0.1])))])
    for name, case in CASES.items():
        if case.refused and (len(counts) < 20 or (counts[:, kept] > 0).sum() < 200):
            continue  # too few values to tell
        if len(counts) == 1 and name in ("ln(1 + median depth)", "median depth", "PFlog1pPF", "logcounts of scran"):
            continue  # the mean over cells is the cell itself: these are counts
        result = outcome(case, counts, kept)
        if result == "silent wrong" or (result == "refused") > case.refused:
            wrong.append((name, result))
    assert not wrong, f"{genes} genes, {len(kept)} kept, {len(counts)} cells"
