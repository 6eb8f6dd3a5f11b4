"""Masks, early stop and gene-level maps are right, and apply in their block only."""

from __future__ import annotations

import itertools

import pytest
import torch
from attention_formula import BATCH, DEPTH, LENGTH, Layer, plain, states, visible

from cell2sen.engine.network import attention, attention_context


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 5])
def test_maps_equal_sums_and_means_of_weights(
    softcap: float | None, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", 4 * BATCH * 6 * LENGTH * 2)
    query, key, value = states(LENGTH, 3)
    genes = {
        0: torch.tensor([-1, 0, 0, 0, 1, -1, 2, 2, 3, 3, 3, -1, -1]),
        2: torch.tensor([-1, 0, 1, 2, -1] + [-1] * 8),
    }
    with attention_context.capture_maps(1, genes, {0: 4, 2: 3}) as maps:
        output, _ = attention.attend(Layer(), query, key, value, None, softcap=softcap, sliding_window=window)
    alone, _ = attention.attend(Layer(), query, key, value, None, softcap=softcap, sliding_window=window)
    torch.testing.assert_close(output, alone)
    _, weights = plain(query, key, value, visible(LENGTH, window, None), DEPTH**-0.5, softcap)
    assert sorted(maps) == [0, 2]
    for row, of_token in genes.items():
        n_genes = int(of_token.max()) + 1
        assert maps[row].shape == (6, n_genes, n_genes)
        assert maps[row].dtype == torch.float32
        for a, b in itertools.product(range(n_genes), repeat=2):
            expected = weights[row][:, of_token == a][:, :, of_token == b].sum(2).mean(1)
            torch.testing.assert_close(maps[row][:, a, b], expected.float(), rtol=1e-4, atol=1e-6)
        assert maps[row].sum(2).max() <= 1 + 1e-6


def test_maps_of_one_layer_inside_the_block_only() -> None:
    query, key, value = states(LENGTH, 1)
    genes = {0: torch.zeros(LENGTH, dtype=torch.long)}
    with attention_context.capture_maps(0, genes, {0: 1}) as maps:
        attention.attend(Layer(), query, key, value, None)
    assert maps == {}
    with pytest.raises(RuntimeError, match="on the way"), attention_context.capture_maps(1, genes, {0: 1}) as maps:
        raise RuntimeError("on the way")
    attention.attend(Layer(), query, key, value, None)
    assert maps == {}


# -- masks and early stop


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_mask_replaces_the_order_of_the_keys(softcap: float | None, window: int | None) -> None:
    query, key, value = states(4, 3)
    query_position, key_position = torch.tensor([[5, 6, 6, 2]] * BATCH), torch.arange(LENGTH)[None] % 7
    visible = key_position[:, None] <= query_position[:, :, None]
    mask = attention_context.AttentionMask(visible, query_position, key_position)
    with torch.no_grad(), attention_context.use_mask(mask):
        output, _ = attention.attend(Layer(), query, key, value, None, softcap=softcap, sliding_window=window)
    if window is not None:
        visible = visible & (query_position[:, :, None] - key_position[:, None] < window)
    expected, _ = plain(query, key, value, visible[:, None], DEPTH**-0.5, softcap)
    torch.testing.assert_close(output, expected.float(), rtol=1e-5, atol=1e-5)
    assert attention_context.current_mask() is None
    assert mask.for_window(window) is mask.for_window(window), "computed once for all layers"


def test_a_pass_stops_at_one_layer_only() -> None:
    query, key, value = states(LENGTH, 1)
    reached = []
    for layer in (0, 1):
        with attention_context.stop_at_attention(layer):
            attention.attend(Layer(), query, key, value, None)
            reached.append(layer)
    assert reached == [0], "the layer has the number 1"
    attention.attend(Layer(), query, key, value, None)
