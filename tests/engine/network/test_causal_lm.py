"""Rows of different length, token trees and a restricted head equal a plain forward pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from cell2sen.engine.network.causal_lm import CausalLM, Head

VOCABULARY = 60


@pytest.fixture(params=["gemma2", "gpt_neox"], scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[CausalLM, torch.nn.Module]:
    """The incremental model, and transformers' own with the same weights."""
    eager = tiny.network(request.param, VOCABULARY, implementation="eager")
    return CausalLM(tiny.network(request.param, VOCABULARY)), eager


def texts(*lengths: int, seed: int = 0, common: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    begin = generator.integers(0, VOCABULARY, common)
    return [np.concatenate([begin, generator.integers(0, VOCABULARY, length)]) for length in lengths]


@torch.inference_mode()
def hidden(eager: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    output: np.ndarray = eager.base_model(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()  # type: ignore[operator]
    return output


def same(result: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("common", [0, 9])
def test_rows_of_different_length_continue_at_their_own_positions(
    pair: tuple[CausalLM, torch.nn.Module], common: int
) -> None:
    causal, eager = pair
    rows = texts(30, 1, 44, 12, common=common)
    rows = [*rows, rows[2], rows[0]]  # the same text twice is read once
    cache = causal.prefill([row[:-1] for row in rows], 20)
    last = np.array([row[-1:] for row in rows])
    places = np.array([[len(row) - 1] for row in rows])
    drafts = texts(*[4] * 6, seed=1)
    result = causal.hidden_states(np.hstack([last, drafts]), places + np.arange(5), cache)
    for row, more, states in zip(rows, drafts, result, strict=True):
        same(states, hidden(eager, np.concatenate([row, more]))[-5:])
    # Each row keeps another number of drafts; some rows are dropped; the others continue with other tokens.
    kept, stay = np.array([4, 0, 1, 3, 2, 0]), np.array([1, 2, 4])
    cache.select_rows(torch.from_numpy(stay))
    rows = [np.concatenate([rows[row], drafts[row][: kept[row]]]) for row in stay]
    new = texts(3, 2, 1, seed=2)
    ids = np.array([np.pad(ids, (0, 3 - len(ids))) for ids in new])
    result = causal.hidden_states(ids, np.array([[len(row)] for row in rows]) + np.arange(3), cache)
    for row, more, states in zip(rows, new, result, strict=True):
        same(states[: len(more)], hidden(eager, np.concatenate([row, more]))[-len(more) :])


@torch.inference_mode()
def test_a_tree_equals_its_branches(pair: tuple[CausalLM, torch.nn.Module]) -> None:
    causal, eager = pair
    rows = texts(30, 5, 47)
    above = np.eye(5, dtype=bool)
    parents = {1: 0, 2: 1, 3: 1, 4: 0}
    for node, parent in parents.items():
        above[node] |= above[parent]
    token = np.array([0, 7, 8, 9, 10])
    ids = np.tile(token, (3, 1))
    ids[:, 0] = [row[-1] for row in rows]
    cache = causal.prefill([row[:-1] for row in rows], 0)
    for _ in range(2):  # the cache can be used again
        result = causal.tree_hidden_states(
            ids, np.array([0, 1, 2, 2, 1]), above, np.array([len(row) - 1 for row in rows]), cache
        )
        for row, states in zip(rows, result, strict=True):
            for node in range(5):
                branch = [token[node_above] for node_above in np.flatnonzero(above[node]) if node_above]
                same(states[node], hidden(eager, np.concatenate([row, branch]).astype(np.int64))[-1])


@torch.inference_mode()
def test_head_of_some_tokens(pair: tuple[CausalLM, torch.nn.Module]) -> None:
    causal, eager = pair
    [row] = texts(9)
    states = torch.from_numpy(hidden(eager, row))
    expected = eager(torch.from_numpy(row)[None]).logits[0].numpy()
    same(causal.logits(states), expected)
    columns = np.array([3, 4, 59])
    result = Head(causal, columns).logits(states)
    assert result.dtype == torch.float32
    same(result, expected[:, columns])
    same(Head(causal).logits(states), expected)


@pytest.mark.parametrize("at_once", [1, 100, 2**22])
@torch.inference_mode()
def test_probabilities_among_the_whole_vocabulary(
    pair: tuple[CausalLM, torch.nn.Module], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal, eager = pair
    [row] = texts(9)
    states = torch.from_numpy(hidden(eager, row))
    expected = eager(torch.from_numpy(row)[None]).logits[0].log_softmax(dim=-1).numpy()
    monkeypatch.setattr("cell2sen.engine.network.causal_lm._MAX_LOGITS", at_once)
    columns = np.array([3, 4, 59])
    result = Head(causal, columns).log_probabilities(states)
    assert result.dtype == torch.float64
    same(result, expected[:, columns])
    same(Head(causal).log_probabilities(states), expected)


@torch.inference_mode()
def test_probabilities_with_a_bias() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 11)
    causal: Any = SimpleNamespace(
        network=SimpleNamespace(get_output_embeddings=lambda: head),
        device="cpu",
        vocabulary=11,
        soft_capped=torch.Tensor.float,
    )
    states = torch.randn(3, 4)
    expected = head(states).log_softmax(dim=-1)[:, [2, 10]]
    same(Head(causal, np.array([2, 10])).log_probabilities(states), expected.numpy())


@torch.inference_mode()
def test_prefill_skips_the_rest_of_the_last_layer(
    pair: tuple[CausalLM, torch.nn.Module],
) -> None:
    causal, eager = pair
    ran: list[int] = []
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(causal.base.layers)
    ]
    rows = texts(12, 7)
    cache = causal.prefill([row[:-1] for row in rows], 4)
    assert set(ran) == set(range(len(hooks) - 1))
    result = causal.hidden_states(np.array([row[-1:] for row in rows]), np.array([[11], [6]]), cache)
    assert set(ran) == set(range(len(hooks)))
    for hook in hooks:
        hook.remove()
    for row, states in zip(rows, result, strict=True):
        same(states, hidden(eager, row)[-1:])
