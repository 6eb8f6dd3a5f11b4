"""The chunked attention equals the plain formula and transformers' eager attention."""

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
            found, none = attention.attend(
                Layer(), query, key, value, real, scaling=0.7, softcap=softcap, sliding_window=window
            )
        assert none is None
        assert found.is_contiguous()
        assert found.isfinite().all()
        seen = visible(queries, window, real)
        wanted, _ = plain(query, key, value, seen, 0.7, softcap)
        looks = seen.any(-1)[:, 0]  # what a padding query gets does not matter
        torch.testing.assert_close(found[looks], wanted.float()[looks], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_packed_sequences_do_not_see_each_other(softcap: float | None) -> None:
    query, key, value = states(LENGTH, 1)
    position = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 0, 1]] * BATCH)
    segment = (position == 0).cumsum(1)
    found, _ = attention.attend(Layer(), query, key, value, None, softcap=softcap, position_ids=position)
    wanted, _ = plain(query, key, value, visible(LENGTH, None, None, segment), DEPTH**-0.5, softcap)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_the_formula() -> None:
    leaves = [each.requires_grad_() for each in states(LENGTH, 3)]
    weight = torch.randn((BATCH, LENGTH, 3 * KV_HEADS, DEPTH), generator=torch.Generator().manual_seed(1))
    found, _ = attention.attend(Layer(), *leaves, None, scaling=0.7, softcap=1.5, sliding_window=5)
    gradients = torch.autograd.grad((found * weight).sum(), leaves)
    wanted, _ = plain(*leaves, visible(LENGTH, 5, None), 0.7, 1.5)
    for one, other in zip(gradients, torch.autograd.grad((wanted * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_scores_held_at_a_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("scaling", [0.7, 20.0])  # the cap bends the scores a little; holds nearly all of them
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_no_worse_than_eager(dtype: torch.dtype, scaling: float) -> None:
    query, key, value = states(LENGTH, 3, dtype)
    seen = visible(LENGTH, None, None)
    wanted, _ = plain(query, key, value, seen, scaling, 1.5)
    found, _ = attention.attend(Layer(), query, key, value, None, scaling=scaling, softcap=1.5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.02)


def test_dropout_is_applied() -> None:
    query, key, value = states(LENGTH, 1)
    found, _ = attention.attend(Layer(), query, key, value, None, softcap=1.5, dropout=1.0)
    assert (found == 0).all()


def test_masks_of_another_shape_are_refused() -> None:
    query, key, value = states(LENGTH, 1)
    with pytest.raises(ValueError, match=r"must be \(batch, keys\) = \(3, 13\), found \(3, 1, 13, 13\)"):
        attention.attend(Layer(), query, key, value, torch.ones((BATCH, 1, LENGTH, LENGTH), dtype=torch.bool))


def test_padding_mask() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = attention.padding_mask(kv_length=5, attention_mask=mask, batch_size=2, dtype=torch.float32)
    assert found is not None
    assert found.tolist() == mask.bool().tolist()
    window = attention.padding_mask(kv_length=3, kv_offset=1, attention_mask=mask)
    assert window is not None
    assert window.tolist() == [[False, True, True], [True, True, True]]
    assert attention.padding_mask(kv_length=3, kv_offset=2, attention_mask=mask) is None
    assert attention.padding_mask(kv_length=3) is None


# -- in models


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("how", ["plain", "left", "right", "packed"])
@pytest.mark.slow
def test_models_equal_eager(architecture: str, how: str) -> None:
    ours, eager = (tiny.network(architecture, 90, implementation=name) for name in (attention.NAME, "eager"))
    ids = torch.randint(0, 90, (3, 60), generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"input_ids": ids}
    real = torch.ones_like(ids).bool()
    if how in ("left", "right"):
        for row, pad in enumerate((0, 13, 50)):
            real[row, slice(0, pad) if how == "left" else slice(60 - pad, 60)] = False
        inputs |= {"attention_mask": real.long(), "position_ids": (real.cumsum(1) - 1).clamp(min=0)}
    if how == "packed":
        position = torch.cat([torch.arange(35), torch.arange(20), torch.arange(5)])
        inputs |= {"position_ids": position.expand(3, -1), "use_cache": False}
    with torch.no_grad():
        found, wanted = ours(**inputs).logits, eager(**inputs).logits
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[real], found[real].roll(1, 0), atol=1e-2)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_models_with_a_cache_equal_eager(architecture: str) -> None:
    # Pieces of several tokens and of one, left-padded, beyond the sliding window.
    ours, eager = (tiny.network(architecture, 90, implementation=name) for name in (attention.NAME, "eager"))
    ids = torch.randint(0, 90, (2, 70), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids).bool()
    real[1, :20] = False
    position = (real.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        wanted = eager(input_ids=ids, attention_mask=real.long(), position_ids=position).logits
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
            keep = real[:, part]
            torch.testing.assert_close(output.logits[keep], wanted[:, part][keep], rtol=1e-4, atol=1e-4)
            cache, start = getattr(output, name), stop
