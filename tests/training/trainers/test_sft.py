"""Loss in which each answer has the same weight, beside a slow twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sft_trainers import batch, pairs, slow_loss, trainer_of

from cell2sen.engine.network import attention
from cell2sen.training.trainers.token_batches import samples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
class TestLoss:
    @pytest.fixture
    def network(self, architecture: str) -> Any:
        return tiny.network(
            architecture, tiny.tokens("bytes").tokenizer.get_vocab_size(), implementation=attention.NAME
        )

    @pytest.fixture
    def dataset(self) -> Any:
        return samples(pairs(6), tiny.tokens("bytes"), 512)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("prompt_loss", [0.0, 0.3])
    def test_equals_the_slow_twin(
        self, network: Any, dataset: Any, tmp_path: Path, side: str, prompt_loss: float
    ) -> None:
        trainer = trainer_of(tmp_path, network, dataset, prompt_loss=prompt_loss)
        network.train()
        loss = trainer.compute_loss(network, batch(dataset, side))
        expected = slow_loss(network, dataset, prompt_loss)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        loss.backward()
        fast = [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
        expected.backward()
        for gradient, parameter in zip(fast, network.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=2e-5)

    def test_gradients_of_own_attention_equal_eager(
        self, architecture: str, network: Any, dataset: Any, tmp_path: Path
    ) -> None:
        eager = tiny.network(architecture, network.config.vocab_size, implementation="eager")
        for model in (network, eager):
            trainer_of(tmp_path, model, dataset).compute_loss(model, batch(dataset)).backward()
        for (name, own), other in zip(network.named_parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=2e-5, msg=name)

    def test_cap_of_the_logits_matters_here(
        self, architecture: str, network: Any, dataset: Any, tmp_path: Path
    ) -> None:
        before = trainer_of(tmp_path, network, dataset).compute_loss(network, batch(dataset)).item()
        if architecture == "gemma2":
            assert network.config.final_logit_softcapping
            network.config.final_logit_softcapping = None
            after = trainer_of(tmp_path, network, dataset).compute_loss(network, batch(dataset)).item()
            assert abs(before - after) > 0.1

    def test_drawn_tokens_estimate_it_without_bias(self, network: Any, dataset: Any, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, network, dataset, prompt_loss=0.5, loss_tokens=5)
        network.train()
        torch.manual_seed(0)
        with torch.no_grad():
            drawn = [trainer.compute_loss(network, batch(dataset)).item() for _ in range(300)]
            exact = slow_loss(network, dataset, 0.5).item()
        error = np.std(drawn) / np.sqrt(len(drawn))
        assert error > 0
        assert abs(np.mean(drawn) - exact) < 4 * error
        network.eval()
        exact = trainer.compute_loss(network, batch(dataset)).item()
        assert exact == pytest.approx(slow_loss(network, dataset).item(), abs=1e-5), (
            "evaluation takes all tokens, answers only"
        )

    def test_accumulated_batches_are_one_large_batch(
        self, network: Any, dataset: Any, architecture: str, tmp_path: Path
    ) -> None:
        whole = tiny.network(architecture, network.config.vocab_size)
        trainer_of(tmp_path / "a", network, dataset, 2, gradient_accumulation_steps=3, max_steps=1).train()
        trainer_of(tmp_path / "b", whole, dataset, 6, max_steps=1).train()
        for parameter, other in zip(network.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)
