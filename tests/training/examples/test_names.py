"""Names are checked before the first step of a training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.training.config.data import TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.names import check_names, unite_combinations


def written(folder: Path, **columns: Any) -> Path:
    """The file cells.h5ad with other columns."""
    adata = anndata.read_h5ad(training_cells.write(folder / "cells.h5ad", 40))
    for name, values in columns.items():
        adata.obs[name] = np.resize(np.array(values, dtype=object), adata.n_obs)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def checked(folder: Path, spellings: dict[str, list[str]] | None = None, **entry: Any) -> Any:
    cells = cells_of(folder, **{"tasks": ["annotate"], "cell_type": "label", **entry})
    check_names({"cells.h5ad": cells}, {name: tasks.load(name) for name in cells.data.tasks}, spellings or {})
    return cells


def test_missing_labels_are_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = checked(written(tmp_path, label=["T cell", "B cell", "nan", "None", "NA", "T cell", "B cell", " "]))
    assert set(cells.label) == {"T cell", "B cell", None}
    assert "obs of cells.h5ad: 20 of 40 cells have no value in 'label'" in caplog.text
    assert "'NA': 5" in caplog.text


def test_text_that_means_a_missing_value_can_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, label=["T cell", "NA", "doublet", "B cell"])
    names = {"NA": "not assigned", "doublet": None}
    cells = checked(folder, cell_type={"column": "label", "names": names})
    assert set(cells.label) == {"T cell", "B cell", "not assigned", None}
    assert "not assigned (10 cells)' are learned as cell types" in caplog.text


def test_spaces_make_no_other_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = checked(written(tmp_path, label=["T cell", "B cell", "B cell ", " B\u00a0cell", "T  cell"]))
    assert set(cells.label) == {"T cell", "B cell"}
    assert "differ only in spelling" not in caplog.text


def test_spellings_that_differ_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checked(written(tmp_path, label=["T cell", "B cell", "B Cell", "unknown"]))
    assert "the labels 'B cell' (10 cells) and 'B Cell' (10 cells) differ only in spelling" in caplog.text
    assert "unknown (10 cells)' are learned as cell types, like others; cell_type.names: {unknown: null}" in caplog.text


def test_whole_floats_are_whole_numbers(tmp_path: Path) -> None:
    adata = anndata.read_h5ad(training_cells.write(tmp_path / "cells.h5ad", 40))
    adata.obs["label"] = np.resize([0.0, 1.0, np.nan, 2.0], 40)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = checked(tmp_path, matrix={"where": {"label": 1}}, split={"by": "label", "values": ["1"]})
    assert set(cells.label) == {"1"}
    assert cells.test.all()


def test_labels_with_one_meaning_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, label=["B cell", "B lymphocyte"])
    with pytest.raises(ValueError, match="mean the same to this model"):
        checked(folder, {"B cell": ["B lymphocyte"], "B lymphocyte": ["B cell"]})


@pytest.mark.parametrize(
    ("value", "control"), [(None, ""), ("nan", None), ("NA", "NA"), ("ctrl ", "ctrl"), (b"x", "x")]
)
def test_controls_of_any_spelling(tmp_path: Path, value: Any, control: Any) -> None:
    adata = anndata.read_h5ad(written(tmp_path) / "cells.h5ad")
    entry = {"perturbation": {"column": "condition", "control": control}, "tasks": ["perturb"]}
    names = np.array([value if name == "control" else name for name in adata.obs["condition"]], dtype=object)
    if isinstance(value, bytes):
        names = np.array([name.decode() if isinstance(name, bytes) else name for name in names], dtype=object)
    adata.obs["condition"] = names
    expected = (anndata.read_h5ad(tmp_path / "cells.h5ad").obs["condition"] == "control").to_numpy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = checked(tmp_path, cell_type=None, **entry)
    np.testing.assert_array_equal([cells.is_control(cell) for cell in range(40)], expected)


def test_combinations_have_one_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, condition=["ctrl", "A+B", "B+A", "B+A", "A+ctrl", "ctrl+A", "ctrl+A", "B"])
    cells = checked(folder, cell_type=None, perturbation={"column": "condition", "control": "ctrl"}, tasks=["perturb"])
    assert set(cells.perturbation) == {"ctrl", "B+A", "ctrl+A", "B"}
    assert "'A+B' is 'B+A' in another order" in caplog.text


def test_cells_without_a_context_are_not_paired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, donor=["d1", "NA"])
    entry = {"perturbation": {"column": "condition", "context": ["donor"]}, "tasks": ["perturb"], "cell_type": None}
    cells = checked(folder, **entry)
    assert set(cells.groups(np.arange(40))) == {("d1",)}
    assert "20 of 40 cells have no value in 'donor'" in caplog.text


def test_combinations_have_one_name_in_all_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, values in (("one", ["A+B", "A+B", "C+ctrl", "ctrl"]), ("two", ["B+A", "C", "C", "DMSO"])):
        adata = anndata.read_h5ad(training_cells.write(tmp_path / f"{name}.h5ad", 40))
        adata.obs["drug"] = np.resize(np.array(values, dtype=object), 40)
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    cells = {
        name: cells_of(tmp_path, file=f"{name}.h5ad", perturbation={"column": "drug", "control": control})
        for name, control in (("one", "ctrl"), ("two", "DMSO"))
    }
    unite_combinations(cells)
    assert cells["one"].perturbation[:4].tolist() == ["A+B", "A+B", "C", "ctrl"]
    assert cells["two"].perturbation[:4].tolist() == ["A+B", "C", "C", "DMSO"]
    assert "'B+A' is 'A+B' in another order; in all files both are learned as 'A+B'" in caplog.text
    assert "'C+ctrl' is 'C'" in caplog.text


def test_columns_of_labels_are_named_where_they_are_doubtful(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {"state": ["ill", "Ill", "TRUE", "1.0", None, "nan", "a; b", "a/b\nc"], "sex": ["male", "female"]}
    checked(written(tmp_path, **values), tasks=["label:state", "joint:state+sex"], cell_type=None)
    assert re.search(r"the labels '[Ii]ll' \(\d cells\) and '[Ii]ll' \(", caplog.text)
    assert "of obs['state'] differ only in spelling" in caplog.text
    assert "10 of 40 cells have no value in 'state' (written as 'nan': 5)" in caplog.text


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["lung"], r"found 1 of 1 in obs\['tissue'\] \('lung'\)"),
        ([None, "nan", ""], r"found 0 of 0 in obs\['\w+'\]"),
        (
            [f"cell {number}" for number in range(40)],
            r"found 0 of .* more\).*; as a number, its task is 'number:tissue'",
        ),
    ],
)
def test_columns_without_labels_to_choose_from(tmp_path: Path, values: list[Any], found: str) -> None:
    folder = written(tmp_path, tissue=values, sex=["male", "female"])
    for name in ("label:tissue", "joint:sex+tissue"):
        with pytest.raises(
            ValueError, match=f"task {re.escape(repr(name))} needs two labels with at least 3 .*{found}"
        ):
            checked(folder, tasks=[name], cell_type=None, split={"test": 0.1})


def test_contexts_with_the_answer_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(
        tmp_path,
        patient=["p1", "p2", "p3", "p4"],
        disease=["ill", "normal", "ill", "normal"],
        batch=["x", "y", "z", None, "x", "x", "y"],
        text=[f"text {number}" for number in range(40)],
    )
    settings = build(TrainingFile, {"file": "cells.h5ad", "tasks": ["label:disease"]})
    cells = TrainingCells(settings, folder, "upper", ["patient", "batch", "text", "disease"])
    check_names({"cells.h5ad": cells}, {"label:disease": tasks.load("label:disease")}, {})
    assert "'patient' in the prompt determines 'disease'" in caplog.text
    assert all(f"{name!r} in the prompt" not in caplog.text for name in ("batch", "text", "disease"))


def test_the_organism_is_in_the_prompt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, organism=["Homo sapiens", "Mus musculus"], species=["human", "mouse"])
    checked(folder, tasks=["label:species"], cell_type=None)
    assert "'organism' in the prompt determines 'species'" in caplog.text
