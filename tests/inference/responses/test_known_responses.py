"""Stored responses of training cells: file, formula, warnings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from cells import GENES, cells, fake

from cell2sen import tl
from cell2sen.data.similar_contexts import KnownChanges, Transfer
from cell2sen.inference.responses.known_responses import RESPONSE_FILE, KnownResponse, KnownResponses, changed, load
from cell2sen.model import Model, resolve


def response(seed: int, contexts: tuple[str, ...], share: float = 0.0, usual: float = -1.0) -> KnownResponse:
    rng = np.random.default_rng(seed)
    controls = rng.exponential(1.0, (len(contexts), len(GENES))).astype(np.float16).astype(float)
    changes = (rng.normal(size=controls.shape) * 0.5).astype(np.float16).astype(float)
    return KnownResponse(
        contexts=contexts,
        known=KnownChanges(
            controls=controls,
            changes=np.maximum(changes, -controls).astype(np.float16).astype(float),
            n_cells=[10 * (n + 1) for n in range(len(contexts))],
        ),
        expected=rng.normal(size=controls.shape).astype(np.float16).astype(float) * 0.1,
        rule=Transfer(temperature=0.1),
        model_share=share,
        usual_likeness=usual,
    )


def some() -> KnownResponses:
    return KnownResponses(
        genes=tuple(GENES[::-1]),
        responses={"IFN-beta": response(0, ("B", "T", "NK")), "IL-2": response(1, ("T",), share=0.5, usual=2.0)},
    )


def model(folder: Path, **metadata: Any) -> Any:
    """A backend without weights whose directory has responses."""
    folder.mkdir()
    some().write(folder / RESPONSE_FILE)
    backend = fake(**{"perturbations": {"IFN-beta": 40, "IL-2": 20, "drug": 5}, **metadata})
    backend.model = replace(backend.model, path=str(folder))
    return backend


def test_written_and_read(tmp_path: Path) -> None:
    loaded = load(model(tmp_path / "m").model)
    assert loaded.genes == some().genes
    for name, expected in some().responses.items():
        found = loaded.responses[name]
        assert found.contexts == expected.contexts
        assert (found.rule, found.model_share, found.usual_likeness) == (
            expected.rule,
            expected.model_share,
            expected.usual_likeness,
        )
        assert list(found.known.n_cells) == list(expected.known.n_cells)
        for array in ("controls", "changes"):
            np.testing.assert_array_equal(getattr(found.known, array), getattr(expected.known, array))
        np.testing.assert_allclose(found.expected, expected.expected, atol=1e-3)
    assert not load(Model(name="m", path=str(tmp_path))).responses
    assert not load(Model(name="owner/m", path="owner/m")).responses
    (tmp_path / "m" / RESPONSE_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no responses that cell2sen can read"):
        load(resolve(tmp_path / "m"))


def test_files_that_need_pickle_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / RESPONSE_FILE, genes=np.array(["a"], dtype=object))
    with pytest.raises(ValueError, match="no responses that cell2sen can read"):
        load(Model(name="m", path=str(tmp_path)))


def by_hand(known: KnownResponse, control: np.ndarray) -> np.ndarray:
    """Prediction of one cell, context by context."""
    rho = np.array([np.corrcoef(control, other)[0, 1] for other in known.known.controls])
    weights = np.sqrt(known.known.n_cells) * np.exp((rho - rho.max()) / known.rule.temperature)
    change = np.zeros_like(control)
    for weight, before, moved in zip(weights / weights.sum(), known.known.controls, known.known.changes, strict=True):
        share = np.divide(moved, before, out=np.zeros_like(moved), where=before > 0)
        change += weight * np.where(moved < 0, share * control, moved)
    return np.clip(control + change, 0, np.log1p(1e4))


def test_a_cell_changes_as_the_similar_contexts(tmp_path: Path) -> None:
    """Slow twin; without a name for no perturbation and without the model."""
    predicted = tl.perturb(cells(), "IFN-beta", model=model(tmp_path / "m"), progress=False)
    assert predicted.uns["cell2sen"]["perturb"]["readout"] == "expected"
    known = some().responses["IFN-beta"].of_genes(np.arange(len(GENES))[::-1])
    for control, found in zip(predicted.layers["control"].toarray(), predicted.X.toarray(), strict=True):
        np.testing.assert_allclose(found, by_hand(known, control.astype(float)), atol=2e-3)
    basis = predicted.uns["cell2sen"]["perturb"]["basis"]
    assert dict(zip(basis["context"], basis["perturbed_cells"], strict=True)) == {"B": 10, "T": 20, "NK": 30}
    assert set(basis["model_share"]) == {0.0}
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    assert anndata.read_h5ad(tmp_path / "predicted.h5ad").uns["cell2sen"]["perturb"]["basis"].equals(basis)


def test_other_cells_batches_and_genes_of_the_file_change_nothing(tmp_path: Path) -> None:
    backend = model(tmp_path / "m")
    whole = tl.perturb(cells(), "IFN-beta", model=backend, progress=False)
    for row in (0, 3):
        alone = tl.perturb(cells()[[row]].copy(), "IFN-beta", model=backend, progress=False, batch_size=1)
        np.testing.assert_array_equal(alone.X.toarray()[0], whole.X.toarray()[row])
    reordered = tl.perturb(cells()[:, ::-1].copy(), "IFN-beta", model=backend, progress=False)
    np.testing.assert_allclose(reordered[:, whole.var_names].X.toarray(), whole.X.toarray(), atol=1e-5)


def test_the_model_adds_its_share_of_what_it_predicts_beyond(tmp_path: Path) -> None:
    backend = model(tmp_path / "m", no_perturbation="nothing")
    predicted = tl.perturb(cells(), "IL-2", model=backend, progress=False)
    alone = tl.perturb(cells(), "IL-2", model=backend, progress=False, measured=False)
    assert alone.uns["cell2sen"]["perturb"]["basis"]["context"].tolist() == [""]
    known = some().responses["IL-2"].of_genes(np.arange(len(GENES))[::-1])
    control = predicted.layers["control"].toarray().astype(float)
    moved = (control + known.rule.change(control, known.known)) + 0.5 * (
        alone.layers["delta"].toarray() - known.expected
    )
    inner = (alone.X.toarray() > 0) & (alone.X.toarray() < np.log1p(1e4))  # the change is not cut there
    np.testing.assert_allclose(predicted.X.toarray()[inner], np.clip(moved, 0, np.log1p(1e4))[inner], atol=3e-3)


def test_cells_unlike_the_contexts_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = model(tmp_path / "m", no_perturbation="nothing")
    tl.perturb(cells(), "IFN-beta", model=backend, progress=False)
    assert "unlike" not in caplog.text
    predicted = tl.perturb(cells(), "IL-2", model=backend, progress=False)
    assert "100 % of these cells are unlike those in which the response to 'IL-2' was learned ('T')" in caplog.text
    assert set(predicted.uns["cell2sen"]["perturb"]["basis"]["unlike"]) == {1.0}


def test_unknown_names_are_refused_with_a_suggestion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = model(tmp_path / "m", no_perturbation="nothing", perturbations={"IFN-beta": 4, "STAT1 knock-out": 9})
    with pytest.raises(ValueError, match=r"not trained on the perturbations 'STAT1'.*did you mean 'STAT1 knock-out'"):
        tl.perturb(cells(), "STAT1", model=backend, progress=False)
    tl.perturb(cells(), "STAT1", model=backend, progress=False, force=True)
    assert "not trained on the perturbations 'STAT1'" in caplog.text


def test_without_measured_or_expected_responses_sentences_are_written(tmp_path: Path) -> None:
    predicted = tl.perturb(cells(), "drug", model=model(tmp_path / "m"), progress=False)
    assert predicted.uns["cell2sen"]["perturb"]["readout"] == "sentence"


def test_expression_stays_within_its_limits() -> None:
    control, change = np.array([[1.0, 0.5, 9.0]]), np.array([[0.5, -2.0, 3.0]])
    np.testing.assert_allclose(changed(control, change), [[1.5, 0, np.log1p(1e4)]], rtol=1e-6)
