"""Rollouts: answers of the backend, drawn with the probabilities that training computes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter

import numpy as np
import pytest
import tiny
from rollouts import GENES, KINDS, guidance_of, padded, rollout_backend

from cell2sen.backend import Sampling
from cell2sen.training.trainers.answer_log_probs import answer_log_probs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
@pytest.mark.parametrize("guided", [True, False])
def test_texts_are_those_of_generate(architecture: str, kind: str, guided: bool) -> None:
    backend = rollout_backend(architecture, kind, batch_size=3)
    prompts, genes = tiny.prompts(5), GENES if guided else None
    sampling = Sampling(temperature=0.7, max_new_tokens=6)
    rollouts = backend.roll(prompts, sampling, genes)
    assert [rollout.text for rollout in rollouts] == backend.generate(prompts, sampling, genes=genes)
    assert all((rollout.guidance is not None) == guided for rollout in rollouts)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        assert rollout.prompt_ids == backend.tokens.encode([prompt])[0].ids.tolist()


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_answers_are_drawn_with_these_probabilities(architecture: str, kind: str) -> None:
    backend = rollout_backend(architecture, kind)
    genes = ["CD4", "CD44", "CD8A", "HLA-A"]
    [prompt] = tiny.prompts(1, answer_genes=1)
    n = 600
    prompts = [dataclasses.replace(prompt, key=str(number)) for number in range(n)]
    rollouts = backend.roll(prompts, Sampling(temperature=0.5), genes)
    ids, mask, keep = padded(rollouts)
    log_probs, _ = answer_log_probs(
        backend.network, ids, mask, keep, guidance_of(rollouts), 0.5, contextlib.nullcontext
    )
    probabilities = {tuple(rollout.ids): log_probs[row].sum().exp().item() for row, rollout in enumerate(rollouts)}
    counts = Counter(tuple(rollout.ids) for rollout in rollouts)
    for answer, p in probabilities.items():
        assert abs(counts[answer] / n - p) < 4 * np.sqrt(p * (1 - p) / n) + 1e-6
    assert sum(probabilities.values()) > 0.97, "the drawn answers are nearly all possible ones"
    assert len({rollout.text for rollout in rollouts}) > 1
