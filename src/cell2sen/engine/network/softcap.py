"""Soft-cap formula of attention scores and logits: cap * tanh(x / cap), as in Gemma-2.

Axes in names: B batch, H heads, K key-value heads, Q queries, T keys, D head dimension.
"""

from __future__ import annotations

import torch


def soft_cap_logits(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Logits with a soft-cap (None: unchanged), float32. `logits` without gradients are overwritten."""
    if cap is None:
        return logits.float()
    if logits.requires_grad:
        return torch.tanh(logits / cap).mul(cap).float()
    # In place: for a large vocabulary new memory takes longer than the arithmetic.
    if logits.dtype == torch.float32:
        return tanh_of_half_(logits.mul_(2 / cap)).mul_(cap)
    return logits.div_(cap).tanh_().mul_(cap).float()


def attention_weights(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    visible: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention weights, float32 (B, H, Q, T).

    Parameters
    ----------
    visible
        Which keys each query sees, bool, broadcast to (B, H, Q, T). None: causal, the queries are the last positions.
    scaling
        Factor of the scores, before the soft-cap.
    """
    n_batch, n_heads, n_queries, _ = query_BHQD.shape
    n_groups, n_keys = key_BKTD.shape[1:3]
    in_place = not torch.is_grad_enabled()
    factor = scaling if softcap is None else scaling / softcap
    # cap * tanh(x / cap) is 2 * cap * sigmoid(2 * x / cap) - cap, and the softmax does not depend on a constant. This
    # takes a sixth of the time on a CPU, with an error of some units in the last place, so it is not used in float32.
    use_sigmoid = in_place and softcap is not None and query_BHQD.dtype != torch.float32
    if in_place and softcap is not None:
        factor *= 2
    if in_place and query_BHQD.dtype == torch.float32:  # fewer numbers than scores; bfloat16 would be rounded
        query_BHQD, factor = query_BHQD * factor, 1.0
    # Heads of a group share their keys: stacked as queries they need no copies of the keys.
    stacked = query_BHQD.reshape(n_batch, n_groups, -1, query_BHQD.shape[3])
    scores = torch.matmul(stacked, key_BKTD.transpose(2, 3)).float()
    scores = scores.reshape(n_batch, n_heads, n_queries, n_keys)
    if not in_place:
        scores = scores * factor if softcap is None else softcap * torch.tanh(scores * factor)
    else:
        if factor != 1.0:
            scores.mul_(factor)
        if softcap is not None:
            scores = scores.sigmoid_().mul_(2 * softcap) if use_sigmoid else tanh_of_half_(scores).mul_(softcap)
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(torch.float32).min)
    elif n_queries > 1:
        above = torch.ones((n_queries, n_queries), dtype=torch.bool, device=scores.device).triu_(1)
        last = scores[..., n_keys - n_queries :]
        if in_place:
            last.masked_fill_(above, torch.finfo(torch.float32).min)
        else:
            hidden = last.masked_fill(above, torch.finfo(torch.float32).min)
            scores = torch.cat([scores[..., : n_keys - n_queries], hidden], dim=-1)
    return scores.softmax(dim=-1)


def tanh_of_half_(doubled: torch.Tensor) -> torch.Tensor:
    """tanh(x) from 2x, float32, in place, as (e**2x - 1) / (e**2x + 1): on a CPU a fraction of the time of ``tanh``.

    Exact within units in the last place, since ``expm1`` keeps the digits of small numbers.
    """
    if doubled.device.type != "cpu":
        return doubled.mul_(0.5).tanh_()
    doubled.clamp_(max=80.0).expm1_()  # from 80 on the result is 1; from 89 on expm1 is infinite
    return doubled.div_(doubled + 2)


def weighted_sum(weights_BHQT: torch.Tensor, value_BKTD: torch.Tensor) -> torch.Tensor:
    """Sums of the values weighted by attention, (B, H, Q, D), in the dtype of the values."""
    n_batch, n_heads, n_queries, n_keys = weights_BHQT.shape
    stacked = weights_BHQT.reshape(n_batch, value_BKTD.shape[1], -1, n_keys)
    return torch.matmul(stacked, value_BKTD).reshape(n_batch, n_heads, n_queries, -1)
