"""Attention of whole prompts on a GPU, by PyTorch's flex_attention.

:mod:`cell2sen.engine.network.attention` writes the scores of a block of queries into the GPU's memory, and reads them
again for soft-cap, mask and softmax. Here one compiled kernel computes all of it on the chip and skips blocks of keys
that no query of a block sees. It is compiled once for all lengths and batches, and used only after it has passed a
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

#: Number of queries and of keys in a block; inputs are padded to whole blocks.
BLOCK = 128

#: Maximum number of compiled versions of the kernel: for batches of one and of several, dtypes, windows, models.
_MAX_VERSIONS = 64

#: Fault of the kernel for each kind of heads that occurred (number, size, dtype, device, soft-cap), ``""`` for none.
faults: dict[tuple[Any, ...], str] = {}


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor | None:
    """Attention output (B, Q, H, D), or None where the kernel cannot be used.

    Equal to :func:`cell2sen.engine.network.attention.attend` without masks.

    Parameters
    ----------
    query
        Queries of the last Q of the T positions, (B, H, Q, D).
    key, value
        Keys and values, (B, K, T, D), H a multiple of K, of the dtype of the queries.
    window
        A query sees itself and the ``window - 1`` positions before it.
    """
    mixed = not query.dtype == key.dtype == value.dtype
    if mixed or torch.is_autocast_enabled(query.device.type):  # autocast would round float32
        return None
    heads = query.shape[1], key.shape[1], query.shape[3], query.dtype, query.device, softcap
    try:
        if heads not in faults:
            faults[heads] = _fault(*heads)
        if not faults[heads]:
            return _attend(query, key, value, scaling, softcap, window)
    except torch.OutOfMemoryError:  # no fault: the batch is too large and is halved by run_batches
        raise
    except Exception as error:  # any error of dynamo, inductor, triton or the driver: the slower attention is used
        faults[heads] = str(error).partition("\n")[0] or type(error).__name__
    if faults[heads] not in _logged:
        _logged.add(faults[heads])
        _log.warning("flex_attention failed; using a slower attention instead: %s", faults[heads])
    return None


#: Faults that were logged: one warning each.
_logged: set[str] = set()


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> torch.Tensor:
    n_queries, n_keys = query.shape[2], key.shape[2]
    # Padding goes last, where the causal mask hides it.
    query, key, value = (functional.pad(t, (0, 0, 0, -t.shape[2] % BLOCK)) for t in (query, key, value))
    mask = block_mask(query.shape[2], key.shape[2], n_keys - n_queries, window, query.device)
    output_BHQD: torch.Tensor = _kernel()(
        query,
        key,
        value,
        score_mod=_cap(softcap, query.shape[1], query.device),
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output_BHQD[:, :, :n_queries].transpose(1, 2).contiguous()


@lru_cache(maxsize=16)  # the full and the windowed layers of the lengths of some batches
def block_mask(n_queries: int, n_keys: int, offset: int, window: int | None, device: torch.device) -> Any:
    """Block mask of causal attention, computed without a mask of all queries and keys.

    Parameters
    ----------
    n_queries, n_keys
        Multiples of :data:`BLOCK`.
    offset
        Position of the first query among the keys.
    window
        As for :func:`attend`.
    """
    from torch.nn.attention.flex_attention import BlockMask

    # Tensors are inputs of the kernel; for Python numbers a kernel would be compiled for each value.
    last_Q = torch.arange(offset, offset + n_queries, device=device)
    reach = n_keys + offset if window is None else window
    first_Q = last_Q - (reach - 1)

    def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (first_Q[query] <= key) & (key <= last_Q[query])

    low_Q = offset + BLOCK * torch.arange(n_queries // BLOCK, device=device)[:, None]
    low_T = BLOCK * torch.arange(n_keys // BLOCK, device=device)[None, :]
    high_Q, high_T = low_Q + BLOCK - 1, low_T + BLOCK - 1
    partial = (low_T <= high_Q) & (low_Q - high_T < reach)
    full = (high_T <= low_Q) & (high_Q - low_T < reach)
    tables = [
        table.to(torch.int32)[None, None]
        for blocks in (partial & ~full, full)
        for table in (blocks.sum(1), blocks.int().argsort(dim=1, descending=True, stable=True))
    ]
    return BlockMask.from_kv_blocks(
        tables[0], tables[1], tables[2], tables[3], BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(n_queries, n_keys)
    )


@lru_cache(maxsize=8)
def _cap(softcap: float | None, n_heads: int, device: torch.device) -> Callable[..., torch.Tensor] | None:
    if softcap is None:
        return None
    cap_H = torch.full((n_heads,), softcap, device=device)  # inductor does not accept a scalar

    def cap(score: torch.Tensor, batch: Any, head: Any, *_: Any) -> torch.Tensor:
        return cap_H[head] * torch.tanh(score / cap_H[head])

    return cap


@lru_cache(maxsize=1)
def _kernel() -> Callable[..., torch.Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    config: Any = torch._dynamo.config
    # fullgraph: without compilation flex_attention holds the scores of all queries and keys in memory.
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=True, fullgraph=True)

    def kernel(*inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        limit = config.recompile_limit
        config.recompile_limit = max(limit, _MAX_VERSIONS)
        try:
            return compiled(*inputs, **options)
        finally:  # for the user's own compiled functions the limit stays
            config.recompile_limit = limit

    return kernel


def _fault(
    n_heads: int, n_groups: int, depth: int, dtype: torch.dtype, device: torch.device, softcap: float | None
) -> str:
    """Message on the kernel's error beside a plain computation for heads of this kind; ``""`` if it is small."""
    n_queries, n_keys, window, scaling = 200, 300, 90, 1 / math.sqrt(depth)
    generator = torch.Generator("cpu").manual_seed(0)
    query, key, value = (
        torch.randn((2, n, length, depth), generator=generator, device="cpu").to(device, dtype)
        for n, length in ((n_heads, n_queries), (n_groups, n_keys), (n_groups, n_keys))
    )
    output = _attend(query, key, value, scaling, softcap, window)
    keys, values = (t.double().repeat_interleave(n_heads // n_groups, dim=1) for t in (key, value))
    scores = query.double() @ keys.transpose(2, 3) * scaling
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    position = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    distance = position - torch.arange(n_keys, device=device)[None, :]
    expected = scores.masked_fill((distance < 0) | (distance >= window), -math.inf).softmax(dim=-1) @ values
    error = float((output.transpose(1, 2).double() - expected).abs().max())
    # Tolerances for TF32, and for values up to 4 with the 8 bits of bfloat16.
    return "" if error < (5e-3 if dtype == torch.float32 else 5e-2) else f"its error is {error:.3g}"
