"""Random numbers that belong to a row, a place and a token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from cell2sen.engine.decoding import sampling as noise
from cell2sen.engine.decoding.sampling import gumbel, row_key


def twin(row: int, place: int, token: int) -> float:
    """One number, with Python's integers."""

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    step = 0x9E3779B97F4A7C15
    start = mixed((row + place * step) % 2**64)
    return -math.log(-math.log1p(-((mixed((start + token * step) % 2**64) >> 11) + 0.5) / 2**53))


ROWS = torch.tensor([row_key(seed, key) for seed in (0, 1) for key in ("cell", "another", "")] + [-(2**63), 0])
PLACES = torch.tensor([0, 1, 2, 3, 1000, 2**20, 0, 0])
TOKENS = torch.tensor([0, 1, 7, 255_999])


@pytest.mark.parametrize("block", [1, 9, 2**16])
def test_equals_its_twin(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(noise._BLOCK, "cpu", block)
    found = gumbel(ROWS, PLACES, TOKENS)
    assert found.dtype == torch.float32
    wanted = [
        [twin(row, place, token) for token in TOKENS.tolist()]
        for row, place in zip(ROWS.tolist(), PLACES.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    own = torch.stack([TOKENS.roll(row) for row in range(len(ROWS))])
    np.testing.assert_array_equal(gumbel(ROWS, PLACES, own)[3], found[3].roll(3))


def test_tensors_and_arrays_are_mixed_alike() -> None:
    bits = np.random.default_rng(0).integers(-(2**63), 2**63, 1000)
    np.testing.assert_array_equal(noise._mixed(torch.from_numpy(bits.copy())).numpy(), noise._mixed(bits.copy()))


def test_the_same_in_every_release() -> None:
    # Drawn sentences of a seed would change otherwise.
    assert row_key(0, "cell") == -3860081076956621215
    np.testing.assert_allclose(
        gumbel(torch.tensor([-3860081076956621215]), PLACES[1:2], TOKENS[:3])[0],
        [-0.0758987, 0.3501575, 0.296081],
        atol=1e-6,
    )
    assert len({row_key(seed, key) for seed in range(20) for key in ("", "1", "11", "cell")}) == 80


def test_has_the_distribution_of_gumbel_and_neighbours_are_independent() -> None:
    rows = torch.tensor([row_key(0, str(row)) for row in range(30)])
    table = torch.stack([gumbel(rows, torch.full((30,), place), torch.arange(700)) for place in range(40)]).double()
    assert scipy.stats.kstest(table.flatten()[::7], "gumbel_r").pvalue > 1e-3
    uniform = np.exp(-np.exp(-table.numpy()))
    assert 0 < uniform.min() < uniform.max() < 1
    for axis in range(3):  # places, rows, tokens
        one, other = (np.delete(uniform, end, axis=axis).ravel() for end in (0, -1))
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(len(one))


def test_no_number_is_infinite() -> None:
    ends = np.array([0, 2**53 - 1]).astype(np.float32) + np.float32(0.5)
    share = np.minimum(ends * np.float32(2.0**-53), np.float32(1 - 2.0**-24))
    assert np.isfinite(-np.log(-np.log1p(-share))).all()
