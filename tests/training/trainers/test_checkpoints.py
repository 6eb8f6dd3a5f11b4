"""Checkpoints whose weights have other names than the modules of the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from cell2sen.training.trainers.checkpoints import Restoring


class Nothing:
    """A trainer that restores nothing by itself."""

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        pass

    def _load_best_model(self) -> None:
        pass


class Trainer(Restoring, Nothing):
    def __init__(self, model: Any, best: str) -> None:
        self.model, self.state = model, SimpleNamespace(best_model_checkpoint=best)
        self.accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=None))


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("best", [True, False])
def test_all_weights_are_restored(architecture: str, best: bool, tmp_path: Path) -> None:
    stored, other = (tiny.network(architecture, 50, seed=seed, tie_word_embeddings=False) for seed in (0, 1))
    stored.save_pretrained(tmp_path)
    trainer = Trainer(other, str(tmp_path))
    if best:
        trainer._load_best_model()
    else:
        trainer._load_from_checkpoint(str(tmp_path))
    for (name, weight), restored in zip(stored.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, restored), name


def test_adapters_are_left_to_the_trainer(tmp_path: Path) -> None:
    network = tiny.network("gpt_neox", 50)
    network.peft_config = {}
    Trainer(network, str(tmp_path))._load_from_checkpoint(str(tmp_path))
