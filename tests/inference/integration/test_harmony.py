"""Harmony: batches that differ by a shift become alike, types stay apart; columns of batches."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pandas as pd
import pytest

from cell2sen.inference.integration.harmony import batches_of, harmony, scaled


def shifted() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Two types far apart, in two batches that differ by a constant."""
    generator = np.random.default_rng(0)
    types, batches = generator.integers(0, 2, 240), np.arange(240) % 2
    vectors = (
        generator.normal(size=(240, 8)) * 0.4 + 8 * types[:, None] * np.eye(8)[0] + batches[:, None] * np.eye(8)[1]
    )
    return vectors.astype(np.float32), types, pd.DataFrame({"batch": batches.astype(str)})


def gap(vectors: np.ndarray, first: np.ndarray) -> float:
    """Distance of two means."""
    return float(np.linalg.norm(vectors[first].mean(axis=0) - vectors[~first].mean(axis=0)))


def test_batches_become_alike_and_types_stay_apart() -> None:
    pytest.importorskip("harmonypy")
    vectors, types, table = shifted()
    corrected = harmony(vectors, table)
    assert corrected.shape == vectors.shape
    assert corrected.dtype == np.float32
    for kind in (0, 1):
        mine, batch = corrected[types == kind], (table["batch"] == "0").to_numpy()[types == kind]
        assert gap(mine, batch) < 0.7 * gap(vectors[types == kind], batch)
    assert gap(corrected, types == 0) > 6
    np.testing.assert_array_equal(corrected, harmony(vectors, table))


def test_as_many_cells_as_dimensions() -> None:
    pytest.importorskip("harmonypy")
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 40)).astype(np.float32)
    vectors[:20, 0] += np.float32(1)
    table = pd.DataFrame({"batch": ["a"] * 20 + ["b"] * 20})
    first = np.arange(40) < 20
    assert gap(harmony(vectors, table), first) < 0.5 * gap(vectors, first)


def test_columns_of_batches(caplog: pytest.LogCaptureFixture) -> None:
    obs = pd.DataFrame({"donor": ["a"] * 30 + ["b"] * 3, "one": ["x"] * 33, "part": [None] + ["a", "b"] * 16})
    with caplog.at_level(logging.WARNING):
        assert batches_of(obs, ["donor"])["donor"].tolist() == obs["donor"].tolist()
    assert "b (3)" in caplog.text
    with pytest.raises(ValueError, match="at least two batches"):
        batches_of(obs, ["one"])
    with pytest.raises(ValueError, match="1 of 33 without"):
        batches_of(obs, ["part"])
    with pytest.raises(KeyError, match="no column 'none'"):
        batches_of(obs, ["none"])
    with pytest.raises(ValueError, match="at least one column"):
        batches_of(obs, [])


def test_too_few_cells_and_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _, table = shifted()
    with pytest.raises(ValueError, match="at least 30 cells"):
        harmony(vectors[:12], table[:12])
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(ImportError, match=r"cell2sen\[integrate\]"):
        harmony(vectors, table)


def test_scaled_dimensions() -> None:
    vectors = np.random.default_rng(0).normal(3, [1, 5, 0], size=(50, 3)).astype(np.float32)
    vectors[4] = np.nan
    found = scaled(vectors)
    rest = np.delete(found, 4, axis=0)
    np.testing.assert_allclose(rest.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(rest.std(axis=0), [1, 1, 0], atol=1e-5)
    assert np.isnan(found[4]).all()
