from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import training_cells
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.training.examples.numbers import fit_bins

AGE, JOINT = tasks.load("number:age"), tasks.load("joint:cell_type+number:age")
TASKS = {task.name: task for task in (AGE, JOINT, tasks.load("annotate"))}


def with_age(folder: Path, ages: object) -> Path:
    adata = anndata.read_h5ad(training_cells.write(folder / "cells.h5ad", 60))
    adata.obs["age"] = ages
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def test_bins_are_of_the_training_cells_of_all_files(tmp_path: Path) -> None:
    ages = np.where(np.arange(60) % 3 == 0, np.nan, np.arange(60) % 5)
    folder = with_age(tmp_path, ages)
    first = cells_of(folder, tasks={AGE.name: 1}, split={"test": 0.5})
    second = cells_of(folder, tasks={AGE.name: 1}, columns={"age": "age"})
    other = cells_of(folder, tasks={"annotate": 1})
    fit_bins({"a": first, "b": second, "c": other}, TASKS)
    assert first.bins["age"] is second.bins["age"]
    assert not other.bins
    assert first.answers(AGE).tolist() == [None if np.isnan(age) else str(int(age)) for age in ages]


def test_numbers_that_cannot_be_learned(tmp_path: Path) -> None:
    for ages, message in ((3, "at least two different values"), (["a", "b"] * 30, "must be numbers, found 'a', 'b'")):
        cells = cells_of(with_age(tmp_path, ages), tasks={AGE.name: 1})
        with pytest.raises(ValueError, match=message):
            fit_bins({"a": cells}, TASKS)


def test_a_column_has_the_same_bins_alone_and_in_a_joint_answer(tmp_path: Path) -> None:
    ages = [20, 30, np.nan] * 20
    folder = with_age(tmp_path, ages)
    alone = cells_of(folder, tasks={AGE.name: 1}, split={"test": 0.0})
    joint = cells_of(folder, tasks={JOINT.name: 1}, split={"test": 0.0})
    with pytest.raises(ValueError, match="'number:age' is learned by cell2sen train"):
        joint.answers_of_parts(JOINT)
    fit_bins({"a": alone, "b": joint}, TASKS)
    assert alone.bins["age"] is joint.bins["age"]
    types, written = joint.answers_of_parts(JOINT)
    known = [not np.isnan(age) for age in ages]
    expected = joint.obs["cell_type"].tolist()
    assert types.tolist() == [name if has else None for name, has in zip(expected, known, strict=True)]
    assert written.tolist() == [str(int(age)) if has else None for age, has in zip(ages, known, strict=True)]
