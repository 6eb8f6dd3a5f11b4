"""Scores on the model card: of held-out cells only, beside baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import FILE as TRAINING_FILE
from training_runs import SCRATCH, card, cells_of, config, run

from cell2sen import backends, tl
from cell2sen.model import Model
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release import scorecard
from cell2sen.training.release.fit_calibration import calibrates

pytestmark = pytest.mark.slow

FILE: dict[str, Any] = {"tasks": ["annotate", "perturb"], "split": {"test": 0.4}}


@pytest.fixture(scope="module")
def model(many_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    changes = {
        "model.from_scratch": {**SCRATCH, "layers": 1, "initial": {}},
        "data.lengths": {"annotate": 20, "perturb": 12},
        "optimiser.max_steps": 8,
        "optimiser.batch_size": 16,
        "checkpoints.eval_steps": 8,
        "card.score_cells": 40,
    }
    return run(many_cells, tmp_path_factory.mktemp("scorecard") / "out", config(changes, file=FILE))


def test_card_holds_what_was_measured(model: Model) -> None:
    scores = model.metadata["scores"]
    assert {(entry["task"], entry["metric"]) for entry in scores} >= {
        ("annotate", "accuracy"), ("annotate", "macro_f1"), ("perturb", "pearson_delta"), ("perturb", "kendall_tau"),
    }  # fmt: skip
    assert all(0 < entry["n_cells"] <= 40 for entry in scores)
    text = card(model)
    for entry in scores:
        assert f"| {entry['task']} | {entry['metric']} | {entry['model']:.3f}" in text
    [accuracy] = [entry for entry in scores if entry["metric"] == "accuracy"]
    assert accuracy["low"] <= accuracy["model"] <= accuracy["high"]
    assert accuracy["best_baseline"] == "nearest_training_cell"
    assert "240" not in text
    assert "| cells.h5ad | 144 | 96 |" in text


@pytest.fixture(scope="module")
def cells(many_cells: Path, model: Model) -> TrainingCells:
    cells = cells_of(many_cells, **{**TRAINING_FILE, **FILE})
    cells.keep_genes(lambda symbols: np.isin(symbols, model.genes))
    return cells


def test_only_cells_that_were_held_out_and_did_not_calibrate(
    model: Model, cells: TrainingCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(name: str) -> Any:
        function = getattr(scorecard, name)

        def call(session: Any, *rest: Any, **options: Any) -> Any:
            seen[name] = session.sentences.names.tolist()
            return function(session, *rest, **options)

        return call

    for name in ("annotate_cells", "predict_response"):
        monkeypatch.setattr(scorecard, name, spy(name))
    entries = scorecard.scores(Path(model.path), [cells], 25)
    held_out = set(json.loads((Path(model.path) / "held_out.json").read_text(encoding="utf-8"))["cells.h5ad"])
    labelled = seen["annotate_cells"]
    assert len(labelled) == 25
    assert set(labelled) <= held_out
    assert not any(calibrates(name) for name in labelled)
    assert set(seen["predict_response"]) <= held_out & set(cells.obs.index[cells.obs["condition"] == "control"])
    # The scores are those of the tools.
    accuracy = next(entry["model"] for entry in entries if entry["metric"] == "accuracy")
    adata = cells.anndata(np.flatnonzero(np.isin(cells.names, labelled)))
    tl.annotate(adata, model=model, progress=False, scale="log1p")
    truth = cells.obs.loc[adata.obs_names, "cell_type"].astype(str)
    assert accuracy == pytest.approx(np.mean(adata.obs["cell2sen_cell_type"].astype(str) == truth))


def test_predicted_cells_are_those_of_the_tools(model: Model, cells: TrainingCells) -> None:
    control = cells.anndata(np.flatnonzero(cells.perturbation == "control")[:4])
    backend = backends.load(model, progress=False)
    predicted = scorecard._predicted(control, "IFN-beta", backend, ())
    expected = tl.perturb(control, "IFN-beta", model=backend, progress=False, scale="log1p")
    np.testing.assert_array_equal(predicted.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(predicted.layers["delta"].toarray(), expected.layers["delta"].toarray())
    assert list(predicted.obs["sentence"]) == list(expected.obs["sentence"])


def test_none_where_nothing_is_held_out(model: Model, cells: TrainingCells) -> None:
    assert scorecard.scores(Path(model.path), [cells], 0) == []
    assert "No held-out cells were scored" in scorecard.as_markdown([])
