"""Attention of whole prompts on a GPU, by PyTorch's flex_attention.

:mod:`cell2sen.engine.network.attention` writes the scores of a block of queries into the GPU's memory, and reads them
again for the cap, the mask and the softmax. Here one compiled kernel does all of it on the chip, and leaves out the
blocks that a query does not see. It is compiled once for all lengths and batches, and used only where it has passed a
test.

Axes in names: B batch, H heads, K key-value heads, Q queries, T keys, D head dimension.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

_log = logging.getLogger(__name__)

#: Queries and keys of a block; what is shorter is filled up to whole blocks.
BLOCK = 128

#: Versions of the kernel that PyTorch may keep: batches of one and of several, dtypes, windows, models.
_VERSIONS = 64


#: What is wrong with the kernel for heads of a shape, ``""`` for nothing; what was not asked for was not tried.
faults: dict[tuple[Any, ...], str] = {}


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor | None:
    """Attention output (B, Q, H, D), or None where the kernel is unavailable.

    As :func:`cell2sen.engine.network.attention.attend` without masks.

    Parameters
    ----------
    query
        (B, H, Q, D): the last Q of the T positions.
    key, value
        (B, K, T, D), H a multiple of K, of the dtype of the queries.
    window
        A query sees itself and the ``window - 1`` positions before it.
    """
    mixed = not query.dtype == key.dtype == value.dtype
    if mixed or torch.is_autocast_enabled(query.device.type):  # which would round what is not to be rounded
        return None
    heads = query.shape[1], key.shape[1], query.shape[3], query.dtype, query.device, softcap
    try:
        if heads not in faults:
            faults[heads] = _fault(*heads)
        if not faults[heads]:
            return _attend(query, key, value, scaling, softcap, window)
    except torch.OutOfMemoryError:  # of a batch that is too large: the budget's business
        raise
    except Exception as error:  # of dynamo, inductor, triton or the driver: nothing of it may stop an embedding
        faults[heads] = str(error).partition("\n")[0] or type(error).__name__
    if faults[heads] not in _said:
        _said.add(faults[heads])
        _log.warning("a slower attention is used instead of flex_attention: %s", faults[heads])
    return None


_said: set[str] = set()


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor:
    n_queries, n_keys = query.shape[2], key.shape[2]
    # What is filled up with stands behind everything, where nobody sees it.
    query, key, value = (functional.pad(each, (0, 0, 0, -each.shape[2] % BLOCK)) for each in (query, key, value))
    mask = block_mask(query.shape[2], key.shape[2], n_keys - n_queries, window, query.device)
    output_BHQD: torch.Tensor = _kernel()(
        query, key, value, score_mod=_cap(softcap, query.shape[1], query.device), block_mask=mask, scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output_BHQD[:, :, :n_queries].transpose(1, 2).contiguous()


@lru_cache(maxsize=16)  # the full and the windowed layers of the lengths of some batches
def block_mask(n_queries: int, n_keys: int, offset: int, window: int | None, device: torch.device) -> Any:
    """Which blocks of keys the blocks of queries see, from their numbers: no mask of all queries and keys is made.

    Parameters
    ----------
    n_queries, n_keys
        Multiples of :data:`BLOCK`.
    offset
        Position of the first query among the keys.
    """
    from torch.nn.attention.flex_attention import BlockMask

    # Tensors are inputs of the kernel; of numbers each value would have a kernel of its own.
    last_Q = torch.arange(offset, offset + n_queries, device=device)
    reach = n_keys + offset if window is None else window
    first_Q = last_Q - (reach - 1)

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (first_Q[query] <= key) & (key <= last_Q[query])

    low_Q = offset + BLOCK * torch.arange(n_queries // BLOCK, device=device)[:, None]
    low_T = BLOCK * torch.arange(n_keys // BLOCK, device=device)[None, :]
    high_Q, high_T = low_Q + BLOCK - 1, low_T + BLOCK - 1
    some = (low_T <= high_Q) & (low_Q - high_T < reach)
    all_ = (high_T <= low_Q) & (high_Q - low_T < reach)
    listed = [
        each.to(torch.int32)[None, None]
        for blocks in (some & ~all_, all_)
        for each in (blocks.sum(1), blocks.int().argsort(dim=1, descending=True, stable=True))
    ]
    return BlockMask.from_kv_blocks(
        listed[0], listed[1], listed[2], listed[3], BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(n_queries, n_keys)
    )


@lru_cache(maxsize=8)
def _cap(softcap: float | None, n_heads: int, device: torch.device) -> Callable[..., torch.Tensor] | None:
    if softcap is None:
        return None
    cap_H = torch.full((n_heads,), softcap, device=device)  # a number would be a scalar that inductor refuses

    def cap(score: torch.Tensor, batch: Any, head: Any, *_: Any) -> torch.Tensor:
        return cap_H[head] * torch.tanh(score / cap_H[head])

    return cap


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _VERSIONS)
    # As one graph or not at all: what is not compiled would hold the scores of all queries and keys.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def _fault(
    n_heads: int, n_groups: int, depth: int, dtype: torch.dtype, device: torch.device, softcap: float | None
) -> str:
    """Compare with a plain calculation for heads like these; what is wrong, or ``""``."""
    n_queries, n_keys, window, scaling = 200, 300, 90, 1 / math.sqrt(depth)
    generator = torch.Generator("cpu").manual_seed(0)
    query, key, value = (
        torch.randn((2, many, length, depth), generator=generator, device="cpu").to(device, dtype)
        for many, length in ((n_heads, n_queries), (n_groups, n_keys), (n_groups, n_keys))
    )
    found = _attend(query, key, value, scaling, softcap, window)
    keys, values = (each.double().repeat_interleave(n_heads // n_groups, dim=1) for each in (key, value))
    scores = query.double() @ keys.transpose(2, 3) * scaling
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    last = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    distance = last - torch.arange(n_keys, device=device)[None, :]
    wanted = scores.masked_fill((distance < 0) | (distance >= window), -math.inf).softmax(dim=-1) @ values
    apart = float((found.transpose(1, 2).double() - wanted).abs().max())
    # TF32; 8 bits of bfloat16 of values up to 4.
    return "" if apart < (5e-3 if dtype == torch.float32 else 5e-2) else f"it is wrong by {apart:.3g}"
