"""All settings together: those that reinforcement learning excludes."""

from __future__ import annotations

from typing import Any

import pytest
from training_runs import config

from cell2sen.training.config.settings import TrainConfig


@pytest.mark.parametrize(
    ("changes", "start", "message"),
    [
        ({}, None, "name it as model.start"),
        ({"model.lora": {}, "model.quantize": "4bit"}, "x", "does not work with model.quantize"),
        ({"model.gene_tokens": {}}, "x", "needs a training on pairs: run it first"),
        ({"compute.gradient_accumulation": 4}, "x", "gradient_accumulation is for trainings on pairs: with grpo, grpo"),
        ({"compute.packing": True}, "x", "compute.packing is for trainings on pairs"),
        ({"optimiser.prompt_loss": 0.1}, "x", "prompt_loss and loss_tokens are for trainings on pairs"),
        ({"optimiser.loss_tokens": 9}, "x", "prompt_loss and loss_tokens are for trainings on pairs"),
    ],
)
def test_grpo_excludes(changes: dict[str, Any], start: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config({**changes, "grpo": {}}, start=start)


def test_groups_have_defaults() -> None:
    settings = config()
    minimal = TrainConfig(data=settings.data, model=settings.model)
    assert (minimal.optimiser.weight_decay, minimal.checkpoints.eval_pairs, minimal.card.score_cells) == (
        0.01,
        500,
        100,
    )
