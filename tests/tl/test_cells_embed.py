"""tl.embed: embeddings, attention maps and options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from anndata_objects import QUIET, PromptRecorder, assign, reordered, with_values
from cells import cells, checkpoint, fake

import cell2sen as c2s
from cell2sen.inference.gene_part import GenePart, Scaling
from cell2sen.inference.session import start
from cell2sen.sentences.gene_space import GeneSpace, rank_weights
from cell2sen.training.adaptation.loop import Loop


def test_embedding_depends_on_the_cell_alone() -> None:
    adata = cells()
    c2s.tl.embed(adata, model=fake(), **QUIET)
    part, rows = reordered(adata)
    del part.obsm["X_cell2sen"]
    c2s.tl.embed(part, model=fake(), **QUIET)
    np.testing.assert_array_equal(part.obsm["X_cell2sen"], adata.obsm["X_cell2sen"][rows])


def test_batch_size_changes_nothing() -> None:
    adata, model = cells(), tiny.backend(model=fake().model)
    c2s.tl.embed(adata, model=model, key_added="first", **QUIET)
    model.batch_size = 2
    c2s.tl.embed(adata, model=model, key_added="second", **QUIET)
    np.testing.assert_allclose(adata.obsm["first"], adata.obsm["second"], rtol=1e-4, atol=1e-5)


def test_parts_of_a_model_with_a_gene_part(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    adata = cells()
    alone = c2s.tl.embed(adata, model=str(model), attention_for=[1], copy=True, **QUIET)
    sentences = start(adata, "embed", {"model": str(model), **QUIET}).sentences
    weights = rank_weights(sentences, sentences.symbols)
    network = alone.obsm["X_cell2sen"]
    GenePart.of(GeneSpace.of(weights, sentences.symbols, 3), weights, Scaling.of(network)).write(model)
    both = c2s.tl.embed(adata, model=str(model), attention_for=[1], copy=True, **QUIET)
    width = network.shape[1]
    np.testing.assert_allclose(both.obsm["X_cell2sen"][:, :width], Scaling.of(network)(network), atol=1e-4)
    np.testing.assert_array_equal(both.uns["cell2sen"]["attention"]["c1"]["map"],
                                  alone.uns["cell2sen"]["attention"]["c1"]["map"])  # fmt: skip
    assert both.uns["cell2sen"]["embed"]["parts"].tolist() == ["network", "genes"]
    genes = c2s.tl.embed(adata, model=str(model), parts="genes", copy=True, **QUIET)
    np.testing.assert_array_equal(genes.obsm["X_cell2sen"], both.obsm["X_cell2sen"][:, width:])
    given = c2s.tl.embed(adata, model=str(model), parts="network", copy=True, **QUIET)
    np.testing.assert_allclose(given.obsm["X_cell2sen"], network, atol=1e-5)
    assert "parts" not in given.uns["cell2sen"]["embed"]


def test_organism_of_each_cell_and_of_each_call() -> None:
    adata, recorder = cells(), PromptRecorder()
    adata.obs["organism"] = ["human", "mouse"] * 3
    c2s.tl.embed(adata, model=recorder.backend, **QUIET)
    names = ["Homo sapiens", "Mus musculus"] * 3
    assert all(name in prompt.text for name, prompt in zip(names, recorder.prompts, strict=True))
    assert adata.uns["cell2sen"]["embed"]["organism"] == "Homo sapiens and Mus musculus"
    recorder.prompts.clear()
    c2s.tl.embed(cells(), model=recorder.backend, **QUIET)
    assert all("Homo sapiens" in prompt.text for prompt in recorder.prompts)


def test_adapted_embedding_is_recorded_and_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata, model = cells(60), checkpoint(tmp_path / "model")
    plain = c2s.tl.embed(adata, model=str(model), copy=True, **QUIET)
    monkeypatch.setattr(Loop, "_steps_in", lambda loop, seconds: round(seconds))
    before = adata.X.toarray()
    embedded = c2s.tl.embed(adata, adapt=2 / 60, model=str(model), copy=True, **QUIET)
    record = embedded.uns["cell2sen"]["embed"]
    assert (record["adaptation"]["steps"], record["model"]["name"]) == (2, "model-adapted")
    assert record["parts"].tolist() == ["network", "genes"]
    np.testing.assert_array_equal(adata.X.toarray(), before)
    assert embedded.obsm["X_cell2sen"].shape[1] > plain.obsm["X_cell2sen"].shape[1]
    out = c2s.adapt(adata, tmp_path / "adapted", steps=2, model=str(model), **QUIET)
    again = c2s.tl.embed(adata, model=out, copy=True, **QUIET)
    np.testing.assert_allclose(again.obsm["X_cell2sen"], embedded.obsm["X_cell2sen"], rtol=1e-5, atol=1e-6)
    embedded.write_h5ad(tmp_path / "embedded.h5ad")
    with pytest.raises(ValueError, match="'fake' does not"):
        c2s.tl.embed(adata, adapt=1, model=fake(), **QUIET)


# -- Attention maps


def test_attention_by_name_and_number() -> None:
    adata = cells()
    c2s.tl.embed(adata, model=fake(), attention_for=["c4", 1], **QUIET)
    maps = adata.uns["cell2sen"]["attention"]
    assert set(maps) == {"c4", "c1"}
    assert maps["c4"]["map"].shape == (2, len(maps["c4"]["genes"]), len(maps["c4"]["genes"]))
    row = adata.X[4].toarray().ravel()
    assert maps["c4"]["genes"][0] == adata.var_names[row == row.max()][0] or (row == row.max()).sum() > 1


@pytest.mark.parametrize(
    ("attention_for", "error"),
    [(["nobody"], KeyError), ([17], ValueError), ([-1], ValueError), ("c1", ValueError)],
)
def test_attention_of_cells_that_do_not_exist(attention_for: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"no cell|must be a list"):
        c2s.tl.embed(cells(), model=fake(), attention_for=attention_for, **QUIET)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("attention_for", ["c0", 1])
def test_attention_of_an_ambiguous_name(attention_for: str | int) -> None:
    adata = cells()
    adata.obs_names = ["c0", "c0", "c2", "c3", "c4", "c5"]
    with pytest.raises(ValueError, match=r"several cells.*obs_names_make_unique"):
        c2s.tl.embed(adata, model=fake(), attention_for=[attention_for], **QUIET)
    c2s.tl.embed(adata, model=fake(), attention_for=["c2"], **QUIET)


# -- Options


@pytest.mark.parametrize("kind", ["layer", "raw"])
def test_other_matrices_are_used_and_recorded(kind: str) -> None:
    adata = cells()
    plain = c2s.tl.embed(adata, model=fake(), copy=True, **QUIET)
    other_cells = cells(seed=9)
    other_cells.obs_names = adata.obs_names
    if kind == "layer":
        adata.layers["counts"] = other_cells.X
        options: dict[str, Any] = {"layer": "counts"}
    else:
        adata.raw = other_cells
        options = {"use_raw": True}
    embedded = c2s.tl.embed(adata, model=fake(), copy=True, **options, **QUIET)
    expected = c2s.tl.embed(other_cells, model=fake(), copy=True, **QUIET)
    assert plain is not None
    assert embedded is not None
    assert expected is not None
    np.testing.assert_array_equal(embedded.obsm["X_cell2sen"], expected.obsm["X_cell2sen"])
    assert plain.uns["cell2sen"]["embed"]["matrix"] == "X"
    assert embedded.uns["cell2sen"]["embed"]["matrix"] == {"layer": "counts", "raw": "raw.X"}[kind]


def test_missing_values_are_not_genes(caplog: pytest.LogCaptureFixture) -> None:
    with_nan, with_zero = with_values(assign(np.nan)), with_values(assign(0))
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(with_nan, model=fake(), **QUIET)
    assert "1 missing values (NaN)" in caplog.text
    c2s.tl.embed(with_zero, model=fake(), **QUIET)
    np.testing.assert_array_equal(with_nan.obsm["X_cell2sen"], with_zero.obsm["X_cell2sen"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"layer": "counts"}, KeyError, r"no 'counts'; available: \[\]"),
        ({"use_raw": True}, KeyError, "no adata.raw"),
        ({"pooling": "max"}, ValueError, r"no pooling 'max'; available: \['mean', 'genes', 'last'\]"),
        ({"hidden_layer": 3}, ValueError, "no layer 3; available: -1"),
        ({"max_genes": 0}, ValueError, "max_genes must be at least 1"),
        ({"ties": "coin"}, ValueError, "ties must be one of"),
        ({"templates": "nowhere.json"}, FileNotFoundError, "JSON file"),
        ({"organism": ["human"]}, ValueError, "6 cells, found 1"),
        ({"symbols": "symbol"}, KeyError, "symbol"),
        ({"dtype": "float16"}, ValueError, "loaded already: dtype"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        c2s.tl.embed(cells(), model=fake(), **options, **QUIET)


def test_more_genes_than_the_model_was_trained_with_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(cells(), model=fake(lengths={"annotate": 9}), max_genes=30, **QUIET)
    assert "with 9 genes per sentence: max_genes=30 has no effect beyond that" in caplog.text


def test_organisms_that_the_model_was_not_trained_on_warn(caplog: pytest.LogCaptureFixture) -> None:
    model = fake(organisms=["Homo sapiens", "Mus musculus"])
    with caplog.at_level(logging.WARNING):
        c2s.tl.embed(cells(), organism="mouse", model=model, **QUIET)
        assert "not trained on cells of" not in caplog.text
        c2s.tl.embed(cells(), organism="Danio rerio", model=model, **QUIET)
    assert "not trained on cells of ['Danio rerio'], only on ['Homo sapiens', 'Mus musculus']" in caplog.text
