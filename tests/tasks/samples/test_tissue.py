"""The task tissue: from samples of cells to labels, and a training on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cells import cells, checkpoint, fake

import cell2sen as c2s
from cell2sen import tasks, training

TISSUES = ["blood", "lung", "liver"]


def donors(n: int = 36):
    """Cells of three donors, each of one tissue; the last two cells have no donor."""
    adata = cells(n)
    adata.obs["donor"] = pd.Categorical([f"d{row % 3}" if row < n - 2 else None for row in range(n)])
    adata.obs["tissue"] = pd.Categorical([TISSUES[row % 3] for row in range(n)])
    return adata


def test_from_anndata_to_scored_answer(tmp_path: Path) -> None:
    adata = donors()
    model = checkpoint(tmp_path / "tiny", tissue=dict.fromkeys(TISSUES, 9), recipe={"max_genes": 6})
    c2s.tl.annotate(adata, task="tissue", sample_by="donor", n_cells=6, model=str(model), progress=False)
    obs = adata.obs
    assert obs["cell2sen_tissue_sample"].isna().tolist() == obs["donor"].isna().tolist()
    assert (obs.loc[obs["donor"].isna(), "cell2sen_tissue"] == "unknown").all()
    in_sample = obs.dropna(subset="cell2sen_tissue_sample").groupby("cell2sen_tissue_sample", observed=True)
    assert (in_sample[["donor", "cell2sen_tissue", "cell2sen_tissue_score"]].nunique() == 1).all(axis=None)
    assert in_sample.size().between(5, 6).all()
    assert adata.obsm["cell2sen_tissue_probabilities"].shape == (adata.n_obs, 3)
    record = adata.uns["cell2sen"]["annotate"]
    assert (record["n_cells"], record["seed"], record["sample_by"].tolist()) == (6, 0, ["donor"])
    samples = adata[obs.index.isin(obs["cell2sen_tissue_sample"].dropna())]
    scores = c2s.evaluate(
        samples,
        samples,
        task="annotate",
        label="tissue",
        predicted_label="cell2sen_tissue",
        resamples=20,
        leaks="report",
    )
    assert "accuracy" in str(scores)
    adata.write_h5ad(tmp_path / "annotated.h5ad")


def test_wording() -> None:
    task = tasks.load("tissue")
    assert task.cells == (5, 20)
    prompt = task.prompt(cells={"a": ("CD4", "LYZ"), "b": ("B2M", "CD4")}, organism="mouse")
    assert prompt.text == (
        "Below are 2 Mus musculus cells of one sample, each with its 2 most expressed genes, strongest first.\n"
        "Cell 1: CD4 LYZ.\nCell 2: B2M CD4.\nThe tissue of these cells is:"
    )
    assert task.complete(tissue="bone marrow") == " bone marrow."


def test_the_label_depends_on_the_sample_alone() -> None:
    adata, backend = donors(), fake()
    c2s.tl.annotate(adata, TISSUES, task="tissue", sample_by="donor", n_cells=6, model=backend)
    expected = adata.obsm["cell2sen_tissue_probabilities"]
    order = np.random.default_rng(0).permutation(adata.n_obs)
    subset = adata[order][adata.obs["donor"].to_numpy()[order] != "d1"].copy()
    c2s.tl.annotate(subset, TISSUES, task="tissue", sample_by="donor", n_cells=6, model=backend, batch_size=1)
    rows = adata.obs_names.get_indexer(subset.obs_names)
    np.testing.assert_allclose(subset.obsm["cell2sen_tissue_probabilities"], expected.iloc[rows])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "'tissue' reads samples of cells: name the obs columns"),
        ({"sample_by": "donor", "n_cells": 4}, "reads 5 to 20 cells, found n_cells=4"),
        ({"sample_by": "donor", "n_cells": 21}, "reads 5 to 20 cells, found n_cells=21"),
        ({"sample_by": "donor", "task": "annotate"}, "'annotate' reads single cells"),
    ],
)
def test_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        c2s.tl.annotate(donors(), TISSUES, **{"task": "tissue", "model": fake(), **options})


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(KeyError, match="has no column 'patient'"):
        c2s.tl.annotate(donors(), TISSUES, task="tissue", sample_by="patient", model=fake())


def test_cell_types_are_not_offered_as_tissues() -> None:
    with pytest.raises(ValueError, match="no list of tissue"):
        c2s.tl.annotate(donors(), task="tissue", sample_by="donor", model=fake())


@pytest.mark.slow
def test_learned_and_scored_on_donors_left_out(tmp_path: Path) -> None:
    """Each tissue has marker genes; four donors of each are trained on, one is held out."""
    adata = cells(300)
    number = np.arange(adata.n_obs)
    adata.obs["tissue"] = [TISSUES[row % 3] for row in number]
    adata.obs["donor"] = [f"{tissue} {row // 3 % 5}" for row, tissue in zip(number, adata.obs["tissue"], strict=True)]
    counts = adata.X.toarray()
    for tissue_number in range(3):
        counts[tissue_number::3, 4 * tissue_number : 4 * tissue_number + 4] += 30
    adata.X = counts
    adata.write_h5ad(tmp_path / "cells.h5ad")
    config = training.from_mapping(
        {
            "model": {"from_scratch": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}},
            "data": {
                "lengths": {"tissue": 6},
                "files": [
                    {
                        "file": "cells.h5ad",
                        "tasks": {"tissue": 24},
                        "columns": {"tissue": "tissue", "sample": "donor"},
                        "split": {"by": "donor", "values": [f"{tissue} 4" for tissue in TISSUES]},
                    }
                ],
            },
            "optimiser": {"learning_rate": 0.01, "epochs": 1, "batch_size": 16},
        }
    )
    model = training.train(config, tmp_path / "model", base=tmp_path, progress=False)
    assert model.metadata["tissue"] == dict.fromkeys(sorted(TISSUES), 80)
    held_out = adata[adata.obs["donor"].str.endswith(" 4")].copy()
    c2s.tl.annotate(
        held_out, task="tissue", sample_by="donor", n_cells=5, model=str(tmp_path / "model"), progress=False
    )
    assert held_out.obs["cell2sen_tissue"].tolist() == held_out.obs["tissue"].tolist()
