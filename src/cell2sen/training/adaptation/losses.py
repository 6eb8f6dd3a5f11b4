"""Losses of an adaptation: next gene of the cell's own sentence, and two views of one cell among those of others.

Axes in names: B batch of cells, L length, D hidden size; views are rows 0 to B − 1 and B to 2 B − 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cell2sen.engine.embedding import pool, pooled_tokens
from cell2sen.engine.tokenization.tokenizer import Tokenized, pad
from cell2sen.training.network.loading import without_adapters
from cell2sen.training.network.token_loss import draw_tokens, mean_of_samples

#: Random genes of each sentence whose loss is computed in a step; the head of a large vocabulary costs most.
GENES_WITH_LOSS = 48


def two_views_loss(first_BD: torch.Tensor, second_BD: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of a cell's second view among the second views of all cells, and the other way round, nats.

    The logit of a pair is −(squared Euclidean distance) / `temperature` (InfoNCE; van den Oord et al., 2018): nearest
    cells are found by this distance. 0 if all views are found with certainty, ln B if the vectors say nothing.

    Parameters
    ----------
    first_BD, second_BD
        Vectors of both views of each cell, in units of the mean distance of cells from their mean.
    """
    # Around their mean, so that small distances of long vectors are not lost to rounding.
    centre_D = (first_BD.mean(dim=0) + second_BD.mean(dim=0)).detach() / 2
    first_BD, second_BD = first_BD - centre_D, second_BD - centre_D
    distance_BB = (first_BD**2).sum(1)[:, None] + (second_BD**2).sum(1)[None, :] - 2 * first_BD @ second_BD.T
    logits_BB = -distance_BB / temperature
    same_B = torch.arange(len(first_BD), device=first_BD.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits_BB, same_B) + cross_entropy(logits_BB.T, same_B)) / 2


def vectors_and_gene_loss(
    network: Any, rows: Sequence[Tokenized], *, context: int, with_genes: bool, limit: int | None = GENES_WITH_LOSS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of prompts as :meth:`cell2sen.backend.Backend.embed` returns them, and the loss of their next genes.

    Parameters
    ----------
    network
        Causal LM, with peft's adapters or without.
    context
        Maximum number of tokens of a prompt.
    with_genes
        Compute the loss of genes; else it is 0.
    limit
        Random genes of each prompt whose loss is computed; ``None`` for all.

    Returns
    -------
    Vectors, float32 (rows, D), and the mean over prompts of the mean loss of their gene tokens, nats.
    """
    causal = without_adapters(network)
    device = causal.get_input_embeddings().weight.device
    ids_BL, real_BL, gene_BL = (torch.from_numpy(array).to(device) for array in pad(rows, "right", context))
    # Padding on the right comes after all real tokens: the causal mask hides it.
    hidden_BLD = causal.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    vectors_BD = pool(hidden_BLD, pooled_tokens("mean", real_BL, gene_BL))
    if not with_genes:
        return vectors_BD, vectors_BD.new_zeros(())
    chosen_BL = draw_tokens(gene_BL[:, 1:] >= 0, limit)
    return vectors_BD, mean_of_samples(causal, hidden_BLD[:, :-1], ids_BL[:, 1:], chosen_BL)
