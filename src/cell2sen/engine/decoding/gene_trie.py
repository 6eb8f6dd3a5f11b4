"""Gene trie: the token ids of all genes, as arrays over the nodes of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Root nodes of the trees: genes after another gene, and the first gene after the prompt.
LATER, FIRST = 0, 1


class GeneTrie:
    """Trie of the token ids of genes; never changed, shared by all rows of all batches.

    Parameters
    ----------
    genes
        Gene symbols, each once.
    later
        Token ids of each gene after another gene.
    first
        Token ids of each gene after the prompt; None if these are the same.

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
        self.first_root = len(tables) - 1
        children: list[dict[int, int]] = [{}, {}]
        ends: list[int] = [-1, -1]
        paths: list[list[list[int]]] = []
        for root, table in enumerate(tables):
            paths.append([])
            for gene, ids in enumerate(table):
                node, path = root, []
                for token in map(int, ids):
                    if token not in children[node]:
                        children[node][token] = len(children)
                        children.append({})
                        ends.append(-1)
                    node = children[node][token]
                    path.append(node)
                if node == root:
                    raise ValueError(f"gene {self.genes[gene]!r} has no tokens")
                if ends[node] >= 0:
                    raise ValueError(
                        f"genes {self.genes[ends[node]]!r} and {self.genes[gene]!r} have the same tokens; list each "
                        "gene once"
                    )
                ends[node] = gene
                paths[root].append(path)
        self.n_nodes = len(children)
        self.gene = np.array(ends, dtype=np.int64)
        """Gene that ends at each node, as an index into `genes`, -1 for none, int64 (nodes,)."""
        self.token = np.full(self.n_nodes + 1, -1, dtype=np.int64)
        """Token that leads to each node, -1 for the roots, int64 (nodes + 1,); the last is for padding."""
        self.depth = np.zeros(self.n_nodes, dtype=np.int64)
        """Tokens from its root to each node, int64 (nodes,)."""
        for node, below in enumerate(children):  # children come after their parents
            for token, child in below.items():
                self.token[child], self.depth[child] = token, self.depth[node] + 1
        edges = sorted((node, token, child) for node, below in enumerate(children) for token, child in below.items())
        parent, self.edge_token, self.edge_child = np.array(edges, dtype=np.int64).reshape(-1, 3).T.copy()
        self.edges_from = np.searchsorted(parent, np.arange(self.n_nodes + 1))
        """Number of the first edge of each node, int64 (nodes + 1,); edges are sorted by node and token."""
        self.vocabulary = int(self.edge_token.max(initial=-1)) + 1
        """Largest token + 1."""
        self._edge_keys = parent * self.vocabulary + self.edge_token
        self.nodes = _table(paths if len(paths) == 2 else [*paths, *paths], self.n_nodes)
        """Nodes of each gene in the trees of `later` and `first`, int64 (2, genes, longest), padded with `n_nodes`."""
        self.path = self.nodes[LATER]
        """Nodes of each gene in the tree of `later`, int64 (genes, longest)."""
        self.size = np.zeros(self.n_nodes + 1, dtype=np.int32)
        """Number of genes that end at or below each node, int32 (nodes + 1,); the last is for padding."""
        np.add.at(self.size, self.nodes[: len(tables)], 1)
        self.size[[LATER, FIRST, self.n_nodes]] = len(self.genes)

    def edges(self, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Edges that leave `nodes`: place in `nodes` and number of each edge, both int64 (edges,)."""
        starts = self.edges_from[nodes]
        counts = self.edges_from[nodes + 1] - starts
        place = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, np.repeat(starts, counts) + within

    def child(self, nodes: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Child of each node by a token, -1 for none, int64 (n,)."""
        keys = nodes * self.vocabulary + tokens
        edge = np.minimum(np.searchsorted(self._edge_keys, keys), len(self._edge_keys) - 1)
        exists = (self._edge_keys[edge] == keys) & (tokens >= 0) & (tokens < self.vocabulary)
        return np.where(exists, self.edge_child[edge], -1)


def _table(paths: Sequence[Sequence[Sequence[int]]], fill: int) -> NDArray[np.int64]:
    """Paths as one array, int64 (tables, genes, longest), padded with `fill`."""
    longest = max((len(path) for table in paths for path in table), default=0)
    nodes = np.full((len(paths), len(paths[0]), longest), fill, dtype=np.int64)
    for table, lines in zip(paths, nodes, strict=True):
        for path, line in zip(table, lines, strict=True):
            line[: len(path)] = path
    return nodes
