"""Trainings on labels and numbers of obs columns, with metadata in prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
import training_runs
from cells import checkpoint

import cell2sen as c2s
from cell2sen import tasks, training
from cell2sen.model import Model, resolve
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.pairs import Pair, pairs
from cell2sen.training.release import directory
from cell2sen.training.train import _examples

FILE: dict[str, Any] = {
    "tasks": {"label:tissue": 4, "number:age": 4},
    "perturbation": None,
    "cell_type": None,
    "split": {"test": 0.4},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 cells whose tissue and age their genes tell; some have none."""
    folder = tmp_path_factory.mktemp("cohort")
    adata = anndata.read_h5ad(training_cells.write(folder / "cells.h5ad", 240))
    numbers = np.arange(240)
    tissue = adata.obs["condition"].astype(str).map({"control": "blood", "IFN-beta": "lung", "IL-2": "skin"})
    adata.obs["tissue"] = tissue.where(numbers % 17 != 0).to_numpy()
    age = adata.obs["cell_type"].astype(str).map({"B cell": 20.0, "T cell": 40.0, "monocyte": 70.0})
    adata.obs["age"] = (age + numbers % 15).where(numbers % 13 != 0)
    adata.obs["donor state"] = [None if number % 3 else "ill" for number in numbers]
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def config(**changes: Any) -> training.TrainConfig:
    context = {"data.context": ["donor", "donor state", "tissue"], "data.lengths": {"annotate": 20}}
    return training_runs.config({**context, **changes}, file=FILE)


def drawn(cohort: Path, dropout: float = 0.0) -> tuple[list[Pair], Any]:
    examples = _examples(config(), None, cohort)
    cells = examples.cells["cells.h5ad"]
    augmentation = Augmentation(context_dropout=dropout)
    found = pairs(
        cells, examples.tasks, draw=0, held_out=False, lengths=examples.lengths, augmentation=augmentation, seed=0
    )
    return list(found), cells


def test_pairs_have_the_context_but_not_their_answer(cohort: Path) -> None:
    found, cells = drawn(cohort)
    obs = cells.obs
    for pair in found:
        row = obs.loc[pair.prompt.key]
        known = [f"donor: {row['donor']}"]
        known += ["donor state: ill"] if row["donor state"] == "ill" else []
        if pair.task == "number:age" and isinstance(row["tissue"], str):
            known.append(f"tissue: {row['tissue']}")
        assert pair.prompt.text.startswith(f"Known of this cell: {'; '.join(known)}.\nBelow are")
        assert "nan" not in pair.prompt.text.lower()
        answer = pair.completion.strip().removesuffix(".")
        assert answer == (row["tissue"] if pair.task == "label:tissue" else cells.bins["age"].write([row["age"]])[0])
    counts = {name: sum(pair.task == name for pair in found) for name in FILE["tasks"]}
    train = obs[~cells.test]
    assert counts == {"label:tissue": train["tissue"].notna().sum(), "number:age": train["age"].notna().sum()}


def test_context_is_left_out_at_random(cohort: Path) -> None:
    share = np.mean(["donor: " in pair.prompt.text for pair in drawn(cohort, 0.5)[0]])
    assert 0.4 < share < 0.6
    assert all(pair.prompt.text.startswith("Below are") for pair in drawn(cohort, 1.0)[0])
    with pytest.raises(ValueError, match=r"no file has the obs column 'organ'; cells\.h5ad has"):
        _examples(config(**{"data.context": ["organ"]}), None, cohort)


def test_tasks_that_are_new_to_a_starting_model(cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    templates = {"annotate": [{"prompt": "{genes} is", "answer": " {cell_type}."}]}
    start = resolve(str(checkpoint(tmp_path / "start", templates=templates)))
    examples = _examples(config(), start, cohort)
    assert examples.tasks["label:tissue"] == tasks.load("label:tissue")
    assert "its answers are guesses" not in caplog.text, "before they are learned"


@pytest.fixture(scope="module")
def columns_model(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    steps = {"optimiser.max_steps": 250, "optimiser.learning_rate": 5e-3, "checkpoints.eval_steps": 125}
    out = tmp_path_factory.mktemp("models") / "columns"
    return training_runs.run(cohort, out, config(**steps, **{"card.score_cells": 60}))


@pytest.mark.slow
def test_a_model_of_columns_from_file_to_score(columns_model: Model, cohort: Path, tmp_path: Path) -> None:
    metadata = columns_model.metadata
    assert set(metadata["label_columns"]["tissue"]) == {"blood", "lung", "skin"}
    assert sum(metadata["number_columns"]["age"]["n_cells"].values()) > 100
    assert set(metadata["context"]) == {"donor", "donor state", "tissue"}
    assert set(metadata["calibration"]) == {"label:tissue", "number:age"}
    cells = anndata.read_h5ad(cohort / "cells.h5ad")
    held_out = cells[~cells.obs_names.isin(columns_names(columns_model))].copy()
    train = cells[cells.obs_names.isin(columns_names(columns_model))].copy()
    c2s.tl.annotate(held_out, model=columns_model, context=["donor", "donor state"], progress=False)
    held_out.write_h5ad(tmp_path / "predicted.h5ad")
    labels = c2s.evaluate(tmp_path / "predicted.h5ad", cells, label="tissue", train=train)
    assert labels.task == "annotate"
    assert labels.table.loc["balanced_accuracy", "prediction"] > 0.6
    numbers = c2s.evaluate(tmp_path / "predicted.h5ad", cells, label="age", train=train, context="donor")
    assert numbers.task == "number"
    error = numbers.table.loc["mean_absolute_error"]
    assert error["prediction"] < error["median_number"]
    assert numbers.table.loc["interval_coverage", "prediction"] > 0.7
    numbers.report(tmp_path / "report.html")
    card = training_runs.card(columns_model)
    assert "* tissue: blood, lung, skin\n* age: " in card
    assert "* In prompts: donor, donor state, tissue\n" in card
    assert "Probabilities of number:age are" in card
    assert "number:age | mean_absolute_error" in card


def columns_names(model: Model) -> list[str]:
    import json

    names: list[str] = json.loads((Path(model.path) / "trained_on.json").read_text(encoding="utf-8"))["cells.h5ad"]
    return names


def joint_config(**changes: Any) -> training.TrainConfig:
    file = {**FILE, "tasks": {"joint:tissue+number:age+donor": 4, "label:cell_type": 1}}
    values = {"data.context": ["donor state", "age"], "data.lengths": {"annotate": 20}}
    return training_runs.config({**values, **changes}, file=file)


def test_joint_pairs_are_of_cells_with_all_values(cohort: Path) -> None:
    examples = _examples(joint_config(), None, cohort)
    cells = examples.cells["cells.h5ad"]
    options: Any = {"lengths": examples.lengths, "augmentation": Augmentation(), "seed": 0}
    found = [
        pair
        for pair in pairs(cells, examples.tasks, draw=0, held_out=False, **options)
        if pair.task == "joint:tissue+number:age+donor"
    ]
    obs = cells.obs[~cells.test]
    complete = obs[obs["tissue"].notna() & obs["age"].notna()]
    assert {pair.prompt.key for pair in found} == set(complete.index)
    for pair in found:
        row = obs.loc[pair.prompt.key]
        age = cells.bins["age"].write([row["age"]])[0]
        assert pair.completion == f" {row['tissue']}; {age}; {row['donor']}."
        assert "age:" not in pair.prompt.text, "the context has the answer of no part"
        assert pair.prompt.text.endswith("The tissue, age and donor of this cell are:")
    counts = directory._columns(examples)
    assert counts["label_columns"]["tissue"] == complete["tissue"].value_counts().to_dict()
    assert counts["label_columns"]["cell_type"] == obs["cell_type"].value_counts().to_dict()
    assert sum(counts["number_columns"]["age"]["n_cells"].values()) == len(complete)
    assert counts["context"] == {"donor state": obs["donor state"].notna().sum(), "age": obs["age"].notna().sum()}


@pytest.mark.slow
def test_a_model_of_joint_answers_from_file_to_score(cohort: Path, tmp_path: Path) -> None:
    steps = {"optimiser.max_steps": 250, "optimiser.learning_rate": 5e-3, "checkpoints.eval_steps": 125}
    file = {**FILE, "tasks": {"joint:tissue+cell_type": 8}}
    values = {"data.lengths": {"annotate": 20}, "card.score_cells": 60, **steps}
    model = training_runs.run(cohort, tmp_path / "joint", training_runs.config(values, file=file))
    assert set(model.metadata["calibration"]) == {"joint:tissue+cell_type, tissue", "joint:tissue+cell_type, cell_type"}
    cells = anndata.read_h5ad(cohort / "cells.h5ad")
    held_out = cells[~cells.obs_names.isin(columns_names(model))].copy()
    c2s.tl.annotate(held_out, model=model, progress=False)
    assert {"cell2sen_tissue", "cell2sen_tissue_score", "cell2sen_cell_type"} <= set(held_out.obs)
    known = held_out.obs["tissue"].notna()
    right = [
        (held_out.obs[f"cell2sen_{name}"].astype(str) == held_out.obs[name].astype(str))[known]
        for name in ("tissue", "cell_type")
    ]
    train = cells[cells.obs_names.isin(columns_names(model))].copy()
    scores = c2s.evaluate(held_out, cells, label=["tissue", "cell_type"], train=train, resamples=20)
    assert scores.table.loc["accuracy", "prediction"] == pytest.approx((right[0] & right[1]).mean())
    assert scores.table.loc["accuracy", "prediction"] > 2 * scores.table.loc["accuracy", "majority_label"]
    text = training_runs.card(model)
    for name in ("joint:tissue+cell_type", "joint:tissue+cell_type, tissue", "joint:tissue+cell_type, cell_type"):
        assert f"| {name} | accuracy |" in text
