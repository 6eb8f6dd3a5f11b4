"""Expected expression of a guided answer, from next-gene probabilities.

For models with one token per gene. Counts of drawn genes are a noisy estimate of expression: a gene may be drawn in one
cell of ten. At every rank the model gives a probability to each gene. The sum over ranks of probability × value of the
rank has the same mean and far less noise, since only the genes before a rank are drawn (Rao-Blackwell estimate, Casella
and Robert 1996).

Axes in names: B rows still being written, G genes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.data.progress import step
from cell2sen.engine.decoding.sampling import draw
from cell2sen.engine.network.causal_lm import CausalLM, Head


def expected_values(
    causal: CausalLM,
    rows: Sequence[NDArray[np.int32]],
    gene_ids: NDArray[np.int64],
    n_genes: Sequence[int],
    rank_values: Sequence[NDArray[np.floating[Any]]],
    keys: Sequence[int],
) -> NDArray[np.float32]:
    """Expected value of each gene in the answer of each row.

    Parameters
    ----------
    rows
        Token ids of the prompts.
    gene_ids
        Token of each gene, int64 (G,), all different. An answer has each gene at most once.
    n_genes
        Genes in the answer of each row.
    rank_values
        Of each row, the value of a gene at each rank of its answer, float (at least ``n_genes[row]``,).
    keys
        Key of each row (:func:`cell2sen.engine.decoding.sampling.row_key`). Draws are those of guided generation.

    Returns
    -------
    float32 (rows, G). A row's sum is that of ``rank_values[row][:n_genes[row]]``.
    """
    total = torch.zeros(len(rows), len(gene_ids), dtype=torch.float32, device=causal.device)
    unused_BG = torch.ones(len(rows), len(gene_ids), dtype=torch.bool, device=causal.device)
    capacity = max(len(row) + number for row, number in zip(rows, n_genes, strict=True))
    cache = causal.prefill([row[:-1] for row in rows], capacity)
    head = Head(causal, gene_ids)
    keys_B, tokens_G = (torch.tensor(array, dtype=torch.int64, device=causal.device) for array in (keys, gene_ids))
    live = np.arange(len(rows))
    last, position = np.array([row[-1] for row in rows]), np.array([len(row) - 1 for row in rows])
    values_BR = torch.zeros(len(rows), max(n_genes), dtype=torch.float32)
    for row, number in enumerate(n_genes):
        values_BR[row, :number] = torch.from_numpy(np.asarray(rank_values[row][:number], dtype=np.float32))
    values_BR = values_BR.to(causal.device)
    for rank in range(max(n_genes)):
        step(rank / max(n_genes))
        hidden_BD = causal.hidden_states(last[:, None], position[:, None], cache)[:, -1]
        logits_BG = head.logits(hidden_BD).masked_fill(~unused_BG, -torch.inf)
        live_rows = torch.from_numpy(live).to(causal.device)
        total[live_rows] += values_BR[live_rows, rank, None] * logits_BG.softmax(dim=1)
        gene = draw(logits_BG, keys_B, torch.full_like(keys_B, rank), tokens_G, temperature=1.0)
        unused_BG[torch.arange(len(live), device=causal.device), gene] = False
        last, position = gene_ids[gene.cpu().numpy()], position + 1
        unfinished = np.flatnonzero(np.asarray(n_genes)[live] > rank + 1)
        if len(unfinished) < len(live):
            if not len(unfinished):
                break
            kept = torch.from_numpy(unfinished).to(causal.device)
            cache.select_rows(kept)
            unused_BG, keys_B, live = unused_BG[kept], keys_B[kept], live[unfinished]
            last, position = last[unfinished], position[unfinished]
    return total.cpu().numpy()
