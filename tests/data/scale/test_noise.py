"""Rounding noise is zero and counted; small values that are expression stay; what cannot be ranked is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.data.scale.noise import are_counts, are_nearly_whole, rankable, refuse_unrankable, without_noise


@pytest.mark.parametrize("size", [1e-16, -1e-16, 3e-17, 1e-12, -1e-12, 1e-10])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_becomes_zero(size: float, dtype: type) -> None:
    rows = sp.csr_matrix(np.array([[1, size, 3], [size, 0, 0.5], [0, 0, 0]], dtype=dtype))
    before = rows.copy()
    cleaned, n = without_noise(rows)
    assert n == 2
    np.testing.assert_array_equal(cleaned.toarray(), np.array([[1, 0, 3], [0, 0, 0.5], [0, 0, 0]], dtype=dtype))
    np.testing.assert_array_equal(rows.toarray(), before.toarray())


@pytest.mark.parametrize(
    "values",
    [
        [[1.0, 5000, 0.25]],
        [[1e-5, 1e-6, 3e-8]],  # shares of a deep cell
        [[0.004, 9.2, 1e-3]],
        [[1.0, 2e6, 3e7]],  # bulk counts
        [[-0.5, 2.0, 1.0]],
        [[np.nan, 2.0, 0.01]],
    ],
)
def test_expression_is_no_noise(values: list[list[float]]) -> None:
    rows = sp.csr_matrix(np.array(values))
    cleaned, n = without_noise(rows)
    assert cleaned is rows
    assert n == 0


def test_noise_is_relative_to_the_cell() -> None:
    """A value that is noise beside large values is expression in a cell of small ones."""
    rows = sp.csr_matrix(np.array([[100.0, 20.0, 1e-6], [3e-6, 1e-6, 2e-6]]))
    cleaned, n = without_noise(rows)
    assert n == 1
    assert cleaned.toarray()[0, 2] == 0
    assert cleaned.toarray()[1].tolist() == [3e-6, 1e-6, 2e-6]


def test_whole_numbers_and_empty_matrices_are_not_looked_at() -> None:
    for rows in (sp.csr_matrix(np.array([[1, 0, 7]])), sp.csr_matrix((2, 3))):
        assert without_noise(rows) == (rows, 0)


def test_rankable_values() -> None:
    counts = sp.csr_matrix(np.array([[1.0, 0, 3]]))
    assert rankable(counts) == (counts, 0)
    cleaned, n = rankable(sp.csr_matrix(np.array([[1.0, -1e-17, 3]])))
    assert (cleaned.toarray().tolist(), n) == ([[1, 0, 3]], 1)
    for value in (-1.0, np.inf, -np.inf):
        with pytest.raises(ValueError, match="expression must"):
            rankable(sp.csr_matrix(np.array([[1.0, value, 3]])))


def test_unrankable_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"down to -1.5.*z-scores.*Pearson.*instead: there is layer='counts'"):
        refuse_unrankable(np.array([1.0, -1.5]), "there is layer='counts'")
    with pytest.raises(ValueError, match="infinite"):
        refuse_unrankable(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="negative"):
        refuse_unrankable(np.array([1.0, -np.inf]))
    refuse_unrankable(np.array([np.nan, 0.0, 3.0]))
    refuse_unrankable(np.array([], dtype=np.float32))


def test_whole_numbers() -> None:
    assert are_counts(np.array([], dtype=np.float32))
    assert are_counts(np.array([0, 255], dtype=np.uint8))
    assert not are_counts(np.array([0, -1], dtype=np.int64))
    after = np.expm1(np.log1p(np.array([1, 2, 3, 77, 5000], dtype=np.float32)))
    assert are_nearly_whole(after).all()
    assert are_nearly_whole(np.array([0.0, 1.0, 1.5, 0.99, 1e-6, 2e5 + 0.3])).tolist() == [
        True, True, False, False, False, False
    ]  # fmt: skip
