"""Guesses of the next genes: those of the control sentence, and what other rows have written.

A guess that is wrong costs a place in a forward pass and changes nothing else, so anything may be guessed from: here
the genes of the row's own prompt, in order, and which gene followed which in the rows so far. How often each kind of
guess came true says how far ahead to guess.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cell2sen.trie import GeneTrie

if TYPE_CHECKING:
    from cell2sen.guide import Guide, Plan

#: A guess is made where this and all guesses before it come true with at least this probability.
LEAST = 0.25

#: Tokens guessed in a pass at most.
MOST = 24

#: A gene of the prompt that was guessed so often in vain is left out from then on.
PATIENCE = 2

# Kinds of guesses, each with a probability of its own. Of a next gene: from the prompt; from other rows, by the share
# of them that went on so, in quarters; from both alike. Of how a gene that has begun goes on: as after the same gene
# in other rows, as the prompt has it, as most often. And the other tokens of a gene that was guessed.
_PROMPT, _OTHERS, _BOTH, _AFTER, _WITHIN, _OFTEN, _REST, _KINDS = 0, 1, 5, 6, 7, 8, 9, 10


class Memory:
    """What the rows of one call have written so far, and how often each kind of guess came true.

    Parameters
    ----------
    trie
        Its genes are what is remembered.
    """

    def __init__(self, trie: GeneTrie) -> None:
        self.next: dict[int, dict[int, int]] = {}
        """For each gene, how often which gene followed it; -1 is the beginning of an answer."""
        self.count = np.zeros(len(trie.genes), dtype=np.int64)
        self.likely = np.full(trie.n_nodes + 1, -1, dtype=np.int64)
        """The gene at or below each node that was written most often."""
        # Where a gene is one token, no gene ever goes on.
        self._paths = trie.nodes[: trie.first_root + 1] if trie.nodes.shape[2] > 1 else trie.nodes[:0]
        self._hits, self._tries = np.full(_KINDS, 2.0), np.full(_KINDS, 3.0)
        self._passes = 0

    def rates(self) -> NDArray[np.float64]:
        """Probability of each kind of guess, lately. Now and then all are tried, or none could ever be learned."""
        self._passes += 1
        lately: NDArray[np.float64] = self._hits / self._tries
        return lately if self._passes % 16 else np.maximum(lately, LEAST)

    def remember(self, genes: Sequence[int]) -> None:
        """Genes that were written one behind the other; -1 is the beginning of an answer."""
        for before, gene in itertools.pairwise(genes):
            followed = self.next.setdefault(before, {})
            followed[gene] = followed.get(gene, 0) + 1
            self.count[gene] += 1
            for path in self._paths[:, gene].tolist():
                for node in path:
                    if (best := self.likely[node]) < 0 or self.count[best] < self.count[gene]:
                        self.likely[node] = gene

    def count_guesses(self, kinds: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        """Take note of guesses and whether they came true."""
        old = 0.5 ** (len(kinds) / 256)
        self._hits = self._hits * old + np.bincount(kinds[right], minlength=_KINDS)
        self._tries = self._tries * old + np.bincount(kinds, minlength=_KINDS)


class GeneDrafts:
    """Guesses for the rows of one batch.

    Parameters
    ----------
    trie
        The genes that may be written.
    prompts
        For each row, the genes of its prompt that are in the trie, in order.
    memory
        What other rows have written; shared by the batches of one call.
    """

    def __init__(self, trie: GeneTrie, prompts: Sequence[Sequence[int]], memory: Memory) -> None:
        self.trie, self.memory = trie, memory
        self._prompts = [list(genes) for genes in prompts]
        self._vain: list[dict[int, int]] = [{} for _ in prompts]
        self._learned = np.zeros(len(prompts), dtype=np.int64)

    def start(self, guide: Guide, rows: NDArray[np.int64]) -> None:
        """A new plan for these rows begins."""
        n = len(rows)
        self._rows, self._rates = rows, self.memory.rates()
        self._target, self._chance, self._guessed = np.full(n, -1), np.ones(n), np.zeros(n, dtype=np.int64)
        self._kinds: list[NDArray[np.int64]] = []
        self._targets: list[NDArray[np.int64]] = []
        for row in rows.tolist():  # what lies behind at the head of the prompt need not be looked at again
            genes, used, vain = self._prompts[row], guide.used[row], self._vain[row]
            head = 0
            while head < len(genes) and (used[genes[head]] or vain.get(genes[head], 0) >= PATIENCE):
                head += 1
            del genes[:head]

    def guess(self, guide: Guide, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next token of rows of the plan, -1 where there is no guess, int64 (n,)."""
        trie, rows = self.trie, self._rows[places]
        node, target = guide.node[rows], self._target[places]
        depth, tree = trie.depth[node], trie.in_first[node].astype(np.int64)
        kind = np.full(len(places), _REST)
        leads = (target >= 0) & (depth > 0) & (depth < trie.length[tree, target])
        leads &= trie.nodes[tree, target, depth - 1] == node
        for i in np.flatnonzero(~leads).tolist():
            target[i], kind[i] = self._new(guide, int(rows[i]), int(node[i]), int(target[i]))
        starts = kind <= _BOTH
        depth[starts] = 0
        tree[starts & (node != trie.first_root)] = 0
        chance = self._chance[places] * self._rates[kind]
        fine = (target >= 0) & (chance >= LEAST) & (self._guessed[places] < MOST)
        target[~fine] = -1
        token = np.where(fine, trie.token[trie.nodes[tree, target, depth]], -1)
        self._target[places], self._chance[places] = target, chance
        self._guessed[places] += fine
        self._kinds.append(kind)
        self._targets.append(target)
        return token

    def learn(self, guide: Guide, plan: Plan, right: NDArray[np.bool_], seen: NDArray[np.bool_]) -> None:
        """Which guesses came true, of those that were reached; the rows have gone on."""
        kinds, targets = (np.concatenate([np.zeros(0, np.int64), *each]) for each in (self._kinds, self._targets))
        self.memory.count_guesses(kinds[seen], right[seen])
        vain = seen & ~right & ((kinds == _PROMPT) | (kinds == _BOTH))
        for row, gene in zip(plan.rows[plan.row[vain]].tolist(), targets[vain].tolist(), strict=True):
            self._vain[row][gene] = self._vain[row].get(gene, 0) + 1
        for row in plan.rows.tolist():
            known, now = int(self._learned[row]), int(guide.n_written[row])
            if now > known:
                self.memory.remember([-1, *guide.order[row, :now].tolist()][known:])
                self._learned[row] = now

    def _new(self, guide: Guide, row: int, node: int, finished: int) -> tuple[int, int]:
        """A gene to guess and its kind; the gene is -1 if there is none."""
        trie, used, prompts = self.trie, guide.used[row], self._prompts[row]
        n = int(guide.n_written[row])
        last = int(guide.order[row, n - 1]) if n else -1
        here = -1
        if depth := int(trie.depth[node]):
            here = int(trie.gene[node])
            here = -1 if here >= 0 and used[here] else here
            if here < 0 or here != finished:
                below = trie.nodes[int(trie.in_first[node]), :, depth - 1]
                found, kind = self._follower(last, used, -1, below, node)[0], _AFTER
                if found < 0:
                    prompt = next((gene for gene in prompts if below[gene] == node and not used[gene]), -1)
                    often = int(self.memory.likely[node])
                    often = -1 if often >= 0 and used[often] else often
                    if prompt < 0 or (often >= 0 and self._rates[_OFTEN] > self._rates[_WITHIN]):
                        found, kind = often, _OFTEN
                    else:
                        found, kind = prompt, _WITHIN
                if found != here or found < 0:
                    return found, kind
            if n + 1 == guide.asks[row]:
                return -1, _REST
            last = here
        vain = self._vain[row]
        prompt = next((g for g in prompts if g != here and not used[g] and vain.get(g, 0) < PATIENCE), -1)
        other, share = self._follower(last, used, here)
        if other < 0:
            return prompt, _PROMPT
        if other == prompt:
            return other, _BOTH
        kind = _OTHERS + min(int(4 * share), 3)
        if prompt < 0 or self._rates[kind] >= self._rates[_PROMPT]:
            return other, kind
        return prompt, _PROMPT

    def _follower(
        self, last: int, used: NDArray[np.bool_], besides: int, below: NDArray[np.int64] | None = None, node: int = -1
    ) -> tuple[int, float]:
        """The unused gene that most often followed `last`, -1 for none, and its share of all that did.

        With `below`, only genes that pass through `node`.
        """
        found, most, total = -1, 0, 0
        for gene, count in self.memory.next.get(last, {}).items():
            total += count
            if count > most and gene != besides and not used[gene] and (below is None or below[gene] == node):
                found, most = gene, count
        return found, most / max(total, 1)
