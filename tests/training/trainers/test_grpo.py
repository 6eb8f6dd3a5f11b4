"""Reinforcement learning: rewards rise, the importance ratio is right, interrupted runs resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import tiny
import torch
from training_runs import Interrupted, card, config, interrupt, log_values, run

from cell2sen import backends, tasks, training
from cell2sen.backend import Sampling
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.model import Model
from cell2sen.training.trainers import grpo

pytestmark = pytest.mark.slow

FILE = {"tasks": ["perturb"]}
GENES = {"gmt": "sets.gmt", "sets": "IFN"}
# With these initial weights the responses are partly learned after few steps, so that rewards can rise.
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 64,
    "context": 256,
    "tokenizer": {"min_cells": 3},
    "initial": {"std": 0.02, "layer_norm_eps": 1e-5},
}


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model after 80 steps on responses."""
    changes = {
        "model.from_scratch": SHAPE,
        "data.lengths": {"perturb": 10},
        "optimiser.max_steps": 80,
        "optimiser.batch_size": 16,
        "optimiser.learning_rate": 3e-3,
        "checkpoints.eval_steps": 80,
    }
    return run(folder, tmp_path_factory.mktemp("grpo") / "start", config(changes, file={"tasks": {"perturb": 20}}))


def rewarded(start: Any, changes: dict[str, Any] | None = None, **answers: Any) -> training.TrainConfig:
    values = {
        "data.lengths": {},
        "grpo.genes": GENES,
        "grpo.answers": {"prompts": 4, "per_prompt": 4, "held_out": 12, **answers},
        "optimiser.max_steps": 4,
        "optimiser.batch_size": 16,
    }
    return config(values | (changes or {}), start=start, file=FILE)


def test_reward_on_held_out_cells_rises(folder: Path, tmp_path: Path, start: Model) -> None:
    changes = {
        "optimiser.max_steps": 24,
        "optimiser.learning_rate": 2e-3,
        "optimiser.batch_size": 32,
        "checkpoints.eval_steps": 12,
    }
    model = run(folder, tmp_path / "out", rewarded(start, changes, per_prompt=8, held_out=30))
    before, *_, after = rewards = log_values(model, "eval_reward")
    assert after > before + 0.1, rewards
    prompt = tasks.load("perturb").prompt(genes=model.genes[:10], perturbation="IFN-beta", key="a", answer_genes=10)
    [text] = backends.load(model, progress=False).generate([prompt], Sampling(), genes=model.genes)
    assert len(set(text.split())) == 10
    assert f"{before:.3f}" in card(model)
    assert f"{after:.3f}" in card(model)


def test_prompts_have_context(folder: Path, tmp_path: Path, start: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are of answers to prompts with metadata, as in use of the model."""
    texts: list[str] = []
    generate = TransformersBackend.generate

    def recorded(backend: Any, prompts: Any, *arguments: Any, **options: Any) -> Any:
        texts.extend(prompt.text for prompt in prompts)
        return generate(backend, prompts, *arguments, **options)

    monkeypatch.setattr(TransformersBackend, "generate", recorded)
    changes = {"data.context": ["donor"], "optimiser.max_steps": 2}
    model = run(folder, tmp_path / "context", rewarded(start, changes))
    obs = anndata.read_h5ad(folder / "cells.h5ad").obs
    assert texts
    assert all(re.match(r"Known of this cell: donor: d[1-4]\.\nBelow are", text) for text in texts)
    held_out = sum(model.metadata["split"]["cells.h5ad"][key] for key in ("n_held_out",))
    assert model.metadata["context"] == {"donor": len(obs) - held_out}
    assert np.isfinite(log_values(model, "reward")).all()


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("iterations", [1, 2])
def test_importance_ratio_is_one_until_a_step_is_taken(
    folder: Path, tmp_path: Path, start: Model, monkeypatch: pytest.MonkeyPatch, lora: Any, iterations: int
) -> None:
    ratios: list[float] = []
    compute = grpo.GuidedTrainer._compute_loss

    def spy(trainer: Any, model: Any, inputs: Any) -> Any:
        if trainer.model.training:
            ids, mask = (
                torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], 1) for name in ("ids", "mask")
            )
            with torch.no_grad():
                now, _, _ = trainer._get_per_token_logps_and_entropies(
                    model, ids, mask, inputs["completion_ids"].shape[1]
                )
            ratio = torch.exp(now - inputs["old_per_token_logps"])[inputs["completion_mask"].bool()]
            ratios.append((ratio - 1).abs().max().item())
        return compute(trainer, model, inputs)

    monkeypatch.setattr(grpo.GuidedTrainer, "_compute_loss", spy)
    changes = {
        "grpo.iterations": iterations,
        "model.lora": lora,
        "optimiser.batch_size": 8,
        "optimiser.learning_rate": 1e-2,
    }
    run(folder, tmp_path / "out", rewarded(start, changes))
    fresh = [ratios[place] for place in range(len(ratios)) if place // 2 % iterations == 0]
    assert max(fresh) < 1e-4
    if iterations == 2:
        used = [ratios[place] for place in range(len(ratios)) if place // 2 % 2 == 1]
        assert max(used) > 1e-3, "at the second step with the same answers the weights have changed"


def test_resumed_it_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, start: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "grpo.beta": 0.01,
        "grpo.rewards": {"kendall_tau": 1, "change": 0.5},
        "optimiser.max_steps": 6,
        "optimiser.batch_size": 8,
    }
    settings = rewarded(start, changes)
    whole = run(folder, tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(Interrupted):
            run(folder, tmp_path / "parts", settings)
    parts = run(folder, tmp_path / "parts", settings, resume=True)
    assert parts.metadata["weights_sha256"] == whole.metadata["weights_sha256"] != start.metadata["weights_sha256"]
    assert log_values(parts, "eval_reward") == log_values(whole, "eval_reward")
    assert max(log_values(whole, "kl"), default=1) > 0


def test_best_weights_by_reward(folder: Path, tmp_path: Path, start: Model) -> None:
    changes = {"checkpoints.keep_best": True, "checkpoints.eval_steps": 1, "optimiser.learning_rate": 0.3}
    model = run(folder, tmp_path / "out", rewarded(start, changes))
    rewards = log_values(model, "eval_reward")
    assert rewards[-1] < max(rewards), "large steps lower the reward"
    assert "kendall_tau" in card(model)


@pytest.mark.parametrize("guided", [True, False])
def test_free_text_and_every_reward_on_a_checkpoint_with_pieces(folder: Path, tmp_path: Path, guided: bool) -> None:
    start = tiny.save(tmp_path / "start", "gemma2", "spm")
    changes = {
        "grpo.rewards": dict.fromkeys(training.REWARDS, 1.0),
        "data.lengths": {"perturb": 5},
        "model.lora": {"r": 2},
        "optimiser.max_steps": 1,
        "checkpoints.eval_steps": 1,
    }
    model = run(folder, tmp_path / "out", rewarded(start, changes, guided=guided, max_new_tokens=12))
    valid = log_values(model, "eval_rewards/validity/mean")[0]
    assert valid == 1 if guided else valid < 0.9
    assert np.isfinite(log_values(model, "eval_reward")).all()


@pytest.mark.parametrize(
    ("changes", "answers", "message"),
    [
        ({"grpo.genes": {**GENES, "sets": "TNF"}}, {}, r"has no gene set 'TNF'; available: \['IFN'\]"),
        ({"grpo.genes": {"symbols": ["NOGENE", "CD4"]}}, {}, "have 1 of those listed"),
        ({"optimiser.batch_size": 5}, {}, "batch_size must divide the 16 answers"),
        ({"optimiser.batch_size": 4, "optimiser.max_steps": -1}, {"prompts": 500}, "nothing to learn from"),
    ],
)
def test_mistakes_in_the_data(
    folder: Path, tmp_path: Path, start: Model, changes: Any, answers: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", rewarded(start, changes, **answers))
