"""Guesses of the next tokens: what the model said when it last stood at the same place of the trie.

From one gene to the next a model changes its mind little: what it would write now is mostly the best of what was left
when it began the gene before, and a gene that has begun goes on as it lately did, in this row or else in any. Where
tokens are drawn, the noise of every place is known beforehand (:mod:`cell2sen.engine.decoding.sampling`), so that the
draw itself is guessed. A guess that is wrong costs a place in a forward pass and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.sampling import gumbel

if TYPE_CHECKING:
    from cell2sen.engine.decoding.guide import Guide, Plan

#: A guess is made where this and all guesses before it come true with at least this probability.
LEAST = 0.25

#: Tokens guessed in a pass at most.
MOST = 24

#: Beginnings of genes that are remembered of a row, the likeliest ones.
KEPT = 256

#: A guess is as sure as it lies before the second best, in nats: limits of the kinds of guesses, each of which has a
#: probability of its own; for beginnings of genes and for tokens within.
_MARGINS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
_KINDS = 2 * (len(_MARGINS) + 1)


class Memory:
    """How genes went on in the rows of one call, and how often each kind of guess came true.

    Parameters
    ----------
    trie
        The genes that may be written.
    columns
        Tokens that may be written, int64 (C,), ascending.
    """

    def __init__(self, trie: GeneTrie, columns: NDArray[np.int64]) -> None:
        self.trie, self.columns = trie, columns
        self.edge_column = np.searchsorted(columns, trie.edge_token)
        """Column of each edge's token, int64 (edges,)."""
        self.edge = np.full(len(trie.edge_token), -np.inf, dtype=np.float32)
        """Logit of each edge when its node was last decided at, float32 (edges,), -inf: never. The others of the node
        are relative to it; where a gene may end there, the beginnings of other genes have the logsumexp 0."""
        self._hits, self._tries = np.zeros(_KINDS), np.zeros(_KINDS)
        self._passes = 0

    def rates(self) -> NDArray[np.float64]:
        """Probability of each kind of guess, lately. Now and then all are tried, or none could ever be learned."""
        self._passes += 1
        # Two of three where nothing is known, and again where it was long ago.
        lately: NDArray[np.float64] = (self._hits + 2) / (self._tries + 3)
        return lately if self._passes % 16 else np.maximum(lately, LEAST)

    def count_guesses(self, kinds: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take note of guesses and whether they came true."""
        old = 0.5 ** (len(kinds) / 1024)
        self._hits = self._hits * old + np.bincount(kinds[right], minlength=_KINDS)
        self._tries = self._tries * old + np.bincount(kinds, minlength=_KINDS)


class GeneDrafts:
    """Guesses for the rows of one batch.

    Parameters
    ----------
    memory
        What other rows have written; shared by the batches of one call.
    keys
        For each row, see :func:`cell2sen.engine.decoding.sampling.row_key`.
    temperature
        0: greedy.
    """

    def __init__(self, memory: Memory, keys: Sequence[int], temperature: float = 0.0) -> None:
        self.memory, self.trie = memory, memory.trie
        self._keys, self._temperature = np.array(keys, dtype=np.int64), temperature
        n, kept = len(keys), min(KEPT, len(memory.columns))
        self._column = np.zeros((n, kept), dtype=np.int64)
        """Columns of the likeliest beginnings of genes, when the row last stood between two."""
        self._logit = np.full((n, kept), -np.inf, dtype=np.float32)
        """Their log-probabilities."""
        self._edge = np.full((n, len(memory.edge)), -np.inf, dtype=np.float32)
        """Logit of each edge as in :attr:`Memory.edge`, when the row itself last decided there."""
        self._written = np.zeros(n, dtype=np.int64)

    def start(self, rows: NDArray[np.int64]) -> None:
        """A new plan for these rows begins."""
        self._rows, self._rates = rows, self.memory.rates()
        self._chance, self._guessed = np.ones(len(rows)), np.zeros(len(rows), dtype=np.int64)
        self._kinds: list[NDArray[np.int64]] = []
        self._nodes: list[NDArray[np.int64]] = []

    def guess(self, guide: Guide, places: NDArray[np.int64], step: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The next token of rows of the plan, -1 where there is no guess, int64 (n,).

        Parameters
        ----------
        places
            Places of the rows in the plan, int64 (n,).
        step
            Planned tokens that come before.
        mask
            Tokens that may come next, bool (n, C).
        """
        rows = self._rows[places]
        node = guide.node[rows]
        inside = self.trie.depth[node] > 0
        ends = inside & (guide.closable(rows) >= 0)
        column, best, second = self._beginnings(rows, step, mask, ~inside | ends)
        goes_on = self._within(rows, node, step, mask)
        better = goes_on[1] > best
        second = np.where(better, np.maximum(goes_on[2], best), np.maximum(second, goes_on[1]))
        column, best = np.where(better, goes_on[0], column), np.where(better, goes_on[1], best)
        with np.errstate(invalid="ignore"):  # of -inf and -inf
            margin = np.searchsorted(_MARGINS, best - second)
        kind = np.where(better, len(_MARGINS) + 1, 0) + np.minimum(margin, len(_MARGINS))
        chance = self._chance[places] * self._rates[kind]
        fine = np.isfinite(best) & (chance >= LEAST) & (self._guessed[places] < MOST)
        self._chance[places] = chance
        self._guessed[places] += fine
        self._kinds.append(kind)
        self._nodes.append(np.where(ends, -1 - node, node))  # negative where a gene may end
        return np.where(fine, self.memory.columns[column], -1)

    def learn(
        self, plan: Plan, logits_NC: torch.Tensor, kept: NDArray[np.int64], new: NDArray[np.int64],
        right: NDArray[np.bool_], seen: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """What the model said, and which guesses came true, of those that were reached.

        Parameters
        ----------
        logits_NC
            Of the plan's decisions, -inf where a token is not allowed.
        kept, new
            What :meth:`cell2sen.engine.decoding.guide.Guide.settle` returns.
        right, seen
            Which guesses are what was decided, and which were looked at, bool (N,).
        """
        memory, trie = self.memory, self.trie
        kinds, nodes = (np.concatenate([np.zeros(0, np.int64), *each]) for each in (self._kinds, self._nodes))
        memory.count_guesses(kinds[seen & (plan.guess >= 0)], right[seen & (plan.guess >= 0)])
        self._written[plan.rows] += kept + (new >= 0)
        ends, nodes = nodes < 0, np.where(nodes < 0, -1 - nodes, nodes)
        # Of a row's decisions where a gene may begin the last one counts; those behind a wrong guess do not.
        between = np.flatnonzero(((trie.depth[nodes] == 0) | ends) & seen)
        last = np.full(len(plan.rows), -1, dtype=np.int64)
        last[plan.row[between]] = between
        if len(now := last[last >= 0]):
            logit, column = logits_NC[torch.from_numpy(now).to(logits_NC.device)].topk(self._column.shape[1], dim=1)
            rows = plan.rows[plan.row[now]]
            self._logit[rows], self._column[rows] = logit.float().cpu().numpy(), column.cpu().numpy()
        within = np.flatnonzero((trie.depth[nodes] > 0) & seen)
        place, edge = trie.edges(nodes[within])
        if len(edge):
            at = torch.from_numpy(np.stack([within[place], memory.edge_column[edge]])).to(logits_NC.device)
            found = logits_NC[at[0], at[1]].float().cpu().numpy()
            level = self._level(logits_NC, within, ends[within], place, found)
            is_open = np.isfinite(found)
            row, edge = plan.rows[plan.row[within[place[is_open]]]], edge[is_open]
            memory.edge[edge] = self._edge[row, edge] = found[is_open] - level[is_open]

    # -- parts

    def _level(
        self, logits_NC: torch.Tensor, within: NDArray[np.int64], ends: NDArray[np.bool_], place: NDArray[np.int64],
        logit: NDArray[np.float32],
    ) -> NDArray[np.float32]:  # fmt: skip
        """What the logits of edges are relative to: the beginnings of other genes, or the other edges."""
        level = np.full(len(within), -np.inf, dtype=np.float32)
        np.maximum.at(level, place, logit)
        if len(closing := np.flatnonzero(ends)):
            where = torch.from_numpy(within[closing]).to(logits_NC.device)
            level[closing] = logits_NC[where].float().logsumexp(1).cpu().numpy()
            share = np.zeros(len(within))
            np.add.at(share, place, np.exp(logit - level[place]))
            level[closing] += np.log(np.maximum(1 - share[closing], 1e-6))
        return level[place]

    def _noisy(
        self, logit: NDArray[np.float32], rows: NDArray[np.int64], step: int, tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if self._temperature == 0:
            return logit
        keys, places = torch.from_numpy(self._keys[rows]), torch.from_numpy(self._written[rows] + step)
        noise: NDArray[np.float32] = gumbel(keys, places, torch.from_numpy(tokens)).numpy()
        return logit / np.float32(self._temperature) + noise

    def _beginnings(
        self, rows: NDArray[np.int64], step: int, mask: NDArray[np.bool_], may: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Column and score of the best beginning of a gene, and the score of the second best; each (n,)."""
        column = self._column[rows]
        logit = np.where(np.take_along_axis(mask, column, axis=1) & may[:, None], self._logit[rows], -np.inf)
        top = logit.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            logit = logit - np.where(np.isfinite(top), top + np.log(np.exp(logit - top).sum(axis=1, keepdims=True)), 0)
        score = self._noisy(logit.astype(np.float32), rows, step, self.memory.columns[column])
        which = score.argmax(axis=1)
        line = np.arange(len(rows))
        best = score[line, which]
        score[line, which] = -np.inf
        return column[line, which], best, score.max(axis=1)

    def _within(
        self, rows: NDArray[np.int64], node: NDArray[np.int64], step: int, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The same for how a gene goes on."""
        inside = np.flatnonzero(self.trie.depth[node] > 0)
        place, edge = self.trie.edges(node[inside])
        place, column = inside[place], self.memory.edge_column[edge]
        allowed = mask[place, column]
        place, column, edge = place[allowed], column[allowed], edge[allowed]
        own = self._edge[rows[place], edge]
        logit = np.where(np.isfinite(own), own, self.memory.edge[edge])[:, None]
        score = self._noisy(logit, rows[place], step, self.memory.columns[column][:, None])[:, 0]
        order = np.lexsort((score, place))
        place, column, score = place[order], column[order], score[order]
        last = np.flatnonzero(np.diff(place, append=-1))  # of each row's edges
        found, best, second = (np.zeros(len(rows), np.int64), *np.full((2, len(rows)), -np.inf, dtype=np.float32))
        found[place[last]], best[place[last]] = column[last], score[last]
        several = last[(last > 0) & (place[last - 1] == place[last])]
        second[place[several]] = score[several - 1]
        return found, best, second
