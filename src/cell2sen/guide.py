"""Which tokens may come next: the gene trie, each gene once.

Genes are written one after another, each a run of tokens. One gene's tokens may be the beginning of another's (CD4,
CD44), so a gene ends only where the next token does not continue it: where it begins another gene or ends the answer.
Where a token could do both it continues.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LATER, _FIRST = 0, 1


class GeneTrie:
    """The token ids of all genes, as arrays over the nodes of a tree. Frozen; shared by all rows of all batches.

    Parameters
    ----------
    genes
        Each once.
    later
        Token ids of each gene as it stands behind another gene.
    first
        Token ids of each gene as it stands behind the prompt; None if these are the same.

    Raises
    ------
    ValueError
        A gene has no tokens, or two genes have the same.
    """

    def __init__(
        self, genes: Sequence[str], later: Sequence[Sequence[int]], first: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.genes = tuple(genes)
        tables = [later] if first is None or list(map(list, first)) == list(map(list, later)) else [later, first]
        # As built: children of each node by token, and the gene that ends there. Node 0 is the root of `later`, node 1
        # that of `first`, so that a node's children can be told apart from both.
        children: list[dict[int, int]] = [{}, {}]
        ends: list[int] = [-1, -1]
        for root, table in enumerate(tables):
            for gene, ids in enumerate(table):
                node = root
                for token in ids:
                    if token not in children[node]:
                        children[node][int(token)] = len(children)
                        children.append({})
                        ends.append(-1)
                    node = children[node][int(token)]
                if node == root:
                    raise ValueError(f"gene {self.genes[gene]!r} has no tokens")
                if ends[node] >= 0:
                    pair = self.genes[ends[node]], self.genes[gene]
                    raise ValueError(f"genes {pair[0]!r} and {pair[1]!r} have the same tokens; give each gene once")
                ends[node] = gene
        self.children = children
        self.gene = np.array(ends, dtype=np.int64)
        """Gene that ends at each node, -1 for none, int64 (nodes,)."""
        self.first_root = len(tables) - 1
        self.parent = np.full(len(children), -1, dtype=np.int64)
        self.token = np.full(len(children), -1, dtype=np.int64)
        for node, below in enumerate(children):
            for token, child in below.items():
                self.parent[child], self.token[child] = node, token
        self.tokens = [np.array(list(below), dtype=np.int64) for below in children]
        """Tokens that lead on from each node."""
        self.nodes = [np.array(list(below.values()), dtype=np.int64) for below in children]
        """Where they lead to."""
        self.size = np.zeros(len(children), dtype=np.int32)
        """Genes that end at or below each node, int32 (nodes,)."""
        for node in range(len(children) - 1, -1, -1):  # children are always younger than their parents
            self.size[node] += self.gene[node] >= 0
            if self.parent[node] >= 0:
                self.size[self.parent[node]] += self.size[node]
        self.node_of = np.full(len(self.genes), -1, dtype=np.int64)
        """Where each gene ends in the tree of `later`."""
        in_later = self._below_root() == _LATER
        self.node_of[self.gene[in_later & (self.gene >= 0)]] = np.flatnonzero(in_later & (self.gene >= 0))

    def path(self, gene: int) -> list[int]:
        """Nodes of a gene in the tree of `later`, its last one first, the root left out."""
        nodes, node = [], int(self.node_of[gene])
        while node > _FIRST:
            nodes.append(node)
            node = int(self.parent[node])
        return nodes

    def _below_root(self) -> NDArray[np.int64]:
        root = np.arange(len(self.children), dtype=np.int64)
        for node in range(2, len(root)):
            root[node] = root[self.parent[node]]
        return root


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

    Raises
    ------
    ValueError
        A row asks for more genes than there are, or for none.
    """

    def __init__(self, trie: GeneTrie, asks: Sequence[int], ends: Sequence[int], vocabulary: int) -> None:
        for ask in asks:
            if not 1 <= ask <= len(trie.genes):
                raise ValueError(f"cannot write {ask} genes, each once, from a list of {len(trie.genes)}")
        self.trie = trie
        self.asks = list(asks)
        self.ends = np.array(sorted({end for end in ends if 0 <= end < vocabulary}), dtype=np.int64)
        self.written: list[list[int]] = [[] for _ in asks]
        """Numbers of the genes that each row has written."""
        self._used: list[set[int]] = [set() for _ in asks]
        self._node = [trie.first_root] * len(asks)
        self._unused = np.tile(trie.size, (len(asks), 1))
        # Which tokens may begin a later gene: the one large set, changed by at most one token a gene.
        self._starts = np.zeros((len(asks), vocabulary), dtype=bool)
        self._starts[:, trie.tokens[_LATER]] = True

    def done(self, row: int) -> bool:
        """Whether a row has written all its genes."""
        return len(self.written[row]) == self.asks[row]

    def mask(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Tokens that may come next, bool (rows, vocabulary). For rows that are not done."""
        allowed = np.zeros((len(rows), self._starts.shape[1]), dtype=bool)
        for line, row in zip(allowed, rows, strict=True):
            node = self._node[row]
            if node == _LATER:
                line[:] = self._starts[row]
                continue
            if (gene := self._closable(row)) is not None:
                line[:] = self._starts[row]
                first = self.trie.path(gene)[-1]
                if self._unused[row, first] == 1:  # only this gene itself begins so
                    line[self.trie.token[first]] = False
                if len(self.written[row]) + 1 == self.asks[row]:
                    line[self.ends] = True
            line[self.trie.tokens[node][self._open(row, node)]] = True
        return allowed

    def allowed(self, row: int) -> list[int]:
        """The same as a list of token ids, for transformers' ``prefix_allowed_tokens_fn``."""
        tokens: list[int] = np.flatnonzero(self.mask([row])[0]).tolist()
        return tokens

    def advance(self, row: int, token: int) -> None:
        """Take the next token of a row.

        Raises
        ------
        ValueError
            The token was not allowed.
        """
        node = self._node[row]
        child = self._child(row, node, token)
        if child is None and (gene := self._closable(row)) is not None:
            self._close(row, gene)
            if self.done(row):
                return
            child = self._child(row, _LATER, token)
        if child is None or self.done(row):
            raise ValueError(f"token {token} is not allowed here")
        self._node[row] = child
        gene = self._closable(row)
        if gene is not None and not self._open(row, child).any():
            self._close(row, gene)

    def _child(self, row: int, node: int, token: int) -> int | None:
        child = self.trie.children[node].get(token)
        return child if child is not None and self._unused[row, child] else None

    def _open(self, row: int, node: int) -> NDArray[np.bool_]:
        """Which ways on from a node lead to an unused gene."""
        is_open: NDArray[np.bool_] = self._unused[row, self.trie.nodes[node]] > 0
        return is_open

    def _closable(self, row: int) -> int | None:
        """The unused gene that could end here."""
        gene = int(self.trie.gene[self._node[row]])
        return gene if gene >= 0 and gene not in self._used[row] else None

    def _close(self, row: int, gene: int) -> None:
        self.written[row].append(gene)
        self._used[row].add(gene)
        path = self.trie.path(gene)
        self._unused[row, path] -= 1
        if self._unused[row, path[-1]] == 0:
            self._starts[row, self.trie.token[path[-1]]] = False
        self._node[row] = _LATER
