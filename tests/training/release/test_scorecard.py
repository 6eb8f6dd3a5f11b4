"""Scores on the model card: of held-out cells only, beside baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cells

from cell2sen import tl, training
from cell2sen.model import Model
from cell2sen.training.cells import Cells, Split, TrainingData
from cell2sen.training.release import scorecard
from cell2sen.training.release.fit_calibration import calibrates

pytestmark = pytest.mark.slow

SCRATCH = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "context": 256, "min_cells": 3}
DATA = {
    "file": "cells.h5ad", "tasks": ["annotate", "perturb"], "cell_type": "cell_type", "perturbation": "condition",
    "context": ["cell_type"], "split": {"test": 0.4},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scorecard")
    training_cells.write(made / "cells.h5ad", n=240)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    settings = training.from_mapping(
        {"from_scratch": SCRATCH, "data": [DATA], "lengths": {"annotate": 20, "perturb": 12}, "max_steps": 8,
         "eval_steps": 8, "batch_size": 16, "bf16": False, "score_cells": 40}
    )  # fmt: skip
    return training.train(settings, folder / "out", base=folder, progress=False)


def test_card_holds_what_was_measured(model: Model) -> None:
    measured = model.metadata["scores"]
    assert {(one["task"], one["metric"]) for one in measured} >= {
        ("annotate", "accuracy"), ("annotate", "macro_f1"), ("perturb", "pearson_delta"), ("perturb", "kendall_tau"),
    }  # fmt: skip
    assert all(0 < one["n_cells"] <= 40 for one in measured)
    card = (Path(model.path) / "README.md").read_text(encoding="utf-8")
    for one in measured:
        assert f"| {one['task']} | {one['metric']} | {one['model']:.3f}" in card
    [accuracy] = [one for one in measured if one["metric"] == "accuracy"]
    assert accuracy["low"] <= accuracy["model"] <= accuracy["high"]
    assert accuracy["best_baseline"] == "nearest_training_cell"
    assert "240" not in card
    assert "| cells.h5ad | 144 | 96 |" in card


@pytest.fixture(scope="module")
def cells(folder: Path, model: Model) -> Cells:
    data = TrainingData(
        **{**DATA, "tasks": ("annotate", "perturb"), "context": ("cell_type",), "split": Split(test=0.4)}
    )
    made = Cells(data, folder, "upper")
    made.keep_genes(np.isin(made.symbols, model.genes))
    return made


def test_only_cells_that_were_held_out_and_did_not_calibrate(
    model: Model, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {}
    real: dict[str, Any] = {"annotate": tl.annotate, "perturb": tl.perturb}

    def spy(name: str) -> Any:
        def verb(adata: Any, *rest: Any, **options: Any) -> Any:
            seen[name] = list(adata.obs_names)
            return real[name](adata, *rest, **options)

        return verb

    for name in real:
        monkeypatch.setattr(tl, name, spy(name))
    found = scorecard.scores(Path(model.path), [cells], 25)
    held_out = set(json.loads((Path(model.path) / "held_out.json").read_text(encoding="utf-8"))["cells.h5ad"])
    assert len(seen["annotate"]) == 25
    assert set(seen["annotate"]) <= held_out
    assert not any(calibrates(name) for name in seen["annotate"])
    assert set(seen["perturb"]) <= held_out & set(cells.obs.index[cells.obs["condition"] == "control"])
    again = next(one["model"] for one in found if one["metric"] == "accuracy")
    asked = cells.obs.loc[seen["annotate"]]
    adata = scorecard._adata(cells, np.flatnonzero(np.isin(cells.names, list(asked.index))), truth=cells.label)
    real["annotate"](adata, model=model, progress=False)
    assert again == pytest.approx(
        np.mean(adata.obs["cell2sen_cell_type"].astype(str) == adata.obs["truth"].astype(str))
    )


def test_none_where_nothing_is_held_out(model: Model, cells: Cells) -> None:
    assert scorecard.scores(Path(model.path), [cells], 0) == []
    assert "Nothing was measured" in scorecard.as_markdown([])
