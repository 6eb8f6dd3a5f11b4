"""Log-probabilities of a closed set of answers: the prompt is read once, and all answers behind it as one tree.

Answers that begin alike share the tokens that they have in common. A token sees the prompt and what lies above it in
the tree, so it is read as if its answer stood alone.

Axes in names: B cells of the batch, Q nodes of the tree, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cell2sen.engine.network.causal_lm import Causal, Head, Slots
from cell2sen.engine.tokenization.tokenizer import Tokens, shared
from cell2sen.prompt import Prompt

#: Token ids behind what all texts of a cell share, and how many of them belong to the prompt still.
Rest = tuple[tuple[int, ...], int]

#: Nodes of a tree that are read in one pass at most: every node is compared with all others of its pass.
_NODES = 256


def score(
    causal: Causal,
    tokens: Tokens,
    prompts: Sequence[Prompt],
    lengths: NDArray[np.int64],
    answers: Sequence[str],
    *,
    run: Callable[[Callable[[list[int]], None], NDArray[np.int64], str], None],
) -> NDArray[np.float64]:
    """What :meth:`cell2sen.backend.Backend.score` says, of prompts that fit into the context.

    Parameters
    ----------
    lengths
        Tokens of each prompt and its longest answer, int64 (n,).
    run
        Calls its first argument with the rows of each batch (:func:`cell2sen.engine.network.batching.run`), given the
        lengths of all rows and a name for the progress bar.
    """
    scores = np.zeros((len(prompts), len(answers)), dtype=np.float64)

    def score_batch(batch: list[int]) -> None:
        cells = [tokens.encode([prompts[row]] * len(answers), answers) for row in batch]
        begun = [texts[0].ids[: shared(texts)] for texts in cells]
        if empty := [prompts[row].key for row, begin in zip(batch, begun, strict=True) if not len(begin)]:
            raise ValueError(f"the prompts of {empty} have no token before the answer")
        # Cells whose answers have the same tokens share a tree; mostly these are all.
        alike: dict[tuple[Rest, ...], list[int]] = {}
        for place, (texts, begin) in enumerate(zip(cells, begun, strict=True)):
            rests = tuple((tuple(text.ids[len(begin) :].tolist()), text.answer - len(begin)) for text in texts)
            alike.setdefault(rests, []).append(place)
        for rests, places in alike.items():
            scores[[batch[place] for place in places]] = _read(causal, [begun[place] for place in places], rests)

    run(score_batch, lengths + min(_NODES, int(tokens.count(answers).sum())), "score")
    return scores


@dataclass(frozen=True)
class _Tree:
    """Continuations of one text; node 0 is its last token, an edge leads from a node to each token that may follow."""

    token: NDArray[np.int64]
    """Token of each node, int64 (Q,); that of node 0 is not looked at."""

    depth: NDArray[np.int64]
    """Tokens between node 0 and each node, int64 (Q,)."""

    above: NDArray[np.bool_]
    """Which nodes (columns) each node (rows) follows, itself included, bool (Q, Q)."""

    edge_node: NDArray[np.int64]
    edge_token: NDArray[np.int64]
    """Edges by node, each int64 (edges,)."""

    paths: list[list[int]]
    """Edges of each continuation, in order."""


def _tree(rests: Sequence[tuple[int, ...]]) -> _Tree:
    """The tree of some continuations. The last token of each is an edge only: nothing is read behind it."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[tuple[int, int], int] = {}
    paths: list[list[int]] = []
    for ids in rests:
        paths.append([])
        for at, token in enumerate(ids):
            node = nodes.setdefault(ids[:at], len(nodes))
            paths[-1].append(edges.setdefault((node, token), len(edges)))
    above = np.eye(len(nodes), dtype=bool)
    for ids, node in nodes.items():  # a node is younger than the one above it
        if ids:
            above[node] |= above[nodes[ids[:-1]]]
    edge_node, edge_token = np.array(list(edges), dtype=np.int64).reshape(-1, 2).T
    return _Tree(
        token=np.array([ids[-1] if ids else 0 for ids in nodes], dtype=np.int64),
        depth=np.array([len(ids) for ids in nodes], dtype=np.int64),
        above=above,
        edge_node=edge_node,
        edge_token=edge_token,
        paths=paths,
    )


def _read(causal: Causal, begun: Sequence[NDArray[np.int32]], rests: Sequence[Rest]) -> NDArray[np.float64]:
    """Log-probability of each continuation of each text, float64 (B, continuations)."""
    slots = causal.begin([row[:-1] for row in begun], max(map(len, begun)) + _NODES)
    scores = np.zeros((len(begun), len(rests)), dtype=np.float64)
    distinct = sorted({ids for ids, _ in rests if ids})
    while distinct:
        inner: set[tuple[int, ...]] = {()}
        taken = 0  # neighbours in this order have most in common
        for ids in distinct:
            inner |= {ids[:at] for at in range(1, len(ids))}
            if len(inner) > _NODES and taken:
                break
            taken += 1
        part, distinct = distinct[:taken], distinct[taken:]
        tree = _tree(part)
        share_BE = _shares(causal, begun, tree, slots)
        path = dict(zip(part, tree.paths, strict=True))
        for column, (ids, start) in enumerate(rests):
            if ids in path:
                scores[:, column] = share_BE[:, path[ids][start:]].sum(axis=1)
    return scores


def _shares(causal: Causal, begun: Sequence[NDArray[np.int32]], tree: _Tree, slots: Slots) -> NDArray[np.float64]:
    """Log-probability of each edge's token behind its node and each text, float64 (B, edges)."""
    n_rows, n_nodes = len(begun), len(tree.token)
    ids_BQ = np.tile(tree.token, (n_rows, 1))
    ids_BQ[:, 0] = [row[-1] for row in begun]
    lengths = np.array([len(row) - 1 for row in begun], dtype=np.int64)
    hidden_BQD = causal.read_tree(ids_BQ, tree.depth, tree.above, lengths, slots)
    columns, column_E = np.unique(tree.edge_token, return_inverse=True)
    share_NC = Head(causal, columns).log_probabilities(hidden_BQD.flatten(0, 1))
    share_BQC: NDArray[np.float64] = share_NC.cpu().numpy().reshape(n_rows, n_nodes, len(columns))
    return share_BQC[:, tree.edge_node, column_E]
