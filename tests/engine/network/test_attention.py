"""The attention in blocks equals the formula and transformers' eager attention."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny
import torch
from attention_formula import BATCH, DEPTH, KV_HEADS, LENGTH, Layer, plain, states, visible

from cell2sen.engine.network import attention
from cell2sen.engine.network.kv_cache import cache_argument

PADDED = {
    "none": None,
    "left": torch.tensor([[False] * pad + [True] * (LENGTH - pad) for pad in (0, 4, 9)]),
    "right": torch.tensor([[True] * (LENGTH - pad) + [False] * pad for pad in (0, 4, 9)]),
}


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("window", [None, 5, LENGTH, 100])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("queries", [LENGTH, 4, 1])
def test_equals_the_formula(
    queries: int, softcap: float | None, window: int | None, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PADDED[padding]
    for groups, block in itertools.product(
        (1, 3), (attention.BLOCK_BYTES["cpu"], 4 * BATCH * KV_HEADS * 3 * LENGTH * 2)
    ):
        monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", block)
        query, key, value = states(queries, groups)
        with torch.no_grad():
            output, none = attention.attend(
                Layer(), query, key, value, real, scaling=0.7, softcap=softcap, sliding_window=window
            )
        assert none is None
        assert output.is_contiguous()
        assert output.isfinite().all()
        mask = visible(queries, window, real)
        expected, _ = plain(query, key, value, mask, 0.7, softcap)
        has_keys = mask.any(-1)[:, 0]  # outputs of padding queries do not matter
        torch.testing.assert_close(output[has_keys], expected.float()[has_keys], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_packed_sequences_do_not_see_each_other(softcap: float | None) -> None:
    query, key, value = states(LENGTH, 1)
    position = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 0, 1]] * BATCH)
    segment = (position == 0).cumsum(1)
    output, _ = attention.attend(Layer(), query, key, value, None, softcap=softcap, position_ids=position)
    expected, _ = plain(query, key, value, visible(LENGTH, None, None, segment), DEPTH**-0.5, softcap)
    torch.testing.assert_close(output, expected.float(), rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_the_formula() -> None:
    leaves = [tensor.requires_grad_() for tensor in states(LENGTH, 3)]
    weight = torch.randn((BATCH, LENGTH, 3 * KV_HEADS, DEPTH), generator=torch.Generator().manual_seed(1))
    output, _ = attention.attend(Layer(), *leaves, None, scaling=0.7, softcap=1.5, sliding_window=5)
    gradients = torch.autograd.grad((output * weight).sum(), leaves)
    expected, _ = plain(*leaves, visible(LENGTH, 5, None), 0.7, 1.5)
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_memory_of_the_scores_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = torch.Tensor.softmax

    def watched(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        sizes.append(4 * self.numel())
        return original(self, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", 100_000)
    query, key, value = (torch.randn(2, 2, 500, DEPTH) for _ in range(3))
    attention.attend(Layer(), query, key, value, None, softcap=3.0)
    assert len(sizes) > 20
    assert max(sizes) <= 100_000


@pytest.mark.parametrize("scaling", [0.7, 20.0])  # the soft-cap changes scores a little; limits nearly all of them
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_the_formula(dtype: torch.dtype, scaling: float) -> None:
    query, key, value = states(LENGTH, 3, dtype)
    mask = visible(LENGTH, None, None)
    expected, _ = plain(query, key, value, mask, scaling, 1.5)
    output, _ = attention.attend(Layer(), query, key, value, None, scaling=scaling, softcap=1.5)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0.02, atol=0.02)


def test_dropout_is_applied() -> None:
    query, key, value = states(LENGTH, 1)
    output, _ = attention.attend(Layer(), query, key, value, None, softcap=1.5, dropout=1.0)
    assert (output == 0).all()


def test_masks_of_another_shape_raise() -> None:
    query, key, value = states(LENGTH, 1)
    with pytest.raises(ValueError, match=r"must be \(batch, keys\) = \(3, 13\), found \(3, 1, 13, 13\)"):
        attention.attend(Layer(), query, key, value, torch.ones((BATCH, 1, LENGTH, LENGTH), dtype=torch.bool))


def test_padding_mask() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    output = attention.padding_mask(kv_length=5, attention_mask=mask, batch_size=2, dtype=torch.float32)
    assert output is not None
    assert output.tolist() == mask.bool().tolist()
    window = attention.padding_mask(kv_length=3, kv_offset=1, attention_mask=mask)
    assert window is not None
    assert window.tolist() == [[False, True, True], [True, True, True]]
    assert attention.padding_mask(kv_length=3, kv_offset=2, attention_mask=mask) is None
    assert attention.padding_mask(kv_length=3) is None


# -- in models


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("padding_of", ["plain", "left", "right", "packed"])
@pytest.mark.slow
def test_models_equal_eager(architecture: str, padding_of: str) -> None:
    ours, eager = (tiny.network(architecture, 90, implementation=name) for name in (attention.NAME, "eager"))
    ids = torch.randint(0, 90, (3, 60), generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"input_ids": ids}
    real = torch.ones_like(ids).bool()
    if padding_of in ("left", "right"):
        for row, pad in enumerate((0, 13, 50)):
            real[row, slice(0, pad) if padding_of == "left" else slice(60 - pad, 60)] = False
        inputs |= {"attention_mask": real.long(), "position_ids": (real.cumsum(1) - 1).clamp(min=0)}
    if padding_of == "packed":
        position = torch.cat([torch.arange(35), torch.arange(20), torch.arange(5)])
        inputs |= {"position_ids": position.expand(3, -1), "use_cache": False}
    with torch.no_grad():
        output, expected = ours(**inputs).logits, eager(**inputs).logits
    torch.testing.assert_close(output[real], expected[real], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output[real], output[real].roll(1, 0), atol=1e-2)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_models_with_a_cache_equal_eager(architecture: str) -> None:
    # Pieces of several tokens and of one, left-padded, beyond the sliding window.
    ours, eager = (tiny.network(architecture, 90, implementation=name) for name in (attention.NAME, "eager"))
    ids = torch.randint(0, 90, (2, 70), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids).bool()
    real[1, :20] = False
    position = (real.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = eager(input_ids=ids, attention_mask=real.long(), position_ids=position).logits
        name, cache, start = cache_argument(ours), None, 0
        for stop in (40, 47, 48, 49, 60, 70):
            part = slice(start, stop)
            output = ours(
                input_ids=ids[:, part],
                attention_mask=real[:, :stop].long(),
                position_ids=position[:, part],
                use_cache=True,
                **{name: cache},
            )
            real_part = real[:, part]
            torch.testing.assert_close(output.logits[real_part], expected[:, part][real_part], rtol=1e-4, atol=1e-4)
            cache, start = getattr(output, name), stop
