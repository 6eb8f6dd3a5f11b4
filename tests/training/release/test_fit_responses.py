"""Responses of the training cells: measured, and as the model expects them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
from training_runs import card, cells_of, config, run

from cell2sen import tl
from cell2sen.inference.responses.known_responses import RESPONSE_FILE, load
from cell2sen.model import Model, resolve
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release import fit_responses as module
from cell2sen.training.release.fit_responses import fit_responses

SHAPE: dict[str, Any] = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 128, "tokenizer": {"min_cells": 1}}
FILE: dict[str, Any] = {
    "tasks": ["perturb"],
    "cell_type": None,
    "perturbation": {"column": "condition", "context": ["cell_type"], "no_perturbation": "nothing"},
    "split": {"by": "donor", "values": ["d4"]},
}


@pytest.fixture(scope="module")
def cells_420(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("correction")
    training_cells.write(path / "cells.h5ad", n=420)
    return path


@pytest.fixture(scope="module")
def trained(cells_420: Path) -> Model:
    """A model from scratch with measured responses."""
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
def test_responses_of_held_out_cells_are_predicted_better_than_by_the_model_alone(
    cells_420: Path, trained: Model
) -> None:
    assert set(trained.metadata["responses"]) == {"IFN-beta", "IL-2"}
    for fitted in trained.metadata["responses"].values():
        assert set(fitted["contexts"]) == set(training_cells.TYPES)
        assert fitted["model_share"] == 0
        assert fitted["file"] == "cells.h5ad"
    assert "measured in similar training cells: IFN-beta in" in card(trained)
    adata = anndata.read_h5ad(cells_420 / "cells.h5ad")
    held_out = adata[(adata.obs["donor"] == "d4").to_numpy()]
    control = held_out[(held_out.obs["condition"] == "control").to_numpy()].copy()
    for name in ("IFN-beta", "IL-2"):
        predicted = [
            tl.perturb(control, name, model=trained.path, progress=False, measured=measured)
            for measured in (True, False)
        ]
        treated = held_out[(held_out.obs["condition"] == name).to_numpy()].copy()
        truth = tl.perturb(treated, name, model=trained.path, progress=False).layers["control"].toarray().mean(axis=0)
        errors = [float(np.square(cells.X.toarray().mean(axis=0) - truth).sum()) for cells in predicted]
        assert errors[0] < 0.5 * errors[1]


@pytest.mark.slow
def test_stored_means_are_those_of_the_training_cells(cells_420: Path, trained: Model) -> None:
    cells, stored = cells_of_file(cells_420), load(trained)
    for name, response in stored.responses.items():
        for row, context in enumerate(response.contexts):
            own = ~cells.test & np.asarray(cells.obs["cell_type"] == context)
            sides = [cells.mean_expression(np.flatnonzero(own & (cells.perturbation == n))) for n in (name, "control")]
            columns = [stored.genes.index(symbol) for symbol in cells.symbols]
            np.testing.assert_allclose(response.known.controls[row, columns], sides[1], atol=2e-3)
            np.testing.assert_allclose(response.known.changes[row, columns], sides[0] - sides[1], atol=8e-3)
            assert response.known.n_cells[row] == int((own & (cells.perturbation == name)).sum())


@pytest.mark.slow
def test_a_left_out_donor_is_predicted_from_the_written_file(cells_420: Path, trained: Model, tmp_path: Path) -> None:
    """The rule by hand on the arrays of the file; a file without changes gives none."""
    adata = anndata.read_h5ad(cells_420 / "cells.h5ad")
    control = adata[(adata.obs["donor"] == "d4").to_numpy() & (adata.obs["condition"] == "control").to_numpy()].copy()
    predicted = tl.perturb(control, "IFN-beta", model=trained.path, progress=False)
    with np.load(Path(trained.path) / RESPONSE_FILE) as file:
        stored = dict(file)
    own = stored["perturbations"].tolist().index("IFN-beta")
    rows = np.flatnonzero(stored["context_of"][:, 0] == own)
    controls = stored["controls"][stored["context_of"][rows, 1]].astype(float)
    changes, (temperature, shares, share_of_model, _) = stored["changes"][rows].astype(float), stored["rules"][own]
    before = predicted[:, stored["genes"].tolist()].layers["control"].toarray().astype(float)
    likeness = np.corrcoef(before, controls)[: len(before), len(before) :]
    weights = np.sqrt(stored["n_cells"][rows]) * np.exp(likeness / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    share = np.divide(changes, controls, out=np.zeros_like(changes), where=controls > 0)
    falling = (changes < 0) & bool(shares)
    change = weights @ np.where(falling, 0, changes) + (weights @ np.where(falling, share, 0)) * before
    after = predicted[:, stored["genes"].tolist()].X.toarray()
    np.testing.assert_allclose(after, np.clip(before + change, 0, np.log1p(1e4)), atol=2e-3)
    assert share_of_model == 0

    copied = Path(shutil.copytree(trained.path, tmp_path / "model"))
    np.savez_compressed(copied / RESPONSE_FILE, **{**stored, "changes": np.zeros_like(stored["changes"])})
    assert tl.perturb(control, "IFN-beta", model=copied, progress=False).layers["delta"].nnz == 0


@pytest.mark.slow
def test_held_out_cells_change_nothing(cells_420: Path, trained: Model, tmp_path: Path) -> None:
    for name in ("as_it_is", "changed"):
        cells = cells_of_file(cells_420)
        shutil.copytree(trained.path, tmp_path / name)
        if name == "changed":
            cells.matrix = cells.matrix.tolil()
            cells.matrix[cells.test] = 7
            cells.matrix = cells.matrix.tocsr()
            cells.totals = np.asarray(cells.matrix.sum(axis=1)).ravel()
        assert fit_responses(tmp_path / name, [cells]) == trained.metadata["responses"]
    written = [(tmp_path / name / RESPONSE_FILE).read_bytes() for name in ("as_it_is", "changed")]
    assert written[0] == written[1]


@pytest.mark.slow
def test_one_context_is_its_mean_change_and_few_cells_have_no_response(
    cells_420: Path, trained: Model, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / "m")
    cells = cells_of_file(cells_420)
    kept = np.asarray(cells.obs["cell_type"] == "B cell") & (cells.perturbation != "IL-2")
    cells.test = cells.test | ~kept
    assert set(fitted := fit_responses(tmp_path / "m", [cells])) == {"IFN-beta"}
    assert set(fitted["IFN-beta"]["contexts"]) == {"B cell"}
    response = load(resolve(tmp_path / "m")).responses["IFN-beta"]
    control = np.abs(np.random.default_rng(0).normal(size=(2, len(response.known.controls[0]))))
    rises = response.known.changes[0] > 0
    np.testing.assert_allclose(response.change(control, None)[:, rises], response.known.changes[[0, 0]][:, rises])
    cells.test = cells.test | (np.cumsum(~cells.test) > 12)
    assert fit_responses(tmp_path / "m", [cells]) == {}
    assert not (tmp_path / "m" / RESPONSE_FILE).exists()


def with_share(folder: Path, share: float, context: list[str] | None = None) -> TrainingCells:
    perturbation = {**FILE["perturbation"], "model_share": share}
    settings = build(TrainingFile, {"file": "cells.h5ad", **FILE, "perturbation": perturbation})
    return TrainingCells(settings, folder, "upper", context or [])


@pytest.mark.slow
def test_a_share_of_the_model_is_relative_to_what_it_predicts_in_the_contexts(
    cells_420: Path, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []
    begin = module.start

    def recorded(*arguments: Any, **options: Any) -> Any:
        sessions.append(begin(*arguments, **options))
        return sessions[-1]

    monkeypatch.setattr(module, "start", recorded)
    shutil.copytree(trained.path, tmp_path / "m")
    fitted = fit_responses(tmp_path / "m", [with_share(cells_420, 0.3, ["donor", "cell_type"])])
    assert {of["model_share"] for of in fitted.values()} == {0.3}
    stored = load(resolve(tmp_path / "m")).responses["IFN-beta"]
    assert stored.model_share == 0.3
    assert np.abs(stored.expected).max() > 1e-3
    obs = anndata.read_h5ad(cells_420 / "cells.h5ad").obs
    assert sessions
    for session in sessions:  # with the context of the controls
        rows = range(0, len(session.sentences), 7)
        for prompt in session.prompts(rows, length=5, slots=[{"perturbation": "IFN-beta"}] * len(rows)):
            control = obs.loc[prompt.key]
            assert control["condition"] == "control"
            assert prompt.text.startswith(
                f"Known of this cell: donor: {control['donor']}; cell type: {control['cell_type']}.\nBelow are"
            )


@pytest.mark.slow
def test_a_model_that_cannot_predict_has_no_share(
    cells_420: Path, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **named: Any) -> Any:
        raise ValueError("no such thing")

    shutil.copytree(trained.path, tmp_path / "m")
    monkeypatch.setattr(module, "expected_response", fail)
    fitted = fit_responses(tmp_path / "m", [with_share(cells_420, 0.3)])
    assert {of["model_share"] for of in fitted.values()} == {0.0}
    assert "responses to IL-2 of cells.h5ad are without the model: no such thing" in caplog.text


@pytest.mark.slow
def test_measured_responses_need_no_gene_tokens(cells_420: Path, tmp_path: Path) -> None:
    """A model with genes of several tokens has no expectations of its own."""
    pieces = {**SHAPE, "context": 512, "tokenizer": {"min_cells": 1, "kind": "bpe", "text_tokens": 300}}
    changes = {
        "model.from_scratch": pieces,
        "data.lengths": {"perturb": 5},
        "optimiser.batch_size": 4,
        "optimiser.max_steps": 2,
        "card.score_cells": 10,
    }
    model = run(cells_420, tmp_path / "m", config(changes, file=FILE))
    control = anndata.read_h5ad(cells_420 / "cells.h5ad")[:3].copy()
    for measured, readout in ((True, "expected"), (False, "sentence")):
        predicted = tl.perturb(control, "IL-2", model=model.path, progress=False, n_genes=3, measured=measured)
        assert predicted.uns["cell2sen"]["perturb"]["readout"] == readout
