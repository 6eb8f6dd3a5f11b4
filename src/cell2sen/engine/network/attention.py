"""Exact soft-capped attention for packed sequences.

PyTorch's ``scaled_dot_product_attention`` has no soft-cap, and Gemma-2 without its soft-cap computes other numbers.
Releases of transformers dropped the soft-cap silently, or used an attention that holds the scores of all heads at once.
This attention computes one block of queries at a time, so that its memory does not grow with the square of the length,
and equals ``eager``.

Axes in names: B batch, H heads, K key-value heads, Q queries, T keys, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from cell2sen.engine.network import flex_attention
from cell2sen.engine.network.attention_context import MapCapture, current_capture, current_mask, stop_if_last
from cell2sen.engine.network.softcap import attention_weights, weighted_sum

#: Name of this attention in transformers (``attn_implementation=NAME`` after :func:`register`).
NAME = "cell2sen"

#: Scores of a block in bytes of float32. On a CPU: 64 queries of 8 heads against 4,096 keys, which stay in its last
#: cache; less and more were both slower. The value for GPUs is not measured; they need more work at a time.
BLOCK_BYTES = {"cpu": 8 * 2**20, "cuda": 128 * 2**20}

#: Devices on which :mod:`cell2sen.engine.network.flex_attention` is tried for plain causal attention.
_FLEX_DEVICES = ("cuda",)


def register() -> str:
    """Adds :func:`attend` to transformers' attention functions and returns :data:`NAME`; its own functions stay."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, padding_mask)
    return NAME


def padding_mask(
    *,
    kv_length: int,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """Mask of keys that are no padding, bool (B, T); None without padding. :func:`attend` adds causality and windows.

    The mask of transformers, (B, 1, Q, T), would take half a gigabyte for 8 prompts of 8,192 tokens.
    """
    if attention_mask is None:
        return None
    mask_BT = attention_mask[:, kv_offset : kv_offset + kv_length].bool()
    return None if bool(mask_BT.all()) else mask_BT


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention with optional soft-cap, sliding window and grouped key-value heads.

    Parameters
    ----------
    module
        Attention layer. Its ``layer_idx`` is the layer's number in :mod:`~cell2sen.engine.network.attention_context`.
    query
        Queries of the last Q of the T positions, (B, H, Q, D).
    key, value
        Keys and values, (B, K, T, D), H a multiple of K.
    attention_mask
        From :func:`padding_mask`.
    softcap
        Scores become ``softcap * tanh(score / softcap)`` before the softmax.
    sliding_window
        A query sees itself and the ``sliding_window - 1`` positions before it.
    position_ids
        Positions, int64 (1 or B, Q). Where they restart, a new packed sequence begins; only without padding and cache.

    Returns
    -------
    Output (B, Q, H, D), and None for the weights, as transformers expects.

    Raises
    ------
    ValueError
        The attention mask is not (B, T).
    """
    layer = getattr(module, "layer_idx", None)
    stop_if_last(layer)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    if (mask := current_mask()) is not None:
        return _attend_masked(query, key, value, mask.for_window(sliding_window), scaling, softcap), None
    n_queries, n_keys = query.shape[2], key.shape[2]
    if attention_mask is not None and tuple(attention_mask.shape) != (key.shape[0], n_keys):
        raise ValueError(
            f"the attention mask must be (batch, keys) = {(key.shape[0], n_keys)}, found {tuple(attention_mask.shape)}"
        )
    visibility = _Visibility(
        offset=n_keys - n_queries,
        window=sliding_window if sliding_window is not None and sliding_window < n_keys else None,
        mask_BT=attention_mask,
        sequence=_packed_sequences(position_ids) if attention_mask is None and 1 < n_queries == n_keys else None,
    )
    formula = _Formula(scaling=scaling, softcap=softcap, dropout=dropout, capture=current_capture(layer))
    output = _attend_whole(query, key, value, visibility, formula)
    return _attend_blocks(query, key, value, visibility, formula) if output is None else output, None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Visibility:
    """Visible keys of the queries of one call."""

    offset: int
    """Position of the first query among the keys."""

    window: int | None
    mask_BT: torch.Tensor | None
    sequence: torch.Tensor | None
    """Number of each token's packed sequence, int64 (1 or B, T)."""

    @property
    def causal_only(self) -> bool:
        """Whether each query sees all keys up to itself."""
        return self.window is None and self.mask_BT is None and self.sequence is None

    def keys(self, first: int, last: int) -> tuple[int, int]:
        """Start and stop of the range of keys that the queries ``first:last`` see."""
        start = max(0, self.offset + first - self.window + 1) if self.window else 0
        return start, self.offset + last

    def block(self, first: int, last: int, device: torch.device) -> torch.Tensor | None:
        """Mask of the :meth:`keys` that the queries ``first:last`` see, bool (1 or B, 1, Q, T); None: all of them."""
        if last - first == 1 and self.mask_BT is None and self.sequence is None:
            return None
        start, stop = self.keys(first, last)
        queries = torch.arange(self.offset + first, self.offset + last, device=device)[:, None]
        keys = torch.arange(start, stop, device=device)[None, :]
        visible = keys <= queries
        if self.window is not None:
            visible = visible & (keys > queries - self.window)
        visible = visible[None, None]
        if self.sequence is not None:
            visible = visible & (self.sequence[:, None, first:last, None] == self.sequence[:, None, None, start:stop])
        if self.mask_BT is not None:
            visible = visible & self.mask_BT[:, None, None, start:stop]
            # A padding query would see no key; its softmax would be NaN and spread to real tokens as 0 * NaN.
            visible = visible | ~visible.any(dim=-1, keepdim=True)
        return visible


@dataclass(frozen=True, kw_only=True, eq=False)
class _Formula:
    """Scaling, soft-cap and dropout of one call, and the capture of its weights."""

    scaling: float
    softcap: float | None
    dropout: float
    capture: MapCapture | None

    @property
    def needs_weights(self) -> bool:
        """Whether PyTorch's kernels cannot be used, which return no weights and have no soft-cap."""
        return self.softcap is not None or self.capture is not None

    def kernel(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """Output (B, H, Q, D) of PyTorch's kernels."""
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible,
            dropout_p=self.dropout,
            scale=self.scaling,
            is_causal=is_causal,
            enable_gqa=_is_grouped(query, key),
        )

    def from_weights(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visible: torch.Tensor | None,
        first_query: int,
        first_key: int,
    ) -> torch.Tensor:
        """Output (B, H, Q, D) of a block through its attention weights."""
        weights_BHQT = attention_weights(query, key, visible, self.scaling, self.softcap)
        if self.capture is not None:
            self.capture.add(weights_BHQT, first_query, first_key)
        weights_BHQT = functional.dropout(weights_BHQT, self.dropout) if self.dropout else weights_BHQT
        return weighted_sum(weights_BHQT.to(value.dtype), value)


def _attend_whole(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visibility: _Visibility, formula: _Formula
) -> torch.Tensor | None:
    """Output (B, Q, H, D) of one kernel for all queries; None if there is none for this call."""
    n_queries = query.shape[2]
    if not formula.needs_weights and visibility.causal_only and n_queries in (1, key.shape[2]):
        return formula.kernel(query, key, value, is_causal=n_queries > 1).transpose(1, 2).contiguous()
    use_flex = query.device.type in _FLEX_DEVICES and not torch.is_grad_enabled() and not formula.dropout
    masked = visibility.mask_BT is not None or visibility.sequence is not None
    if use_flex and n_queries > 1 and not masked and formula.capture is None:
        return flex_attention.attend(query, key, value, formula.scaling, formula.softcap, visibility.window)
    return None


def _attend_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visibility: _Visibility, formula: _Formula
) -> torch.Tensor:
    """Output (B, Q, H, D), one block of queries at a time."""
    n_queries, n_keys = query.shape[2], key.shape[2]
    block_bytes = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
    step = max(1, block_bytes // (4 * query.shape[0] * query.shape[1] * n_keys))
    output_BQHD = query.new_empty((query.shape[0], n_queries, query.shape[1], value.shape[3]))
    blocks = []
    for first in range(0, n_queries, step):
        last = min(first + step, n_queries)
        start, stop = visibility.keys(first, last)
        keys, values, queries = key[:, :, start:stop], value[:, :, start:stop], query[:, :, first:last]
        if formula.needs_weights:
            visible = None if visibility.causal_only else visibility.block(first, last, query.device)
            block = formula.from_weights(queries, keys, values, visible, first, start)
        else:
            block = formula.kernel(queries, keys, values, visibility.block(first, last, query.device))
        if torch.is_grad_enabled():
            blocks.append(block.transpose(1, 2))
        else:
            output_BQHD[:, first:last] = block.transpose(1, 2)
    return torch.cat(blocks, dim=1) if blocks else output_BQHD


def _attend_masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Output (B, Q, H, D) with the mask `visible`, bool (B or 1, 1, Q, T)."""
    block_bytes = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
    if softcap is None:  # PyTorch's fast kernels hold few scores in memory; this limit is for the one that holds all
        block_bytes *= 8
    step = max(1, block_bytes // (4 * query.shape[0] * query.shape[1] * key.shape[2]))
    blocks = []
    for first in range(0, query.shape[2], step):
        queries, mask = query[:, :, first : first + step], visible[:, :, first : first + step]
        if softcap is None:
            block = functional.scaled_dot_product_attention(
                queries, key, value, attn_mask=mask, scale=scaling, enable_gqa=_is_grouped(query, key)
            )
        else:
            block = weighted_sum(attention_weights(queries, key, mask, scaling, softcap).to(value.dtype), value)
        blocks.append(block)
    output_BHQD = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)
    return output_BHQD.transpose(1, 2).contiguous()


def _is_grouped(query: torch.Tensor, key: torch.Tensor) -> bool:
    return query.shape[1] != key.shape[1]


def _packed_sequences(position_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Number of the packed sequence of each token, int64 (1 or B, Q); None if nothing is packed."""
    if position_ids is None or position_ids.ndim != 2:
        return None
    restarts = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not bool(restarts.any()):
        return None
    return functional.pad(restarts.cumsum(1), (1, 0))
