"""The compiled kernel equals the attention in blocks, and is not used where it fails."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn.attention import flex_attention as flex

from cell2sen.engine.network import attention, attention_context, flex_attention
from cell2sen.engine.network.flex_attention import BLOCK, block_mask

CPU = torch.device("cpu")


class Layer(torch.nn.Module):
    layer_idx = 0


@pytest.fixture(autouse=True)
def _no_faults(monkeypatch):
    """Clears the faults of kernels before each test."""
    monkeypatch.setattr(flex_attention, "faults", {})
    monkeypatch.setattr(flex_attention, "_logged", set())


@pytest.fixture
def kernel(monkeypatch):
    """flex_attention without compilation; records the shapes of its calls."""
    calls = []

    def called(query, key, value, **named):
        calls.append((tuple(query.shape), tuple(key.shape)))
        return flex.flex_attention(query, key, value, **named)

    monkeypatch.setattr(flex_attention, "_kernel", lambda: called)
    return calls


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def states(n_queries, n_keys, heads=4, groups=2, depth=16):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn((2, n, length, depth), generator=generator)
        for n, length in ((heads, n_queries), (groups, n_keys), (groups, n_keys))
    )


@pytest.mark.parametrize("window", [None, 1, 90, 128, 129, 300])
@pytest.mark.parametrize(("n_queries", "n_keys", "offset"), [(3, 3, 0), (2, 4, 256), (1, 4, 301), (2, 3, 60)])
def test_blocks_equal_those_of_the_full_mask(n_queries, n_keys, offset, window):
    mask = block_mask(n_queries * BLOCK, n_keys * BLOCK, offset, window, CPU)
    distance = offset + torch.arange(n_queries * BLOCK)[:, None] - torch.arange(n_keys * BLOCK)[None]
    visible = (distance >= 0) & (distance < (window or n_keys * BLOCK + offset))
    parts = visible.reshape(n_queries, BLOCK, n_keys, BLOCK)
    full_mask = flex.create_block_mask(mask.mask_mod, None, None, n_queries * BLOCK, n_keys * BLOCK, device="cpu")
    assert torch.equal(
        flex.create_mask(mask.mask_mod, 1, 1, n_queries * BLOCK, n_keys * BLOCK, device="cpu")[0, 0], visible
    )
    for blocks, expected in (
        (listed(mask.full_kv_num_blocks, mask.full_kv_indices), parts.all(3).all(1)),
        (listed(mask.kv_num_blocks, mask.kv_indices), parts.any(3).any(1) & ~parts.all(3).all(1)),
    ):
        assert blocks == [set(row.nonzero().ravel().tolist()) for row in expected]
    assert torch.equal(mask.to_dense(), full_mask.to_dense())


def listed(numbers, indices):
    return [set(row[:n].tolist()) for n, row in zip(numbers[0, 0], indices[0, 0], strict=True)]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(200, 200), (128, 256), (77, 300), (1, 129)])
@pytest.mark.slow
def test_equals_the_attention_in_blocks(n_queries, n_keys, window, softcap, kernel):
    query, key, value = states(n_queries, n_keys)
    with torch.inference_mode():
        output = flex_attention.attend(query, key, value, 0.3, softcap, window)
        expected, _ = attention.attend(
            Layer(), query, key, value, None, scaling=0.3, softcap=softcap, sliding_window=window
        )
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert kernel[-1][0][2] % BLOCK == kernel[-1][1][2] % BLOCK == 0


@pytest.mark.slow
def test_the_kernel_is_tested_once_for_each_shape_of_heads(kernel):
    with torch.inference_mode():
        for length in (100, 200, 300):
            flex_attention.attend(*states(length, length), 0.3, 2.0, None)
        assert len(kernel) == 4
        flex_attention.attend(*states(100, 100, heads=2), 0.3, 2.0, None)
    assert len(kernel) == 6


@pytest.mark.parametrize("fault", ["fails", "wrong"])
def test_a_faulty_kernel_is_not_used(fault, monkeypatch, caplog):
    calls = []

    def broken(query, key, value, **named):
        calls.append(1)
        if fault == "fails":
            raise RuntimeError("no Triton here\nand a long story")
        return flex.flex_attention(query, key, value, **{**named, "score_mod": None})  # without the soft-cap

    monkeypatch.setattr(flex_attention, "_kernel", lambda: broken)
    monkeypatch.setattr(attention, "_FLEX_DEVICES", ("cpu",))
    query, key, value = states(200, 200)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            output, _ = attention.attend(Layer(), query, key, value, None, scaling=0.3, softcap=0.5)
        monkeypatch.setattr(attention, "_FLEX_DEVICES", ())
        expected, _ = attention.attend(Layer(), query, key, value, None, scaling=0.3, softcap=0.5)
    assert torch.equal(output, expected)
    assert (len(calls), len(caplog.records)) == (1, 1)
    assert "slower" in caplog.text
    assert "long story" not in caplog.text


def test_a_later_failure_switches_to_the_slower_attention(monkeypatch, caplog):
    calls = []

    def kernel(query, key, value, **named):
        calls.append(query.shape[2])
        if query.shape[2] > 2 * BLOCK:
            raise RuntimeError("this length does not compile")
        return flex.flex_attention(query, key, value, **named)

    monkeypatch.setattr(flex_attention, "_kernel", lambda: kernel)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        assert flex_attention.attend(*states(200, 200), 0.3, 2.0, None) is not None
        assert flex_attention.attend(*states(300, 300), 0.3, 2.0, None) is None
        assert flex_attention.attend(*states(200, 200), 0.3, 2.0, None) is None
    assert len(calls) == 3
    assert len(caplog.records) == 1


def test_out_of_memory_is_not_a_fault_of_the_kernel(monkeypatch, kernel):
    with torch.inference_mode():
        flex_attention.attend(*states(10, 10), 0.3, 2.0, None)

        def full(*_, **__):
            raise torch.OutOfMemoryError("no room")

        monkeypatch.setattr(flex_attention, "_kernel", lambda: full)
        with pytest.raises(torch.OutOfMemoryError):
            flex_attention.attend(*states(10, 10), 0.3, 2.0, None)
    assert list(flex_attention.faults.values()) == [""]


def test_another_shape_of_heads_is_tested_after_a_failure(monkeypatch):
    def kernel(query, key, value, **named):
        if query.shape[1] == 4:
            raise RuntimeError("four heads do not compile")
        return flex.flex_attention(query, key, value, **named)

    monkeypatch.setattr(flex_attention, "_kernel", lambda: kernel)
    with torch.inference_mode():
        assert flex_attention.attend(*states(200, 200), 0.3, 2.0, None) is None
        assert flex_attention.attend(*states(200, 200, heads=8), 0.3, 2.0, None) is not None


def test_not_used_where_numbers_would_be_rounded(kernel):
    query, key, value = states(200, 200)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert flex_attention.attend(query, key, value, 0.3, 2.0, None) is None
        assert flex_attention.attend(query, key, value.bfloat16(), 0.3, 2.0, None) is None
        assert not kernel
        assert not flex_attention.faults
        assert flex_attention.attend(query, key, value, 0.3, 2.0, None) is not None


@pytest.mark.slow
def test_one_graph_for_lengths_and_windows(monkeypatch):
    """Traced as a full graph, as on a GPU, without code generation."""
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(flex_attention, "_kernel", lambda: torch.compile(
        flex.flex_attention, dynamic=True, fullgraph=True, backend=backend
    ))  # fmt: skip
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            for n_keys in (200, 300, 700):
                for window in (None, 90, 150):
                    query, key, value = states(n_keys, n_keys)
                    output = flex_attention.attend(query, key, value, 0.3, 2.0, window)
                    expected, _ = attention.attend(
                        Layer(), query, key, value, None, scaling=0.3, softcap=2.0, sliding_window=window
                    )
                    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) <= 4, "as many queries as keys or fewer, in either mode"
    torch._dynamo.reset()


def test_used_for_plain_prompts_only(monkeypatch, kernel):
    monkeypatch.setattr(attention, "_FLEX_DEVICES", ("cpu",))
    query, key, value = states(40, 40)
    named = {"scaling": 0.3, "softcap": 2.0, "sliding_window": 9}
    with torch.no_grad():
        attention.attend(Layer(), query, key, value, None, **named)
        assert len(kernel) == 2
        real = torch.ones((2, 40), dtype=torch.bool)
        real[0, 30:] = False
        attention.attend(Layer(), query, key, value, real, **named)  # a mask
        attention.attend(Layer(), query[:, :, :1], key, value, None, **named)  # a single query
        packed = torch.arange(40).remainder(20)[None]
        attention.attend(Layer(), query, key, value, None, position_ids=packed, **named)
        attention.attend(Layer(), query, key, value, None, dropout=0.5, **named)
        with attention_context.capture_maps(0, {0: torch.zeros(40, dtype=torch.int64)}, {0: 1}):
            attention.attend(Layer(), query, key, value, None, **named)
    with torch.enable_grad():
        attention.attend(Layer(), query.requires_grad_(), key, value, None, **named)
    assert len(kernel) == 2


def test_the_recompile_limit_is_raised_during_a_call_only(monkeypatch):
    limits = []

    def compiled(query, **options):
        limits.append(torch._dynamo.config.recompile_limit)
        if options:
            raise RuntimeError("does not compile")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    before = torch._dynamo.config.recompile_limit
    kernel = flex_attention._kernel.__wrapped__()
    kernel(torch.ones(1))
    with pytest.raises(RuntimeError, match="does not compile"):
        kernel(torch.ones(1), scale=2.0)
    assert limits == [flex_attention._MAX_VERSIONS] * 2
    assert torch._dynamo.config.recompile_limit == before < limits[0]
