"""Expected values of genes: equal to the sum over all answers, and of each row alone."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from cell2sen.backend import Unsupported
from cell2sen.prompt import Prompt

pytestmark = pytest.mark.slow

GENES = tiny.GENES[:5]
RANK_VALUES = np.array([4.0, 2.0, 1.0])


def enumerated(backend: Any, prompt: Prompt, genes: list[str], n_genes: int) -> np.ndarray:
    """Expected values from the probability of every possible answer, with a full forward pass for each rank."""
    [ids] = [row.ids.tolist() for row in backend.tokens.encode([prompt])]
    tokens = [backend.tokens.ids([" " + gene])[0][0] for gene in genes]

    @functools.cache
    def next_token(prefix: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            return backend.network(input_ids=torch.tensor([[*ids, *prefix]])).logits[0, -1].double().numpy()

    total = np.zeros(len(genes))
    for answer in itertools.permutations(range(len(genes)), n_genes):
        probability, value = 1.0, np.zeros(len(genes))
        for place, gene in enumerate(answer):
            logits = next_token(tuple(tokens[other] for other in answer[:place]))
            free = [other for other in range(len(genes)) if other not in answer[:place]]
            weights = np.exp(logits[[tokens[other] for other in free]])
            probability *= weights[free.index(gene)] / weights.sum()
            value[gene] = RANK_VALUES[place]
        total += probability * value
    return total


def test_the_first_rank_is_exact_and_the_mean_of_many_draws_is_the_sum_over_all_answers() -> None:
    backend = tiny.backend("gemma2", "genes")
    [prompt] = tiny.prompts(1, answer_genes=0)
    first = backend.expect([replace(prompt, answer_genes=1)], GENES, [RANK_VALUES])
    np.testing.assert_allclose(first[0], enumerated(backend, prompt, GENES, 1), rtol=1e-4)
    rows = [replace(prompt, answer_genes=3, key=f"draw{number}") for number in range(400)]
    result = backend.expect(rows, GENES, [RANK_VALUES] * len(rows))
    np.testing.assert_allclose(result.sum(axis=1), RANK_VALUES.sum(), rtol=1e-5)
    error = result.std(axis=0) / np.sqrt(len(rows))
    assert (np.abs(result.mean(axis=0) - enumerated(backend, prompt, GENES, 3)) < 4 * error + 1e-3).all()
    # Less than the standard deviation of counting drawn genes.
    assert (result.std(axis=0) < 2).all()


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_a_row_does_not_depend_on_its_batch(architecture: str) -> None:
    prompts = tiny.prompts(7)
    values = [np.linspace(3, 1, 9) + row for row in range(7)]
    together = tiny.backend(architecture, "genes").expect(prompts, tiny.GENES, values)
    alone = tiny.backend(architecture, "genes", batch_size=1).expect(prompts[::-1], tiny.GENES, values[::-1])
    np.testing.assert_allclose(together, alone[::-1], atol=1e-5)
    other = tiny.backend(architecture, "genes").expect(prompts, tiny.GENES, values, seed=1)
    assert not np.allclose(together, other, atol=1e-3)


def test_genes_of_several_tokens_raise() -> None:
    with pytest.raises(Unsupported, match="as several tokens"):
        tiny.backend("gpt_neox", "bytes").expect(tiny.prompts(1), tiny.GENES, [RANK_VALUES])


def test_no_prompts() -> None:
    assert tiny.backend("gpt_neox", "genes").expect([], tiny.GENES, []).shape == (0, len(tiny.GENES))
