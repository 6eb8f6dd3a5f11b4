"""Sharded equals unsharded, verb by verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import LABELS, cells

from cell2sen import atlas, tl
from cell2sen.backends import load
from cell2sen.model import resolve


def whole(files: list[Path], number: int) -> anndata.AnnData:
    return (anndata.read_zarr if number else anndata.read_h5ad)(files[number])


def collected(folder: Path, **options: Any) -> anndata.AnnData:
    assert atlas.run(folder, progress=False).finished
    (file,) = atlas.collect(folder, folder.with_suffix(".h5ad"), progress=False, **options)
    return anndata.read_h5ad(file)


@pytest.fixture
def backend(model: str) -> Any:
    """The fake of the tests' model, as a run loads it."""
    return load(resolve(model), "fake")


def test_embed(files, planned, backend) -> None:
    folder, _ = planned("embed", pooling="genes")
    result = collected(folder)
    for number, n in enumerate((13, 7)):
        expected = whole(files, number)
        tl.embed(expected, pooling="genes", model=backend, progress=False)
        rows = (result.obs["file"] == files[number].name).to_numpy()
        np.testing.assert_array_equal(result.obsm["X_cell2sen"][rows], expected.obsm["X_cell2sen"])
        assert result.obs["cell"][rows].tolist() == expected.obs_names.tolist()
        assert result.obs["row"][rows].tolist() == list(range(n))
    assert np.isnan(result.obsm["X_cell2sen"][12]).all()
    assert result.uns["cell2sen"]["embed"]["pooling"] == "genes"


def test_annotate(files, planned, backend) -> None:
    folder, _ = planned("annotate", labels=LABELS, threshold=0.6, inputs=files[:1])
    result, expected = collected(folder), whole(files, 0)
    tl.annotate(expected, LABELS, threshold=0.6, model=backend, progress=False)
    for name in ("cell2sen_cell_type", "cell2sen_cell_type_score"):
        assert result.obs[name].tolist() == expected.obs[name].tolist()
    assert list(result.obs["cell2sen_cell_type"].cat.categories) == list(
        expected.obs["cell2sen_cell_type"].cat.categories
    )
    pd.testing.assert_frame_equal(tl.probabilities(result), tl.probabilities(expected))


def test_perturb_predicts_the_controls_of_the_whole_file(files, planned, backend) -> None:
    folder, plan = planned("perturb", perturbation="IFN-beta", inputs=files[:1])
    assert plan.inputs[0].column == "perturbation"
    result = collected(folder)
    expected = tl.perturb(whole(files, 0), "IFN-beta", model=backend, progress=False)
    assert result.obs_names.tolist() == expected.obs_names.tolist()
    assert len(result) < 13
    for before, after in ((result.X, expected.X), *((result.layers[n], expected.layers[n]) for n in expected.layers)):
        np.testing.assert_array_equal(before.toarray(), after.toarray())
    assert result.obs["sentence"].tolist() == expected.obs["sentence"].tolist()
    assert result.var_names.tolist() == expected.var_names.tolist()


def test_perturb_in_a_column_with_a_shard_without_perturbed_cells(files, planned, backend, tmp_path) -> None:
    adata = cells(8)
    adata.obs["of"] = [None] * 5 + ["IFN-beta", None, "IFN-beta"]
    adata.write_h5ad(tmp_path / "some.h5ad")
    folder, _ = planned("perturb", perturbation_column="of", inputs=tmp_path / "some.h5ad", temperature=0.7, seed=3)
    result = collected(folder)
    expected = tl.perturb(adata, perturbation_column="of", temperature=0.7, seed=3, model=backend, progress=False)
    assert result.obs_names.tolist() == expected.obs_names.tolist() == ["c5", "c7"]
    np.testing.assert_array_equal(result.X.toarray(), expected.X.toarray())


@pytest.mark.parametrize("candidates", [1, 3])
def test_generate(planned, backend, files, candidates: int) -> None:
    settings: dict[str, Any] = {"n": 7, "genes": files[0], "n_genes": 9, "candidates": candidates}
    folder, plan = planned("generate", inputs=(), cell_type=["B cell", "NK cell"], **settings)
    assert plan.shards == ((0, 0, 5), (0, 5, 7), (1, 0, 5), (1, 5, 7))
    result = collected(folder)
    expected = tl.generate(["B cell", "NK cell"], **settings, model=backend, progress=False)
    assert result.obs_names.tolist() == expected.obs_names.tolist()
    assert result.obs["sentence"].tolist() == expected.obs["sentence"].tolist()
    np.testing.assert_array_equal(result.X.toarray(), expected.X.toarray())


def test_counts_of_perturbed_cells(files, planned, backend) -> None:
    folder, _ = planned("perturb", perturbation="IFN-beta", output="counts", seed=2, inputs=files[:1])
    result, settings = collected(folder), {"output": "counts", "seed": 2, "model": backend, "progress": False}
    expected = tl.perturb(whole(files, 0), "IFN-beta", **settings)
    for before, after in ((result.X, expected.X), *((result.layers[n], expected.layers[n]) for n in expected.layers)):
        np.testing.assert_array_equal(before.toarray(), after.toarray())
    assert (result.X.data == np.rint(result.X.data)).all()
    assert (result.layers["control"] + result.layers["delta"] != result.X).nnz, "the difference is one of expression"
    assert result.uns["cell2sen"]["perturb"]["unit"] == expected.uns["cell2sen"]["perturb"]["unit"] == "counts"


def test_counts_of_generated_cells(files, planned, backend) -> None:
    settings: dict[str, Any] = {"cell_type": ["B cell", "NK cell"], "n": 7, "genes": files[0], "n_genes": 9}
    folder, _ = planned("generate", inputs=(), output="counts", **settings)
    result = collected(folder)
    expected = tl.generate(output="counts", **settings, model=backend, progress=False)
    np.testing.assert_array_equal(result.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(result.layers["expression"].toarray(), expected.layers["expression"].toarray())
    assert result.obs["measured_cell"].tolist() == expected.obs["measured_cell"].tolist()
    assert result.uns["cell2sen"]["generate"]["unit"] == "counts"


def test_transfer(planned, backend, tmp_path) -> None:
    reference, query = cells(40, seed=1), cells(9, seed=2)
    reference.obs["type"] = ["a" if row % 2 else "b" for row in range(40)]
    reference.obs_names = [f"r{name}" for name in reference.obs_names]
    for adata, name in ((reference, "reference.h5ad"), (query, "query.h5ad")):
        adata.write_h5ad(tmp_path / name)
    settings: dict[str, Any] = {"label": "type", "classifier": "logistic", "features": "embedding"}
    folder, _ = planned("transfer", inputs=tmp_path / "query.h5ad", reference=tmp_path / "reference.h5ad", **settings)
    result = collected(folder)
    settings |= {"majority_voting": False, "cache": False, "model": backend, "progress": False}
    cut = [query[:5].copy(), query[5:].copy()]
    for part in (query, *cut):
        tl.transfer(part, tmp_path / "reference.h5ad", **settings)
    for name in query.obs.columns.difference(["donor"]):
        assert result.obs[name].tolist() == [value for part in cut for value in part.obs[name]], name
    # Products of matrices of other sizes: equal to rounding.
    np.testing.assert_allclose(
        tl.probabilities(result, "transferred_type"), tl.probabilities(query, "transferred_type"), atol=1e-9
    )
    assert result.obs["transferred_type"].tolist() == query.obs["transferred_type"].tolist()


def test_screen_has_a_shard_per_file(planned, backend, files) -> None:
    settings: dict[str, Any] = {
        "gene_set": ["CD4", "LYZ", "B2M"], "measured": True, "perturbation_column": "perturbation", "n_null": 9,
        "min_cells": 2,
    }  # fmt: skip
    folder, plan = planned("screen", **settings)
    assert plan.shards == ((0, 0, 13), (1, 0, 7))
    assert atlas.run(folder, progress=False).finished, atlas.status(folder)
    (file,) = atlas.collect(folder, folder.with_suffix(".parquet"), progress=False)
    table = pd.read_parquet(file)
    expected = tl.screen(whole(files, 1), **settings, model=backend, progress=False)
    own = table[table["file"] == files[1].name].drop(columns="file").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected.reset_index(drop=True), check_dtype=False)


@pytest.fixture(scope="module")
def network(model: str) -> Any:
    """The tests' random network, as a run loads it."""
    return load(resolve(model), "transformers", batch_size=2, progress=False)


@pytest.mark.parametrize(
    ("verb", "settings"),
    [("embed", {}), ("annotate", {"labels": LABELS}), ("perturb", {"perturbation": "IFN-beta", "n_genes": 8})],
)
def test_a_network_gives_the_same_bits_with_the_same_cut_and_batch(planned, network, files, verb, settings) -> None:
    folder, plan = planned(verb, inputs=files[0], backend="transformers", batch_size=2, **settings)
    result, adata = collected(folder), whole(files, 0)
    options = {"model": network, "whole": plan.inputs[0].whole, "progress": False}
    parts = []
    for _, first, stop in plan.shards:
        part = adata[first:stop].copy()
        written = getattr(tl, verb)(part, *settings.values(), **options) if verb != "perturb" else tl.perturb(
            part, "IFN-beta", n_genes=8, **options
        )  # fmt: skip
        parts.append(part if written is None else written)
    if verb == "perturb":
        np.testing.assert_array_equal(result.X.toarray(), np.concatenate([part.X.toarray() for part in parts]))
        return
    key = "X_cell2sen" if verb == "embed" else "cell2sen_cell_type_probabilities"
    np.testing.assert_array_equal(result.obsm[key], np.concatenate([np.asarray(part.obsm[key]) for part in parts]))
    expected = whole(files, 0)
    getattr(tl, verb)(expected, *settings.values(), model=network, progress=False)
    np.testing.assert_allclose(result.obsm[key], expected.obsm[key], atol=1e-5)


def test_warnings_of_a_shard_are_kept(planned) -> None:
    folder, _ = planned("embed")
    status = atlas.run(folder, progress=False)
    assert any("have no expressed gene" in text for text in status.warnings)


def test_names_of_genes_are_those_of_all_organisms_of_a_file(planned, tmp_path) -> None:
    """A shard of human cells alone would take other names for genes than the file with mouse cells, too."""
    adata = cells(6)
    del adata.uns["organism"]
    adata.obs["organism"] = ["Homo sapiens"] * 5 + ["Mus musculus"]
    adata.write_h5ad(tmp_path / "both.h5ad")
    folder, plan = planned("embed", inputs=tmp_path / "both.h5ad")
    assert plan.inputs[0].organisms == ("Homo sapiens", "Mus musculus")
    assert plan.inputs[0].whole is not None
    assert atlas.run(folder, progress=False).finished
    adata.obs["organism"] = ["Homo sapiens"] * 5 + [None]
    adata.write_h5ad(tmp_path / "missing.h5ad")
    with pytest.raises(ValueError, match="has no value for some cells: fill it, or pass organism="):
        planned("embed", name="other", inputs=tmp_path / "missing.h5ad")
