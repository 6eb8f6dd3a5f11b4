"""Keys and values are stored by position and overwritten; forward passes with the cache are in test_causal_lm.py."""

from __future__ import annotations

import pytest
import tiny
import torch

from cell2sen.engine.network.kv_cache import KeyValueCache, cache_argument


def write(cache: KeyValueCache, at: int | torch.Tensor, length: int, values: torch.Tensor) -> torch.Tensor:
    """Writes (B, Q) numbers as keys of one head and dimension; returns all keys, (B, length)."""
    cache.write_at, cache.length = at, length
    states = values[:, None, :, None].float()
    keys, same = cache.layers[0].update(states, states.clone())
    assert torch.equal(keys, same)
    return keys[:, 0, :, 0]


@pytest.mark.parametrize("capacity", [1, 100])
def test_rows_write_at_their_own_positions_and_over_rejected_drafts(capacity: int) -> None:
    cache = KeyValueCache(1, capacity)
    assert write(cache, 0, 3, torch.tensor([[1, 2, 3], [4, 5, 0]])).tolist() == [[1, 2, 3], [4, 5, 0]]
    slots = torch.tensor([[3, 4], [2, 3]])
    assert write(cache, slots, 5, torch.tensor([[6, 7], [8, 9]])).tolist() == [[1, 2, 3, 6, 7], [4, 5, 8, 9, 0]]
    slots = torch.tensor([[4], [3]])
    assert write(cache, slots, 5, torch.tensor([[10], [11]])).tolist() == [[1, 2, 3, 6, 10], [4, 5, 8, 11, 0]]
    assert cache.get_seq_length() == 5
    assert cache.get_mask_sizes(1, 0) == (5, 0)


def test_rows_are_dropped_repeated_and_ordered() -> None:
    cache = KeyValueCache(1, 4)
    cache.select_rows(torch.tensor([0]))  # empty
    write(cache, 0, 1, torch.tensor([[1], [2], [3]]))
    cache.select_rows(torch.tensor([2, 0, 2]))
    assert write(cache, 1, 2, torch.tensor([[7], [8], [9]])).tolist() == [[3, 7], [1, 8], [3, 9]]


def test_cache_argument_of_this_release_of_transformers() -> None:
    network = tiny.network("gpt_neox", 50)
    output = network(input_ids=torch.tensor([[1, 2]]), use_cache=True, **{cache_argument(network): None})
    assert getattr(output, cache_argument(network)).get_seq_length() == 2
