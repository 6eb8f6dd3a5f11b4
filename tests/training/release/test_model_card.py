"""Model card: lines on data, settings and scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from training_runs import config

from cell2sen import tasks
from cell2sen.inference.annotate import temperature_of
from cell2sen.model import Model
from cell2sen.training.release.model_card import card

METADATA: dict[str, Any] = {
    "split": {"cells.h5ad": {"n_train": 72, "n_held_out": 18}},
    "labels": {"B cell": 40, "T cell": 32},
    "perturbations": {},
    "organisms": ["Homo sapiens"],
    "lengths": {"perturb": 10, "annotate": 20},
    "started_from": None,
}
STATE = SimpleNamespace(
    global_step=6, train_batch_size=8, log_history=[{"eval_loss": 3.0}, {"eval_loss": 1.0}, {"eval_loss": 2.0}]
)


def test_data_settings_and_limits() -> None:
    text = card(METADATA, config({"card.text": "For a test."}), STATE, "| scores |")
    for line in (
        "For a test.",
        "| cells.h5ad | 72 | 18 |",
        "* Labels: B cell, T cell",
        "* Perturbations: none",
        "* Started from: random weights; trained: 2 layers, hidden size 32, 2 heads",
        "* Method: prompt/completion pairs; tasks: annotate, generate, perturb",
        "* Genes per sentence: annotate 20, perturb 10",
        "* Steps: 6; batch size 8; learning rate default; seed 0",
        "| scores |",
        "* Loss on held-out pairs (nats per label, or per token of a sentence): first 3.000, best 1.000, last 2.000",
        "* Label probabilities are not calibrated",
        "* No response was measured in the training cells",
        "This model is not a medical device.",
    ):
        assert line in text, line


def test_reinforced_adapters_with_calibration_and_responses() -> None:
    metadata = METADATA | {
        "started_from": {"name": "nano"},
        "calibration": {"annotate": {"n_cells": 50, "temperature": 1.5}},
        "responses": {"IL-2": {"model_share": 0.5, "contexts": {"B": 10, "T": 12}}},
    }
    changes = {
        "grpo.rewards": {"kendall_tau": 1, "change": 0.5},
        "model.lora": {"r": 4},
        "optimiser.learning_rate": 2e-4,
    }
    text = card(metadata, config(changes, start="nano"), STATE, "")
    for line in (
        "* Started from: nano; trained: adapters of rank 4, merged into the weights",
        "* Method: reinforcement learning (GRPO)",
        "learning rate 0.0002",
        "* Reward on held-out cells (kendall_tau + 0.5 × change): not measured",
        "* Label probabilities are calibrated on 50 held-out cells, temperature 1.50",
        "* Responses are predicted from those measured in similar training cells: IL-2 in 2 "
        "contexts ('B', 'T'), model's share 0.5",
    ):
        assert line in text, line


def test_a_temperature_of_few_cells_or_at_its_limits_is_no_calibration() -> None:
    for fit in ({"n_cells": 49, "temperature": 1.5}, {"n_cells": 500, "temperature": 19.99}):
        text = card(METADATA | {"calibration": {"annotate": fit}}, config({}), STATE, "")
        assert "* Label probabilities are not calibrated: temperature" in text
        assert f"was fitted on {fit['n_cells']} held-out cells" in text
        model = Model(name="own", path="", metadata={"calibration": {"annotate": fit}})
        assert temperature_of(model, tasks.load("annotate")) == (fit["temperature"], False)


@pytest.mark.parametrize("gene_tokens", [True, False])
def test_new_tokens(gene_tokens: bool) -> None:
    changes = {"model.gene_tokens": {}} if gene_tokens else {}
    text = card(METADATA | {"started_from": {"name": "x"}}, config(changes, start="x"), STATE, "")
    assert ("trained: all weights, and new tokens for genes" in text) == gene_tokens
