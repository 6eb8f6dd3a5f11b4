"""Pooling ignores padding, on either side."""

from __future__ import annotations

import pytest
import torch

from cell2sen.backend import POOLINGS
from cell2sen.engine.embedding import pool, pooled_tokens

LENGTHS, LONGEST, HIDDEN = (5, 2, 7, 1), 7, 3


def batch(side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Hidden states with NaN in the padding, real tokens, genes, and the rows without padding."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.full((len(LENGTHS), LONGEST, HIDDEN), torch.nan)
    real, gene = torch.zeros(hidden.shape[:2], dtype=torch.bool), torch.full(hidden.shape[:2], -1)
    rows, genes = [], []
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(LONGEST - length, LONGEST)
        rows.append(torch.randn((length, HIDDEN), generator=random))
        genes.append(torch.arange(length) - int(length > 1))
        hidden[row, place], real[row, place], gene[row, place] = rows[-1], True, genes[-1]
    return hidden, real, gene, rows, genes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_equals_pooling_row_by_row(pooling: str, side: str) -> None:
    hidden, real, gene, rows, genes = batch(side)
    pooled = pool(hidden, pooled_tokens(pooling, real, gene))
    assert pooled.dtype == torch.float32
    for vector, row, of_token in zip(pooled, rows, genes, strict=True):
        picked = {"mean": row, "genes": row[of_token >= 0] if len(row) > 1 else row, "last": row[-1:]}[pooling]
        torch.testing.assert_close(vector, picked.sum(0) / len(picked))


def test_sums_in_float32() -> None:
    # In bfloat16 a sum of ones stays at 256.
    hidden = torch.ones((1, 1000, 1), dtype=torch.bfloat16)
    pooled = pool(hidden, torch.ones((1, 1000), dtype=torch.bool))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


def test_genes_in_padding_do_not_count() -> None:
    real = torch.tensor([[True, True, False]])
    assert pooled_tokens("genes", real, torch.tensor([[-1, 0, 1]])).tolist() == [[False, True, False]]


def test_errors() -> None:
    real, gene = torch.ones((2, 3), dtype=torch.bool), torch.tensor([[0, 0, 0], [-1, -1, -1]])
    with pytest.raises(ValueError, match=r"no pooling 'cls'; available: \['mean', 'genes', 'last'\]"):
        pooled_tokens("cls", real, gene)
    with pytest.raises(ValueError, match="'genes' needs at least one gene in each prompt"):
        pooled_tokens("genes", real, gene)
    with pytest.raises(ValueError, match="'last' needs at least one token in each prompt"):
        pooled_tokens("last", torch.zeros_like(real), gene)
