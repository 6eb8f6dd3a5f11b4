"""Trainings on gene sets alone, and with cells: from a GMT file to scores of held-out sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import training_cells
import training_runs

from cell2sen import evaluate, tl, training
from cell2sen.data.genes.gene_sets import read_sets, write_gmt
from cell2sen.training.config.options import configure

pytestmark = pytest.mark.slow


def write_sets(folder: Path) -> Path:
    words = ["naive", "memory", "blood", "lung", "early", "late"]
    genes = tiny.GENES[:40]
    sets = {
        f"{a} {b}": genes[3 * x : 3 * x + 5] + genes[20 + 3 * y : 24 + 3 * y]
        for x, a in enumerate(words)
        for y, b in enumerate(words)
    }
    write_gmt(folder / "sets.gmt", sets)
    return folder / "sets.gmt"


def test_a_new_model_from_a_file_of_gene_sets(tmp_path: Path) -> None:
    file = write_sets(tmp_path)
    options = {"from_scratch": True, "epochs": 40.0, "hidden_size": 64, "layers": 2, "heads": 2}
    config = configure(file, options, ["compute.bf16=false", "checkpoints.eval_steps=0.5"])
    model = training.train(config, tmp_path / "model", base=tmp_path, progress=False)
    assert model.metadata["split"]["sets.gmt"]["n_held_out"] == 4
    assert {"name_gene_set", "list_gene_set"} <= set(model.metadata["templates"])
    held_out = json.loads((tmp_path / "model" / "held_out.json").read_text())["sets.gmt"]
    sets = read_sets(file)
    real = {name: sets[name] for name in held_out}
    train = {name: genes for name, genes in sets.items() if name not in real}
    named = tl.name_gene_sets(real, model=model, progress=False)
    learned = tl.name_gene_sets(train, model=model, progress=False)
    right = sum(answer.lower() == name for name, answer in learned["name"].items())
    assert right > len(train) / 2
    assert (
        evaluate(named, real, task="name_gene_set", train=train, resamples=10).table.loc["word_f1", "prediction"] > 0.3
    )
    listed = tl.list_gene_sets(
        held_out, n_genes={name: len(genes) for name, genes in real.items()}, model=model, progress=False
    )
    scores = evaluate(listed, real, task="list_gene_set", train=train, resamples=10).table.loc["set_overlap"]
    assert scores["prediction"] > scores["frequent_genes"]


def test_gene_sets_beside_cells(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad")
    write_sets(tmp_path)
    settings = training_runs.config({"data.gene_sets": [{"file": "sets.gmt"}], "optimiser.max_steps": 2})
    model = training_runs.run(tmp_path, tmp_path / "model", settings)
    assert {"annotate", "name_gene_set", "list_gene_set"} <= set(model.metadata["templates"])
    assert set(model.metadata["split"]) == {"cells.h5ad", "sets.gmt"}
