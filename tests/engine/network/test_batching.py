"""Every row is processed once, in batches within a budget that adapts to the memory."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from backend_contract import VERBS, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GENES, prompts, with_genes

from cell2sen.engine.network import batching

CPU = torch.device("cpu")
CELLS = prompts(5)
GEMMA = SimpleNamespace(hidden_size=2304, intermediate_size=9216, num_attention_heads=8, head_dim=256)
GEMMA.num_hidden_layers, GEMMA.num_key_value_heads = 26, 4
NEOX = SimpleNamespace(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=30), st.integers(1, 100), st.none() | st.integers(1, 7), st.integers(1, 100)
)
def test_each_row_once_the_longest_first(lengths: list[int], budget: int, size: int | None, memory: int) -> None:
    done: list[list[int]] = []

    def work(rows: list[int]) -> None:
        longest = max(lengths[row] for row in rows)
        assert len(rows) == 1 or longest * len(rows) <= budget or size is not None
        assert size is None or len(rows) <= size
        if len(rows) > 1 and longest * len(rows) > memory:
            raise MemoryError
        done.append(rows)

    batching.run_batches(work, np.array(lengths, dtype=np.int64), budget=budget, size=size)
    flat = [row for rows in done for row in rows]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[row] for row in flat] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("memory"), False),
    ],
)
def test_errors_that_are_a_lack_of_memory(error: Exception, lack: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert batching.is_out_of_memory(error) is lack
    sizes: list[int] = []

    def work(rows: list[int]) -> None:
        sizes.append(len(rows))
        raise error

    with pytest.raises(type(error)) as caught, caplog.at_level(logging.WARNING):
        batching.run_batches(work, np.full(8, 10), budget=1000)
    assert sizes == ([8, 4, 2, 1] if lack else [8])
    notes = getattr(caught.value, "__notes__", [])
    assert bool(notes) is lack
    if lack:
        assert "one prompt of 10 tokens" in notes[0]
        assert caplog.records[0].getMessage() == "out of memory with 8 prompts in a batch; continuing with 4"


def test_a_real_allocation_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def work(rows: list[int]) -> None:
        if len(rows) > 1:
            torch.empty(2**55, dtype=torch.uint8)

    batching.run_batches(work, np.full(4, 10), budget=1000)
    assert len(caplog.records) == 2


def test_the_budget_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []
    for free in (None, 2**60, 2**30, 2**29, 1):
        monkeypatch.setattr(batching, "free_memory", lambda device, free=free: free)
        budgets.append([batching.token_budget(config, CPU, 4) for config in (GEMMA, NEOX)])
    limit = batching.MAX_TOKENS["cpu"]
    assert budgets[:2] == [[limit, limit]] * 2
    assert budgets[2][0] < limit
    assert budgets[3][0] == pytest.approx(budgets[2][0] / 2, abs=1)
    assert budgets[-1] == [1, 1]
    monkeypatch.setattr(batching, "free_memory", lambda device: None)
    assert batching.token_budget(NEOX, CPU, 4, cached=True) == limit
    assert batching.token_budget(NEOX, CPU, 4, cached=True, generating=True) == batching.MAX_TOKENS_GENERATING["cpu"]
    monkeypatch.setattr(batching, "free_memory", lambda device: 2**30)
    assert batching.token_budget(GEMMA, CPU, 2) > batching.token_budget(GEMMA, CPU, 4)
    # Keys and values of 26 layers, 4 heads of 256 float32 numbers each: 208 KiB a token, twice when the cache grows.
    for name in ("MAX_TOKENS", "MAX_TOKENS_GENERATING"):
        monkeypatch.setattr(batching, name, {"cpu": 10**9})
    for config, kept in ((GEMMA, 2 * 26 * 4 * 256 * 4), (NEOX, 2 * 12 * 768 * 4)):
        alone, cached = batching.token_budget(config, CPU, 4), batching.token_budget(config, CPU, 4, cached=True)
        assert cached < min(alone, 2**29 / (2 * kept))


def test_free_memory_of_this_machine() -> None:
    free = batching.free_memory(CPU)
    assert free is None or 2**20 < free < 2**50


# -- in the transformers backend


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_batch_sizes(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend(architecture, "spm")
    shapes: list[tuple[int, ...]] = []
    hook = backend.base.get_input_embeddings().register_forward_hook(lambda *a: shapes.append(tuple(a[1][0].shape)))
    backend.batch_size = 3
    backend.embed(CELLS)
    assert [shape[0] for shape in shapes] == [3, 2]
    assert [shape[1] for shape in shapes] == sorted((shape[1] for shape in shapes), reverse=True)
    shapes.clear()
    backend.batch_size = None
    monkeypatch.setattr(batching, "MAX_TOKENS", {"cpu": 250})
    backend.embed(CELLS)
    assert all(rows * length <= 250 or rows == 1 for rows, length in shapes)
    assert sum(rows for rows, _ in shapes) == 5
    hook.remove()
    backend.batch_size = 0
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        backend.embed(CELLS)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_out_of_memory_halves_the_batch_and_changes_nothing(
    architecture: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = tiny.backend(architecture, "bytes")
    expected = backend.embed(CELLS, attention_for=[1])
    rows: list[int] = []
    original = type(backend.base.layers[0]).forward

    def limited(self: Any, hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        rows.append(len(hidden))
        if len(hidden) > 2:
            raise torch.OutOfMemoryError("no memory")
        return original(self, hidden, *arguments, **named)

    monkeypatch.setattr(type(backend.base.layers[0]), "forward", limited)
    with caplog.at_level(logging.WARNING):
        result = backend.embed(CELLS, attention_for=[1])
    np.testing.assert_allclose(result.vectors, expected.vectors, rtol=1e-5, atol=1e-5)
    assert result.attention
    assert expected.attention
    assert result.attention[1]
    assert expected.attention[1]
    np.testing.assert_allclose(result.attention[1].array, expected.attention[1].array, rtol=1e-5, atol=1e-5)
    assert rows[0] == 5
    assert max(rows[1:]) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 5 prompts in a batch; continuing with 2"
    ]


@pytest.mark.parametrize("verb", ["generate", "draw", "guide", "draw_guided", "score", "expect"])
def test_out_of_memory_during_generation_changes_nothing(
    verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = tiny.backend("gpt_neox", "genes")
    expected = VERBS[verb](backend, CELLS)
    forward, calls = type(backend.base.layers[0]).forward, 0

    def limited(self: Any, hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(hidden) > 2 and calls > 3:  # memory runs out after the prompts are read
            raise torch.OutOfMemoryError("no memory")
        return forward(self, hidden, *arguments, **named)

    monkeypatch.setattr(type(backend.base.layers[0]), "forward", limited)
    with caplog.at_level(logging.WARNING):
        assert_same(VERBS[verb](backend, CELLS), expected)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 5 prompts in a batch; continuing with 2"
    ]


def test_progress_on_stderr_for_long_work_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cell2sen.data.progress.QUIET_SECONDS", 0.0)
    for progress, cells, shown in ((True, CELLS, True), (True, CELLS[:3], False), (False, CELLS, False)):
        tiny.backend(progress=progress, batch_size=1).embed(cells)
        output = capsys.readouterr()
        assert output.out == ""
        assert bool(output.err) is shown


def test_one_warning_for_all_batches(caplog: pytest.LogCaptureFixture) -> None:
    cells = [with_genes(cell, GENES * 9) for cell in CELLS]
    backend = tiny.backend(batch_size=1)
    with caplog.at_level(logging.WARNING):
        used = backend.embed(cells).genes_used
    [record] = caplog.records
    assert record.getMessage().startswith("5 of 5")
    assert f"last {5 * 9 * len(GENES) - used.sum()} genes" in record.getMessage()
