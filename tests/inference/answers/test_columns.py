from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from anndata_objects import QUIET, reordered
from cells import cells, fake

import cell2sen as c2s
from cell2sen.backend import Backend
from cell2sen.inference.answers.columns import annotate_cells, tasks_to_annotate
from cell2sen.inference.session import start

TRAINED: dict[str, Any] = {
    "label_columns": {"tissue": {"blood": 20, "lung": 9}, "disease": {"normal": 12, "ill": 9, "rare": 1}},
    "number_columns": {"age": {"values": [20.0, 45.0, 70.0], "edges": None}},
    "templates": {name: [{"prompt": "x", "answer": " y"}] for name in ("label:tissue", "label:disease", "number:age")},
}
SEVERAL = ["label:tissue", "label:disease", "number:age"]


def model() -> Backend:
    return fake(**{key: value for key, value in TRAINED.items() if key != "templates"})


def test_several_columns_equal_those_of_one_call_each(any_backend: Backend) -> None:
    menus = {"tissue": ["blood", "lung", "T"], "disease": ["normal", "ill"], "number:age": [20, 45, 70.5]}
    adata = cells()
    c2s.tl.annotate(adata, menus, task=SEVERAL, model=any_backend, **QUIET)
    for name, menu in zip(SEVERAL, menus.values(), strict=True):
        alone = cells()
        c2s.tl.annotate(alone, menu, task=name, model=any_backend, **QUIET)
        key = f"cell2sen_{name.partition(':')[2]}"
        separate, together = (each.obsm[f"{key}_probabilities"].to_numpy() for each in (alone, adata))
        if isinstance(any_backend, type(fake())):
            continue  # hashes of whole words know no beginning that is shared
        np.testing.assert_allclose(together, separate, rtol=1e-4, atol=1e-4)  # bounds of improbable labels


def test_an_answer_depends_on_its_cell_alone() -> None:
    backend = tiny.backend("gpt_neox", "bytes")
    adata = cells()
    menus = {"tissue": ["blood", "lung"], "age": [20, 45, 70]}
    c2s.tl.annotate(adata, menus, task=["label:tissue", "number:age"], model=backend, **QUIET)
    part, rows = reordered(adata)
    c2s.tl.annotate(part, menus, task=["label:tissue", "number:age"], model=backend, **QUIET)
    for key in ("cell2sen_tissue_probabilities", "cell2sen_age_probabilities"):
        np.testing.assert_allclose(part.obsm[key], adata.obsm[key].iloc[rows], rtol=1e-4, atol=1e-6)


def test_columns_of_the_model_are_the_default() -> None:
    adata = cells()
    c2s.tl.annotate(adata, task=SEVERAL, model=model(), **QUIET)
    record = adata.uns["cell2sen"]["annotate"]["results"]
    assert record["cell2sen_disease"]["labels"].tolist() == ["normal", "ill"], "not the label with one cell"
    assert record["cell2sen_age"]["labels"].tolist() == ["20", "45", "70"]
    table = c2s.tl.probabilities(adata, "cell2sen_age")
    np.testing.assert_allclose(adata.obs["cell2sen_age"], table.to_numpy() @ [20, 45, 70])
    assert (adata.obs["cell2sen_age_low"] <= adata.obs["cell2sen_age"]).all()
    assert (adata.obs["cell2sen_age"] <= adata.obs["cell2sen_age_high"]).all()
    assert c2s.tl.probabilities(adata, "cell2sen_tissue").columns.tolist() == ["blood", "lung"]


def test_each_task_has_its_calibration() -> None:
    calibration = {"label:tissue": {"temperature": 2.0}}
    adata, cold = cells(), cells()
    c2s.tl.annotate(adata, task=SEVERAL, model=model(), **QUIET)
    c2s.tl.annotate(
        cold, task=SEVERAL, model=fake(**TRAINED | {"templates": None, "calibration": calibration}), **QUIET
    )
    softer = np.sqrt(adata.obsm["cell2sen_tissue_probabilities"].to_numpy())
    np.testing.assert_allclose(cold.obsm["cell2sen_tissue_probabilities"], softer / softer.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(cold.obsm["cell2sen_age_probabilities"], adata.obsm["cell2sen_age_probabilities"])
    results = cold.uns["cell2sen"]["annotate"]["results"]
    assert [results[key]["calibrated"] for key in results] == [True, False, False]


def test_the_name_of_a_trained_column_is_enough() -> None:
    trained = fake(**TRAINED).model
    assert [task.name for task in tasks_to_annotate(["disease", "age"], trained)] == ["label:disease", "number:age"]
    assert [task.name for task in tasks_to_annotate(None, trained)] == SEVERAL
    assert [task.name for task in tasks_to_annotate(None, fake().model)] == ["annotate"]
    before: dict[str, Any] = {"annotate": TRAINED["templates"]["label:tissue"], **TRAINED["templates"]}
    assert [task.name for task in tasks_to_annotate(None, fake(templates=before).model)] == ["annotate"]
    files = [{"file": "a.h5ad", "tasks": {"label:tissue": 3}}]
    tuned = fake(templates=before, training={"data": {"files": files}}).model
    assert [task.name for task in tasks_to_annotate(None, tuned)] == ["label:tissue"], "not what it began with"
    assert [task.name for task in tasks_to_annotate("tissue", fake().model)] == ["tissue"], "of samples of cells"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("age", r"no task 'age'; available: .*'label:COLUMN', 'number:COLUMN'"),
        ("generate", "must have a label or a number"),
        (["label:age", "number:age"], "must be of different columns"),
        ([], "at least one task"),
        ("label: ", "are named label:COLUMN"),
    ],
)
def test_tasks_that_cannot_be_annotated(task: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks_to_annotate(task, fake().model)


def test_labels_of_other_tasks() -> None:
    session = start(cells(), "annotate", {"model": model(), "progress": False})
    chosen = tasks_to_annotate(SEVERAL[:2], session.model)
    with pytest.raises(ValueError, match=r"labels= names \['sex'\]"):
        annotate_cells(session, chosen, {"sex": ["m", "f"]})
    with pytest.raises(ValueError, match="are several columns"):
        annotate_cells(session, chosen, ["blood", "lung"])
    with pytest.raises(ValueError, match="not trained on numbers of 'dose'"):
        annotate_cells(session, tasks_to_annotate("number:dose", session.model))
    with pytest.raises(ValueError, match="has no list of label:sex"):
        annotate_cells(session, tasks_to_annotate("label:sex", session.model))


def test_results_do_not_overwrite_each_other() -> None:
    menus = {"x": ["a", "b"], "x_score": ["c", "d"]}
    with pytest.raises(ValueError, match="same columns of obs, 'cell2sen_x' with 'cell2sen_x_score'"):
        c2s.tl.annotate(cells(), menus, task=["label:x", "label:x_score"], model=fake(), **QUIET)
