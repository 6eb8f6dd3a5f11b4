"""Tools for AnnData: all verbs, storage, files and input that cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata_objects import QUIET, PromptRecorder, assert_same_uns, assign, with_values, written_and_read
from cells import GENES, LABELS, cells, fake, needs_weights

import cell2sen as c2s


def test_three_verbs_as_documented() -> None:
    adata, model = cells(), fake()
    assert c2s.tl.embed(adata, model=model, **QUIET) is None
    assert adata.obsm["X_cell2sen"].shape == (6, 16)
    assert adata.obsm["X_cell2sen"].dtype == np.float32
    assert c2s.tl.annotate(adata, labels=LABELS, model=model, **QUIET) is None
    assert set(adata.obs["cell2sen_cell_type"]) <= set(LABELS)
    predicted = c2s.tl.perturb(adata, perturbation="IFN-beta", model=model, **QUIET)
    assert predicted.shape == (6, len(GENES))
    assert {"control", "delta"} == set(predicted.layers)
    drawn = c2s.tl.generate(["B cell", "NK cell"], n=2, genes=GENES, model=model, **QUIET)
    assert list(drawn.obs["cell_type"]) == ["B cell"] * 2 + ["NK cell"] * 2


@needs_weights
@pytest.mark.slow
def test_embedded_model_is_the_default() -> None:
    adata = cells()
    c2s.tl.embed(adata)
    assert np.isfinite(adata.obsm["X_cell2sen"]).all()
    c2s.tl.annotate(adata, labels=["B cell", "NK cell"])
    np.testing.assert_allclose(adata.obsm["cell2sen_cell_type_probabilities"].sum(axis=1), 1)
    predicted = c2s.tl.perturb(adata, perturbation="IFN-beta")
    assert (predicted.obs["validity"] == 1).all()
    assert (c2s.tl.generate("B cell", n=1, n_genes=20).obs["validity"] == 1).all()
    for record in (adata.uns["cell2sen"]["embed"], predicted.uns["cell2sen"]["perturb"]):
        assert record["model"]["name"] == "nano"
        assert record["model"]["dtype"] == "float32"


# -- In memory, backed, views, copies


def test_backed_gives_what_memory_gives(tmp_path: Path) -> None:
    adata = cells()
    adata.write_h5ad(tmp_path / "in.h5ad")
    before = (tmp_path / "in.h5ad").read_bytes()
    backed = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
    for cells_of in (adata, backed):
        c2s.tl.embed(cells_of, model=fake(), **QUIET)
        c2s.tl.annotate(cells_of, LABELS, model=fake(), **QUIET)
    np.testing.assert_array_equal(backed.obsm["X_cell2sen"], adata.obsm["X_cell2sen"])
    assert backed.obs["cell2sen_cell_type"].tolist() == adata.obs["cell2sen_cell_type"].tolist()
    perturbed = [c2s.tl.perturb(cells_of, "IFN-beta", model=fake(), **QUIET) for cells_of in (adata, backed)]
    assert perturbed[0].obs["sentence"].tolist() == perturbed[1].obs["sentence"].tolist()
    backed.file.close()
    assert (tmp_path / "in.h5ad").read_bytes() == before


def test_copy_of_a_backed_object_is_in_memory(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    backed = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r")
    for source in (backed, backed[[2, 0]]):
        copied = c2s.tl.embed(source, model=fake(), copy=True, **QUIET)
        assert copied is not None
        assert not copied.isbacked
        assert copied.obsm["X_cell2sen"].shape == (source.n_obs, 16)
        assert "X_cell2sen" not in source.obsm
    backed.file.close()


def test_view_of_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    backed, recorder = anndata.read_h5ad(tmp_path / "in.h5ad", backed="r"), PromptRecorder()
    with pytest.raises(ValueError, match=r"view of a backed file.*to_memory"):
        c2s.tl.embed(backed[[1, 2]], model=recorder.backend, **QUIET)
    assert not recorder.prompts
    backed.file.close()


def test_view_becomes_actual_and_its_parent_stays() -> None:
    adata = cells()
    view = adata[[3, 1]]
    with pytest.warns(anndata.ImplicitModificationWarning):
        c2s.tl.embed(view, model=fake(), **QUIET)
    assert view.obsm["X_cell2sen"].shape == (2, 16)
    assert "X_cell2sen" not in adata.obsm


@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_copy_leaves_the_input_alone(verb: str) -> None:
    adata = cells()
    matrix = adata.X.copy()
    arguments = [LABELS] if verb == "annotate" else []
    copied = getattr(c2s.tl, verb)(adata, *arguments, model=fake(), copy=True, **QUIET)
    assert "cell2sen" in copied.uns
    assert set(adata.uns) == {"organism"}
    assert not adata.obsm
    assert list(adata.obs) == ["donor"]
    assert (matrix != adata.X).nnz == 0


# -- Files


def test_everything_survives_a_file(tmp_path: Path) -> None:
    adata = cells()
    adata.obs_names = ["a/b", "a%2Fb", "a|b", ".", "ä ö", "c5"]
    c2s.tl.embed(adata, model=fake(), attention_for=list(adata.obs_names), **QUIET)
    c2s.tl.annotate(adata, LABELS, model=fake(), threshold=0.4, **QUIET)
    read = written_and_read(adata, tmp_path)
    assert_same_uns(dict(adata.uns["cell2sen"]), read.uns["cell2sen"])
    assert len(read.uns["cell2sen"]["attention"]) == 6
    assert read.obs["cell2sen_cell_type"].dtype == "category"
    np.testing.assert_array_equal(read.obsm["X_cell2sen"], adata.obsm["X_cell2sen"])
    # A second call replaces all earlier results.
    c2s.tl.annotate(read, ["T cell", "B cell"], model=fake(), **QUIET)
    c2s.tl.embed(read, model=fake(), pooling="genes", **QUIET)
    assert set(read.obs["cell2sen_cell_type"]) <= {"T cell", "B cell"}
    assert read.uns["cell2sen"]["annotate"]["labels"].tolist() == ["T cell", "B cell"]
    assert read.uns["cell2sen"]["embed"]["pooling"] == "genes"
    assert "attention" not in read.uns["cell2sen"]  # the maps were of the earlier embedding
    third = written_and_read(read, tmp_path)
    assert_same_uns(dict(read.uns["cell2sen"]), third.uns["cell2sen"])


def test_predictions_survive_a_file(tmp_path: Path) -> None:
    predicted = c2s.tl.perturb(cells(), "IFN-beta", model=fake(), **QUIET)
    drawn = c2s.tl.generate("B cell", n=2, genes=GENES, model=fake(), **QUIET)
    for before in (predicted, drawn):
        read = written_and_read(before, tmp_path)
        assert_same_uns(dict(before.uns["cell2sen"]), read.uns["cell2sen"])
        assert read.obs["sentence"].tolist() == before.obs["sentence"].tolist()
        assert (read.X != before.X).nnz == 0


# -- Input that cannot be used


BAD: dict[str, tuple[Any, str]] = {
    "no cells": (lambda: cells()[:0].copy(), "is empty: 0 cells"),
    "no genes": (lambda: cells()[:, :0].copy(), "is empty: 6 cells and 0 genes"),
    "all zero": (lambda: with_values(assign(0, slice(None), slice(None))), "none of the 6 cells has an expressed gene"),
    "negative": (lambda: with_values(assign(-1.5)), "must not be negative.*z-scores"),
    "infinite": (lambda: with_values(assign(np.inf)), "must be finite"),
}


@pytest.mark.parametrize("verb", ["embed", "annotate", "perturb"])
@pytest.mark.parametrize("case", sorted(BAD))
def test_unusable_matrices(verb: str, case: str) -> None:
    make, match = BAD[case]
    adata = make()
    arguments = {"embed": [], "annotate": [LABELS], "perturb": [["IFN-beta"] * adata.n_obs]}[verb]
    if verb == "perturb" and adata.n_obs == 0:
        arguments = ["IFN-beta"]
        match = "no cell|empty"
    with pytest.raises(ValueError, match=match):
        getattr(c2s.tl, verb)(adata, *arguments, model=fake(), **QUIET)
    assert "cell2sen" not in adata.uns


def test_cells_without_genes_get_no_result_and_the_others_theirs(caplog: pytest.LogCaptureFixture) -> None:
    adata, complete = with_values(assign(0, 2, slice(None))), cells()
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(adata, model=fake(), attention_for=[2, 3], **QUIET)
    assert "1 of 6 cells have no expressed gene" in caplog.text
    assert "c2" in caplog.text
    c2s.tl.embed(complete, model=fake(), **QUIET)
    assert np.isnan(adata.obsm["X_cell2sen"][2]).all()
    keep = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(adata.obsm["X_cell2sen"][keep], complete.obsm["X_cell2sen"][keep])
    assert set(adata.uns["cell2sen"]["attention"]) == {"c3"}
    c2s.tl.annotate(adata, LABELS, model=fake(), **QUIET)
    assert adata.obs["cell2sen_cell_type"].iloc[2] == "unknown"
    assert adata.obs["cell2sen_cell_type_score"].iloc[2] == 0
    assert np.isnan(adata.obsm["cell2sen_cell_type_probabilities"].iloc[2]).all()
    predicted = c2s.tl.perturb(adata, "IFN-beta", model=fake(), **QUIET)
    assert list(predicted.obs_names) == ["c0", "c1", "c3", "c4", "c5"]
    with pytest.raises(ValueError, match="none of the cells to predict"):
        c2s.tl.perturb(adata, [None, None, "IFN-beta", None, None, None], model=fake(), **QUIET)


def test_unknown_arguments_list_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"unknown arguments \['modle'\]; available: \['aliases', 'backend'"):
        c2s.tl.embed(cells(), modle="nano")
    with pytest.raises(TypeError, match="unknown arguments"):
        c2s.tl.generate("B cell", genes=GENES, seeds=3)


def test_names_that_the_model_was_not_trained_on_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        c2s.tl.perturb(cells(), "IL-6", model=fake(), force=True, **QUIET)
        c2s.tl.annotate(cells(), ["B cell", "astrocyte"], model=fake(), **QUIET)
    assert caplog.text.count("not trained on the perturbations 'IL-6'") == 1
    assert caplog.text.count("not trained on the labels 'astrocyte'") == 1
    assert "did you mean" not in caplog.text
    c2s.tl.perturb(cells(), "ifn beta", model=fake(), force=True, **QUIET)
    assert "did you mean 'IFN-beta' for 'ifn beta'?" in caplog.text


@pytest.mark.parametrize("verb", [c2s.tl.embed, c2s.tl.annotate, c2s.tl.perturb])
def test_paths_are_refused(verb: Any) -> None:
    with pytest.raises(TypeError, match=r"expected an AnnData object, found str: open a file with anndata.read_h5ad"):
        verb("cells.h5ad")
