"""The token tree of answers; scores are compared with full forward passes in the tests of the transformers backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
from tiny import prompts

from cell2sen.engine import scoring
from cell2sen.engine.network import causal_lm

CELLS = prompts(4)
ANSWERS = [f" {state}{kind}." for state, kind in itertools.product(("", "naive ", "CD4 "), ("T cell", "B cell", "NK"))]


def test_the_tree() -> None:
    tree = scoring._tree([(5,), (5, 6, 7), (5, 6, 8), (9, 6)])
    # Nodes are the prefixes (), 5, 5 6, 9; the last token of an answer is an edge only.
    assert tree.token[1:].tolist() == [5, 6, 9]
    assert tree.depth.tolist() == [0, 1, 2, 1]
    assert tree.ancestors.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [True, False, False, True],
    ]
    edges = list(zip(tree.edge_node.tolist(), tree.edge_token.tolist(), strict=True))
    assert sorted(edges) == [(0, 5), (0, 9), (1, 6), (2, 7), (2, 8), (3, 6)]
    assert [[edges[edge] for edge in path] for path in tree.paths] == [
        [(0, 5)], [(0, 5), (1, 6), (2, 7)], [(0, 5), (1, 6), (2, 8)], [(0, 9), (3, 6)]
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_trees_in_parts_and_logits_in_parts(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend(architecture, "spm" if architecture == "gemma2" else "bytes")
    answers = [*ANSWERS, ANSWERS[3], "", " T"]
    expected = backend.score(CELLS, answers)
    assert (expected[:, 3] == expected[:, len(ANSWERS)]).all()
    assert (expected[:, len(ANSWERS) + 1] == 0).all()
    for nodes, logits in ((1, 2**24), (7, 1000), (256, 1)):
        monkeypatch.setattr(scoring, "_MAX_NODES", nodes)
        monkeypatch.setattr(causal_lm, "_MAX_LOGITS", logits)
        np.testing.assert_allclose(backend.score(CELLS, answers), expected, rtol=1e-5, atol=1e-5)


def test_memory_of_the_logits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend()
    sizes: list[int] = []
    capped = backend.causal.soft_capped

    def watched(logits):  # type: ignore[no-untyped-def]
        sizes.append(logits.numel())
        return capped(logits)

    monkeypatch.setattr(backend.causal, "soft_capped", watched)
    monkeypatch.setattr(causal_lm, "_MAX_LOGITS", 1000)
    backend.score(CELLS, ANSWERS)
    of_answers = sizes.pop()  # the tokens of the answers after every node
    assert len(sizes) > 3
    assert max(sizes) <= 1000
    assert sum(sizes) % backend.causal.vocabulary == 0
    assert of_answers < sum(sizes)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0, 1000.0])
def test_bounds_of_unlikely_answers(architecture: str, margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend(architecture, "spm" if architecture == "gemma2" else "bytes")
    answers = [*ANSWERS, ANSWERS[3], "", " T", *(f" {name} of the {place}" for name in "abcd" for place in "xy")]
    exact = backend.score(CELLS, answers)
    for nodes in (256, 5):
        monkeypatch.setattr(scoring, "_MAX_NODES", nodes)
        found = backend.score(CELLS, answers, margin=margin)
        highest = exact.max(axis=1, keepdims=True)
        likely = exact >= highest - margin
        np.testing.assert_allclose(found[likely], exact[likely], atol=1e-4)
        assert (found >= exact - 1e-4).all()
        assert (found <= np.maximum(exact, highest - margin) + 1e-4).all()
        alone = np.concatenate([backend.score([cell], answers, margin=margin) for cell in CELLS])
        np.testing.assert_allclose(alone, found, atol=1e-4)


def test_sums_over_the_vocabulary_that_a_margin_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = tiny.backend()
    rows: list[int] = []
    whole = causal_lm.Head.log_normaliser

    def watched(head, hidden_ND):  # type: ignore[no-untyped-def]
        rows.append(len(hidden_ND))
        return whole(head, hidden_ND)

    monkeypatch.setattr(causal_lm.Head, "log_normaliser", watched)
    backend.score(CELLS, ANSWERS)
    exact, _ = sum(rows), rows.clear()
    backend.score(CELLS, ANSWERS, margin=0.0)
    assert len(CELLS) <= sum(rows) < exact
