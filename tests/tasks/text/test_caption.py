"""The task caption: from a file to a model that was trained on it, captions of held-out cells, and their score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import cells

import cell2sen as c2s
from cell2sen import tasks, training

TEXTS = ["T cells that express CD4.", "B cells of the blood.", "Monocytes with LYZ and CST3."]


def test_wording() -> None:
    task = tasks.load("caption")
    prompt = task.prompt(cells={"a": ("CD4", "LYZ"), "b": ("B2M", "CD4")}, organism="mouse")
    assert prompt.text == (
        "Below are 2 Mus musculus cells of one cluster, each with its 2 most expressed genes, strongest first.\n"
        "Cell 1: CD4 LYZ.\nCell 2: B2M CD4.\nThese cells in one sentence:"
    )
    assert task.complete(caption="T cells.") == " T cells."


@pytest.mark.slow
def test_learned_and_scored_on_cells_left_out(tmp_path: Path) -> None:
    """Each cluster has marker genes and a caption."""
    adata = cells(240)
    cluster = np.arange(adata.n_obs) % 3
    counts = adata.X.toarray()
    for number in range(3):
        counts[cluster == number, 4 * number : 4 * number + 4] += 30
    adata.X = counts
    adata.obs["cluster"] = [f"cluster {number}" for number in cluster]
    adata.obs["text"] = [TEXTS[number] for number in cluster]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    file = {
        "file": "cells.h5ad",
        "tasks": {"caption": 30},
        "columns": {"caption": "text", "sample": "cluster"},
        "split": {"test": 0.3},
    }
    small = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "context": 256}
    settings: dict[str, Any] = {
        "model": {"from_scratch": small | {"tokenizer": {"min_cells": 3, "text_tokens": 600}}},
        "data": {"lengths": {"caption": 6}, "files": [file]},
        "optimiser": {"learning_rate": 0.01, "epochs": 1, "batch_size": 16},
        "checkpoints": {"save_dtype": "float32"},
        "compute": {"bf16": False},
    }
    model = training.train(training.from_mapping(settings), tmp_path / "model", base=tmp_path, progress=False)
    assert "caption" in model.metadata["templates"]
    held_out = adata[np.isin(adata.obs_names, held_out_names(tmp_path / "model"))].copy()
    table = c2s.tl.caption(
        held_out, "cluster", n_samples=5, temperature=0, model=str(tmp_path / "model"), progress=False
    )
    number = [int(name.split()[-1]) for name in table["cluster"]]
    assert table["text"].tolist() == [TEXTS[place] for place in number]
    assert table["complete"].all()
    named = table["present"].str.split() + table["absent"].str.split()
    assert [sorted(genes) for genes in named] == [[["CD4"], [], ["CST3", "LYZ"]][place] for place in number]
    scores = c2s.evaluate(held_out, adata, label="text", resamples=10, leaks="report")
    assert scores.table.loc["chrf", "prediction"] == pytest.approx(1)
    assert scores.table.loc["chrf", "shuffled_answers"] < 1


def held_out_names(folder: Path) -> list[str]:
    return list(json.loads((folder / "held_out.json").read_text(encoding="utf-8"))["cells.h5ad"])
