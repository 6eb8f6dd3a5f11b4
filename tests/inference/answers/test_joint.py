"""Joint answers: probabilities of each column, conditional on the columns before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from anndata_objects import QUIET, assign, reordered, with_values
from cells import cells, fake
from scipy.special import softmax

import cell2sen as c2s
from cell2sen.inference.answers.columns import tasks_to_annotate
from cell2sen.inference.session import start

TASK = "joint:tissue+donor.state+number:age"
MENUS: dict[str, Any] = {"tissue": ["blood", "lung", "T"], "donor.state": ["normal", "ill"], "age": [20, 45, 70.5]}
KEYS = ["cell2sen_tissue", "cell2sen_donor_state", "cell2sen_age"]


def test_probabilities_are_those_of_whole_answers() -> None:
    """Answers that begin alike have the same factor, so that their softmax is the conditional probability."""
    backend = tiny.backend("gpt_neox", "bytes")
    adata = cells()
    c2s.tl.annotate(adata, MENUS, task=TASK, model=backend, **QUIET)
    session = start(cells(), TASK, {"model": backend, "progress": False})
    prompts = session.prompts(np.arange(6), length=None)
    assert prompts[0].text.endswith(".\nThe tissue, donor state and age of this cell are:")
    states: list[Any] = MENUS["donor.state"]
    for row, prompt in enumerate(prompts):
        first = backend.score([prompt], [f" {name};" for name in MENUS["tissue"]])[0]
        tissue = MENUS["tissue"][first.argmax()]
        second = backend.score([prompt], [f" {tissue}; {name};" for name in states])[0]
        state = states[second.argmax()]
        third = backend.score([prompt], [f" {tissue}; {state}; {age}." for age in MENUS["age"]])[0]
        for key, scores in zip(KEYS, (first, second, third), strict=True):
            found = adata.obsm[f"{key}_probabilities"].iloc[row]
            np.testing.assert_allclose(found, softmax(scores), rtol=1e-4, atol=1e-6)
        assert adata.obs["cell2sen_tissue"].iloc[row] == tissue
        assert adata.obs["cell2sen_donor_state"].iloc[row] == state
        assert adata.obs["cell2sen_age"].iloc[row] == pytest.approx(softmax(third) @ np.array(MENUS["age"]), rel=1e-4)


def test_an_answer_depends_on_its_cell_alone() -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    adata = cells()
    c2s.tl.annotate(adata, MENUS, task=TASK, model=backend, **QUIET)
    part, rows = reordered(adata)
    c2s.tl.annotate(part, MENUS, task=TASK, model=backend, **QUIET)
    for key in KEYS:
        name = f"{key}_probabilities"
        np.testing.assert_allclose(part.obsm[name], adata.obsm[name].iloc[rows], rtol=1e-4, atol=1e-6)


def test_results_of_a_joint_answer_beside_those_of_other_tasks() -> None:
    adata, alone = (with_values(assign(0, rows=2, columns=slice(None))) for _ in range(2))
    tasks: list[Any] = ["label:sex", TASK, "number:dose"]
    menus = {**MENUS, "sex": ["female", "male"], "dose": [1, 10]}
    c2s.tl.annotate(adata, menus, task=tasks, model=fake(), **QUIET)
    record = adata.uns["cell2sen"]["annotate"]["results"]
    assert list(record) == ["cell2sen_sex", *KEYS, "cell2sen_dose"]
    assert [result["column"] for result in record.values()] == ["sex", "tissue", "donor.state", "age", "dose"]
    assert not any(result["calibrated"] for result in record.values())
    assert np.isnan(adata.obsm["cell2sen_tissue_probabilities"].iloc[2]).all(), "a cell without genes"
    assert adata.obs["cell2sen_donor_state"].iloc[2] == "unknown"
    c2s.tl.annotate(alone, MENUS, task=TASK, model=fake(), **QUIET)
    for key in KEYS:
        np.testing.assert_array_equal(alone.obsm[f"{key}_probabilities"], adata.obsm[f"{key}_probabilities"])


def test_each_part_has_its_calibration() -> None:
    task, menus = "joint:tissue+disease", {"tissue": ["blood", "lung"], "disease": ["normal", "ill"]}
    plain, calibrated = cells(), cells()
    c2s.tl.annotate(plain, menus, task=task, model=fake(), **QUIET)
    fitted = {"joint:tissue+disease, disease": {"temperature": 2.0}, "label:tissue": {"temperature": 9.0}}
    c2s.tl.annotate(calibrated, menus, task=task, model=fake(calibration=fitted), **QUIET)
    softer = np.sqrt(plain.obsm["cell2sen_disease_probabilities"].to_numpy())
    np.testing.assert_allclose(
        calibrated.obsm["cell2sen_disease_probabilities"], softer / softer.sum(axis=1, keepdims=True)
    )
    np.testing.assert_allclose(
        calibrated.obsm["cell2sen_tissue_probabilities"], plain.obsm["cell2sen_tissue_probabilities"]
    )
    results = calibrated.uns["cell2sen"]["annotate"]["results"]
    assert [result["calibrated"] for result in results.values()] == [False, True]


def test_labels_with_semicolons() -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    adata, commas = cells(), cells()
    options: dict[str, Any] = {"task": "joint:state+sex", "model": backend, **QUIET}
    c2s.tl.annotate(adata, {"state": ["ill; treated", "ill"], "sex": ["female", "male"]}, **options)
    c2s.tl.annotate(commas, {"state": ["ill, treated", "ill"], "sex": ["female", "male"]}, **options)
    assert list(adata.obsm["cell2sen_state_probabilities"].columns) == ["ill; treated", "ill"]
    for key in ("cell2sen_state_probabilities", "cell2sen_sex_probabilities"):
        np.testing.assert_array_equal(adata.obsm[key], commas.obsm[key])
    with pytest.raises(ValueError, match="differ in a semicolon only, such as 'a, b'"):
        c2s.tl.annotate(adata, {"state": ["a; b", "a, b"], "sex": ["female", "male"]}, **options)


def test_arguments_that_need_one_column() -> None:
    for arguments in ({"labels": ["blood", "lung"]}, {"labels": MENUS, "key_added": "x"}):
        with pytest.raises(ValueError, match=r"are several columns: pass labels= as \{column: labels\}"):
            c2s.tl.annotate(cells(), task=TASK, model=fake(), **arguments, **QUIET)
    with pytest.raises(ValueError, match="'joint:tissue\\+age' predicts 'tissue', which must not be in the prompt"):
        start(cells(), "joint:tissue+age", {"model": fake(), "progress": False, "context": {"tissue": "lung"}})
    with pytest.raises(ValueError, match="must be of different columns"):
        tasks_to_annotate(["label:tissue", "joint:tissue+sex"], fake().model)


def test_a_model_of_joint_answers() -> None:
    names = ["label:sex", "joint:tissue+disease", "joint:tissue+sex"]
    trained = fake(templates={name: [{"prompt": "x", "answer": " y"}] for name in names}).model
    assert [task.name for task in tasks_to_annotate(None, trained)] == ["label:sex", "joint:tissue+disease"]
    with pytest.raises(ValueError, match=r"answer 'disease' together with others: pass task='joint:tissue\+disease'"):
        tasks_to_annotate("disease", trained)
