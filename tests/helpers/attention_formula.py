"""Attention by its formula, in float64 and one pair of positions at a time."""

from __future__ import annotations

import itertools

import torch

BATCH, KV_HEADS, LENGTH, DEPTH = 3, 2, 13, 4


class Layer(torch.nn.Module):
    """An attention layer with the attributes that `attend` uses."""

    layer_idx = 1


def states(queries: int, groups: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(queries + groups)
    shapes = [(BATCH, KV_HEADS * groups, queries, DEPTH), *[(BATCH, KV_HEADS, LENGTH, DEPTH)] * 2]
    return [2 * torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, Q, H, D) and weights (B, H, Q, T) by the formula, in float64."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = query.double(), key.double(), value.double()
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


def visible(
    queries: int, window: int | None, real: torch.Tensor | None, segment: torch.Tensor | None = None
) -> torch.Tensor:
    """Mask of the keys that each query attends to, (B, 1, Q, T), one pair of positions at a time."""
    visible_pairs = torch.zeros((BATCH, 1, queries, LENGTH), dtype=torch.bool)
    for row, line, column in itertools.product(range(BATCH), range(queries), range(LENGTH)):
        position = LENGTH - queries + line
        visible_pairs[row, 0, line, column] = (
            column <= position
            and (window is None or position - column < window)
            and (real is None or bool(real[row, column]))
            and (segment is None or segment[row, column] == segment[row, position])
        )
    return visible_pairs
