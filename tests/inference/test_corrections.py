from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import GENES, cells, fake

from cell2sen import tl
from cell2sen.inference.corrections import CORRECTION_FILE, Corrections, corrected, load
from cell2sen.model import Model, resolve


def test_positive_amounts_are_added_and_negative_ones_are_shares() -> None:
    control, change = np.array([[2, 0, 1, 4, 0]], dtype=np.float32), np.array([[0.5, 0, -3, 0, 2]], dtype=np.float32)
    amount = np.array([0.25, 0.5, 1, -0.75, -0.5], dtype=np.float32)
    np.testing.assert_allclose(corrected(control, change, amount), [[2.75, 0.5, 1, 1, 1]])
    np.testing.assert_allclose(corrected(control, change, np.zeros(5, np.float32)), [[2.5, 0, 0, 4, 2]])
    highest = corrected(control + 7, change, amount)
    assert highest.max() == np.float32(np.log1p(1e4)) < (control + 7 + change).max()


def some() -> Corrections:
    amounts = {"IFN-beta": np.array([1.5, -0.5, 0]), "IL-2": np.array([0, 0.25, -1])}
    return Corrections(
        genes=(GENES[2], GENES[0], GENES[5]), amounts={name: row.astype(np.float32) for name, row in amounts.items()}
    )


def model(folder: Path) -> Any:
    """A backend without weights whose directory has corrections."""
    folder.mkdir()
    some().write(folder / CORRECTION_FILE)
    backend = fake(no_perturbation="nothing")
    backend.model = replace(backend.model, path=str(folder))
    return backend


def test_written_and_read(tmp_path: Path) -> None:
    loaded = load(model(tmp_path / "m").model)
    assert loaded.genes == some().genes
    for name, amount in some().amounts.items():
        np.testing.assert_array_equal(loaded.amounts[name], amount)
    np.testing.assert_array_equal(loaded.of("IL-2", [GENES[5], "unknown", GENES[0]]), [-1, 0, 0.25])
    assert not loaded.of("another", GENES).any()
    assert not load(Model(name="m", path=str(tmp_path))).amounts
    assert not load(Model(name="owner/m", path="owner/m")).amounts
    (tmp_path / "m" / CORRECTION_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no corrections that cell2sen can read"):
        load(resolve(tmp_path / "m"))


def test_cells_get_the_correction_of_their_perturbation(tmp_path: Path) -> None:
    backend, adata = model(tmp_path / "m"), cells()
    names = ["IFN-beta", "IL-2", None, "another", "IFN-beta", "IL-2"]
    with_it, without = (
        tl.perturb(adata, names, model=backend, progress=False, correction=correction) for correction in (True, False)
    )
    assert with_it.uns["cell2sen"]["perturb"]["corrected"].tolist() == ["IFN-beta", "IL-2"]
    assert without.uns["cell2sen"]["perturb"]["corrected"].tolist() == []
    raw = tl.perturb(adata, names, model=fake(no_perturbation="nothing"), progress=False)
    np.testing.assert_array_equal(raw.X.toarray(), without.X.toarray())
    for row, name in enumerate(with_it.obs["perturbation"]):
        amount = some().of(name, list(with_it.var_names))
        before = without.X.toarray()[row]
        expected = np.minimum(before + np.maximum(amount, 0) + np.minimum(amount, 0) * before, np.log1p(1e4))
        np.testing.assert_allclose(with_it.X.toarray()[row], expected, atol=1e-5)
        assert (np.abs(with_it.X[row].toarray() - without.X[row].toarray()).max() > 0.2) == (name != "another")


def test_written_sentences_are_not_corrected(tmp_path: Path) -> None:
    with_corrections, without = (
        tl.perturb(cells(), "IFN-beta", model=backend, progress=False, readout="sentence")
        for backend in (model(tmp_path / "m"), fake(no_perturbation="nothing"))
    )
    np.testing.assert_array_equal(with_corrections.X.toarray(), without.X.toarray())


def test_files_that_need_pickle_are_refused(tmp_path: Path) -> None:
    file = tmp_path / CORRECTION_FILE
    np.savez(file, genes=np.array(["a"], dtype=object), perturbations=np.array(["p"]), amounts=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no corrections that cell2sen can read"):
        load(Model(name="m", path=str(tmp_path)))
