"""Guide: constraint of an answer to distinct genes of a trie.

Each gene is a run of tokens. The tokens of one gene may begin another one (CD4, CD44), so a gene ends only where the
next token does not continue it: where the token begins another gene or ends the answer. A token that could do both
continues the gene.

Axes in names: R rows of the call, N decisions, C columns (tokens that may be written).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.decoding.constraint import Plan
from cell2sen.engine.decoding.gene_trie import FIRST, LATER, GeneTrie

if TYPE_CHECKING:
    import torch


class Drafts(Protocol):
    """Contract of draft tokens for a :class:`Guide`: :class:`cell2sen.engine.decoding.drafts.GeneDrafts`."""

    def start(self, rows: NDArray[np.int64]) -> None:
        """Begins a plan for these rows."""
        ...

    def draft(
        self, guide: Guide, places: NDArray[np.int64], step: int, allowed: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """See :meth:`cell2sen.engine.decoding.drafts.GeneDrafts.draft`."""
        ...

    def update(
        self,
        plan: Plan,
        logits_NC: torch.Tensor,
        kept: NDArray[np.int64],
        new: NDArray[np.int64],
        right: NDArray[np.bool_],
        reached: NDArray[np.bool_],
    ) -> None:
        """See :meth:`cell2sen.engine.decoding.drafts.GeneDrafts.update`."""
        ...


class Guide:
    """State of guided answers: the trie node, the written genes and the allowed tokens of each row of a batch.

    Parameters
    ----------
    trie
        The genes that may be written.
    n_genes
        Number of genes of each row's answer.
    ends
        Tokens that may end an answer: end of text, full stop.
    vocabulary
        Number of tokens of the model.
    drafts
        Draft tokens; None: only forced tokens are written without a decision. A draft that differs from the decision is
        dropped, so drafts change the speed and nothing else.

    Raises
    ------
    ValueError
        A number of genes is 0 or larger than the number of genes in the trie.
    """

    def __init__(
        self,
        trie: GeneTrie,
        n_genes: Sequence[int],
        ends: Sequence[int],
        vocabulary: int,
        drafts: Drafts | None = None,
    ) -> None:
        for number in n_genes:
            if not 1 <= number <= len(trie.genes):
                raise ValueError(f"cannot write {number} genes, each once, from a list of {len(trie.genes)}")
        self.trie, self.drafts = trie, drafts
        self.n_genes = np.array(n_genes, dtype=np.int64)
        end_tokens = np.array(sorted({end for end in ends if 0 <= end < vocabulary}), dtype=np.int64)
        self.columns: NDArray[np.int64] = np.union1d(trie.edge_token, end_tokens)
        """Tokens that may be written at all, int64 (C,), ascending."""
        self._column = np.zeros(vocabulary, dtype=np.int64)
        self._column[self.columns] = np.arange(len(self.columns))
        self._end_columns = self._column[end_tokens]
        self._first_columns = self._column[self._tokens_from(trie.first_root)]
        n_rows = len(self.n_genes)
        self.order = np.full((n_rows, int(self.n_genes.max(initial=0))), -1, dtype=np.int64)
        """Written genes of each row, in order, as indices into ``trie.genes``; then -1; int64 (rows, max n_genes)."""
        self.n_written = np.zeros(n_rows, dtype=np.int64)
        """Number of genes that each row has written, int64 (rows,)."""
        self.used = np.zeros((n_rows, len(trie.genes)), dtype=bool)
        """Which genes each row has written, bool (rows, genes)."""
        self.node = np.full(n_rows, trie.first_root, dtype=np.int64)
        """Current node of each row, int64 (rows,)."""
        self._unused = np.tile(trie.size, (n_rows, 1))
        # Tokens that may begin a later gene: a large set that changes by at most one token a gene, so it is updated.
        self._starts = np.zeros((n_rows, len(self.columns)), dtype=bool)
        self._starts[:, self._column[self._tokens_from(LATER)]] = True
        # Steps of the current plan, to undo them: rows with their nodes before, rows with the genes that they ended.
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._closed: list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = []

    # -- one row, one token

    @property
    def written(self) -> list[list[int]]:
        """Genes that each row has written, in order, as indices into ``trie.genes``."""
        return [line[:count].tolist() for line, count in zip(self.order, self.n_written, strict=True)]

    def done(self, row: int) -> bool:
        """Whether a row has written all its genes."""
        return bool(self.n_written[row] == self.n_genes[row])

    def allowed_tokens(self, row: int) -> list[int]:
        """Tokens that may come next, as of transformers' ``prefix_allowed_tokens_fn``; for rows that are not done."""
        tokens: list[int] = self.columns[self.allowed(np.array([row]))[0]].tolist()
        return tokens

    def advance(self, row: int, token: int) -> None:
        """Adds the next token of a row.

        Raises
        ------
        ValueError
            The token is not allowed.
        """
        self._steps, self._closed = [], []
        self._advance(np.array([row]), np.array([token]))

    # -- many rows, several tokens

    def plan(self, rows: Sequence[int]) -> Plan:
        """Next tokens of rows that are not done. The rows advance; :meth:`accept` undoes wrong drafts."""
        row_R = np.array(rows, dtype=np.int64)
        if self.drafts is not None:
            self.drafts.start(row_R)
        self._steps, self._closed = [], []
        tokens: list[list[int]] = [[] for _ in rows]
        decisions, allowed, drafts = [], [], []
        unfinished = np.arange(len(row_R))
        step = 0
        while len(unfinished):
            token = self._forced(row_R[unfinished])
            free = np.flatnonzero(token < 0)
            if len(free):
                decisions.append((unfinished[free], np.full(len(free), step)))
                allowed.append(self.allowed(row_R[unfinished[free]]))
                if self.drafts is not None:
                    token[free] = self.drafts.draft(self, unfinished[free], step, allowed[-1])
                drafts.append(token[free])
            unfinished, token = unfinished[token >= 0], token[token >= 0]
            if len(unfinished):
                self._advance(row_R[unfinished], token)
                for place, planned in zip(unfinished.tolist(), token.tolist(), strict=True):
                    tokens[place].append(planned)
                unfinished = unfinished[self.n_written[row_R[unfinished]] < self.n_genes[row_R[unfinished]]]
            step += 1
        empty = np.zeros(0, dtype=np.int64)
        return Plan(
            rows=row_R,
            tokens=tokens,
            row=np.concatenate([empty, *(row for row, _ in decisions)]),
            offset=np.concatenate([empty, *(offset for _, offset in decisions)]),
            draft=np.concatenate([empty, *drafts]),
            allowed=np.concatenate([np.zeros((0, len(self.columns)), dtype=bool), *allowed]),
        )

    def accept(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Adds the decided tokens, undoes wrong drafts and updates the drafts; see :meth:`Constraint.accept`."""
        wrong = np.flatnonzero(plan.draft != decided)[::-1]
        first = np.full(len(plan.rows), -1, dtype=np.int64)
        first[plan.row[wrong]] = wrong  # in descending order, so that the first wrong draft of a row is assigned last
        kept = np.array([len(line) for line in plan.tokens], dtype=np.int64)
        new = np.full(len(plan.rows), -1, dtype=np.int64)
        back = np.flatnonzero(first >= 0)
        kept[back], new[back] = plan.offset[first[back]], decided[first[back]]
        self._undo(plan.rows, kept)
        self._steps, self._closed = [], []
        if len(back):
            self._advance(plan.rows[back], new[back])
        if self.drafts is not None:
            right = plan.draft == decided
            self.drafts.update(plan, logits_NC, kept, new, right, plan.offset <= kept[plan.row])
        return kept, new

    def allowed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the tokens that may come next, bool (R, C); for rows that are not done."""
        node, gene = self.node[rows], self.complete_gene(rows)
        later = (node == LATER) | (gene >= 0)
        if node[0] == LATER and (node == LATER).all():
            return self._starts[rows]
        allowed = np.zeros((len(rows), len(self.columns)), dtype=bool)
        allowed[later] = self._starts[rows[later]]
        if self.trie.first_root == FIRST:
            allowed[np.ix_(node == FIRST, self._first_columns)] = True
        if len(ending := np.flatnonzero(gene >= 0)):
            starts = self.trie.path[gene[ending], 0]
            alone = self._unused[rows[ending], starts] == 1  # no other unused gene begins with this token
            allowed[ending[alone], self._column[self.trie.token[starts[alone]]]] = False
            last = ending[self.n_written[rows[ending]] + 1 == self.n_genes[rows[ending]]]
            allowed[np.ix_(last, self._end_columns)] = True
        inside = np.flatnonzero(node > FIRST)
        place, edge = self._open_edges(rows[inside], node[inside])
        allowed[inside[place], self._column[self.trie.edge_token[edge]]] = True
        return allowed

    def complete_gene(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Unused gene that is complete at each row's node, -1 for none, int64 (R,)."""
        gene = self.trie.gene[self.node[rows]]
        return np.where((gene >= 0) & ~self.used[rows, gene], gene, -1)

    # -- parts

    def _tokens_from(self, node: int) -> NDArray[np.int64]:
        return self.trie.edge_token[self.trie.edges_from[node] : self.trie.edges_from[node + 1]]

    def _open_edges(
        self, rows: NDArray[np.int64], nodes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edges that lead to an unused gene: place in `rows` and number of each edge, both int64 (edges,)."""
        place, edge = self.trie.edges(nodes)
        is_open = self._unused[rows[place], self.trie.edge_child[edge]] > 0
        return place[is_open], edge[is_open]

    def _forced(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Only token that may come next within a gene, -1 if there are several, int64 (R,)."""
        token = np.full(len(rows), -1, dtype=np.int64)
        inside = np.flatnonzero((self.node[rows] > FIRST) & (self.complete_gene(rows) < 0))
        place, edge = self._open_edges(rows[inside], self.node[rows[inside]])
        single = np.bincount(place, minlength=len(inside))[place] == 1
        token[inside[place[single]]] = self.trie.edge_token[edge[single]]
        return token

    def _child(self, rows: NDArray[np.int64], nodes: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Node after a token, -1 if there is none or if it leads to used genes only."""
        child = self.trie.child(nodes, tokens)
        return np.where((child >= 0) & (self._unused[rows, child] > 0), child, -1)

    def _advance(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Adds the next token of each row; `rows` are distinct."""
        node = self.node[rows]
        self._steps.append((rows, node))
        self._closed.append([])
        child = self._child(rows, node, tokens)
        child[self.n_written[rows] == self.n_genes[rows]] = -1
        stuck = np.flatnonzero(child < 0)
        if len(stuck):
            gene = self.complete_gene(rows[stuck])
            if len(wrong := stuck[(gene < 0) | (self.n_written[rows[stuck]] == self.n_genes[rows[stuck]])]):
                raise ValueError(f"token {tokens[wrong[0]]} is not allowed here")
            self._close(rows[stuck], gene)
            stuck = stuck[self.n_written[rows[stuck]] < self.n_genes[rows[stuck]]]
            child[stuck] = self._child(rows[stuck], np.full(len(stuck), LATER), tokens[stuck])
            if len(wrong := stuck[child[stuck] < 0]):
                raise ValueError(f"token {tokens[wrong[0]]} is not allowed here")
        moved = child >= 0
        rows, child = rows[moved], child[moved]
        self.node[rows] = child
        gene = self.complete_gene(rows)
        if len(ending := np.flatnonzero(gene >= 0)):
            place, _ = self._open_edges(rows[ending], child[ending])
            ending = np.delete(ending, np.unique(place))
            self._close(rows[ending], gene[ending])

    def _close(self, rows: NDArray[np.int64], genes: NDArray[np.int64]) -> None:
        """Ends a gene in each row."""
        self._closed[-1].append((rows, genes))
        self.order[rows, self.n_written[rows]] = genes
        self.n_written[rows] += 1
        self._mark(rows, genes, used=True)
        self.node[rows] = LATER

    def _mark(self, rows: NDArray[np.int64], genes: NDArray[np.int64], *, used: bool) -> None:
        """Marks a gene of each row as used or unused."""
        self.used[rows, genes] = used
        path = self.trie.path[genes]
        self._unused[rows[:, None], path] += -1 if used else 1
        self._starts[rows, self._column[self.trie.token[path[:, 0]]]] = self._unused[rows, path[:, 0]] > 0

    def _undo(self, rows: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        """Undoes steps of the plan, so that each of `rows` keeps the number of steps `kept`."""
        n_kept = np.zeros(len(self.n_genes), dtype=np.int64)
        n_kept[rows] = kept
        for step in range(len(self._steps) - 1, int(kept.min(initial=0)) - 1, -1):
            for closed, genes in reversed(self._closed[step]):
                back = n_kept[closed] <= step
                self.n_written[closed[back]] -= 1
                self.order[closed[back], self.n_written[closed[back]]] = -1
                self._mark(closed[back], genes[back], used=False)
            moved, node = self._steps[step]
            back = n_kept[moved] <= step
            self.node[moved[back]] = node[back]
