"""Attention settings of a with block: mask, early stop; gene-level attention maps.

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
    """Attention mask of queries whose visible keys do not follow from the order of the keys.

    For rows of different length in one cache, and for the branches of a tree in one pass.

    Parameters
    ----------
    visible
        Which keys each query sees, bool (B or 1, Q, T), at least one for every query.
    query_position, key_position
        Positions in the text, int64 (B or 1, Q) and (B or 1, T), for sliding windows.
    """

    def __init__(self, visible: torch.Tensor, query_position: torch.Tensor, key_position: torch.Tensor) -> None:
        self._visible, self._query, self._key = visible, query_position, key_position
        self._masks: dict[int | None, torch.Tensor] = {}

    def for_window(self, window: int | None) -> torch.Tensor:
        """Mask with a sliding window, bool (B or 1, 1, Q, T), computed once for all layers."""
        if window not in self._masks:
            visible = self._visible
            if window is not None:
                visible = visible & (self._query[:, :, None] - self._key[:, None, :] < window)
            self._masks[window] = visible[:, None]
        return self._masks[window]


_mask: ContextVar[AttentionMask | None] = ContextVar("cell2sen_attention_mask", default=None)


@contextlib.contextmanager
def use_mask(mask: AttentionMask | None) -> Iterator[None]:
    """Context in which forward passes use `mask`; None: each token sees itself and those before it."""
    token = _mask.set(mask)
    try:
        yield
    finally:
        _mask.reset(token)


def current_mask() -> AttentionMask | None:
    """Mask of the enclosing :func:`use_mask`."""
    return _mask.get()


# ── early stop ────────────────────────────────────────────────────────────────────────────────────────────────────


class StopForward(Exception):
    """End of a forward pass at the layer of :func:`stop_at_attention`."""


_stop_layer: ContextVar[int | None] = ContextVar("cell2sen_attention_stop", default=None)


@contextlib.contextmanager
def stop_at_attention(layer: int) -> Iterator[None]:
    """Context in which the forward pass ends at the attention of a layer, 0-based, after its cache update.

    For passes that need keys and values only, not the rest of the last layer.
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
        """Adds the attention weights of one block of queries and keys, which begin at these positions."""
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
    """Context that collects the gene-level attention of one layer in the forward passes of its block.

    Parameters
    ----------
    layer
        0-based layer.
    genes
        For each row of the batch with a map, the gene of each token, int64 (T,), -1 for none.
    n_genes
        For each of these rows, the number of genes.

    Yields
    ------
    For each of these rows, a map that the forward pass fills, float32 (H, genes, genes). Entry ``[h, a, b]`` is the
    attention of gene a to gene b: summed over the tokens of b, averaged over the tokens of a. Rows sum to at most 1.
    """
    capture = MapCapture(layer=layer, genes=genes, n_genes=n_genes)
    token = _capture.set(capture)
    try:
        yield capture.maps
    finally:
        _capture.reset(token)


def current_capture(layer: int | None) -> MapCapture | None:
    """Capture of the enclosing :func:`capture_maps`, None in other layers."""
    capture = _capture.get()
    return capture if capture is not None and capture.layer == layer else None
