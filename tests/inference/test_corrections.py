"""Corrections of expected responses: what they are, what they are fitted on, and where they are added."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
from cells import GENES, cells, fake

from cell2sen import tl, training
from cell2sen.backend import Unsupported
from cell2sen.inference.corrections import CORRECTION_FILE, Corrections, corrected, load
from cell2sen.model import Model, resolve
from cell2sen.training.cells import Cells
from cell2sen.training.release.fit_corrections import correct, share

SCRATCH = {"hidden_size": 16, "layers": 1, "heads": 2, "context": 128, "min_cells": 1}
DATA = {
    "file": "cells.h5ad", "tasks": ["perturb"], "perturbation": "condition", "context": ["cell_type"],
    "no_perturbation": "nothing", "split": {"by": "donor", "values": ["d4"]},
}  # fmt: skip


# -- adding


def test_what_rises_is_added_and_what_falls_is_a_share() -> None:
    control, change = np.array([[2, 0, 1, 4, 0]], dtype=np.float32), np.array([[0.5, 0, -3, 0, 2]], dtype=np.float32)
    amount = np.array([0.25, 0.5, 1, -0.75, -0.5], dtype=np.float32)
    np.testing.assert_allclose(corrected(control, change, amount), [[2.75, 0.5, 1, 1, 1]])
    np.testing.assert_allclose(corrected(control, change, np.zeros(5, np.float32)), [[2.5, 0, 0, 4, 2]])


def some() -> Corrections:
    amounts = {"IFN-beta": np.array([1.5, -0.5, 0]), "IL-2": np.array([0, 0.25, -1])}
    return Corrections(
        genes=(GENES[2], GENES[0], GENES[5]), amounts={name: row.astype(np.float32) for name, row in amounts.items()}
    )


def model(folder: Path) -> Any:
    """A backend without weights whose directory holds corrections."""
    folder.mkdir()
    some().write(folder / CORRECTION_FILE)
    made = fake(no_perturbation="nothing")
    made.model = replace(made.model, path=str(folder))
    return made


def test_written_and_read(tmp_path: Path) -> None:
    found = load(model(tmp_path / "m").model)
    assert found.genes == some().genes
    for name, amount in some().amounts.items():
        np.testing.assert_array_equal(found.amounts[name], amount)
    np.testing.assert_array_equal(found.of("IL-2", [GENES[5], "unknown", GENES[0]]), [-1, 0, 0.25])
    assert not found.of("another", GENES).any()
    assert not load(Model(name="m", path=str(tmp_path))).amounts
    assert not load(Model(name="owner/m", path="owner/m")).amounts
    (tmp_path / "m" / CORRECTION_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no corrections that cell2sen can read"):
        load(resolve(tmp_path / "m"))


def test_every_cell_gets_the_correction_of_its_perturbation(tmp_path: Path) -> None:
    backend, adata = model(tmp_path / "m"), cells()
    names = ["IFN-beta", "IL-2", None, "another", "IFN-beta", "IL-2"]
    with_it, without = (
        tl.perturb(adata, names, model=backend, progress=False, correction=wanted) for wanted in (True, False)
    )
    assert with_it.uns["cell2sen"]["perturb"]["corrected"] == "IFN-beta; IL-2"
    assert without.uns["cell2sen"]["perturb"]["corrected"] == ""
    raw = tl.perturb(adata, names, model=fake(no_perturbation="nothing"), progress=False)
    np.testing.assert_array_equal(raw.X.toarray(), without.X.toarray())
    for row, name in enumerate(with_it.obs["perturbation"]):
        amount = some().of(name, list(with_it.var_names))
        before = without.X.toarray()[row]
        wanted = before + np.maximum(amount, 0) + np.minimum(amount, 0) * before
        np.testing.assert_allclose(with_it.X.toarray()[row], wanted, atol=1e-5)
        assert (np.abs(with_it.X[row].toarray() - without.X[row].toarray()).max() > 0.2) == (name != "another")


def test_written_sentences_are_left_alone(tmp_path: Path) -> None:
    one, other = (
        tl.perturb(cells(), "IFN-beta", model=made, progress=False, readout="sentence")
        for made in (model(tmp_path / "m"), fake(no_perturbation="nothing"))
    )
    np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())


# -- fitting


def test_share_is_the_factor_with_the_least_error_in_contexts_left_out() -> None:
    generator = np.random.default_rng(0)
    missed = list(generator.normal(size=40) + generator.normal(size=(4, 40)))

    def error(factor: float) -> float:
        return sum(
            float(((one - factor * np.mean(missed[:number] + missed[number + 1 :], axis=0)) ** 2).sum())
            for number, one in enumerate(missed)
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
    made = tmp_path_factory.mktemp("correction")
    training_cells.write(made / "cells.h5ad", n=420)
    return made


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    settings = training.from_mapping(
        {"from_scratch": SCRATCH, "data": [DATA], "lengths": {"perturb": 20}, "batch_size": 8, "max_steps": 30,
         "eval_steps": 30, "bf16": False, "score_cells": 0}
    )  # fmt: skip
    return training.train(settings, folder / "model", base=folder, progress=False)


def of(folder: Path, file: str = "cells.h5ad") -> Cells:
    return Cells(training.from_mapping({"from_scratch": {}, "data": [DATA | {"file": file}]}).data[0], folder, "upper")


def test_a_training_leaves_corrections_that_help_with_cells_it_has_not_seen(folder: Path, trained: Model) -> None:
    assert set(trained.metadata["corrections"]) == {"IFN-beta", "IL-2"}
    for said in trained.metadata["corrections"].values():
        assert said["contexts"] == len(training_cells.TYPES)
        assert 0.2 < said["share"] <= 1
    assert "missed on average in the training cells added: IFN-beta (share" in (
        Path(trained.path) / "README.md"
    ).read_text(encoding="utf-8")
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    held_out = adata[(adata.obs["donor"] == "d4").to_numpy()]
    control = held_out[(held_out.obs["condition"] == "control").to_numpy()].copy()
    for name in ("IFN-beta", "IL-2"):
        predicted = [
            tl.perturb(control, name, model=trained.path, progress=False, correction=wanted) for wanted in (True, False)
        ]
        treated = held_out[(held_out.obs["condition"] == name).to_numpy()].copy()
        truth = tl.perturb(treated, name, model=trained.path, progress=False).layers["control"].toarray().mean(axis=0)
        errors = [float(np.square(one.X.toarray().mean(axis=0) - truth).sum()) for one in predicted]
        assert errors[0] < 0.5 * errors[1]


def test_held_out_cells_are_not_looked_at(folder: Path, trained: Model, tmp_path: Path) -> None:
    found = {}
    for name, cells_of in (("as_it_is", of(folder)), ("changed", of(folder))):
        shutil.copytree(trained.path, tmp_path / name)
        if name == "changed":
            cells_of.matrix = cells_of.matrix.tolil()
            cells_of.matrix[cells_of.test] = 7
            cells_of.matrix = cells_of.matrix.tocsr()
            cells_of.totals = np.asarray(cells_of.matrix.sum(axis=1)).ravel()
        said = correct(tmp_path / name, [cells_of])
        assert said == trained.metadata["corrections"]
        found[name] = load(resolve(tmp_path / name))
    for name, amount in load(trained).amounts.items():
        for other in found.values():
            np.testing.assert_allclose(other.amounts[name], amount, atol=2e-3)
        np.testing.assert_array_equal(*(other.amounts[name] for other in found.values()))


def test_one_context_is_judged_by_its_halves_and_few_cells_by_nothing(
    folder: Path, trained: Model, tmp_path: Path
) -> None:
    shutil.copytree(trained.path, tmp_path / "m")
    one = of(folder)
    kept = np.asarray(one.obs["cell_type"] == "B cell") & (one.perturbation != "IL-2")
    one.test = one.test | ~kept
    assert set(said := correct(tmp_path / "m", [one])) == {"IFN-beta"}
    assert said["IFN-beta"]["contexts"] == 1
    assert 0.2 < said["IFN-beta"]["share"] < 1
    one.test = one.test | (np.cumsum(~one.test) > 12)
    assert correct(tmp_path / "m", [one]) == {}


def test_no_corrections_without_a_name_for_no_perturbation(folder: Path, trained: Model, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "m")
    (tmp_path / "m" / CORRECTION_FILE).unlink()
    file = tmp_path / "m" / "cell2sen.json"
    metadata = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**metadata, "no_perturbation": None}), encoding="utf-8")
    assert correct(tmp_path / "m", [of(folder)]) == {}
    assert not (tmp_path / "m" / CORRECTION_FILE).exists()


def test_what_must_not_be_used(tmp_path: Path) -> None:
    """Object arrays would need pickle."""
    file = tmp_path / CORRECTION_FILE
    np.savez(file, genes=np.array(["a"], dtype=object), perturbations=np.array(["p"]), amounts=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no corrections that cell2sen can read"):
        load(Model(name="m", path=str(tmp_path)))


def test_a_response_that_cannot_be_predicted_is_not_corrected(
    folder: Path, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **named: Any) -> Any:
        raise ValueError("no such thing")

    shutil.copytree(trained.path, tmp_path / "m")
    monkeypatch.setattr("cell2sen.training.release.fit_corrections.expected_response", fail)
    assert correct(tmp_path / "m", [of(folder)]) == {}
    assert "responses to IL-2 of cells.h5ad are not corrected: no such thing" in caplog.text


def test_genes_of_several_tokens_are_predicted_by_sentences(folder: Path, tmp_path: Path) -> None:
    """Such a model cannot say what it expects; its training ends well, and nothing is corrected."""
    settings = training.from_mapping(
        {"from_scratch": {**SCRATCH, "tokenizer": "bpe", "text_tokens": 300, "context": 512}, "data": [DATA],
         "lengths": {"perturb": 5}, "batch_size": 4, "max_steps": 2, "eval_steps": 2, "bf16": False, "score_cells": 10}
    )  # fmt: skip
    made = training.train(settings, tmp_path / "m", base=folder, progress=False)
    assert "corrections" not in made.metadata
    control = anndata.read_h5ad(folder / "cells.h5ad")[:3].copy()
    found = tl.perturb(control, "IL-2", model=made.path, progress=False, n_genes=3)
    assert found.uns["cell2sen"]["perturb"]["readout"] == "sentence"
    with pytest.raises(Unsupported):
        tl.perturb(control, "IL-2", model=made.path, progress=False, n_genes=3, readout="expected")
