"""The gene trie as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.engine.decoding.gene_trie import FIRST, LATER, GeneTrie

# CD4 = 0 1, CD44 = 0 1 1, B2M = 2 3; the first gene of an answer is written otherwise: 4 1, 4 1 1, 5.
GENES, LATER_IDS, FIRST_IDS = ["CD4", "CD44", "B2M"], [[0, 1], [0, 1, 1], [2, 3]], [[4, 1], [4, 1, 1], [5]]


def walk(trie: GeneTrie, root: int, ids: list[int]) -> list[int]:
    nodes = [root]
    for token in ids:
        nodes.append(int(trie.child(np.array(nodes[-1:]), np.array([token]))[0]))
    return nodes[1:]


@pytest.mark.parametrize("first", [None, LATER_IDS, FIRST_IDS])
def test_every_gene_is_a_path(first: list[list[int]] | None) -> None:
    trie = GeneTrie(GENES, LATER_IDS, first)
    assert trie.first_root == (FIRST if first is FIRST_IDS else LATER)
    for root, table in ((LATER, LATER_IDS), (trie.first_root, first or LATER_IDS)):
        for gene, ids in enumerate(table):
            nodes = walk(trie, root, ids)
            assert trie.nodes[root, gene, : len(ids)].tolist() == nodes
            assert (trie.nodes[root, gene, len(ids) :] == trie.n_nodes).all()
            assert trie.gene[nodes[-1]] == gene
            assert trie.token[nodes].tolist() == ids
            assert trie.depth[nodes].tolist() == list(range(1, len(ids) + 1))
    shared, end = trie.path[0, :2]
    assert trie.size[[shared, end, trie.path[1, 2], trie.path[2, 0]]].tolist() == [2, 2, 1, 1]


def test_edges() -> None:
    trie = GeneTrie(GENES, LATER_IDS, FIRST_IDS)
    place, edge = trie.edges(np.array([trie.path[0, 1], LATER, trie.path[2, 1], FIRST]))
    assert place.tolist() == [0, 1, 1, 3, 3]
    assert trie.edge_token[edge].tolist() == [1, 0, 2, 4, 5]
    assert trie.edge_child[edge].tolist() == [
        trie.path[1, 2], trie.path[0, 0], trie.path[2, 0], trie.nodes[FIRST, 0, 0], trie.nodes[FIRST, 2, 0]
    ]  # fmt: skip


def test_tokens_that_lead_nowhere() -> None:
    trie = GeneTrie(GENES, LATER_IDS, FIRST_IDS)
    # 6 and -1 are no tokens of the trie; combined with a node they must not match the token of another node.
    for token in (3, 6, 7, -1, 1000):
        for node in range(trie.n_nodes):
            child = int(trie.child(np.array([node]), np.array([token]))[0])
            assert child == (trie.path[2, 1] if (node, token) == (trie.path[2, 0], 3) else -1)


def test_errors() -> None:
    with pytest.raises(ValueError, match="'A' has no tokens"):
        GeneTrie(["A"], [[]])
    with pytest.raises(ValueError, match="'A' and 'B' have the same tokens"):
        GeneTrie(["A", "B"], [[1, 2], [1, 2]])
