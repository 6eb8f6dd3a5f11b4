from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells

from cell2sen import tl, training
from cell2sen.backend import Unsupported
from cell2sen.inference.corrections import CORRECTION_FILE, load
from cell2sen.model import Model, resolve
from cell2sen.training.cells import Cells
from cell2sen.training.release.fit_corrections import correct, share

SCRATCH = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 128, "min_cells": 1}
DATA = {
    "file": "cells.h5ad", "tasks": ["perturb"], "perturbation": "condition", "context": ["cell_type"],
    "no_perturbation": "nothing", "split": {"by": "donor", "values": ["d4"]},
}  # fmt: skip


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
    # What varies between contexts, over what they have in common, is (1 / best - 1) * 3 for means over three of them.
    assert share(missed) == pytest.approx(1 / (1 + (1 / best - 1) * 3 / 4), abs=1e-3)
    assert share([missed[0], missed[0]]) == pytest.approx(1)
    assert share([missed[0], -missed[0]]) == 0
    assert share([np.zeros(3), np.zeros(3)]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("correction")
    training_cells.write(path / "cells.h5ad", n=420)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    settings = training.from_mapping(
        {"from_scratch": SCRATCH, "data": [DATA], "lengths": {"perturb": 20}, "batch_size": 8, "max_steps": 30,
         "eval_steps": 30, "bf16": False, "score_cells": 0}
    )  # fmt: skip
    return training.train(settings, folder / "model", base=folder, progress=False)


def of(folder: Path, file: str = "cells.h5ad") -> Cells:
    return Cells(training.from_mapping({"from_scratch": {}, "data": [DATA | {"file": file}]}).data[0], folder, "upper")


def test_corrections_of_a_training_help_with_held_out_cells(folder: Path, trained: Model) -> None:
    assert set(trained.metadata["corrections"]) == {"IFN-beta", "IL-2"}
    for fitted in trained.metadata["corrections"].values():
        assert fitted["contexts"] == len(training_cells.TYPES)
        assert 0.2 < fitted["share"] <= 1
    assert "missed on average in the training cells added: IFN-beta (share" in (
        Path(trained.path) / "README.md"
    ).read_text(encoding="utf-8")
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    held_out = adata[(adata.obs["donor"] == "d4").to_numpy()]
    control = held_out[(held_out.obs["condition"] == "control").to_numpy()].copy()
    for name in ("IFN-beta", "IL-2"):
        predicted = [
            tl.perturb(control, name, model=trained.path, progress=False, correction=correction)
            for correction in (True, False)
        ]
        treated = held_out[(held_out.obs["condition"] == name).to_numpy()].copy()
        truth = tl.perturb(treated, name, model=trained.path, progress=False).layers["control"].toarray().mean(axis=0)
        errors = [float(np.square(cells.X.toarray().mean(axis=0) - truth).sum()) for cells in predicted]
        assert errors[0] < 0.5 * errors[1]


def test_held_out_cells_change_nothing(folder: Path, trained: Model, tmp_path: Path) -> None:
    corrections = {}
    for name, cells_of in (("as_it_is", of(folder)), ("changed", of(folder))):
        shutil.copytree(trained.path, tmp_path / name)
        if name == "changed":
            cells_of.matrix = cells_of.matrix.tolil()
            cells_of.matrix[cells_of.test] = 7
            cells_of.matrix = cells_of.matrix.tocsr()
            cells_of.totals = np.asarray(cells_of.matrix.sum(axis=1)).ravel()
        assert correct(tmp_path / name, [cells_of]) == trained.metadata["corrections"]
        corrections[name] = load(resolve(tmp_path / name))
    for name, amount in load(trained).amounts.items():
        for other in corrections.values():
            np.testing.assert_allclose(other.amounts[name], amount, atol=2e-3)
        np.testing.assert_array_equal(*(other.amounts[name] for other in corrections.values()))


def test_one_context_is_split_into_halves_and_few_cells_get_no_correction(
    folder: Path, trained: Model, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / "m")
    cells_of = of(folder)
    kept = np.asarray(cells_of.obs["cell_type"] == "B cell") & (cells_of.perturbation != "IL-2")
    cells_of.test = cells_of.test | ~kept
    assert set(fitted := correct(tmp_path / "m", [cells_of])) == {"IFN-beta"}
    assert fitted["IFN-beta"]["contexts"] == 1
    assert 0.2 < fitted["IFN-beta"]["share"] < 1
    cells_of.test = cells_of.test | (np.cumsum(~cells_of.test) > 12)
    assert correct(tmp_path / "m", [cells_of]) == {}


def test_no_corrections_without_a_name_for_no_perturbation(folder: Path, trained: Model, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "m")
    (tmp_path / "m" / CORRECTION_FILE).unlink()
    file = tmp_path / "m" / "cell2sen.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metadata, "no_perturbation": None}), encoding="utf-8")
    assert correct(tmp_path / "m", [of(folder)]) == {}
    assert not (tmp_path / "m" / CORRECTION_FILE).exists()


def test_responses_that_cannot_be_predicted_are_not_corrected(
    folder: Path, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **named: Any) -> Any:
        raise ValueError("no such thing")

    shutil.copytree(trained.path, tmp_path / "m")
    monkeypatch.setattr("cell2sen.training.release.fit_corrections.expected_response", fail)
    assert correct(tmp_path / "m", [of(folder)]) == {}
    assert "responses to IL-2 of cells.h5ad are not corrected: no such thing" in caplog.text


@pytest.mark.slow
def test_genes_of_several_tokens_are_predicted_by_sentences(folder: Path, tmp_path: Path) -> None:
    """Such a model has no expected responses. Its training ends without corrections."""
    settings = training.from_mapping(
        {"from_scratch": {**SCRATCH, "tokenizer": "bpe", "text_tokens": 300, "context": 512}, "data": [DATA],
         "lengths": {"perturb": 5}, "batch_size": 4, "max_steps": 2, "eval_steps": 2, "bf16": False, "score_cells": 10}
    )  # fmt: skip
    trained = training.train(settings, tmp_path / "m", base=folder, progress=False)
    assert "corrections" not in trained.metadata
    control = anndata.read_h5ad(folder / "cells.h5ad")[:3].copy()
    predicted = tl.perturb(control, "IL-2", model=trained.path, progress=False, n_genes=3)
    assert predicted.uns["cell2sen"]["perturb"]["readout"] == "sentence"
    with pytest.raises(Unsupported):
        tl.perturb(control, "IL-2", model=trained.path, progress=False, n_genes=3, readout="expected")
