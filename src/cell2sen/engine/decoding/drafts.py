"""Draft tokens for speculative decoding, from the last logits at the same trie node.

A model's logits change little from one gene to the next: the next gene is mostly the best unused gene by the logits at
the gene before, and a gene is mostly completed with the same tokens as last time, in this row or another. The noise of
drawn tokens is known in advance (:mod:`cell2sen.engine.decoding.sampling`), so draws can be drafted, too. A wrong draft
takes a place in a forward pass and changes nothing else. Speculative decoding: Leviathan, Kalman and Matias 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.decoding.constraint import Plan
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.sampling import gumbel

if TYPE_CHECKING:
    from cell2sen.engine.decoding.guide import Guide

#: Minimum probability that a draft and all drafts before it are right.
MIN_PROBABILITY = 0.25

#: Maximum number of draft tokens in a pass.
MAX_DRAFTS = 24

#: Maximum number of first tokens of genes stored per row, the most probable ones.
MAX_STARTS = 256

#: Limits of the margin between the best and the second best token, in nats. Each interval is a kind of draft with its
#: own rate of right drafts, separately for first tokens of genes and for tokens within genes.
_MARGINS = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
_KINDS = 2 * (len(_MARGINS) + 1)


class DraftMemory:
    """Last logits of the trie edges in one call, and rates of right drafts of each kind.

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
        self.edge_logit = np.full(len(trie.edge_token), -np.inf, dtype=np.float32)
        """Logit of each edge at the last decision at its node, float32 (edges,), -inf for never. Relative to the other
        edges of the node; where a gene may end, relative to the logsumexp of the first tokens of other genes."""
        self._right, self._total = np.zeros(_KINDS), np.zeros(_KINDS)
        self._passes = 0

    def rates(self) -> NDArray[np.float64]:
        """Recent share of right drafts of each kind. Every 16th pass tries all kinds, to measure them again."""
        self._passes += 1
        # The rate is 2 / 3 before any draft, and returns to it long after the last one.
        rates: NDArray[np.float64] = (self._right + 2) / (self._total + 3)
        return rates if self._passes % 16 else np.maximum(rates, MIN_PROBABILITY)

    def count_drafts(self, kinds: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Counts drafts by kind, and which were right, bool; counts halve with every 1,024 drafts."""
        decay = 0.5 ** (len(kinds) / 1024)
        self._right = self._right * decay + np.bincount(kinds[right], minlength=_KINDS)
        self._total = self._total * decay + np.bincount(kinds, minlength=_KINDS)


class GeneDrafts:
    """Draft tokens of the rows of one batch.

    Parameters
    ----------
    memory
        Logits of all rows; shared by the batches of one call.
    keys
        Key of each row, see :func:`cell2sen.engine.decoding.sampling.row_key`.
    temperature
        0: greedy.
    """

    def __init__(self, memory: DraftMemory, keys: Sequence[int], temperature: float = 0.0) -> None:
        self.memory, self.trie = memory, memory.trie
        self._keys, self._temperature = np.array(keys, dtype=np.int64), temperature
        n_rows, n_starts = len(keys), min(MAX_STARTS, len(memory.columns))
        self._start_column = np.zeros((n_rows, n_starts), dtype=np.int64)
        """Columns of the most probable first tokens of genes, at the row's last decision between two genes."""
        self._start_logit = np.full((n_rows, n_starts), -np.inf, dtype=np.float32)
        """Their logits."""
        self._edge_logit = np.full((n_rows, len(memory.edge_logit)), -np.inf, dtype=np.float32)
        """Logit of each edge as in :attr:`DraftMemory.edge_logit`, at the row's own last decision at its node."""
        self._written = np.zeros(n_rows, dtype=np.int64)

    def start(self, rows: NDArray[np.int64]) -> None:
        """Begins a plan for these rows."""
        self._rows, self._rates = rows, self.memory.rates()
        self._probability, self._n_drafts = np.ones(len(rows)), np.zeros(len(rows), dtype=np.int64)
        self._kinds: list[NDArray[np.int64]] = []
        self._nodes: list[NDArray[np.int64]] = []

    def draft(
        self, guide: Guide, places: NDArray[np.int64], step: int, allowed: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Draft tokens of rows of the plan, -1 where none is probable enough, int64 (n,).

        Parameters
        ----------
        places
            Places of the rows in the plan, int64 (n,).
        step
            Number of planned tokens before the draft.
        allowed
            Allowed tokens, bool (n, C).
        """
        rows = self._rows[places]
        node = guide.node[rows]
        inside = self.trie.depth[node] > 0
        ends = inside & (guide.complete_gene(rows) >= 0)
        column, best, second = self._best_start(rows, step, allowed, ~inside | ends)
        within = self._best_edge(rows, node, step, allowed)
        better = within[1] > best
        second = np.where(better, np.maximum(within[2], best), np.maximum(second, within[1]))
        column, best = np.where(better, within[0], column), np.where(better, within[1], best)
        with np.errstate(invalid="ignore"):  # of -inf and -inf
            margin = np.searchsorted(_MARGINS, best - second)
        kind = np.where(better, len(_MARGINS) + 1, 0) + np.minimum(margin, len(_MARGINS))
        probability = self._probability[places] * self._rates[kind]
        use = np.isfinite(best) & (probability >= MIN_PROBABILITY) & (self._n_drafts[places] < MAX_DRAFTS)
        self._probability[places] = probability
        self._n_drafts[places] += use
        self._kinds.append(kind)
        self._nodes.append(np.where(ends, -1 - node, node))  # negative where a gene may end
        return np.where(use, self.memory.columns[column], -1)

    def update(
        self,
        plan: Plan,
        logits_NC: torch.Tensor,
        kept: NDArray[np.int64],
        new: NDArray[np.int64],
        right: NDArray[np.bool_],
        reached: NDArray[np.bool_],
    ) -> None:
        """Stores the logits of the decisions that were reached, and counts which of their drafts were right.

        Parameters
        ----------
        logits_NC
            Logits of the plan's decisions, float32 (N, C), -inf where a token is not allowed.
        kept, new
            Returned by :meth:`cell2sen.engine.decoding.guide.Guide.accept`.
        right, reached
            Which drafts equal the decision, and which decisions come before or at the first wrong draft, bool (N,).
        """
        memory, trie = self.memory, self.trie
        kinds, nodes = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (self._kinds, self._nodes))
        memory.count_drafts(kinds[reached & (plan.draft >= 0)], right[reached & (plan.draft >= 0)])
        self._written[plan.rows] += kept + (new >= 0)
        ends, nodes = nodes < 0, np.where(nodes < 0, -1 - nodes, nodes)
        # The last reached decision of a row where a gene may begin.
        between = np.flatnonzero(((trie.depth[nodes] == 0) | ends) & reached)
        last = np.full(len(plan.rows), -1, dtype=np.int64)
        last[plan.row[between]] = between
        if len(decisions := last[last >= 0]):
            logit, column = logits_NC[torch.from_numpy(decisions).to(logits_NC.device)].topk(
                self._start_column.shape[1], dim=1
            )
            rows = plan.rows[plan.row[decisions]]
            self._start_logit[rows], self._start_column[rows] = logit.float().cpu().numpy(), column.cpu().numpy()
        within = np.flatnonzero((trie.depth[nodes] > 0) & reached)
        place, edge = trie.edges(nodes[within])
        if len(edge):
            index = torch.from_numpy(np.stack([within[place], memory.edge_column[edge]])).to(logits_NC.device)
            edge_logit = logits_NC[index[0], index[1]].float().cpu().numpy()
            reference = self._reference(logits_NC, within, ends[within], place, edge_logit)
            is_open = np.isfinite(edge_logit)
            row, edge = plan.rows[plan.row[within[place[is_open]]]], edge[is_open]
            memory.edge_logit[edge] = self._edge_logit[row, edge] = edge_logit[is_open] - reference[is_open]

    # -- parts

    def _reference(
        self,
        logits_NC: torch.Tensor,
        within: NDArray[np.int64],
        ends: NDArray[np.bool_],
        place: NDArray[np.int64],
        logit: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Reference of edge logits: logsumexp of other genes' first tokens if a gene may end, else the largest."""
        reference = np.full(len(within), -np.inf, dtype=np.float32)
        np.maximum.at(reference, place, logit)
        if len(closing := np.flatnonzero(ends)):
            index = torch.from_numpy(within[closing]).to(logits_NC.device)
            reference[closing] = logits_NC[index].float().logsumexp(1).cpu().numpy()
            share = np.zeros(len(within))
            np.add.at(share, place, np.exp(logit - reference[place]))
            reference[closing] += np.log(np.maximum(1 - share[closing], 1e-6))
        return reference[place]

    def _with_noise(
        self, logit: NDArray[np.float32], rows: NDArray[np.int64], step: int, tokens: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if self._temperature == 0:
            return logit
        keys, positions = torch.from_numpy(self._keys[rows]), torch.from_numpy(self._written[rows] + step)
        noise: NDArray[np.float32] = gumbel(keys, positions, torch.from_numpy(tokens)).numpy()
        return logit / np.float32(self._temperature) + noise

    def _best_start(
        self, rows: NDArray[np.int64], step: int, allowed: NDArray[np.bool_], may_start: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Column and score of the best first token of a gene, and the score of the second best; each (n,)."""
        column = self._start_column[rows]
        logit = np.where(
            np.take_along_axis(allowed, column, axis=1) & may_start[:, None], self._start_logit[rows], -np.inf
        )
        top = logit.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            logit = logit - np.where(np.isfinite(top), top + np.log(np.exp(logit - top).sum(axis=1, keepdims=True)), 0)
        score = self._with_noise(logit.astype(np.float32), rows, step, self.memory.columns[column])
        index = score.argmax(axis=1)
        line = np.arange(len(rows))
        best = score[line, index]
        score[line, index] = -np.inf
        return column[line, index], best, score.max(axis=1)

    def _best_edge(
        self, rows: NDArray[np.int64], node: NDArray[np.int64], step: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """The same of :meth:`_best_start` for tokens that continue a gene."""
        inside = np.flatnonzero(self.trie.depth[node] > 0)
        place, edge = self.trie.edges(node[inside])
        place, column = inside[place], self.memory.edge_column[edge]
        is_allowed = allowed[place, column]
        place, column, edge = place[is_allowed], column[is_allowed], edge[is_allowed]
        own = self._edge_logit[rows[place], edge]
        logit = np.where(np.isfinite(own), own, self.memory.edge_logit[edge])[:, None]
        score = self._with_noise(logit, rows[place], step, self.memory.columns[column][:, None])[:, 0]
        order = np.lexsort((score, place))
        place, column, score = place[order], column[order], score[order]
        last = np.flatnonzero(np.diff(place, append=-1))  # of each row's edges
        best_column, best, second = (np.zeros(len(rows), np.int64), *np.full((2, len(rows)), -np.inf, dtype=np.float32))
        best_column[place[last]], best[place[last]] = column[last], score[last]
        several = last[(last > 0) & (place[last - 1] == place[last])]
        second[place[several]] = score[several - 1]
        return best_column, best, second
