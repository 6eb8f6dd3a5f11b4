"""tl.annotate: labels, probabilities and thresholds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata_objects import QUIET, PromptRecorder, reordered
from cells import LABELS, cells, fake

import cell2sen as c2s


def test_label_depends_on_the_cell_alone() -> None:
    adata = cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    part, rows = reordered(adata)
    c2s.tl.annotate(part, LABELS, model=fake(), **QUIET)
    key = "cell2sen_cell_type_probabilities"
    np.testing.assert_array_equal(part.obsm[key], adata.obsm[key].iloc[rows])


def test_probabilities_are_a_distribution_and_scores_their_maximum() -> None:
    adata = cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), threshold=0.5, **QUIET)
    probabilities = adata.obsm["cell2sen_cell_type_probabilities"].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(adata.obs["cell2sen_cell_type_score"], probabilities.max(axis=1))
    best = [LABELS[column] for column in probabilities.argmax(axis=1)]
    expected = [
        label if score >= 0.5 else "unknown" for label, score in zip(best, probabilities.max(axis=1), strict=True)
    ]
    assert adata.obs["cell2sen_cell_type"].tolist() == expected
    assert adata.uns["cell2sen"]["annotate"]["calibrated"] is False


def test_calibration_temperature_is_applied_and_recorded() -> None:
    adata, cold = cells(), cells()
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    c2s.tl.annotate(cold, LABELS, model=fake(calibration={"annotate": {"temperature": 2.0}}), **QUIET)
    key = "cell2sen_cell_type_probabilities"
    softer = np.sqrt(adata.obsm[key].to_numpy())
    np.testing.assert_allclose(cold.obsm[key], softer / softer.sum(axis=1, keepdims=True))
    assert cold.uns["cell2sen"]["annotate"]["calibrated"] is True


def test_labels_of_the_model_are_the_default() -> None:
    adata = cells()
    c2s.tl.annotate(adata, model=fake(), **QUIET)
    assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS  # not the platelet, with two cells
    with pytest.raises(ValueError, match="has no list of labels"):
        c2s.tl.annotate(adata, model=fake(labels=None), **QUIET)


def test_unknown_may_be_a_label() -> None:
    adata = cells(30)
    c2s.tl.annotate(adata, ["B cell", "unknown"], threshold=0.6, model=fake(), **QUIET)
    assert adata.obs["cell2sen_cell_type"].cat.categories.tolist() == ["B cell", "unknown"]


@pytest.mark.parametrize(
    "labels",
    ["B cell", [], ["B cell"], ["B cell", " B cell"], ["B cell", ""], ["B cell", None], ["B cell", float("nan")]],
)
def test_labels_that_are_no_closed_set(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels must"):
        c2s.tl.annotate(cells(), labels, model=fake(), **QUIET)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        c2s.tl.annotate(cells(), LABELS, threshold=threshold, model=fake(), **QUIET)


def test_labels_in_other_containers() -> None:
    for labels in (pd.Series(LABELS), np.array(LABELS), pd.Index(LABELS), tuple(LABELS), pd.Categorical(LABELS)):
        adata = cells()
        c2s.tl.annotate(adata, labels, model=fake(), **QUIET)
        assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS


def test_long_prompts_lose_genes_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    adata, recorder = cells(), PromptRecorder()
    recorder.backend.context = 45
    with caplog.at_level(logging.WARNING):
        c2s.tl.annotate(adata, LABELS, model=recorder.backend, **QUIET)
    assert "genes were cut" in caplog.text
    recorder.backend.context = 5
    with pytest.raises(ValueError, match="without any genes"):
        c2s.tl.annotate(adata, LABELS, model=recorder.backend, **QUIET)


def test_probabilities_have_the_labels_as_columns_through_a_file(tmp_path: Path) -> None:
    adata, labels = cells(), ["T/NK", "B cells, naive", 'α/β "T"; cell']
    c2s.tl.annotate(adata, labels, model=fake(), **QUIET)
    frame = adata.obsm["cell2sen_cell_type_probabilities"]
    assert list(frame.columns) == ["T%2FNK", "B cells, naive", 'α%2Fβ "T"; cell']
    for write, read in (("write_h5ad", anndata.read_h5ad), ("write_zarr", anndata.read_zarr)):
        getattr(adata, write)(tmp_path / write)
        again = read(tmp_path / write)
        pd.testing.assert_frame_equal(again.obsm["cell2sen_cell_type_probabilities"], frame)
        assert again.uns["cell2sen"]["annotate"]["labels"].tolist() == labels


def test_one_text_is_split_at_semicolons() -> None:
    adata = cells()
    c2s.tl.annotate(adata, "B cell; NK cell;CD4 T cell ", model=fake(), **QUIET)
    assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == ["B cell", "NK cell", "CD4 T cell"]


def test_clusters_as_numbers_are_labels() -> None:
    for labels in ([0, 1], [0.0, 1.0], ["0", "1.0"], [b"0", b"1"]):
        adata = cells()
        c2s.tl.annotate(adata, labels, model=fake(), **QUIET)  # type: ignore[arg-type]
        assert adata.uns["cell2sen"]["annotate"]["labels"].tolist() == ["0", "1"]
    with pytest.raises(ValueError, match=r"found \['B cell'\] more than once"):
        c2s.tl.annotate(cells(), ["B cell", "B\u00a0cell"], model=fake(), **QUIET)


def test_probabilities_are_read_under_the_labels_as_they_are(tmp_path: Path) -> None:
    labels = ["CD4/CD8 T cell", "B%2Fcell", "NK (CD56+) cell", "1"]
    adata = cells()
    c2s.tl.annotate(adata, labels, model=fake(), **QUIET)
    stored = adata.obsm["cell2sen_cell_type_probabilities"]
    for kind in ("h5ad", "zarr"):
        file = tmp_path / f"cells.{kind}"
        getattr(adata, f"write_{kind}")(file)
        again = c2s.tl.probabilities(getattr(anndata, f"read_{kind}")(file))
        assert again.columns.tolist() == labels
        assert again.index.tolist() == adata.obs_names.tolist()
        np.testing.assert_array_equal(again.to_numpy(), stored.to_numpy())
    c2s.tl.annotate(adata, ["a/b", "c"], key_added="other", model=fake(), **QUIET)
    assert c2s.tl.probabilities(adata).columns.tolist() == ["a/b", "c"]
    assert c2s.tl.probabilities(adata, "cell2sen_cell_type").columns.tolist()[0] == "CD4/CD8 T cell"
    with pytest.raises(KeyError, match=r"no 'x_probabilities', which .* writes; available"):
        c2s.tl.probabilities(adata, "x")
    with pytest.raises(KeyError, match=r"which .* writes"):
        c2s.tl.probabilities(cells())
