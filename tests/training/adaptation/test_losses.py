"""Losses of an adaptation beside slow twins, and vectors that are those of an embedding."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from cell2sen.engine.tokenization.tokenizer import fit
from cell2sen.training.adaptation.losses import two_views_loss, vectors_and_gene_loss


def test_two_views_loss_is_that_of_its_slow_twin() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 5, 3)) + 100  # far from 0, as hidden states are
    expected = 0.0
    for one, other in ((first, second), (second, first)):
        for row in range(5):
            likeness = [np.exp(-np.sum((one[row] - vector) ** 2) / 0.7) for vector in other]
            expected -= np.log(likeness[row] / np.sum(likeness)) / 10
    found = two_views_loss(torch.tensor(first), torch.tensor(second), 0.7)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_two_views_loss_of_vectors_that_say_nothing_and_all() -> None:
    same = torch.ones(8, 4)
    assert float(two_views_loss(same, same, 0.1)) == pytest.approx(np.log(8))
    apart = 10 * torch.eye(8)
    assert float(two_views_loss(apart, apart, 0.1)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("architecture", "kind"), [("gpt_neox", "bytes"), ("gpt_neox", "genes"), ("gemma2", "spm")])
def test_vectors_are_those_of_an_embedding_and_genes_have_the_loss(architecture: str, kind: str) -> None:
    backend = tiny.backend(architecture, kind)
    prompts = tiny.prompts(5)
    fitted, _ = fit(prompts, context=tiny.CONTEXT, reserved_tokens=[0] * 5, count=backend.tokens.lengths)
    rows = backend.tokens.encode(fitted)
    with torch.no_grad():
        vectors, loss = vectors_and_gene_loss(backend.network, rows, context=tiny.CONTEXT, with_genes=True, limit=None)
    np.testing.assert_allclose(vectors.numpy(), backend.embed(prompts).vectors, rtol=1e-4, atol=1e-5)
    each = []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype(np.int64))
        with torch.no_grad():
            logs = backend.network(input_ids=ids[None]).logits[0].float().log_softmax(-1)
        losses = [-float(logs[place - 1, ids[place]]) for place in np.flatnonzero(row.genes >= 0) if place]
        each.append(np.mean(losses))
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-4)


def test_without_genes_there_is_no_loss_of_genes() -> None:
    backend = tiny.backend()
    rows = backend.tokens.encode(tiny.prompts(2))
    assert float(vectors_and_gene_loss(backend.network, rows, context=tiny.CONTEXT, with_genes=False)[1]) == 0
