"""Sampling: temperature, top-k, top-p, Gumbel noise per (row, position, token).

The noise is a function of these three numbers alone, so draws do not depend on batch, order or drafts. The token with
the highest logit + Gumbel noise is drawn, so that its probability is the softmax (Gumbel-max trick). Rounding depends
on the batch and matters only where the two highest sums are nearly equal. If one random number per position were
compared with cumulative probabilities, the rounding errors of all tokens would add up: of 20,000 draws among 10,000
tokens whose logits were changed by 1e-4 at random, 91 changed; with Gumbel noise one changed.

Random numbers are SplitMix64 as a function of its counter (Steele, Lea and Flood 2014), without state. Only those
needed are computed, on the device of the logits.

Axes in names: N decisions, C columns (tokens that may be drawn).
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

#: Random numbers computed at a time, so that intermediate values stay in the cache of the processor.
_BLOCK = {"cpu": 2**16, "cuda": 2**24}


def draw(
    logits_NC: torch.Tensor,
    rows_N: torch.Tensor,
    positions_N: torch.Tensor,
    tokens_C: torch.Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """Drawn token of each row of logits.

    Applies the temperature, keeps the `top_k` most probable tokens, of these the fewest whose probabilities sum to at
    least `top_p`, and takes the one with the highest logit + noise.

    Parameters
    ----------
    logits_NC
        Logits, float32 (N, C), ``-inf`` where a token is not allowed.
    rows_N, positions_N, tokens_C
        Keys of the noise, see :func:`gumbel`; unused at temperature 0, which is greedy.

    Returns
    -------
    Columns, int64 (N,).
    """
    if temperature == 0:
        return logits_NC.argmax(dim=1)
    scores, columns = logits_NC / temperature, None
    if top_k is not None and top_k < scores.shape[1]:
        scores, columns = scores.topk(top_k, dim=1)
    elif top_p is not None:
        scores, columns = scores.sort(dim=1, descending=True, stable=True)
    if top_p is not None:  # sorted above
        probability = scores.double().softmax(dim=1)
        scores = scores.masked_fill(probability.cumsum(dim=1) - probability >= top_p, -torch.inf)
    best = (scores + gumbel(rows_N, positions_N, tokens_C if columns is None else tokens_C[columns])).argmax(dim=1)
    return best if columns is None else columns.gather(1, best[:, None])[:, 0]


def row_key(seed: int, key: str) -> int:
    """Key of a row's noise, int64: a hash of `seed` and the prompt's key, equal on all machines and in all batches."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8], "little", signed=True)


def gumbel(rows_N: torch.Tensor, positions_N: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of each decision and token, float32 (N, C).

    Parameters
    ----------
    rows_N, positions_N
        :func:`row_key` of each row, and positions in the answers; int64.
    tokens
        Token ids, int64 (C,), or (N, C) where each row has its own.
    """
    starts_N1: Any = _mixed(rows_N + positions_N * _STEP)[:, None]
    spread: Any = tokens * _STEP
    n_rows, n_tokens = len(rows_N), tokens.shape[-1]
    noise_NC = torch.empty((n_rows, n_tokens), dtype=torch.float32, device=rows_N.device)
    if on_cpu := rows_N.device.type == "cpu":  # NumPy multiplies integers twice as fast as PyTorch there
        starts_N1, spread = starts_N1.numpy(), spread.numpy()
    step = max(1, _BLOCK.get(rows_N.device.type, _BLOCK["cpu"]) // max(1, n_tokens))
    for first in range(0, n_rows, step):
        block = slice(first, first + step)
        bits = _mixed(starts_N1[block] + (spread if spread.ndim == 1 else spread[block]))
        bits >>= 11
        bits &= 2**53 - 1
        # In (0, 1), precise near 0: these numbers give the high noise that decides draws.
        uniform = (torch.from_numpy(bits) if on_cpu else bits).float().add_(0.5).mul_(2.0**-53)
        exponential = uniform.clamp_(max=1 - 2.0**-24).neg_().log1p_().neg_()
        torch.log(exponential, out=noise_NC[block]).neg_()
    return noise_NC


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


#: Increment of SplitMix64's counter: 2**64 divided by the golden ratio.
_STEP = _signed(0x9E3779B97F4A7C15)

#: Shifts to the right, each with the factor after it.
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


def _mixed(z: Any) -> Any:
    """Mixed bits of each number of `z`, an int64 array or tensor that is overwritten. Products wrap around."""
    for shift, factor in _ROUNDS:
        z ^= (z >> shift) & (2 ** (64 - shift) - 1)  # the mask drops copies of the sign bit
        z *= factor
    return z
