"""Scale: every named scale is converted to ln(1 + CP10k) as by its definition."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.data.scale.units import COUNTS, LN_CP10K, NAMED, Scale, ScaleName, check_scale_name

COUNTS_OF_CELLS = np.array([[3.0, 0, 1, 16], [0, 2, 0, 0], [1, 1, 1, 2]])
SHARES = COUNTS_OF_CELLS / COUNTS_OF_CELLS.sum(axis=1, keepdims=True)
EXPECTED = np.log(1 + SHARES * 1e4)

#: Values of the same cells on each scale, by definition.
VALUES = {
    "counts": COUNTS_OF_CELLS,
    "cp10k": SHARES * 1e4,
    "cpm": SHARES * 1e6,
    "normalised": SHARES * 1853,
    "log1p": np.log(1 + SHARES * 1e4),
    "log1p_cpm": np.log(1 + SHARES * 1e6),
    "ln": np.log(1 + SHARES * 321),
    "log2": np.log2(1 + SHARES * 1e6),
    "log10": np.log10(1 + COUNTS_OF_CELLS),
    "sqrt": np.sqrt(SHARES * 1e4),
    "arcsinh": np.arcsinh(SHARES * 1e4 / 5),
}


def test_the_menu() -> None:
    assert set(NAMED) == set(VALUES) == set(get_args(ScaleName)) - {"auto"}
    for name in (None, *get_args(ScaleName)):
        check_scale_name(name)
    with pytest.raises(ValueError, match=r"real_scale must be one of auto, counts, .* found 'log1p10k'"):
        check_scale_name("log1p10k", "real_scale")


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_named_scales_are_converted_as_by_definition(name: str, dtype: type) -> None:
    matrix = sp.csr_matrix(VALUES[name].astype(dtype))
    before = matrix.copy()
    scale = NAMED[name]
    found = scale.ln_cp10k(matrix, scale.row_sums(matrix))
    np.testing.assert_allclose(found.toarray(), EXPECTED, rtol=1e-5)
    np.testing.assert_array_equal(matrix.toarray(), before.toarray())
    flat = scale.log10_cp10k(matrix.data, np.repeat(scale.row_sums(matrix), np.diff(matrix.indptr)))
    np.testing.assert_allclose(flat * np.log(10), found.data, rtol=1e-12)


def test_log_applied_twice() -> None:
    matrix = sp.csr_matrix(np.log1p(EXPECTED))
    scale = Scale(kind="log of log", total=1e4)
    np.testing.assert_allclose(scale.ln_cp10k(matrix, scale.row_sums(matrix)).toarray(), EXPECTED, rtol=1e-6)


def test_parts_of_the_genes_keep_the_total() -> None:
    for name in ("cp10k", "cpm", "log1p", "log1p_cpm"):
        part = sp.csr_matrix(VALUES[name][:, 2:])
        assert not NAMED[name].needs_row_sums
        np.testing.assert_allclose(NAMED[name].ln_cp10k(part, np.ones(3)).toarray(), EXPECTED[:, 2:], rtol=1e-6)
    assert NAMED["ln"].needs_row_sums
    assert LN_CP10K.is_ln_cp10k
    assert not NAMED["ln"].is_ln_cp10k


@pytest.mark.parametrize("name", ["counts", "cp10k", "log1p", "ln", "log2", "sqrt", "arcsinh"])
def test_counts_are_estimated_from_the_smallest_value(name: str) -> None:
    cells = COUNTS_OF_CELLS[[0, 2]]
    matrix = sp.csr_matrix(VALUES[name][[0, 2]])
    assert NAMED[name].counts(matrix).tolist() == sp.csr_matrix(cells).data.tolist()


def test_counts_with_decimals_are_rounded_not_cut() -> None:
    scale = Scale(kind="counts", decimals=True)
    assert scale.counts(sp.csr_matrix([[0.96, 0, 2.9, 1.2]])).tolist() == [1, 3, 1]


def test_agreement_of_a_given_and_a_recognised_scale() -> None:
    assert COUNTS.agrees_with(Scale(kind="counts", decimals=True))
    assert COUNTS.agrees_with(Scale(kind="normalised"))
    assert LN_CP10K.agrees_with(Scale(kind="log", base="e", total=1e4))
    assert NAMED["ln"].agrees_with(LN_CP10K)
    for other in (COUNTS, NAMED["log1p_cpm"], NAMED["log2"], Scale(kind="log", base="e", of_counts=True)):
        assert not LN_CP10K.agrees_with(other)


def test_overflow_is_infinite_and_silent() -> None:
    with np.errstate(all="raise"):
        assert NAMED["ln"].linear(np.array([1e4]))[0] == np.inf
        assert NAMED["ln"].row_sums(sp.csr_matrix([[1e4, 1.0]]))[0] == np.inf


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (
            Scale(kind="counts", evidence=("all values of 2,000 cells are whole numbers", "more")),
            "counts (certain: all values of 2,000 cells are whole numbers)",
        ),
        (
            Scale(kind="log", base="e", total=1e4, certain=False, evidence=("no evidence",)),
            "log base e of 1 + x, total 1e+04 per cell (assumed: no evidence)",
        ),
        (Scale(kind="counts"), "counts (certain)"),
    ],
)
def test_a_scale_with_its_reason(scale: Scale, text: str) -> None:
    assert scale.with_reason() == text
