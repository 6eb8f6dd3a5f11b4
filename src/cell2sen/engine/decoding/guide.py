"""Which tokens may come next: genes of the trie, each once.

Genes are written one after another, each a run of tokens. One gene's tokens may be the beginning of another's (CD4,
CD44), so a gene ends only where the next token does not continue it: where it begins another gene or ends the answer.
Where a token could do both it continues.

Axes in names: R rows that are asked about, N decisions, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.decoding.gene_trie import FIRST, LATER, GeneTrie

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What rows write next if all guesses come true, and the decisions that show whether they do.

    A row's plan ends with a decision that nothing was guessed for, or with the row's end.
    """

    rows: NDArray[np.int64]
    """Rows that go on, int64 (R,)."""

    tokens: list[list[int]]
    """For each of them, tokens that are forced or guessed, in order."""

    row: NDArray[np.int64]
    """For each decision, its row's place in `rows`, int64 (N,). A row's decisions stand in order."""

    at: NDArray[np.int64]
    """How many of the row's planned tokens come before the decision, int64 (N,)."""

    guess: NDArray[np.int64]
    """The planned token that was guessed here, -1 for none, int64 (N,)."""

    mask: NDArray[np.bool_] | None
    """Tokens that may be decided for, bool (N, C); None: any."""


class Drafts(Protocol):
    """What a :class:`Guide` asks for guesses: a :class:`cell2sen.engine.decoding.drafts.GeneDrafts`."""

    def start(self, rows: NDArray[np.int64]) -> None:
        """A new plan for these rows begins."""
        ...

    def guess(self, guide: Guide, places: NDArray[np.int64], step: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See :meth:`cell2sen.engine.decoding.drafts.GeneDrafts.guess`."""
        ...

    def learn(
        self, plan: Plan, logits_NC: torch.Tensor, kept: NDArray[np.int64], new: NDArray[np.int64],
        right: NDArray[np.bool_], seen: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """See :meth:`cell2sen.engine.decoding.drafts.GeneDrafts.learn`."""
        ...


class Guide:
    """Where each row of a batch stands, and what it may write next.

    Parameters
    ----------
    trie
        The genes that may be written.
    asks
        How many of them each row must write.
    ends
        Tokens that may end an answer: end of text, full stop.
    vocabulary
        Tokens that the model knows.
    drafts
        Where guesses come from; None: only what is forced is written without a decision. Guesses are the tokens that
        the model would decide for or they are dropped, so they change the speed and nothing else.

    Raises
    ------
    ValueError
        A row asks for more genes than there are, or for none.
    """

    def __init__(
        self,
        trie: GeneTrie,
        asks: Sequence[int],
        ends: Sequence[int],
        vocabulary: int,
        drafts: Drafts | None = None,
    ) -> None:
        for ask in asks:
            if not 1 <= ask <= len(trie.genes):
                raise ValueError(f"cannot write {ask} genes, each once, from a list of {len(trie.genes)}")
        self.trie, self.drafts = trie, drafts
        self.asks = np.array(asks, dtype=np.int64)
        end_tokens = np.array(sorted({end for end in ends if 0 <= end < vocabulary}), dtype=np.int64)
        self.columns: NDArray[np.int64] = np.union1d(trie.edge_token, end_tokens)
        """Tokens that may be written at all, int64 (C,), ascending."""
        self._column = np.zeros(vocabulary, dtype=np.int64)
        self._column[self.columns] = np.arange(len(self.columns))
        self._end_columns = self._column[end_tokens]
        self._first_columns = self._column[self._tokens_from(trie.first_root)]
        n_rows = len(self.asks)
        self.order = np.full((n_rows, int(self.asks.max(initial=0))), -1, dtype=np.int64)
        """Numbers of the genes that each row has written, in order, -1 behind them; int64 (rows, most)."""
        self.n_written = np.zeros(n_rows, dtype=np.int64)
        self.used = np.zeros((n_rows, len(trie.genes)), dtype=bool)
        """Which genes each row has written."""
        self.node = np.full(n_rows, trie.first_root, dtype=np.int64)
        """Where each row stands."""
        self._unused = np.tile(trie.size, (n_rows, 1))
        # Which tokens may begin a later gene: the one large set, changed by at most one token a gene.
        self._starts = np.zeros((n_rows, len(self.columns)), dtype=bool)
        self._starts[:, self._column[self._tokens_from(LATER)]] = True
        # What was done for a plan, to be undone: rows and where they stood, rows and the genes that they closed.
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._closed: list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = []

    # -- one row, one token

    @property
    def written(self) -> list[list[int]]:
        """Numbers of the genes that each row has written."""
        return [line[:count].tolist() for line, count in zip(self.order, self.n_written, strict=True)]

    def done(self, row: int) -> bool:
        """Whether a row has written all its genes."""
        return bool(self.n_written[row] == self.asks[row])

    def allowed(self, row: int) -> list[int]:
        """Tokens that may come next, for transformers' ``prefix_allowed_tokens_fn``. For rows that are not done."""
        tokens: list[int] = self.columns[self.mask(np.array([row]))[0]].tolist()
        return tokens

    def advance(self, row: int, token: int) -> None:
        """Take the next token of a row.

        Raises
        ------
        ValueError
            The token was not allowed.
        """
        self._steps, self._closed = [], []
        self._advance(np.array([row]), np.array([token]))

    # -- many rows, several tokens

    def plan(self, rows: Sequence[int]) -> Plan:
        """What the rows, which are not done, write next. They go there; :meth:`settle` takes back what was not so."""
        at_R = np.array(rows, dtype=np.int64)
        if self.drafts is not None:
            self.drafts.start(at_R)
        self._steps, self._closed = [], []
        tokens: list[list[int]] = [[] for _ in rows]
        decided, masks, guesses = [], [], []
        going = np.arange(len(at_R))
        step = 0
        while len(going):
            token = self._forced(at_R[going])
            free = np.flatnonzero(token < 0)
            if len(free):
                decided.append((going[free], np.full(len(free), step)))
                masks.append(self.mask(at_R[going[free]]))
                if self.drafts is not None:
                    token[free] = self.drafts.guess(self, going[free], step, masks[-1])
                guesses.append(token[free])
            going, token = going[token >= 0], token[token >= 0]
            if len(going):
                self._advance(at_R[going], token)
                for place, one in zip(going.tolist(), token.tolist(), strict=True):
                    tokens[place].append(one)
                going = going[self.n_written[at_R[going]] < self.asks[at_R[going]]]
            step += 1
        nothing = np.zeros(0, dtype=np.int64)
        return Plan(
            rows=at_R,
            tokens=tokens,
            row=np.concatenate([nothing, *(row for row, _ in decided)]),
            at=np.concatenate([nothing, *(at for _, at in decided)]),
            guess=np.concatenate([nothing, *guesses]),
            mask=np.concatenate([np.zeros((0, len(self.columns)), dtype=bool), *masks]),
        )

    def settle(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take what was decided, tokens int64 (N,), and what it was decided by, which guesses learn from.

        Returns
        -------
        For each row of the plan, how many of its planned tokens hold, and the token that was decided for behind them,
        -1 if the row is done with those; each int64 (R,).
        """
        wrong = np.flatnonzero(plan.guess != decided)[::-1]
        first = np.full(len(plan.rows), -1, dtype=np.int64)
        first[plan.row[wrong]] = wrong  # of several, the last assignment counts: the row's first wrong guess
        kept = np.array([len(line) for line in plan.tokens], dtype=np.int64)
        new = np.full(len(plan.rows), -1, dtype=np.int64)
        back = np.flatnonzero(first >= 0)
        kept[back], new[back] = plan.at[first[back]], decided[first[back]]
        self._undo(plan.rows, kept)
        self._steps, self._closed = [], []
        if len(back):
            self._advance(plan.rows[back], new[back])
        if self.drafts is not None:
            right = plan.guess == decided
            self.drafts.learn(plan, logits_NC, kept, new, right, plan.at <= kept[plan.row])
        return kept, new

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tokens that may come next, bool (R, C). For rows that are not done."""
        node, gene = self.node[rows], self.closable(rows)
        later = (node == LATER) | (gene >= 0)
        if node[0] == LATER and (node == LATER).all():
            return self._starts[rows]
        allowed = np.zeros((len(rows), len(self.columns)), dtype=bool)
        allowed[later] = self._starts[rows[later]]
        if self.trie.first_root == FIRST:
            allowed[np.ix_(node == FIRST, self._first_columns)] = True
        if len(ending := np.flatnonzero(gene >= 0)):
            opens = self.trie.path[gene[ending], 0]
            alone = self._unused[rows[ending], opens] == 1  # only this gene itself begins so
            allowed[ending[alone], self._column[self.trie.token[opens[alone]]]] = False
            last = ending[self.n_written[rows[ending]] + 1 == self.asks[rows[ending]]]
            allowed[np.ix_(last, self._end_columns)] = True
        inside = np.flatnonzero(node > FIRST)
        place, edge = self._open(rows[inside], node[inside])
        allowed[inside[place], self._column[self.trie.edge_token[edge]]] = True
        return allowed

    def closable(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The unused gene that could end where each row stands, -1 for none, int64 (R,)."""
        gene = self.trie.gene[self.node[rows]]
        return np.where((gene >= 0) & ~self.used[rows, gene], gene, -1)

    # -- parts

    def _tokens_from(self, node: int) -> NDArray[np.int64]:
        return self.trie.edge_token[self.trie.edges_from[node] : self.trie.edges_from[node + 1]]

    def _open(self, rows: NDArray[np.int64], nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edges that lead on to an unused gene: the place of each one's row in `rows`, and its number."""
        place, edge = self.trie.edges(nodes)
        is_open = self._unused[rows[place], self.trie.edge_child[edge]] > 0
        return place[is_open], edge[is_open]

    def _forced(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The only token that may come next, -1 where there are several, int64 (R,). Within genes only."""
        token = np.full(len(rows), -1, dtype=np.int64)
        bound = np.flatnonzero((self.node[rows] > FIRST) & (self.closable(rows) < 0))
        place, edge = self._open(rows[bound], self.node[rows[bound]])
        single = np.bincount(place, minlength=len(bound))[place] == 1
        token[bound[place[single]]] = self.trie.edge_token[edge[single]]
        return token

    def _child(self, rows: NDArray[np.int64], nodes: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where a token leads to, -1 for nowhere or to used genes only."""
        child = self.trie.child(nodes, tokens)
        return np.where((child >= 0) & (self._unused[rows, child] > 0), child, -1)

    def _advance(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Take the next token of each row; no row twice."""
        node = self.node[rows]
        self._steps.append((rows, node))
        self._closed.append([])
        child = self._child(rows, node, tokens)
        child[self.n_written[rows] == self.asks[rows]] = -1
        stuck = np.flatnonzero(child < 0)
        if len(stuck):
            gene = self.closable(rows[stuck])
            if len(wrong := stuck[(gene < 0) | (self.n_written[rows[stuck]] == self.asks[rows[stuck]])]):
                raise ValueError(f"token {tokens[wrong[0]]} is not allowed here")
            self._close(rows[stuck], gene)
            stuck = stuck[self.n_written[rows[stuck]] < self.asks[rows[stuck]]]
            child[stuck] = self._child(rows[stuck], np.full(len(stuck), LATER), tokens[stuck])
            if len(wrong := stuck[child[stuck] < 0]):
                raise ValueError(f"token {tokens[wrong[0]]} is not allowed here")
        on = child >= 0
        rows, child = rows[on], child[on]
        self.node[rows] = child
        gene = self.closable(rows)
        if len(ending := np.flatnonzero(gene >= 0)):
            place, _ = self._open(rows[ending], child[ending])
            ending = np.delete(ending, np.unique(place))
            self._close(rows[ending], gene[ending])

    def _close(self, rows: NDArray[np.int64], genes: NDArray[np.int64]) -> None:
        self._closed[-1].append((rows, genes))
        self.order[rows, self.n_written[rows]] = genes
        self.n_written[rows] += 1
        self._mark(rows, genes, used=True)
        self.node[rows] = LATER

    def _mark(self, rows: NDArray[np.int64], genes: NDArray[np.int64], *, used: bool) -> None:
        self.used[rows, genes] = used
        path = self.trie.path[genes]
        self._unused[rows[:, None], path] += -1 if used else 1
        self._starts[rows, self._column[self.trie.token[path[:, 0]]]] = self._unused[rows, path[:, 0]] > 0

    def _undo(self, rows: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        """Take back the last steps of `rows`, so that each keeps so many of those of the last plan."""
        keeps = np.zeros(len(self.asks), dtype=np.int64)
        keeps[rows] = kept
        for step in range(len(self._steps) - 1, int(kept.min(initial=0)) - 1, -1):
            for closed, genes in reversed(self._closed[step]):
                back = keeps[closed] <= step
                self.n_written[closed[back]] -= 1
                self.order[closed[back], self.n_written[closed[back]]] = -1
                self._mark(closed[back], genes[back], used=False)
            moved, node = self._steps[step]
            back = keeps[moved] <= step
            self.node[moved[back]] = node[back]
