"""Log-probabilities of a closed set of answers, read as one token tree.

Each prompt is read once. Answers with the same beginning share its tokens. A token sees the prompt and its ancestors in
the tree, as if its answer were alone. With a small network or a large vocabulary most of the time goes into the sums
over the vocabulary after each node; with a margin they are computed only where an answer may be likely.

Axes in names: B cells of the batch, Q nodes of the tree, E edges, A answers, D hidden size, C columns (tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.network.batching import RunBatches
from cell2sen.engine.network.causal_lm import CausalLM, Head
from cell2sen.engine.network.kv_cache import KeyValueCache
from cell2sen.engine.tokenization.tokenizer import Rests, Tokens
from cell2sen.prompt import Prompt

#: Maximum number of nodes of a tree in one pass: attention takes time and memory for each pair of nodes.
_MAX_NODES = 256


def score(
    causal: CausalLM,
    tokens: Tokens,
    prompts: Sequence[Prompt],
    lengths: NDArray[np.int64],
    answers: Sequence[str],
    *,
    run: RunBatches,
    margin: float | None = None,
) -> NDArray[np.float64]:
    """Log-probabilities as :meth:`cell2sen.backend.Backend.score` returns them, for prompts that fit into the context.

    Parameters
    ----------
    lengths
        Tokens of each prompt and its longest answer, int64 (n,).
    run
        Processes all rows in batches.
    """
    scores = np.zeros((len(prompts), len(answers)), dtype=np.float64)

    def score_batch(batch: list[int]) -> None:
        cells = tokens.continued([prompts[row] for row in batch], answers)
        prefixes = [prefix for prefix, _ in cells]
        if empty := [prompts[row].key for row, prefix in zip(batch, prefixes, strict=True) if not len(prefix)]:
            raise ValueError(f"the prompts of {empty} have no token before the answer; begin them with text")
        # Cells whose answers have the same tokens share a tree; mostly these are all cells.
        groups: dict[Rests, list[int]] = {}
        for place, (_, rests) in enumerate(cells):
            groups.setdefault(rests, []).append(place)
        for rests, places in groups.items():
            scores[[batch[place] for place in places]] = _score_group(
                causal, [prefixes[place] for place in places], rests, margin
            )

    run(score_batch, lengths + min(_MAX_NODES, int(tokens.count(answers).sum())), "scoring labels")
    return scores


@dataclass(frozen=True)
class _Tree:
    """Token tree of continuations of a prefix: node 0 is its last token, edges lead to the tokens after a node."""

    token: NDArray[np.int64]
    """Token of each node, int64 (Q,); that of node 0 is not used."""

    depth: NDArray[np.int64]
    """Number of edges from node 0 to each node, int64 (Q,)."""

    ancestors: NDArray[np.bool_]
    """Which nodes (columns) are ancestors of each node (rows) or the node itself, bool (Q, Q)."""

    edge_node: NDArray[np.int64]
    edge_token: NDArray[np.int64]
    """Node and token of each edge, each int64 (E,)."""

    paths: list[list[int]]
    """Edges of each continuation, in order."""


def _tree(rests: Sequence[tuple[int, ...]]) -> _Tree:
    """Token tree of continuations. The last token of each is an edge without a node, since no token follows it."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[tuple[int, int], int] = {}
    paths: list[list[int]] = []
    for ids in rests:
        paths.append([])
        for index, token in enumerate(ids):
            node = nodes.setdefault(ids[:index], len(nodes))
            paths[-1].append(edges.setdefault((node, token), len(edges)))
    ancestors = np.eye(len(nodes), dtype=bool)
    for ids, node in nodes.items():  # parents come before their children
        if ids:
            ancestors[node] |= ancestors[nodes[ids[:-1]]]
    edge_node, edge_token = np.array(list(edges), dtype=np.int64).reshape(-1, 2).T
    return _Tree(
        token=np.array([ids[-1] if ids else 0 for ids in nodes], dtype=np.int64),
        depth=np.array([len(ids) for ids in nodes], dtype=np.int64),
        ancestors=ancestors,
        edge_node=edge_node,
        edge_token=edge_token,
        paths=paths,
    )


def _score_group(
    causal: CausalLM, prefixes: Sequence[NDArray[np.int32]], rests: Rests, margin: float | None
) -> NDArray[np.float64]:
    """Log-probability of each continuation of each prefix, float64 (B, continuations)."""
    cache = causal.prefill([prefix[:-1] for prefix in prefixes], max(map(len, prefixes)) + _MAX_NODES)
    scores = np.zeros((len(prefixes), len(rests)), dtype=np.float64)
    remaining = sorted({ids for ids, _ in rests if ids})
    while remaining:
        inner: set[tuple[int, ...]] = {()}
        n_taken = 0  # sorted, so that neighbours share most tokens
        for ids in remaining:
            inner |= {ids[:length] for length in range(1, len(ids))}
            if len(inner) > _MAX_NODES and n_taken:
                break
            n_taken += 1
        part, remaining = remaining[:n_taken], remaining[n_taken:]
        tree = _tree(part)
        path = dict(zip(part, tree.paths, strict=True))
        columns = [column for column, (ids, _) in enumerate(rests) if ids in path]
        counted = [path[rests[column][0]][rests[column][1] :] for column in columns]
        scores[:, columns] = _sums_over_edges(causal, prefixes, tree, cache, counted, margin)
    return scores


def _sums_over_edges(
    causal: CausalLM,
    prefixes: Sequence[NDArray[np.int32]],
    tree: _Tree,
    cache: KeyValueCache,
    counted: Sequence[Sequence[int]],
    margin: float | None,
) -> NDArray[np.float64]:
    """Sum of the log-probabilities of the edges of each answer (`counted`), after each prefix, float64 (B, A)."""
    n_rows, n_nodes = len(prefixes), len(tree.token)
    ids_BQ = np.tile(tree.token, (n_rows, 1))
    ids_BQ[:, 0] = [prefix[-1] for prefix in prefixes]
    lengths = np.array([len(prefix) - 1 for prefix in prefixes], dtype=np.int64)
    hidden_BQD = causal.tree_hidden_states(ids_BQ, tree.depth, tree.ancestors, lengths, cache)
    tokens_C, column_E = np.unique(tree.edge_token, return_inverse=True)
    head = Head(causal, tokens_C)
    on_path_EA = np.zeros((len(tree.edge_node), len(counted)))
    for answer, edges in enumerate(counted):
        on_path_EA[edges, answer] = 1
    if margin is None or not head.is_plain:
        log_p_BQC = head.log_probabilities(hidden_BQD.flatten(0, 1)).cpu().numpy().reshape(n_rows, n_nodes, -1)
        exact_BA: NDArray[np.float64] = log_p_BQC[:, tree.edge_node, column_E] @ on_path_EA
        return exact_BA
    return _sums_within_margin(head, hidden_BQD, tree.edge_node, column_E, on_path_EA, margin)


def _sums_within_margin(
    head: Head,
    hidden_BQD: torch.Tensor,
    node_E: NDArray[np.int64],
    column_E: NDArray[np.int64],
    on_path_EA: NDArray[np.float64],
    margin: float,
) -> NDArray[np.float64]:
    """The same sums, but upper bounds for answers that are less likely than the likeliest by more than `margin`.

    With a sum over the tree's own tokens instead of the vocabulary, which is smaller, the log-probability of each
    answer is too large: an upper bound. Sums over the vocabulary are computed for the answer with the highest bound,
    since the likeliest answer is at least as likely as it, then for all answers whose bound is within the margin.
    """
    n_rows, n_nodes = hidden_BQD.shape[:2]
    logits_BQC = head.logits(hidden_BQD.flatten(0, 1)).double().reshape(n_rows, n_nodes, -1)
    normaliser_BQ = logits_BQC.logsumexp(dim=2).cpu().numpy()
    logits_BE: NDArray[np.float64] = logits_BQC.cpu().numpy()[:, node_E, column_E]
    on_path_QA = np.zeros((n_nodes, on_path_EA.shape[1]), dtype=bool)
    np.logical_or.at(on_path_QA, node_E, on_path_EA > 0)
    exact_BQ = np.zeros((n_rows, n_nodes), dtype=bool)

    def bounds_BA() -> NDArray[np.float64]:
        bounds: NDArray[np.float64] = (logits_BE - normaliser_BQ[:, node_E]) @ on_path_EA
        return bounds

    def sum_over_vocabulary(needed_BQ: NDArray[np.bool_]) -> None:
        missing = needed_BQ & ~exact_BQ
        if missing.any():
            hidden_ND = hidden_BQD[torch.from_numpy(missing).to(hidden_BQD.device)]
            normaliser_BQ[missing] = head.log_normaliser(hidden_ND).cpu().numpy()
            exact_BQ[missing] = True

    first_B = bounds_BA().argmax(axis=1)
    sum_over_vocabulary(on_path_QA.T[first_B])
    bounds = bounds_BA()
    likely_BA = bounds >= np.take_along_axis(bounds, first_B[:, None], axis=1) - margin
    sum_over_vocabulary(likely_BA @ on_path_QA.T)
    return bounds_BA()
