"""Key-value cache addressed by position, shared by rows of different length.

The next tokens overwrite rejected drafts at the same positions.

Axes in names: B rows of the batch, Q new tokens of each row, K key-value heads, T positions held, D head dimension.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers

_hf: Any = transformers  # typed in parts only


class KeyValueCache(_hf.Cache):  # type: ignore[misc]
    """Keys and values of each row; the token at position p is in slot p in all rows.

    Parameters
    ----------
    n_layers
        Layers of the model.
    capacity
        Slots allocated at first. More are added when needed.
    """

    def __init__(self, n_layers: int, capacity: int) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(n_layers)])
        self.capacity = capacity
        self.write_at: int | torch.Tensor = 0
        """Slots of the next tokens: the first one, equal in all rows, or a slot for each token, int64 (B, Q)."""
        self.length = 0
        """Number of slots that attention reads."""

    def repeated(self, n_rows: int, length: int) -> KeyValueCache:
        """New cache with the first `length` slots of its only row in each of `n_rows` rows; this one stays as it is."""
        copy = KeyValueCache(len(self.layers), self.capacity)
        copy.length = length
        for new, layer in zip(copy.layers, self.layers, strict=True):
            new.keys, new.values = (
                states[:, :, :length].expand(n_rows, -1, -1, -1) for states in (layer.keys, layer.values)
            )
            new.is_initialized = True
        return copy

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keeps these rows, int64, in this order; rows may be dropped or repeated."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]


class _Layer(_hf.cache_utils.CacheLayerMixin):  # type: ignore[misc]
    # The attention applies a sliding window itself: slots outside it may be needed again after rejected drafts.
    is_sliding = False

    def __init__(self, cache: KeyValueCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros((*states.shape[:2], 0, states.shape[3])) for states in (keys_BKQD, values_BKQD)
        )
        self.is_initialized = True

    def update(
        self, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(keys_BKQD, values_BKQD)
        self.keys, self.values = self._write(self.keys, keys_BKQD), self._write(self.values, values_BKQD)
        return self.keys[:, :, : self._cache.length], self.values[:, :, : self._cache.length]

    def _write(self, held_BKTD: torch.Tensor, new_BKQD: torch.Tensor) -> torch.Tensor:
        cache = self._cache
        if (missing := cache.length - held_BKTD.shape[2]) > 0:
            missing = max(missing, held_BKTD.shape[2] // 2 or cache.capacity)
            # Zeros, not uninitialised memory: a hidden slot is still multiplied by its attention weight of 0.
            held_BKTD = torch.nn.functional.pad(held_BKTD, (0, 0, 0, missing))
        if isinstance(cache.write_at, int):
            held_BKTD[:, :, cache.write_at : cache.write_at + new_BKQD.shape[2]] = new_BKQD
        else:
            held_BKTD.scatter_(2, cache.write_at[:, None, :, None].expand_as(new_BKQD), new_BKQD)
        return held_BKTD

    def get_seq_length(self) -> int:
        return self._cache.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name until transformers 5.2x

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.length, 0


def cache_argument(network: torch.nn.Module) -> str:
    """Name of the cache argument of a network: ``past_key_values`` until transformers 5.23, ``cache`` since.

    transformers 5.40 drops the old name.
    """
    models = {type(module) for module in network.modules() if isinstance(module, _hf.PreTrainedModel)}
    renamed = any("cache" in inspect.signature(model.forward).parameters for model in models)
    return "cache" if renamed else "past_key_values"
