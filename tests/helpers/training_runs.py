"""Short trainings on the cells of training_cells: settings, weights, logs and model cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from cell2sen import training
from cell2sen.model import METADATA_FILE, Model
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.trainers.progress import Progress

FILE: dict[str, Any] = {
    "file": "cells.h5ad",
    "tasks": ["annotate", "generate", "perturb"],
    "cell_type": "cell_type",
    "perturbation": {"column": "condition", "context": ["cell_type"]},
    "split": {"test": 0.2},
}
LENGTHS = {"annotate": 20, "generate": 10, "perturb": 10}
SCRATCH: dict[str, Any] = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 64,
    "context": 256,
    "tokenizer": {"min_cells": 3},
    "initial": {"gene_vectors": 8},
}
DEFAULTS: dict[str, Any] = {
    "data.lengths": LENGTHS,
    "optimiser.batch_size": 8,
    "optimiser.max_steps": 6,
    "compute.bf16": False,
    "checkpoints.eval_steps": 2,
    "checkpoints.save_dtype": "float32",
    "card.score_cells": 0,
}


def config(
    changes: Mapping[str, Any] | None = None, *, start: Any = None, file: Mapping[str, Any] | None = None
) -> training.TrainConfig:
    """A configuration with changes by dotted key; from scratch without `start`."""
    model = {"model.from_scratch": SCRATCH} if start is None else {"model.start": str(getattr(start, "path", start))}
    values: dict[str, Any] = {}
    for key, value in {**DEFAULTS, **model, **(changes or {})}.items():
        *parents, last = key.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    values["data"]["files"] = [{**FILE, **(file or {})}]
    return training.from_mapping(values)


def cells_of(folder: Path, case: str = "upper", **entry: Any) -> TrainingCells:
    """Cells of a file by its entry in a training file."""
    return TrainingCells(build(TrainingFile, {"file": "cells.h5ad", **entry}), folder, case)


def run(folder: Path, out: Path, settings: training.TrainConfig, **options: Any) -> Model:
    return training.train(settings, out, base=folder, progress=False, **options)


def checkpoint(path: Path, architecture: str, kind: str, tied: bool = True, **changes: Any) -> Path:
    """A tiny random model on disk with float32 weights."""
    tiny.save(path, architecture, kind, tie_word_embeddings=tied, **changes)
    (path / METADATA_FILE).write_text('{"dtype": "float32"}', encoding="utf-8")
    return path


def weights(model: Model | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(getattr(model, "path", model)) / "model.safetensors")


def log_values(model: Model | Path, key: str = "eval_loss") -> list[float]:
    log = json.loads((Path(getattr(model, "path", model)) / "training_log.json").read_text(encoding="utf-8"))
    return [entry[key] for entry in log if key in entry]


def card(model: Model | Path) -> str:
    return (Path(getattr(model, "path", model)) / "README.md").read_text(encoding="utf-8")


def assert_same(tensors: Mapping[str, Any], others: Mapping[str, Any], **tolerance: Any) -> None:
    assert tensors.keys() == others.keys()
    for name in tensors:
        torch.testing.assert_close(tensors[name], others[name], msg=name, **{"rtol": 0, "atol": 0} | tolerance)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a training."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Stop trainings after so many steps of all their stages together."""
    on_step_end, steps = Progress.on_step_end, []

    def stop(callback: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_step_end(callback, args, state, control, **kwargs)
        steps.append(state.global_step)
        if len(steps) == after:
            raise Interrupted

    monkeypatch.setattr(Progress, "on_step_end", stop)
