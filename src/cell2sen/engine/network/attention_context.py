"""Settings of the attention for the forward passes of a ``with`` block: mask, early stop, gene-level maps.

Context variables, not attributes of the model, so that an exception cannot leave them set.

Axes in names: B batch, H heads, Q queries, T keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

# ── masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class AttentionMask:
    """Which keys each query sees, where this does not follow from the order of the keys.

    For rows of different length in one cache, and for the branches of a tree in one pass.

    Parameters
    ----------
    visible
        bool (B or 1, Q, T); every query must see at least one key.
    query_position, key_position
        Positions in the text, int64 (B or 1, Q) and (B or 1, T), for sliding windows.
    """

    def __init__(self, visible: torch.Tensor, query_position: torch.Tensor, key_position: torch.Tensor) -> None:
        self._visible, self._query, self._key = visible, query_position, key_position
        self._masks: dict[int | None, torch.Tensor] = {}

    def for_window(self, window: int | None) -> torch.Tensor:
        """The mask with a sliding window, bool (B or 1, 1, Q, T); computed once for all layers."""
        if window not in self._masks:
            visible = self._visible
            if window is not None:
                visible = visible & (self._query[:, :, None] - self._key[:, None, :] < window)
            self._masks[window] = visible[:, None]
        return self._masks[window]


_mask: ContextVar[AttentionMask | None] = ContextVar("cell2sen_attention_mask", default=None)


@contextlib.contextmanager
def use_mask(mask: AttentionMask | None) -> Iterator[None]:
    """Uses `mask` in the forward passes of the ``with`` block; None: each token sees those before it."""
    token = _mask.set(mask)
    try:
        yield
    finally:
        _mask.reset(token)


def current_mask() -> AttentionMask | None:
    """The mask of :func:`use_mask`."""
    return _mask.get()


# ── early stop ────────────────────────────────────────────────────────────────────────────────────────────────────


class StopForward(Exception):
    """Ends a forward pass at the layer of :func:`stop_at_attention`."""


_stop_layer: ContextVar[int | None] = ContextVar("cell2sen_attention_stop", default=None)


@contextlib.contextmanager
def stop_at_attention(layer: int) -> Iterator[None]:
    """Ends the forward pass of the ``with`` block at the attention of a layer, 0-based, once its cache is updated.

    For passes that need keys and values only: the rest of the last layer would be computed in vain.
    """
    token = _stop_layer.set(layer)
    try:
        yield
    except StopForward:
        pass
    finally:
        _stop_layer.reset(token)


def stop_if_last(layer: int | None) -> None:
    """Raises :class:`StopForward` in the layer of :func:`stop_at_attention`."""
    if (last := _stop_layer.get()) is not None and last == layer:
        raise StopForward


# ── gene-level attention maps ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class MapCapture:
    """Gene-level attention maps under construction; see :func:`capture_maps`."""

    layer: int
    genes: Mapping[int, torch.Tensor]
    n_genes: Mapping[int, int]
    maps: dict[int, torch.Tensor] = field(default_factory=dict)

    def add(self, weights_BHQT: torch.Tensor, first_query: int, first_key: int) -> None:
        """Adds the attention weights of one block of queries and keys, given their first positions."""
        n_heads, n_queries, n_keys = weights_BHQT.shape[1:]
        for row, genes in self.genes.items():
            n_genes = self.n_genes[row]
            if row not in self.maps:
                self.maps[row] = weights_BHQT.new_zeros((n_heads, n_genes, n_genes))
            key_gene = genes[first_key : first_key + n_keys]
            query_gene = genes[first_query : first_query + n_queries]
            to_gene = weights_BHQT.new_zeros((n_heads, n_queries, n_genes))
            to_gene.index_add_(2, key_gene[key_gene >= 0], weights_BHQT[row][:, :, key_gene >= 0])
            n_tokens = torch.bincount(genes[genes >= 0], minlength=n_genes).clamp(min=1)
            is_gene = query_gene >= 0
            share = to_gene[:, is_gene] / n_tokens[query_gene[is_gene]][None, :, None]
            self.maps[row].index_add_(1, query_gene[is_gene], share)


_capture: ContextVar[MapCapture | None] = ContextVar("cell2sen_attention_capture", default=None)


@contextlib.contextmanager
def capture_maps(
    layer: int, genes: Mapping[int, torch.Tensor], n_genes: Mapping[int, int]
) -> Iterator[dict[int, torch.Tensor]]:
    """Collects the gene-level attention of one layer in the forward passes of the ``with`` block.

    Parameters
    ----------
    layer
        0-based layer.
    genes
        For each row of the batch with a map int64 (T,): the gene of each token, -1 for none.
    n_genes
        For each of these rows the number of genes.

    Yields
    ------
    For each of these rows, filled by the forward pass: float32 (H, genes, genes). Entry ``[h, a, b]`` is the attention
    of gene a to gene b: summed over the tokens of b, averaged over the tokens of a. Rows sum to at most 1.
    """
    capture = MapCapture(layer=layer, genes=genes, n_genes=n_genes)
    token = _capture.set(capture)
    try:
        yield capture.maps
    finally:
        _capture.reset(token)


def current_capture(layer: int | None) -> MapCapture | None:
    """The capture of :func:`capture_maps`, in its layer."""
    capture = _capture.get()
    return capture if capture is not None and capture.layer == layer else None
