"""Drafts come from the last logits at the same node, and are made where they are probably right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from cell2sen.engine.decoding.drafts import MAX_DRAFTS, MIN_PROBABILITY, DraftMemory, GeneDrafts
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.decoding.loop import Work, generate
from cell2sen.engine.decoding.sampling import row_key

# a = 1, b = 2, c = 3 4, d = 3 5, e = 6, f = 6 4
TRIE = GeneTrie(list("abcdef"), [[1], [2], [3, 4], [3, 5], [6], [6, 4]])
A, B, C, D, E, F = range(6)
COLUMNS = Guide(TRIE, [], [0], 8).columns


def generated(
    logits: Sequence[float],
    n: int = 1,
    *,
    memory: DraftMemory | None = None,
    n_genes: int = 6,
    temperature: float = 0.0,
) -> tuple[list[list[int]], Work, DraftMemory]:
    """Genes of rows, equal with and without drafts, from a model with constant logits; counts, and the memory."""
    memory = memory or DraftMemory(TRIE, COLUMNS)
    keys = [row_key(0, str(row)) for row in range(n)]
    answers, work = [], Work()
    for drafts in (None, GeneDrafts(memory, keys, temperature)):
        guide, work = Guide(TRIE, [n_genes] * n, [0], 8, drafts), Work()
        generate(
            [np.array([7])] * n, guide, keys, work=work, select_rows=lambda rows: None, temperature=temperature,
            hidden_states=lambda ids, positions: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: torch.tensor(logits).expand(len(hidden), -1),
        )  # fmt: skip
        answers.append(guide.written)
    assert answers[0] == answers[1]
    return answers[1], work, memory


def test_the_best_unused_gene_is_drafted() -> None:
    # Columns: 0 (end), 1, 2, 3, 4, 5, 6. The first pass has no logits for drafts; later ones none for the node after 3.
    genes, work, memory = generated([-9.0, 3.0, 4.0, 2.0, 0.0, -1.0, 1.0])
    assert genes == [[B, A, C, D, E, F]]
    assert work.passes <= 5
    genes, work, _ = generated([-9.0, 3.0, 4.0, 2.0, 0.0, -1.0, 1.0], memory=memory)
    assert genes == [[B, A, C, D, E, F]]
    assert work.passes == 2, "logits of other rows give drafts from the second token on"


def test_a_gene_is_drafted_to_end_or_continue_as_before() -> None:
    # 6 completes the gene e. Then another gene begins (6 again, for f), or 4 continues it to f.
    for logit, first in ((9.5, F), (0.5, E)):
        _, _, memory = generated([-9.0, 1.0, 1.5, -3.0, logit, -3.0, 9.0], n_genes=2)
        genes, work, _ = generated([-9.0, 1.0, 1.5, -3.0, logit, -3.0, 9.0], memory=memory, n_genes=2)
        assert genes[0][0] == first
        assert work.passes == 2


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_are_drafted_with_their_noise(temperature: float) -> None:
    # Constant logits, different draws: only the first pass lacks drafts.
    genes, work, memory = generated([-9.0, 0.3, 0.2, 0.1, 0.0, 0.1, 0.2], 50, temperature=temperature)
    assert len(set(map(tuple, genes))) > 20
    for _ in range(3):
        genes, work, _ = generated([-9.0, 0.3, 0.2, 0.1, 0.0, 0.1, 0.2], 50, memory=memory, temperature=temperature)
    assert work.batch_passes <= 4


@pytest.mark.slow
def test_drafts_that_are_never_right_become_rare() -> None:
    trie = GeneTrie([str(gene) for gene in range(100)], [[gene] for gene in range(100)])
    memory = DraftMemory(trie, np.arange(100))
    random = np.random.default_rng(0)

    def run(model: Callable[[], Sequence[float]]) -> Work:
        guide, work = Guide(trie, [90], [], 100, GeneDrafts(memory, [0])), Work()
        generate(
            [np.array([0])], guide, [0], work=work, select_rows=lambda rows: None,
            hidden_states=lambda ids, positions: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: torch.tensor([list(model()) for _ in hidden]),
        )  # fmt: skip
        return work

    run(lambda: random.normal(size=100) * 3)
    work = run(lambda: random.normal(size=100) * 3)
    assert 90 <= work.read < 130
    assert work.passes > 80
    constant = (random.normal(size=100) * 3).tolist()
    for _ in range(12):  # then drafts are right
        work = run(lambda: constant)
    assert work.passes <= 90 / MAX_DRAFTS + 4


def test_rates_without_recent_drafts_return_to_their_start() -> None:
    memory = DraftMemory(TRIE, COLUMNS)
    for _ in range(20):
        memory.count_drafts(np.full(20, 3), np.zeros(20, dtype=bool))
    assert memory.rates()[3] < MIN_PROBABILITY
    for _ in range(3000):
        memory.count_drafts(np.full(200, 1), np.ones(200, dtype=bool))
    rates = memory.rates()
    assert np.isfinite(rates).all()
    assert rates[3] > 0.6
    assert rates[1] > 0.95
