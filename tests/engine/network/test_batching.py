"""All rows are done once, under a budget, and a lack of memory is got over."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.engine.network import batching as batches

CPU = torch.device("cpu")
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

    batches.run(work, np.array(lengths, dtype=np.int64), budget=budget, size=size)
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
def test_what_is_a_lack_of_memory(error: Exception, lack: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert batches.is_out_of_memory(error) is lack
    seen: list[int] = []

    def work(rows: list[int]) -> None:
        seen.append(len(rows))
        raise error

    with pytest.raises(type(error)) as caught, caplog.at_level(logging.WARNING):
        batches.run(work, np.full(8, 10), budget=1000)
    assert seen == ([8, 4, 2, 1] if lack else [8])
    notes = getattr(caught.value, "__notes__", [])
    assert bool(notes) is lack
    if lack:
        assert "one prompt of 10 tokens" in notes[0]
        assert caplog.records[0].getMessage() == "out of memory with 8 prompts at a time; going on with 4"


def test_a_real_allocation_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def work(rows: list[int]) -> None:
        if len(rows) > 1:
            torch.empty(2**55, dtype=torch.uint8)

    batches.run(work, np.full(4, 10), budget=1000)
    assert len(caplog.records) == 2


def test_the_budget_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (None, 2**60, 2**30, 2**29, 1):
        monkeypatch.setattr(batches, "free_memory", lambda device, free=free: free)
        found.append([batches.token_budget(config, CPU, 4) for config in (GEMMA, NEOX)])
    most = batches.MOST_TOKENS["cpu"]
    assert found[:2] == [[most, most]] * 2
    assert found[2][0] < most
    assert found[3][0] == pytest.approx(found[2][0] / 2, abs=1)
    assert found[-1] == [1, 1]
    monkeypatch.setattr(batches, "free_memory", lambda device: None)
    assert batches.token_budget(NEOX, CPU, 4, cached=True) == most
    assert batches.token_budget(NEOX, CPU, 4, cached=True, written=True) == batches.MOST_WRITTEN["cpu"]
    monkeypatch.setattr(batches, "free_memory", lambda device: 2**30)
    assert batches.token_budget(GEMMA, CPU, 2) > batches.token_budget(GEMMA, CPU, 4)
    # Keys and values of 26 layers, 4 heads of 256 float32 numbers each: 208 KiB a token, and again what is moved.
    for most in ("MOST_TOKENS", "MOST_WRITTEN"):
        monkeypatch.setattr(batches, most, {"cpu": 10**9})
    for config, kept in ((GEMMA, 2 * 26 * 4 * 256 * 4), (NEOX, 2 * 12 * 768 * 4)):
        alone, cached = batches.token_budget(config, CPU, 4), batches.token_budget(config, CPU, 4, cached=True)
        assert cached < min(alone, 2**29 / (2 * kept))


def test_free_memory_of_this_machine() -> None:
    free = batches.free_memory(CPU)
    assert free is None or 2**20 < free < 2**50
