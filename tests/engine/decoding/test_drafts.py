"""Guesses: where they come from, and when they are not worth a place."""

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


def written(
    logits: Sequence[float], n: int = 1, *, memory: DraftMemory | None = None, ask: int = 6, temperature: float = 0.0
) -> tuple[list[list[int]], Work, DraftMemory]:
    """What rows write with guesses, which is what they write without; the model says the same at every place."""
    memory = memory or DraftMemory(TRIE, COLUMNS)
    keys = [row_key(0, str(row)) for row in range(n)]
    found, work = [], Work()
    for drafts in (None, GeneDrafts(memory, keys, temperature)):
        guide, work = Guide(TRIE, [ask] * n, [0], 8, drafts), Work()
        generate(
            [np.array([7])] * n, guide, keys, work=work, select_rows=lambda rows: None, temperature=temperature,
            hidden_states=lambda ids, places: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: torch.tensor(logits).expand(len(hidden), -1),
        )  # fmt: skip
        found.append(guide.written)
    assert found[0] == found[1]
    return found[1], work, memory


def test_the_best_of_what_was_left_is_guessed() -> None:
    # Columns: 0 (end), 1, 2, 3, 4, 5, 6. The first pass has nothing to guess from; later ones know no way on from 3.
    genes, work, memory = written([-9.0, 3.0, 4.0, 2.0, 0.0, -1.0, 1.0])
    assert genes == [[B, A, C, D, E, F]]
    assert work.passes <= 5
    genes, work, _ = written([-9.0, 3.0, 4.0, 2.0, 0.0, -1.0, 1.0], memory=memory)
    assert genes == [[B, A, C, D, E, F]]
    assert work.passes == 2, "what other rows have shown is known from the second token on"


def test_a_gene_ends_or_goes_on_as_it_did() -> None:
    # 6 ends the gene e, and another one begins (6 once more, for f), or it goes on to f with 4.
    for logit, first in ((9.5, F), (0.5, E)):
        _, _, memory = written([-9.0, 1.0, 1.5, -3.0, logit, -3.0, 9.0], ask=2)
        genes, work, _ = written([-9.0, 1.0, 1.5, -3.0, logit, -3.0, 9.0], memory=memory, ask=2)
        assert genes[0][0] == first
        assert work.passes == 2


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_are_guessed_with_their_noise(temperature: float) -> None:
    # The model is the same at every place, the draws are not: all the same nothing but the first pass is in vain.
    genes, work, memory = written([-9.0, 0.3, 0.2, 0.1, 0.0, 0.1, 0.2], 50, temperature=temperature)
    assert len(set(map(tuple, genes))) > 20
    for _ in range(3):
        genes, work, _ = written([-9.0, 0.3, 0.2, 0.1, 0.0, 0.1, 0.2], 50, memory=memory, temperature=temperature)
    assert work.batch_passes <= 4


@pytest.mark.slow
def test_guesses_that_never_come_true_are_hardly_made() -> None:
    trie = GeneTrie([str(gene) for gene in range(100)], [[gene] for gene in range(100)])
    memory = DraftMemory(trie, np.arange(100))
    random = np.random.default_rng(0)

    def run(model: Callable[[], Sequence[float]]) -> Work:
        guide, work = Guide(trie, [90], [], 100, GeneDrafts(memory, [0])), Work()
        generate(
            [np.array([0])], guide, [0], work=work, select_rows=lambda rows: None,
            hidden_states=lambda ids, places: torch.zeros((*ids.shape, 1)),
            logits=lambda hidden: torch.tensor([list(model()) for _ in hidden]),
        )  # fmt: skip
        return work

    run(lambda: random.normal(size=100) * 3)
    work = run(lambda: random.normal(size=100) * 3)
    assert 90 <= work.read < 130
    assert work.passes > 80
    same = (random.normal(size=100) * 3).tolist()
    for _ in range(12):  # and then they do
        work = run(lambda: same)
    assert work.passes <= 90 / MAX_DRAFTS + 4


def test_what_was_long_ago_is_forgotten_and_never_nothing() -> None:
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
