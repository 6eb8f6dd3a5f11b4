"""What a guided answer holds on average, for models that write each gene as one token.

Drawn answers say little about a mean: one of two hundred genes may be drawn in one cell of ten. But at every place the
model says how likely each gene is, so the sum over the places of probability × worth of the place is an estimate of a
gene's expected worth with the same mean and far less noise (Rao-Blackwell: only what stands before a place is drawn).

Axes in names: B rows still being written, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.decoding.loop import draw
from cell2sen.engine.network.causal_lm import Causal, Head


def expected(
    causal: Causal,
    rows: Sequence[NDArray[np.int32]],
    gene_ids: NDArray[np.int64],
    asks: Sequence[int],
    worth: NDArray[np.float64],
    keys: Sequence[int],
) -> NDArray[np.float32]:
    """Expected worth of each gene in the answer of each row.

    Parameters
    ----------
    rows
        Token ids of the prompts.
    gene_ids
        The token of each gene, int64 (G,), all different. An answer has each gene at most once.
    asks
        Genes in the answer of each row.
    worth
        float64 (at least ``max(asks),``): what a gene is worth at each place of an answer, the first one first.
    keys
        For each row, see :func:`cell2sen.engine.decoding.sampling.row_key`. Drawn is what guided generation would draw.

    Returns
    -------
    float32 (rows, G). A row's sum is that of ``worth[:ask]``.
    """
    total = torch.zeros(len(rows), len(gene_ids), dtype=torch.float32, device=causal.device)
    free_BG = torch.ones(len(rows), len(gene_ids), dtype=torch.bool, device=causal.device)
    slots = causal.begin([row[:-1] for row in rows], max(len(row) + ask for row, ask in zip(rows, asks, strict=True)))
    head = Head(causal, gene_ids)
    keys_B, tokens_G = (torch.tensor(each, dtype=torch.int64, device=causal.device) for each in (keys, gene_ids))
    live = np.arange(len(rows))
    last, place = np.array([row[-1] for row in rows]), np.array([len(row) - 1 for row in rows])
    for step in range(max(asks)):
        hidden_BD = causal.read(last[:, None], place[:, None], slots)[:, -1]
        logits_BG = head.logits(hidden_BD).masked_fill(~free_BG, -torch.inf)
        total[torch.from_numpy(live).to(causal.device)] += float(worth[step]) * logits_BG.softmax(dim=1)
        gene = draw(logits_BG, keys_B, torch.full_like(keys_B, step), tokens_G, temperature=1.0)
        free_BG[torch.arange(len(live), device=causal.device), gene] = False
        last, place = gene_ids[gene.cpu().numpy()], place + 1
        going = np.flatnonzero(np.asarray(asks)[live] > step + 1)
        if len(going) < len(live):
            if not len(going):
                break
            kept = torch.from_numpy(going).to(causal.device)
            slots.take(kept)
            free_BG, keys_B, live, last, place = free_BG[kept], keys_B[kept], live[going], last[going], place[going]
    return total.cpu().numpy()
