"""Corrections of expected responses: fitted on training cells, and their share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
from training_runs import card, cells_of, config, run

from cell2sen import tl
from cell2sen.backend import Unsupported
from cell2sen.inference.corrections import CORRECTION_FILE, load
from cell2sen.model import Model, resolve
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release import fit_corrections
from cell2sen.training.release.fit_corrections import correct, share

SHAPE: dict[str, Any] = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 128, "tokenizer": {"min_cells": 1}}
FILE: dict[str, Any] = {
    "tasks": ["perturb"],
    "cell_type": None,
    "perturbation": {"column": "condition", "context": ["cell_type"], "no_perturbation": "nothing"},
    "split": {"by": "donor", "values": ["d4"]},
}


def test_share_is_the_factor_with_the_least_error_in_contexts_left_out() -> None:
    generator = np.random.default_rng(0)
    missed = list(generator.normal(size=40) + generator.normal(size=(4, 40)))

    def error(factor: float) -> float:
        return sum(
            float(((residual - factor * np.mean(missed[:number] + missed[number + 1 :], axis=0)) ** 2).sum())
            for number, residual in enumerate(missed)
        )

    factors = np.linspace(0, 1, 1001)
    best = factors[np.argmin([error(factor) for factor in factors])]
    assert 0.2 < best < 0.9
    # The ratio of the variance between contexts to the common part is (1 / best - 1) * 3 for means over three contexts.
    assert share(missed) == pytest.approx(1 / (1 + (1 / best - 1) * 3 / 4), abs=1e-3)
    assert share([missed[0], missed[0]]) == pytest.approx(1)
    assert share([missed[0], -missed[0]]) == 0
    assert share([np.zeros(3), np.zeros(3)]) == 0


@pytest.fixture(scope="module")
def cells_420(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("correction")
    training_cells.write(path / "cells.h5ad", n=420)
    return path


@pytest.fixture(scope="module")
def corrected(cells_420: Path) -> Model:
    """A model from scratch with corrections."""
    changes = {
        "model.from_scratch": SHAPE,
        "data.lengths": {"perturb": 20},
        "optimiser.max_steps": 30,
        "checkpoints.eval_steps": 30,
        "checkpoints.save_dtype": "bfloat16",
    }
    return run(cells_420, cells_420 / "model", config(changes, file=FILE))


def cells_of_file(folder: Path) -> TrainingCells:
    return cells_of(folder, **FILE)


@pytest.mark.slow
def test_corrections_of_a_training_help_with_held_out_cells(cells_420: Path, corrected: Model) -> None:
    assert set(corrected.metadata["corrections"]) == {"IFN-beta", "IL-2"}
    for fitted in corrected.metadata["corrections"].values():
        assert fitted["contexts"] == len(training_cells.TYPES)
        assert 0.2 < fitted["share"] <= 1
    assert "mean residual in the training cells: IFN-beta (share" in card(corrected)
    adata = anndata.read_h5ad(cells_420 / "cells.h5ad")
    held_out = adata[(adata.obs["donor"] == "d4").to_numpy()]
    control = held_out[(held_out.obs["condition"] == "control").to_numpy()].copy()
    for name in ("IFN-beta", "IL-2"):
        predicted = [
            tl.perturb(control, name, model=corrected.path, progress=False, correction=correction)
            for correction in (True, False)
        ]
        treated = held_out[(held_out.obs["condition"] == name).to_numpy()].copy()
        truth = tl.perturb(treated, name, model=corrected.path, progress=False).layers["control"].toarray().mean(axis=0)
        errors = [float(np.square(cells.X.toarray().mean(axis=0) - truth).sum()) for cells in predicted]
        assert errors[0] < 0.5 * errors[1]


@pytest.mark.slow
def test_held_out_cells_change_nothing(cells_420: Path, corrected: Model, tmp_path: Path) -> None:
    corrections = {}
    for name, cells in (("as_it_is", cells_of_file(cells_420)), ("changed", cells_of_file(cells_420))):
        shutil.copytree(corrected.path, tmp_path / name)
        if name == "changed":
            cells.matrix = cells.matrix.tolil()
            cells.matrix[cells.test] = 7
            cells.matrix = cells.matrix.tocsr()
            cells.totals = np.asarray(cells.matrix.sum(axis=1)).ravel()
        assert correct(tmp_path / name, [cells]) == corrected.metadata["corrections"]
        corrections[name] = load(resolve(tmp_path / name))
    for name, amount in load(corrected).amounts.items():
        for other in corrections.values():
            np.testing.assert_allclose(other.amounts[name], amount, atol=2e-3)
        np.testing.assert_array_equal(*(other.amounts[name] for other in corrections.values()))


@pytest.mark.slow
def test_one_context_is_split_into_halves_and_few_cells_get_no_correction(
    cells_420: Path, corrected: Model, tmp_path: Path
) -> None:
    shutil.copytree(corrected.path, tmp_path / "m")
    cells = cells_of_file(cells_420)
    kept = np.asarray(cells.obs["cell_type"] == "B cell") & (cells.perturbation != "IL-2")
    cells.test = cells.test | ~kept
    assert set(fitted := correct(tmp_path / "m", [cells])) == {"IFN-beta"}
    assert fitted["IFN-beta"]["contexts"] == 1
    assert 0.2 < fitted["IFN-beta"]["share"] < 1
    cells.test = cells.test | (np.cumsum(~cells.test) > 12)
    assert correct(tmp_path / "m", [cells]) == {}


@pytest.mark.slow
def test_no_corrections_without_a_name_for_no_perturbation(cells_420: Path, corrected: Model, tmp_path: Path) -> None:
    shutil.copytree(corrected.path, tmp_path / "m")
    (tmp_path / "m" / CORRECTION_FILE).unlink()
    file = tmp_path / "m" / "cell2sen.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metadata, "no_perturbation": None}), encoding="utf-8")
    assert correct(tmp_path / "m", [cells_of_file(cells_420)]) == {}
    assert not (tmp_path / "m" / CORRECTION_FILE).exists()


@pytest.mark.slow
def test_responses_are_predicted_with_the_context_of_their_controls(
    cells_420: Path, corrected: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []
    begin = fit_corrections.start

    def recorded(*arguments: Any, **options: Any) -> Any:
        sessions.append(begin(*arguments, **options))
        return sessions[-1]

    monkeypatch.setattr(fit_corrections, "start", recorded)
    shutil.copytree(corrected.path, tmp_path / "m")
    settings = build(TrainingFile, {"file": "cells.h5ad", **FILE})
    cells = TrainingCells(settings, cells_420, "upper", ["donor", "cell_type"])
    fitted = correct(tmp_path / "m", [cells])
    assert set(fitted) == set(corrected.metadata["corrections"])
    obs = anndata.read_h5ad(cells_420 / "cells.h5ad").obs
    for session in sessions:
        rows = range(0, len(session.sentences), 7)
        for prompt in session.prompts(rows, length=5, slots=[{"perturbation": "IFN-beta"}] * len(rows)):
            control = obs.loc[prompt.key]
            assert control["condition"] == "control"
            assert prompt.text.startswith(
                f"Known of this cell: donor: {control['donor']}; cell type: {control['cell_type']}.\nBelow are"
            )
    amounts = [load(model).amounts["IFN-beta"] for model in (resolve(tmp_path / "m"), corrected)]
    assert not np.array_equal(*amounts), "other prompts have other expected responses"


@pytest.mark.slow
def test_responses_that_cannot_be_predicted_are_not_corrected(
    cells_420: Path, corrected: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **named: Any) -> Any:
        raise ValueError("no such thing")

    shutil.copytree(corrected.path, tmp_path / "m")
    monkeypatch.setattr("cell2sen.training.release.fit_corrections.expected_response", fail)
    assert correct(tmp_path / "m", [cells_of_file(cells_420)]) == {}
    assert "responses to IL-2 of cells.h5ad are not corrected: no such thing" in caplog.text


@pytest.mark.slow
def test_genes_of_several_tokens_are_predicted_by_sentences(cells_420: Path, tmp_path: Path) -> None:
    """Such a model has no expected responses, and its training no corrections."""
    pieces = {**SHAPE, "context": 512, "tokenizer": {"min_cells": 1, "kind": "bpe", "text_tokens": 300}}
    changes = {
        "model.from_scratch": pieces,
        "data.lengths": {"perturb": 5},
        "optimiser.batch_size": 4,
        "optimiser.max_steps": 2,
        "card.score_cells": 10,
    }
    model = run(cells_420, tmp_path / "m", config(changes, file=FILE))
    assert "corrections" not in model.metadata
    control = anndata.read_h5ad(cells_420 / "cells.h5ad")[:3].copy()
    predicted = tl.perturb(control, "IL-2", model=model.path, progress=False, n_genes=3)
    assert predicted.uns["cell2sen"]["perturb"]["readout"] == "sentence"
    with pytest.raises(Unsupported):
        tl.perturb(control, "IL-2", model=model.path, progress=False, n_genes=3, readout="expected")
