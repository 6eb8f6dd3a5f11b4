"""Packed samples: loss, gradients and training equal those of padded samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sft_trainers import batch, pairs, trainer_of

from cell2sen.training.examples.pairs import Pair
from cell2sen.training.trainers.packing import packed_rows
from cell2sen.training.trainers.token_batches import GroupedOrder, samples

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def test_rows_hold_every_sample_once_and_no_more_than_the_longest() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        lengths = generator.integers(1, 60, 30).tolist()
        rows = packed_rows(lengths)
        assert sorted(sample for row in rows for sample in row) == list(range(30))
        assert all(sum(lengths[sample] for sample in row) <= max(lengths) for row in rows)
        assert len(rows) < 30


def test_rows_with_room_for_more_than_the_longest() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 30).tolist()
    rows = packed_rows(lengths, 500)
    assert sorted(sample for row in rows for sample in row) == list(range(30))
    assert len(rows) == -(-sum(lengths) // 500)
    assert packed_rows(lengths, 10) == packed_rows(lengths)


@pytest.mark.parametrize("packed_tokens", [0, 2000])
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_loss_and_gradients_equal_those_of_padded_rows(
    architecture: str, side: str, packed_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny.network(architecture, tiny.tokens("bytes").tokenizer.get_vocab_size())
    short = [Pair(task, prompt.shorten(3 * n), " T.") for n, (task, prompt, _) in enumerate(pairs(8))]
    dataset = samples(short + pairs(2), tiny.tokens("bytes"), 512)
    widths: list[torch.Size] = []
    forward = type(network.base_model).forward

    def spy(module: Any, *args: Any, **options: Any) -> Any:
        widths.append(options["input_ids"].shape)
        return forward(module, *args, **options)

    monkeypatch.setattr(type(network.base_model), "forward", spy)
    losses, gradients = [], []
    for packing in (False, True):
        options = {"packing": packing, "packed_tokens": packed_tokens}
        trainer = trainer_of(tmp_path / str(packing), network, dataset, prompt_loss=0.3, **options)
        network.train()
        network.zero_grad()
        losses.append(trainer.compute_loss(network, batch(dataset, side)))
        losses[-1].backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, packed, rtol=1e-3, atol=2e-5)
    assert widths[1][0] == len(packed_rows(dataset["length"], packed_tokens)) < widths[0][0], (
        "fewer tokens are computed"
    )
    assert widths[1][1] <= max(widths[0][1], packed_tokens)


@pytest.mark.slow
def test_packed_training_equals_padded_training(tmp_path: Path) -> None:
    dataset = samples(pairs(12), tiny.tokens("bytes"), 512)
    trained = []
    for packing in (False, True):
        network = tiny.network("gpt_neox", tiny.tokens("bytes").tokenizer.get_vocab_size())
        trainer = trainer_of(tmp_path / str(packing), network, dataset, 4, max_steps=3, packing=packing)
        trainer._get_train_sampler = lambda *_: GroupedOrder(dataset["length"], 4, 0)
        trainer.train()
        trained.append(list(network.parameters()))
    for padded, packed in zip(*trained, strict=True):
        torch.testing.assert_close(padded, packed, rtol=1e-4, atol=1e-5)
