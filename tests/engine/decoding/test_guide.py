"""The guide allows the same tokens as a slow, simple implementation of its rules."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.engine.decoding.constraint import Plan
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide

VOCABULARY, END = 8, 7


class Twin:
    """One row with plain lists: a direct implementation of the rules."""

    def __init__(self, first: list[list[int]], later: list[list[int]], n_genes: int, ends: list[int]) -> None:
        self.first, self.later, self.n_genes, self.ends = first, later, n_genes, ends
        self.written: list[int] = []
        self.part: list[int] = []

    @property
    def table(self) -> list[list[int]]:
        return self.later if self.written else self.first

    def unused(self) -> list[int]:
        return [gene for gene in range(len(self.first)) if gene not in self.written]

    def next_tokens(self) -> set[int]:
        """Tokens that continue a gene, or begin one."""
        n = len(self.part)
        matching = [self.table[gene] for gene in self.unused() if self.table[gene][:n] == self.part]
        return {ids[n] for ids in matching if len(ids) > n}

    def complete(self) -> int | None:
        return next((gene for gene in self.unused() if self.table[gene] == self.part), None)

    def allowed(self) -> set[int]:
        tokens = self.next_tokens()
        if self.part and (gene := self.complete()) is not None:
            tokens |= {self.later[other][0] for other in self.unused() if other != gene}
            if len(self.written) + 1 == self.n_genes:
                tokens |= set(self.ends)
        return tokens

    def advance(self, token: int) -> None:
        if token in self.next_tokens():
            self.part = [*self.part, token]
        else:
            self.close()
            if self.done():
                return
            self.part = [token]
        if self.complete() is not None and not self.next_tokens():
            self.close()

    def close(self) -> None:
        gene = self.complete()
        assert gene is not None
        self.written.append(gene)
        self.part = []

    def done(self) -> bool:
        return len(self.written) == self.n_genes


ids = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[int], list[int]]:
    later = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    first = later if draw(st.booleans()) else draw(st.lists(ids, min_size=len(later), max_size=len(later), unique=True))
    n_genes = draw(st.lists(st.integers(1, len(later)), min_size=1, max_size=3))
    ends = draw(st.lists(st.integers(0, END), max_size=2))
    return [list(gene) for gene in first], [list(gene) for gene in later], n_genes, ends


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(0, 2**32))
@pytest.mark.slow
def test_equals_its_twin_token_by_token(
    case: tuple[list[list[int]], list[list[int]], list[int], list[int]], seed: int
) -> None:
    first, later, n_genes, ends = case
    random = np.random.default_rng(seed)
    guide = Guide(GeneTrie([str(gene) for gene in range(len(later))], later, first), n_genes, ends, VOCABULARY)
    twins = [Twin(first, later, n, ends) for n in n_genes]
    while live := [row for row, twin in enumerate(twins) if not twin.done()]:
        mask = guide.allowed(np.array(live))
        assert mask.dtype == bool
        assert mask.shape == (len(live), len(guide.columns))
        for line, row in zip(mask, live, strict=True):
            assert set(guide.columns[line]) == twins[row].allowed() == set(guide.allowed_tokens(row))
            assert line.any()
            token = int(random.choice(guide.columns[line]))
            guide.advance(row, token)
            twins[row].advance(token)
            assert guide.written[row] == twins[row].written
            assert guide.done(row) == twins[row].done()
    for row, n in enumerate(n_genes):
        assert len(set(guide.written[row])) == len(guide.written[row]) == n


# CD4 = 0 1, CD44 = 0 1 1, B2M = 2 3; the first gene of an answer has other tokens: 4 1, 4 1 1, 5 3.
LATER, FIRST = [[0, 1], [0, 1, 1], [2, 3]], [[4, 1], [4, 1, 1], [5, 3]]


def guide(n_genes: list[int], ends: tuple[int, ...] = (END,)) -> Guide:
    return Guide(GeneTrie(["CD4", "CD44", "B2M"], LATER, FIRST), n_genes, ends, VOCABULARY)


def test_a_gene_whose_tokens_begin_another_gene() -> None:
    row = guide([2])
    assert row.allowed_tokens(0) == [4, 5]
    row.advance(0, 4)
    row.advance(0, 1)
    assert row.allowed_tokens(0) == [0, 1, 2]  # CD44, or CD4 and then CD44 or B2M; no end yet
    row.advance(0, 2)
    assert row.written == [[0]]
    row.advance(0, 3)
    assert row.done(0)
    assert row.written == [[0, 2]]


@pytest.mark.parametrize(("token", "genes"), [(END, [0]), (2, [0]), (0, [0]), (1, [1])])
def test_the_last_gene_ends_when_it_is_not_continued(token: int, genes: list[int]) -> None:
    row = guide([1])
    for before in (4, 1):
        row.advance(0, before)
    assert row.allowed_tokens(0) == [0, 1, 2, END]
    row.advance(0, token)
    assert row.done(0)
    assert row.written == [genes]


def test_used_genes_are_not_allowed() -> None:
    row = guide([3])
    for token in (4, 1, 1):
        row.advance(0, token)
    assert row.written == [[1]]
    for token in (0, 1):  # CD4 is complete at once: CD44 is used
        row.advance(0, token)
    assert row.written == [[1, 0]]
    assert row.allowed_tokens(0) == [2]
    row.advance(0, 2)
    assert row.allowed_tokens(0) == [3]


def test_tokens_that_are_not_allowed_raise() -> None:
    row = guide([1])
    for token in (0, END, 3):
        with pytest.raises(ValueError, match=f"token {token} is not allowed"):
            row.advance(0, token)
    for token in (5, 3):
        row.advance(0, token)
    with pytest.raises(ValueError, match="token 0 is not allowed"):
        row.advance(0, 0)


def test_errors() -> None:
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"cannot write {n} genes, each once, from a list of 3"):
            guide([1, n])
    with pytest.raises(ValueError, match="'A' has no tokens"):
        GeneTrie(["A"], [[]])
    with pytest.raises(ValueError, match="'A' and 'B' have the same tokens"):
        GeneTrie(["A", "B"], [[1, 2], [1, 2]])


def test_end_tokens_beyond_the_vocabulary_are_ignored() -> None:
    row = guide([1], (END, 99))
    for token in (4, 1):
        row.advance(0, token)
    assert row.allowed_tokens(0) == [0, 1, 2, END]


NO_LOGITS = torch.zeros(0)


class RandomDrafts:
    """Random allowed tokens as drafts, for a share of the decisions."""

    def __init__(self, random: np.random.Generator, share: float) -> None:
        self.random, self.share = random, share
        self.outcomes: list[tuple[bool, bool]] = []

    def start(self, rows: np.ndarray) -> None:
        self.rows = rows

    def draft(self, guide: Guide, places: np.ndarray, step: int, mask: np.ndarray) -> np.ndarray:
        assert (mask == guide.allowed(self.rows[places])).all()
        tokens = [int(self.random.choice(guide.allowed_tokens(int(row)))) for row in self.rows[places]]
        return np.where(self.random.random(len(places)) < self.share, tokens, -1)

    def update(
        self, plan: Plan, logits_NC: torch.Tensor, kept: np.ndarray, new: np.ndarray, right: np.ndarray,
        reached: np.ndarray,
    ) -> None:  # fmt: skip
        assert logits_NC is NO_LOGITS
        self.outcomes += list(zip(right.tolist(), reached.tolist(), strict=True))


def decide(row: int, written: list[int], part: list[int], allowed: set[int]) -> int:
    """A decision as of a model: any function of the row and its tokens."""
    return sorted(allowed)[hash((row, *written, -1, *part)) % len(allowed)]


@given(case=cases(), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_drafts_change_nothing(
    case: tuple[list[list[int]], list[list[int]], list[int], list[int]], seed: int, share: float
) -> None:
    first, later, n_genes, ends = case
    drafts = RandomDrafts(np.random.default_rng(seed), share)
    trie = GeneTrie([str(gene) for gene in range(len(later))], later, first)
    guide = Guide(trie, n_genes, ends, VOCABULARY, drafts)
    twins = [Twin(first, later, n, ends) for n in n_genes]
    while live := [row for row in range(len(n_genes)) if not guide.done(row)]:
        plan = guide.plan(live)
        assert plan.rows.tolist() == live
        # Each decision with the tokens that the twin allows; the twin follows the plan.
        decided = np.zeros(len(plan.row), dtype=np.int64)
        expected: list[tuple[int, int]] = []
        for place, row in enumerate(live):
            twin, kept, new = twins[row], 0, -1
            decisions = {int(plan.offset[n]): n for n in np.flatnonzero(plan.row == place)}
            for offset, token in enumerate([*plan.tokens[place], -1]):
                if twin.done():
                    break
                if offset not in decisions:
                    assert twin.allowed() == {token}, "a token without a decision is forced"
                    right = token
                else:
                    n = decisions[offset]
                    assert plan.allowed is not None
                    assert set(guide.columns[plan.allowed[n]]) == twin.allowed()
                    assert plan.draft[n] == token
                    right = decided[n] = decide(row, twin.written, twin.part, twin.allowed())
                twin.advance(right)
                if right != token:
                    new = right
                    break
                kept += 1
            expected.append((kept, new))
        kept_R, new_R = guide.accept(plan, decided, NO_LOGITS)
        assert list(zip(kept_R.tolist(), new_R.tolist(), strict=True)) == expected
        for row, twin in enumerate(twins):
            assert guide.written[row] == twin.written
            assert guide.done(row) == twin.done()
            if not twin.done():
                assert set(guide.allowed_tokens(row)) == twin.allowed()


def test_outcomes_of_drafts() -> None:
    drafts = RandomDrafts(np.random.default_rng(0), 1.0)
    row = Guide(GeneTrie(["CD4", "CD44", "B2M"], LATER, FIRST), [3], [END], VOCABULARY, drafts)
    plan = row.plan([0])
    assert plan.allowed is not None
    wrong = next(n for n in range(1, len(plan.row)) if plan.allowed[n].sum() > 1)
    decided = plan.draft.copy()
    decided[wrong] = next(token for token in row.columns[plan.allowed[wrong]] if token != plan.draft[wrong])
    row.accept(plan, decided, NO_LOGITS)
    assert drafts.outcomes[: wrong + 1] == [(True, True)] * wrong + [(False, True)]
    assert not any(reached for _, reached in drafts.outcomes[wrong + 1 :]), "decisions after a wrong draft are not used"


def test_a_step_of_many_rows_and_genes_is_fast() -> None:
    n_genes, n_rows = 17_000, 32
    trie = GeneTrie([str(gene) for gene in range(n_genes)], [[gene] for gene in range(n_genes)])
    rows = Guide(trie, [200] * n_rows, [], n_genes)
    start = time.process_time()
    for step in range(20):
        plan = rows.plan(range(n_rows))
        assert plan.allowed is not None
        assert plan.allowed.sum() == n_rows * (n_genes - step)
        rows.accept(plan, 31 * np.arange(n_rows) + step, NO_LOGITS)
    # Lists of allowed ids take 20 steps x 32 rows x 17,000 ids: 20 times as long.
    assert time.process_time() - start < 1.0
