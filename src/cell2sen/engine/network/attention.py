"""Exact soft-capped attention for packed sequences; gene-level attention maps on the way.

PyTorch's ``scaled_dot_product_attention`` has no soft-cap, and Gemma-2 without its cap is another model: releases of
transformers have dropped it silently, or fallen back to an attention that holds every score of every head at once. This
one takes a block of queries at a time, so its memory does not grow with the square of the length, and equals ``eager``.

Axes in names: B batch, H heads, K key-value heads, G heads per key-value head, Q queries, T keys, D head dimension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from cell2sen.engine.network import flex_attention as attention_flex

#: The name under which transformers knows this function (``attn_implementation=NAME`` after :func:`register`).
NAME = "cell2sen"

#: Scores held at a time, in bytes of float32. On a CPU 64 queries of 8 heads against 4,096 keys, which stay in its last
#: cache: less and more were both slower. GPUs want more work at a time; theirs is a guess, as none was to be had.
BLOCK_BYTES = {"cpu": 8 * 2**20, "cuda": 128 * 2**20}

#: Devices on which :mod:`cell2sen.engine.network.flex_attention` is tried where nothing is masked, packed or captured.
_FUSED = ("cuda",)


@dataclass
class _Capture:
    layer: int
    genes: Mapping[int, torch.Tensor]
    n_genes: Mapping[int, int]
    maps: dict[int, torch.Tensor] = field(default_factory=dict)


# A context variable rather than an attribute of the model: an exception cannot leave it set.
_capture: ContextVar[_Capture | None] = ContextVar("cell2sen_attention_capture", default=None)


@contextlib.contextmanager
def capture(
    layer: int, genes: Mapping[int, torch.Tensor], n_genes: Mapping[int, int]
) -> Iterator[dict[int, torch.Tensor]]:
    """Collect gene-level attention of one layer during the forward passes inside the ``with`` block.

    Parameters
    ----------
    layer
        0-based layer.
    genes
        For each wanted row of the batch int64 (T,): the gene that each token belongs to, -1 for none.
    n_genes
        For each wanted row the number of genes.

    Yields
    ------
    For each wanted row, filled by the forward pass: float32 (H, genes, genes). Entry ``[h, a, b]`` is the attention of
    gene a to gene b: summed over the tokens of b, averaged over the tokens of a. Rows sum to at most 1.
    """
    state = _Capture(layer=layer, genes=genes, n_genes=n_genes)
    token = _capture.set(state)
    try:
        yield state.maps
    finally:
        _capture.reset(token)


class Sight:
    """Which keys each query sees, where the order of the keys does not say it.

    Rows of different length share a cache, or branches of a tree are read side by side.

    Parameters
    ----------
    visible
        bool (B or 1, Q, T); every query must see at least one key.
    query_position, key_position
        Places in the text, int64 (B or 1, Q) and (B or 1, T), for sliding windows.
    """

    def __init__(self, visible: torch.Tensor, query_position: torch.Tensor, key_position: torch.Tensor) -> None:
        self._visible, self._query, self._key = visible, query_position, key_position
        self._masks: dict[int | None, torch.Tensor] = {}

    def mask(self, window: int | None) -> torch.Tensor:
        """The mask for a window, bool (B or 1, 1, Q, T), made once for all layers."""
        if window not in self._masks:
            visible = self._visible
            if window is not None:
                visible = visible & (self._query[:, :, None] - self._key[:, None, :] < window)
            self._masks[window] = visible[:, None]
        return self._masks[window]


_sight: ContextVar[Sight | None] = ContextVar("cell2sen_attention_sight", default=None)


@contextlib.contextmanager
def seeing(sight: Sight | None) -> Iterator[None]:
    """Make queries see what `sight` says in the forward passes inside the ``with`` block; None: what lies before."""
    token = _sight.set(sight)
    try:
        yield
    finally:
        _sight.reset(token)


class Enough(Exception):
    """The forward pass has come to the layer that :func:`until` named; its keys and values are in the cache."""


_until: ContextVar[int | None] = ContextVar("cell2sen_attention_until", default=None)


@contextlib.contextmanager
def until(layer: int) -> Iterator[None]:
    """Break off the forward pass inside the ``with`` block where this layer, 0-based, would look at its keys.

    For passes whose keys and values are all that is wanted: the rest of the last layer would be computed for nothing.
    """
    token = _until.set(layer)
    try:
        yield
    except Enough:
        pass
    finally:
        _until.reset(token)


def register() -> str:
    """Make transformers know :func:`attend`; returns :data:`NAME`. Calling it again does nothing new."""
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
    """Which keys are real, bool (B, T), or None if all are; causality and windows are :func:`attend`'s own business.

    transformers would build a (B, 1, Q, T) mask: half a gigabyte for 8 prompts of 8,192 tokens.
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
        The attention layer; its ``layer_idx`` is compared with that of :func:`capture`.
    query
        (B, H, Q, D): the last Q of the T positions.
    key, value
        (B, K, T, D), H a multiple of K.
    attention_mask
        What :func:`padding_mask` returned.
    softcap
        Scores become ``softcap * tanh(score / softcap)`` before the softmax.
    sliding_window
        A query sees itself and the ``sliding_window - 1`` positions before it.
    position_ids
        (1 or B, Q). Where they restart, a new sequence begins (packed sequences, without padding and cache only).

    Returns
    -------
    (B, Q, H, D) and None, as transformers wants it.

    Raises
    ------
    ValueError
        A mask that is not (B, T).
    """
    if (last := _until.get()) is not None and last == getattr(module, "layer_idx", None):
        raise Enough
    n_queries, n_keys = query.shape[2], key.shape[2]
    if (sight := _sight.get()) is not None:
        scaling = query.shape[3] ** -0.5 if scaling is None else scaling
        return _attend_seen(query, key, value, sight.mask(sliding_window), scaling, softcap), None
    if attention_mask is not None and tuple(attention_mask.shape) != (key.shape[0], n_keys):
        raise ValueError(
            f"the attention mask must be (batch, keys) = {(key.shape[0], n_keys)}, found {tuple(attention_mask.shape)}"
        )
    wanted = _capture.get()
    if wanted is not None and wanted.layer != getattr(module, "layer_idx", None):
        wanted = None
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and sliding_window < n_keys else None
    packed = _segments(position_ids) if attention_mask is None and 1 < n_queries == n_keys else None
    plain = attention_mask is None and window is None and packed is None

    if softcap is None and wanted is None and plain and n_queries in (1, n_keys):
        output_BHQD = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            scale=scaling,
            is_causal=n_queries > 1,
            enable_gqa=_grouped(query, key),
        )
        return output_BHQD.transpose(1, 2).contiguous(), None

    fused = query.device.type in _FUSED and not torch.is_grad_enabled() and not dropout
    if fused and n_queries > 1 and attention_mask is None and packed is None and wanted is None:
        output = attention_flex.attend(query, key, value, scaling, softcap, window)
        if output is not None:
            return output, None

    block_bytes = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
    step = max(1, block_bytes // (4 * query.shape[0] * query.shape[1] * n_keys))
    output_BQHD = query.new_empty((query.shape[0], n_queries, query.shape[1], value.shape[3]))
    blocks = []
    for first in range(0, n_queries, step):
        last = min(first + step, n_queries)
        end = n_keys - n_queries + last
        start = max(0, n_keys - n_queries + first - window + 1) if window else 0
        keys, values, queries = key[:, :, start:end], value[:, :, start:end], query[:, :, first:last]
        if plain and (softcap is not None or wanted is not None):
            visible = None  # all but what is above the diagonal
        else:
            visible = _visible(
                first, last, start, end, n_keys - n_queries, window, attention_mask, packed, query.device
            )
        if softcap is None and wanted is None:
            block = functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=visible,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=_grouped(query, key),
            )
        else:
            weights_BHQT = _weights(queries, keys, visible, scaling, softcap)
            if wanted is not None:
                _collect(wanted, weights_BHQT, first, start)
            weights_BHQT = functional.dropout(weights_BHQT, dropout) if dropout else weights_BHQT
            block = _mix(weights_BHQT.to(value.dtype), values)
        if torch.is_grad_enabled():
            blocks.append(block.transpose(1, 2))
        else:
            output_BQHD[:, first:last] = block.transpose(1, 2)
    return torch.cat(blocks, dim=1) if blocks else output_BQHD, None


def _attend_seen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """(B, Q, H, D), where the queries see what `visible`, bool (B or 1, 1, Q, T), says."""
    block_bytes = BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
    if softcap is None:  # PyTorch's kernels hold few of the scores; one that holds all is given no more than this
        block_bytes *= 8
    step = max(1, block_bytes // (4 * query.shape[0] * query.shape[1] * key.shape[2]))
    blocks = []
    for first in range(0, query.shape[2], step):
        queries, seen = query[:, :, first : first + step], visible[:, :, first : first + step]
        if softcap is None:
            block = functional.scaled_dot_product_attention(
                queries, key, value, attn_mask=seen, scale=scaling, enable_gqa=_grouped(query, key)
            )
        else:
            block = _mix(_weights(queries, key, seen, scaling, softcap).to(value.dtype), value)
        blocks.append(block)
    output_BHQD = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)
    return output_BHQD.transpose(1, 2).contiguous()


def _grouped(query: torch.Tensor, key: torch.Tensor) -> bool:
    return query.shape[1] != key.shape[1]


def _segments(position_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Number of the packed sequence of each token, int64 (1 or B, Q); None if nothing is packed."""
    if position_ids is None or position_ids.ndim != 2:
        return None
    restarts = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not bool(restarts.any()):
        return None
    return functional.pad(restarts.cumsum(1), (1, 0))


def _visible(
    first: int,
    last: int,
    start: int,
    end: int,
    offset: int,
    window: int | None,
    mask_BT: torch.Tensor | None,
    segments: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Which keys ``start:end`` the queries ``first:last`` see, bool (1 or B, 1, Q, T); None: all of them."""
    if last - first == 1 and mask_BT is None and segments is None:
        return None
    queries = torch.arange(offset + first, offset + last, device=device)[:, None]
    keys = torch.arange(start, end, device=device)[None, :]
    visible = keys <= queries
    if window is not None:
        visible = visible & (keys > queries - window)
    visible = visible[None, None]
    if segments is not None:
        visible = visible & (segments[:, None, first:last, None] == segments[:, None, None, start:end])
    if mask_BT is not None:
        visible = visible & mask_BT[:, None, None, start:end]
        # A padding query sees nothing; the softmax over nothing is NaN, which would spread to real tokens as 0 * NaN.
        visible = visible | ~visible.any(dim=-1, keepdim=True)
    return visible


def _weights(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    visible: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention weights, float32 (B, H, Q, T). Without `visible` the last positions ask, and see so much."""
    n_batch, n_heads, n_queries, _ = query_BHQD.shape
    n_groups, n_keys = key_BKTD.shape[1:3]
    in_place = not torch.is_grad_enabled()
    factor = scaling if softcap is None else scaling / softcap
    # cap * tanh(x / cap) is 2 * cap * sigmoid(2 * x / cap) less the cap, and the softmax does not look at what all
    # scores have in common: a sixth of the time on a CPU, for some units of the last place, so not in float32.
    halves = in_place and softcap is not None and query_BHQD.dtype != torch.float32
    if in_place and softcap is not None:
        factor *= 2
    if in_place and query_BHQD.dtype == torch.float32:  # fewer numbers than there are scores; halves would be rounded
        query_BHQD, factor = query_BHQD * factor, 1.0
    # Heads of one group share their keys: stacked as queries they need no copies of the keys.
    stacked = query_BHQD.reshape(n_batch, n_groups, -1, query_BHQD.shape[3])
    scores = torch.matmul(stacked, key_BKTD.transpose(2, 3)).float()
    scores = scores.reshape(n_batch, n_heads, n_queries, n_keys)
    if not in_place:
        scores = scores * factor if softcap is None else softcap * torch.tanh(scores * factor)
    else:
        if factor != 1.0:
            scores.mul_(factor)
        if softcap is not None:
            scores = scores.sigmoid_().mul_(2 * softcap) if halves else tanh_of_half_(scores).mul_(softcap)
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
    """tanh(x) of 2x, float32, written over it: (e**2x - 1) / (e**2x + 1), on a CPU a fraction of the time of its tanh.

    As exact as that, but for units of the last place: ``expm1`` keeps the digits of small numbers.
    """
    if doubled.device.type != "cpu":
        return doubled.mul_(0.5).tanh_()
    doubled.clamp_(max=80.0).expm1_()  # beyond, tanh is 1 and the power infinite
    return doubled.div_(doubled + 2)


def _mix(weights_BHQT: torch.Tensor, value_BKTD: torch.Tensor) -> torch.Tensor:
    """Weighted sums of the values, (B, H, Q, D)."""
    n_batch, n_heads, n_queries, n_keys = weights_BHQT.shape
    stacked = weights_BHQT.reshape(n_batch, value_BKTD.shape[1], -1, n_keys)
    return torch.matmul(stacked, value_BKTD).reshape(n_batch, n_heads, n_queries, -1)


def _collect(wanted: _Capture, weights_BHQT: torch.Tensor, first: int, start: int) -> None:
    """Add one block of queries, ``first`` on, against the keys from ``start`` on, to the maps."""
    n_heads, n_queries, n_keys = weights_BHQT.shape[1:]
    for row, genes in wanted.genes.items():
        n_genes = wanted.n_genes[row]
        if row not in wanted.maps:
            wanted.maps[row] = weights_BHQT.new_zeros((n_heads, n_genes, n_genes))
        of_key, of_query = genes[start : start + n_keys], genes[first : first + n_queries]
        to_gene = weights_BHQT.new_zeros((n_heads, n_queries, n_genes))
        to_gene.index_add_(2, of_key[of_key >= 0], weights_BHQT[row][:, :, of_key >= 0])
        tokens = torch.bincount(genes[genes >= 0], minlength=n_genes).clamp(min=1)
        inside = of_query >= 0
        share = to_gene[:, inside] / tokens[of_query[inside]][None, :, None]
        wanted.maps[row].index_add_(1, of_query[inside], share)
