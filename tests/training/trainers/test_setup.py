"""Trainers of a run: settings of both kinds, the stage of new tokens, interrupted stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from training_runs import Interrupted, checkpoint, config, interrupt, log_values, run

from cell2sen.training.examples.pairs import Examples
from cell2sen.training.network.loading import TrainableModel
from cell2sen.training.trainers.setup import TrainingRun


def run_of(folder: Path, settings: Any, **model: Any) -> TrainingRun:
    """A run over a tiny network, without cells."""
    network = tiny.network("gpt_neox", 50)
    return TrainingRun(
        config=settings,
        examples=Examples(cells={}, tasks={}, lengths={}),
        model=TrainableModel(network=network, tokenizer=None, tokens=tiny.tokens("genes"), **model),
        folder=folder,
        base=folder,
        resume=False,
        progress=False,
    )


@pytest.mark.parametrize(
    ("changes", "start", "rate", "size"),
    [
        ({}, None, 1e-3, 8),
        ({}, "x", 1.5e-3, 8),
        ({"model.lora": {}}, "x", 2e-4, 8),
        ({"grpo": {}}, "x", 1e-4, 32),
        ({"optimiser.learning_rate": 0.5, "optimiser.batch_size": 3}, "x", 0.5, 3),
    ],
)
def test_default_learning_rate_and_batch_size(
    tmp_path: Path, changes: dict[str, Any], start: str | None, rate: float, size: int
) -> None:
    settings = config({"optimiser.batch_size": None, **changes}, start=start)
    arguments = run_of(tmp_path, settings)._arguments(settings, tmp_path, evaluate=True)
    assert (arguments["learning_rate"], arguments["per_device_eval_batch_size"]) == (rate, size)


@pytest.mark.parametrize(
    ("first", "max_steps", "steps", "epochs"),
    [(0.2, -1, -1, 0.2), (0.5, 8, 4, 0.5), (3, -1, 3, 3.0), (0.01, 8, 1, 0.01)],
)
def test_steps_of_the_stage_of_new_tokens(
    tmp_path: Path, first: float, max_steps: int, steps: int, epochs: float
) -> None:
    changes = {"model.gene_tokens": {"first": first}, "optimiser.max_steps": max_steps, "checkpoints.patience": 3}
    stage = run_of(tmp_path, config(changes, start="x"), new_tokens=(3,))._new_tokens_settings()
    assert stage is not None
    assert (stage.optimiser.max_steps, stage.optimiser.epochs) == (steps, epochs)
    assert (stage.optimiser.learning_rate, stage.checkpoints.patience) == (1e-3, None)


def test_no_stage_without_new_tokens(tmp_path: Path) -> None:
    settings = config({"model.gene_tokens": {}}, start="x")
    assert run_of(tmp_path, settings)._new_tokens_settings() is None
    skipped = config({"model.gene_tokens": {"first": 0}}, start="x")
    assert run_of(tmp_path, skipped, new_tokens=(3,))._new_tokens_settings() is None


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
@pytest.mark.parametrize("stop", [3, 7], ids=["first stage", "second stage"])
def test_resumed_in_either_stage_it_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, lora: Any
) -> None:
    start = checkpoint(tmp_path / "start", "gpt_neox", "bytes", False)
    changes = {"model.lora": lora, "model.gene_tokens": {"min_cells": 3, "first": 4}, "optimiser.max_steps": 5}
    settings = config(changes, start=start)
    whole = run(folder, tmp_path / "whole", settings)
    with monkeypatch.context() as patch:
        interrupt(patch, stop)
        with pytest.raises(Interrupted):
            run(folder, tmp_path / "parts", settings)
    # As if it had been killed while a checkpoint was written.
    last = "first" if stop == 3 else "."
    (tmp_path / "parts.training" / last / "checkpoint-9").mkdir()
    parts = run(folder, tmp_path / "parts", settings, resume=True)
    assert parts.metadata["weights_sha256"] == whole.metadata["weights_sha256"]
    assert log_values(parts) == log_values(whole)
