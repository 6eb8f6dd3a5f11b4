"""Gumbel noise is a function of row, position and token; draws have the distribution of transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from cell2sen.engine.decoding import sampling
from cell2sen.engine.decoding.sampling import draw, gumbel, row_key


def gumbel_number(row: int, position: int, token: int) -> float:
    """The noise of one token, with Python's integers."""

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    step = 0x9E3779B97F4A7C15
    start = mixed((row + position * step) % 2**64)
    return -math.log(-math.log1p(-((mixed((start + token * step) % 2**64) >> 11) + 0.5) / 2**53))


ROWS = torch.tensor([row_key(seed, key) for seed in (0, 1) for key in ("cell", "another", "")] + [-(2**63), 0])
POSITIONS = torch.tensor([0, 1, 2, 3, 1000, 2**20, 0, 0])
TOKENS = torch.tensor([0, 1, 7, 255_999])


@pytest.mark.parametrize("block", [1, 9, 2**16])
def test_noise_equals_that_of_pythons_integers(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sampling._BLOCK, "cpu", block)
    result = gumbel(ROWS, POSITIONS, TOKENS)
    assert result.dtype == torch.float32
    expected = [
        [gumbel_number(row, position, token) for token in TOKENS.tolist()]
        for row, position in zip(ROWS.tolist(), POSITIONS.tolist(), strict=True)
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    own = torch.stack([TOKENS.roll(row) for row in range(len(ROWS))])
    np.testing.assert_array_equal(gumbel(ROWS, POSITIONS, own)[3], result[3].roll(3))


def test_tensors_and_arrays_are_mixed_equally() -> None:
    bits = np.random.default_rng(0).integers(-(2**63), 2**63, 1000)
    np.testing.assert_array_equal(sampling._mixed(torch.from_numpy(bits.copy())).numpy(), sampling._mixed(bits.copy()))


def test_noise_is_the_same_in_every_release() -> None:
    # Otherwise the drawn sentences of a seed would change.
    assert row_key(0, "cell") == -3860081076956621215
    np.testing.assert_allclose(
        gumbel(torch.tensor([-3860081076956621215]), POSITIONS[1:2], TOKENS[:3])[0],
        [-0.0758987, 0.3501575, 0.296081],
        atol=1e-6,
    )
    assert len({row_key(seed, key) for seed in range(20) for key in ("", "1", "11", "cell")}) == 80


def test_has_the_distribution_of_gumbel_and_neighbours_are_independent() -> None:
    rows = torch.tensor([row_key(0, str(row)) for row in range(30)])
    table = torch.stack(
        [gumbel(rows, torch.full((30,), position), torch.arange(700)) for position in range(40)]
    ).double()
    assert scipy.stats.kstest(table.flatten()[::7], "gumbel_r").pvalue > 1e-3
    uniform = np.exp(-np.exp(-table.numpy()))
    assert 0 < uniform.min() < uniform.max() < 1
    for axis in range(3):  # positions, rows, tokens
        drawn, redrawn = (np.delete(uniform, end, axis=axis).ravel() for end in (0, -1))
        assert abs(np.corrcoef(drawn, redrawn)[0, 1]) < 4 / math.sqrt(len(drawn))


def test_no_number_is_infinite() -> None:
    ends = np.array([0, 2**53 - 1]).astype(np.float32) + np.float32(0.5)
    uniform_number = np.minimum(ends * np.float32(2.0**-53), np.float32(1 - 2.0**-24))
    assert np.isfinite(-np.log(-np.log1p(-uniform_number))).all()


# -- draws

LOGITS = 2 * torch.randn((1, 50), generator=torch.Generator().manual_seed(0))
N = 20_000
DRAW_ROWS, START = torch.tensor([row_key(0, str(row)) for row in range(N)]), torch.zeros(N, dtype=torch.int64)


@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 99])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_from_the_distribution_of_transformers(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    tokens = draw(LOGITS.expand(N, -1), DRAW_ROWS, START, torch.arange(50), **options)  # type: ignore[arg-type]
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = N * scores[0].double().softmax(0).numpy()
    result = np.bincount(tokens.numpy(), minlength=50)
    assert result[expected == 0].sum() == 0
    often = expected >= 5
    parts = [(result[often], expected[often]), (result[~often].sum(keepdims=True), expected[~often].sum(keepdims=True))]
    chi = sum(float(((count - mean) ** 2 / np.maximum(mean, 1e-9)).sum()) for count, mean in parts)
    assert chi <= scipy.stats.chi2.isf(1e-4, max(int(often.sum()), 1)), "exceeded by chance once in ten thousand"


def test_temperature_0_takes_the_most_probable_token() -> None:
    keys = DRAW_ROWS[:1], START[:1], torch.arange(50)
    assert draw(LOGITS, *keys, temperature=0.0, top_k=5, top_p=0.1).tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.999}, {"top_k": 4, "top_p": 0.5}])
def test_tokens_that_are_not_allowed_are_never_drawn(options: dict[str, float]) -> None:
    logits = torch.full((N, 10), -torch.inf)
    logits[:, 4], logits[:, 6] = 0.0, 1e-3
    drawn = draw(logits, DRAW_ROWS, START, torch.arange(10), temperature=1.0, **options)  # type: ignore[arg-type]
    assert set(drawn.tolist()) == ({6} if options.get("top_p") == 0.5 else {4, 6})


@pytest.mark.parametrize("options", [{}, {"top_k": 30}, {"top_p": 0.9}])
def test_a_draw_does_not_depend_on_tokens_that_cannot_be_drawn(options: dict[str, float]) -> None:
    # Other columns are masked or missing, and the row has another place in the batch.
    kept = torch.arange(0, 50, 2)
    masked = LOGITS.clone()
    masked[:, 1::2] = -torch.inf
    options = {"temperature": 1.3, **options}
    all_columns = draw(masked.expand(N, -1), DRAW_ROWS, START, torch.arange(50), **options)  # type: ignore[arg-type]
    part = draw(masked[:, kept].expand(N, -1), DRAW_ROWS.flip(0), START, kept, **options)  # type: ignore[arg-type]
    assert (kept[part].flip(0) == all_columns).all()


@pytest.mark.slow
def test_rounding_hardly_changes_draws() -> None:
    # Ten thousand tokens, and logits changed by a hundred times the rounding of float32: a draw changes if the two
    # highest are closer than that, once in ten thousand draws. With one random number per position, compared with
    # cumulative probabilities, 91 of these draws changed (measured).
    n = 10_000
    random = torch.Generator().manual_seed(0)
    changed = 0
    for first in range(0, N, 1000):
        rows = slice(first, first + 1000)
        logits = torch.randn((1000, n), generator=random)
        keys = DRAW_ROWS[rows], START[rows], torch.arange(n)
        drawn = draw(logits, *keys, temperature=1.0)
        redrawn = draw(logits.add_(torch.randn(logits.shape, generator=random), alpha=1e-4), *keys, temperature=1.0)
        changed += int((drawn != redrawn).sum())
    assert changed <= 10
