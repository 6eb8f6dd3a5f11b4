"""Evidence: whole multiples and sums of small matrices, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.data.scale.evidence import candidate, multiples
from cell2sen.data.scale.units import Scale

LINEAR, LN, SQRT = Scale(kind="normalised"), Scale(kind="log", base="e"), Scale(kind="sqrt")


def test_whole_multiples_are_counted_among_distinct_values() -> None:
    #                       of 0.5: 2, 3, 4.5; 7.0 is 14 times; 0.5 and 1.0 twice
    rows = sp.csr_matrix(np.array([[0.5, 0.5, 1.0, 1.0, 1.5, 2.25, 7.0], [0, 0, 0.3, 0, 0.6, 0, 0]]))
    found = multiples(rows, LINEAR)
    assert (found.hits.tolist(), found.tests.tolist()) == ([2, 1], [3, 1])
    assert found.smallest.tolist() == [0.5, 0.3]
    assert found.share == 0.0  # fewer than five values
    assert multiples(rows, LINEAR, 20.0).hits.tolist() == [3, 1]
    assert found.share_of_cells(min_tests=3).tolist() == pytest.approx([2 / 3, 0])


def test_logarithms_of_multiples() -> None:
    counts = np.array([[1.0, 2, 3, 5, 7, 9]])
    rows = sp.csr_matrix(np.log1p(counts * 0.7))
    assert multiples(rows, LN).share == 1.0
    assert multiples(rows, LINEAR).share < 0.5
    assert multiples(rows, SQRT).share < 0.5


def test_linear_values_are_no_evidence_for_roots_and_powers() -> None:
    """Squares of whole numbers are whole, and so are powers of 2."""
    rows = sp.csr_matrix(np.array([[1.0, 2, 3, 4, 5, 6, 7]]))
    assert multiples(rows, SQRT).tests.sum() == 0
    assert multiples(rows, Scale(kind="log", base="2")).tests.sum() == 0


def test_tiny_values_tell_nothing() -> None:
    rows = sp.csr_matrix(np.log1p(np.arange(1, 8) * 1e-3)[None])
    assert multiples(rows, LN).tests.sum() == multiples(rows, LINEAR).tests.sum() == 0


def test_sums_of_a_candidate() -> None:
    rows = sp.csr_matrix(np.log1p(np.array([[10.0, 30, 60], [50, 25, 25], [0, 10, 90]])))
    found = candidate(rows, rows[:1], LN)
    np.testing.assert_allclose(found.sums, [100, 100, 100])
    assert found.total == pytest.approx(100)
    assert found.spread < 1e-12
    assert found.variation < 1e-12
    assert found.top_share == pytest.approx(0.6)
    assert found.possible
    huge = candidate(sp.csr_matrix([[700.0, 800.0]]), rows[:1], LN)
    assert not huge.possible
    assert candidate(rows[:1], rows[:1], LN).spread == np.inf
