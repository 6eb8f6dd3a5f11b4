"""Guesses: where they come from, and when they are not worth a place."""

from __future__ import annotations

import numpy as np

from cell2sen.drafts import LEAST, PATIENCE, GeneDrafts, Memory
from cell2sen.guide import Guide
from cell2sen.trie import GeneTrie

# a = 1, b = 2, c = 3 4, d = 3 5, e = 6
TRIE = GeneTrie(list("abcde"), [[1], [2], [3, 4], [3, 5], [6]])
A, B, C, D, E = range(5)


def guide(prompts: list[list[int]], memory: Memory | None = None, ask: int = 5) -> Guide:
    drafts = GeneDrafts(TRIE, prompts, memory or Memory(TRIE))
    return Guide(TRIE, [ask] * len(prompts), [0], 8, drafts)


def test_the_prompts_next_unused_genes_are_guessed() -> None:
    rows = guide([[E, C, A], []])
    plan = rows.plan([0, 1])
    assert plan.tokens[0][:3] == [6, 3, 4]
    assert plan.tokens[1] == []
    # The model writes E and then A: A will not be guessed again, and C still is.
    decided = plan.guess.copy()
    decided[plan.row == 1] = 2
    second = np.flatnonzero(plan.row == 0)[1]
    assert plan.guess[second] == 3
    decided[second] = 1
    kept, new = rows.settle(plan, decided)
    assert (kept[0], new[0]) == (1, 1)
    assert rows.written == [[E, A], [B]]
    assert rows.plan([0]).tokens[0][:2] == [3, 4]


def test_a_gene_that_is_guessed_in_vain_is_left_out() -> None:
    rows = guide([[E, B]])
    for token in (1, 3, 4)[:PATIENCE]:
        plan = rows.plan([0])
        assert plan.guess[0] == 6
        rows.settle(plan, np.where(np.arange(len(plan.row)) == 0, token, plan.guess))
        while rows.node[0] != 0:  # a gene of two tokens
            plan = rows.plan([0])
            rows.settle(plan, np.where(plan.guess < 0, 4, plan.guess))
    assert rows.plan([0]).guess[0] == 2


def test_what_followed_in_other_rows_is_guessed() -> None:
    memory = Memory(TRIE)
    for _ in range(3):
        memory.remember([-1, B, A])
    memory.remember([-1, D, E, C, A])
    rows = guide([[]], memory)
    assert rows.plan([0]).tokens[0][:2] == [2, 1]
    # C and D begin alike: behind E it is C, by frequency it is whatever was written most often.
    rows = guide([[]], memory)
    for token in (6, 3):
        rows.advance(0, token)
    assert rows.plan([0]).tokens[0][0] == 4
    memory.remember([-1, D, -1, D][:2])
    rows = guide([[]], memory)
    rows.advance(0, 3)
    assert rows.plan([0]).tokens[0][0] == 5, "D has begun an answer, C never did"


def test_guesses_that_never_come_true_are_hardly_made() -> None:
    memory = Memory(TRIE)
    made = 0
    for _ in range(200):
        rows = guide([[E, A]], memory, ask=1)
        plan = rows.plan([0])
        made += int(plan.guess[0] >= 0)
        rows.settle(plan, np.where(np.arange(len(plan.row)) == 0, 2, plan.guess))
        memory.next.clear()  # the prompt is the only source here
    assert 5 < made < 60
    assert (memory._hits[0] + 2) / (memory._tries[0] + 3) < LEAST
    for _ in range(600):  # and then they do
        rows = guide([[E, A]], memory, ask=1)
        plan = rows.plan([0])
        rows.settle(plan, np.where(np.arange(len(plan.row)) == 0, 6, plan.guess))
        memory.next.clear()
    assert (memory._hits[0] + 2) / (memory._tries[0] + 3) > LEAST


def test_what_was_long_ago_is_forgotten_and_never_nothing() -> None:
    memory = Memory(TRIE)
    for _ in range(20):
        memory.count_guesses(np.full(20, 3), np.zeros(20, dtype=bool))
    assert memory.rates()[3] < LEAST
    for _ in range(3000):
        memory.count_guesses(np.full(200, 1), np.ones(200, dtype=bool))
    rates = memory.rates()
    assert np.isfinite(rates).all()
    assert rates[3] > 0.6
    assert rates[1] > 0.95
