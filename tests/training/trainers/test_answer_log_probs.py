"""Log-probabilities and gradients of guided answers against a slow twin."""

from __future__ import annotations

import contextlib

import pytest
import tiny
import torch
from rollouts import GENES, KINDS, guidance_of, padded, rollout_backend, slow_log_probs

from cell2sen.backend import Sampling
from cell2sen.training.trainers import answer_log_probs as module
from cell2sen.training.trainers.answer_log_probs import answer_log_probs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
@pytest.mark.parametrize("guided", [True, False])
def test_probabilities_are_those_of_the_masked_distribution(architecture: str, kind: str, guided: bool) -> None:
    backend = rollout_backend(architecture, kind, batch_size=3)
    rollouts = backend.roll(tiny.prompts(5), Sampling(temperature=0.7, max_new_tokens=6), GENES if guided else None)
    ids, mask, keep = padded(rollouts)
    guidance = guidance_of(rollouts) if guided else None
    log_probs, entropy = answer_log_probs(backend.network, ids, mask, keep, guidance, 0.7, contextlib.nullcontext)
    for row, rollout in enumerate(rollouts):
        expected = slow_log_probs(backend.network, rollout, 0.7)
        torch.testing.assert_close(log_probs[row, : len(rollout.ids)], expected, rtol=1e-4, atol=1e-4)
        assert not log_probs[row, len(rollout.ids) :].any()
    assert (entropy >= 0).all()
    assert entropy.max() > 0.01
    # The distribution differs from that over all tokens where some are not allowed.
    if guided:
        free, _ = answer_log_probs(backend.network, ids, mask, keep, None, 0.7, contextlib.nullcontext)
        assert (log_probs >= free - 1e-4).all()
        assert (log_probs - free).max() > 0.5


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_gradients_equal_the_slow_twin(architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOGITS", 500)  # several parts
    backend = rollout_backend(architecture, kind)
    rollouts = backend.roll(tiny.prompts(3, answer_genes=2), Sampling(temperature=1.0), GENES)
    ids, mask, keep = padded(rollouts)
    log_probs, _ = answer_log_probs(
        backend.network, ids, mask, keep, guidance_of(rollouts), 1.0, contextlib.nullcontext
    )
    weights = torch.linspace(-1, 1, 3)
    (log_probs.sum(dim=1) * weights).sum().backward()
    fast = [parameter.grad.clone() for parameter in backend.network.parameters()]
    backend.network.zero_grad()
    slow = [slow_log_probs(backend.network, rollout, 1.0).sum() for rollout in rollouts]
    sum(weight * value for weight, value in zip(weights, slow, strict=True)).backward()
    for gradient, parameter in zip(fast, backend.network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4)
