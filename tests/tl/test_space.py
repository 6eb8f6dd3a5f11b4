"""Tools of space: from cells with coordinates to scored answers."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import fake
from sections import NICHES, section

import cell2sen as c2s
from cell2sen.sentences.writing import from_anndata

SPACE = {"radius": 1.6, "progress": False}


def backend():
    return fake(niche=dict.fromkeys(NICHES, 9), lengths={"neighbour": 8})


def test_graph_and_regions() -> None:
    adata = section()
    c2s.tl.neighbourhoods(adata, radius=1.6)
    assert adata.obsp["spatial_connectivities"].shape == (81, 81)
    c2s.tl.held_out_regions(adata, share=0.25)
    assert set(adata.obs["region"]) == {"training", "held out", "margin"}
    copied = c2s.tl.neighbourhoods(section(), k=3, copy=True)
    assert copied is not None
    assert copied.uns["spatial_neighbors"]["params"]["n_neighbors"] == 3
    with pytest.raises(ValueError, match="either radius or k"):
        c2s.tl.neighbourhoods(adata)


def test_niche_alone_and_pooled(tmp_path: Path) -> None:
    adata = section()
    c2s.tl.niche(adata, model=backend(), progress=False)
    alone = adata.obsm["cell2sen_niche_probabilities"].to_numpy().copy()
    reference = section()
    c2s.tl.annotate(reference, task="niche", model=backend(), progress=False)
    np.testing.assert_allclose(alone, reference.obsm["cell2sen_niche_probabilities"])
    c2s.tl.niche(adata, pool=True, model=backend(), **SPACE)
    pooled = adata.obsm["cell2sen_niche_probabilities"].to_numpy()
    distances = np.linalg.norm(adata.obsm["spatial"][:, None] - adata.obsm["spatial"][None], axis=2)
    for cell in (0, 40):
        mean = np.exp(np.log(alone[distances[cell] <= 1.6]).mean(axis=0))  # the cell itself included
        np.testing.assert_allclose(pooled[cell], mean / mean.sum())
    adata.write_h5ad(tmp_path / "niches.h5ad")
    assert adata.uns["cell2sen"]["annotate"]["pooled"]


@pytest.mark.parametrize("name", ["same_neighbourhood", "same_niche"])
def test_questions_are_scored_beside_baselines(name: str, tmp_path: Path) -> None:
    adata = section()
    options = {"niche": "layer"} if name == "same_niche" else {}
    found = getattr(c2s.tl, name)(adata, model=backend(), **options, **SPACE)
    assert found.n_obs == 162
    assert found.obs["truth"].value_counts().to_dict() == {"yes": 81, "no": 81}
    means = np.log1p(np.expm1(log_cp10k(adata)[[0, *cells_of(found, adata, 0)[1:]]]).mean(axis=0))
    np.testing.assert_allclose(found.X[0].toarray().ravel(), means, rtol=1e-4, atol=1e-5)
    rows = cells_of(found, adata, 0)
    correlations = np.corrcoef(log_cp10k(adata)[rows])[np.triu_indices(len(rows), 1)]
    np.testing.assert_allclose(found.obs["expression_distance"].iloc[0], np.mean(1 - correlations), rtol=1e-4)
    found.write_h5ad(tmp_path / "samples.h5ad")
    scores = c2s.evaluate(
        anndata.read_h5ad(tmp_path / "samples.h5ad"), found, label="truth", leaks="report", resamples=20
    )
    table = scores.scores[(scores.scores["metric"] == "accuracy") & (scores.scores["group"] == "all")]
    assert {"prediction", "majority_label", "label_shuffle", "expression_distance", "ceiling"} == set(table["method"])
    accuracy = table.set_index("method")["value"]
    right = (found.obs["truth"] == found.obs[f"cell2sen_{name}"]).mean()
    np.testing.assert_allclose(accuracy["prediction"], right)
    assert accuracy["majority_label"] == 0.5
    assert accuracy["ceiling"] >= accuracy["expression_distance"] >= (0.9 if name == "same_niche" else 0.5)


def test_results_depend_neither_on_batch_nor_on_order() -> None:
    adata = section()
    order = np.random.default_rng(0).permutation(81)
    for run in (
        lambda cells, **options: c2s.tl.same_neighbourhood(cells, model=backend(), **SPACE, **options),
        lambda cells, **options: c2s.tl.neighbour(cells, model=backend(), temperature=1, **SPACE, **options),
    ):
        first, second = run(adata), run(adata[order].copy(), batch_size=1)
        pd.testing.assert_frame_equal(first.obs, second.obs.loc[first.obs_names], check_categorical=False)


def test_a_further_neighbour(tmp_path: Path) -> None:
    adata = section()
    found = c2s.tl.neighbour(adata, n_cells=3, model=backend(), **SPACE)
    assert found.n_obs == 81
    assert found.X.shape == found.layers["context"].shape == (81, found.n_vars)
    cell = found.obs.iloc[5]
    assert cell["target"] not in cell["cells"].split("\t")
    lists = {name: set(row) for name, row in zip(adata.obs_names, highest(adata, 8), strict=True)}
    assert cell["overlap"] == len(set(cell["sentence"].split()) & lists[cell["target"]]) / 8
    nearest = found.obs["nearest_overlap"].mean()
    assert found.obs["context_overlap"].mean() > 0.5
    assert nearest > found.obs["overlap"].mean()  # the fake model knows nothing
    found.write_h5ad(tmp_path / "neighbours.h5ad")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda a: c2s.tl.same_neighbourhood(a, n_cells=1, radius=1.6, model=backend()),
            "2 to 20 cells, found n_cells=1",
        ),
        (lambda a: c2s.tl.same_neighbourhood(a, model=backend()), "no graph of neighbours"),
        (lambda a: c2s.tl.niche(a, threshold=2, model=backend()), "between 0 and 1"),
    ],
)
def test_refused(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(section())


def log_cp10k(adata: anndata.AnnData) -> np.ndarray:
    counts = adata.X.toarray()
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def highest(adata: anndata.AnnData, n: int) -> list[list[str]]:
    return from_anndata(adata, c2s.Recipe(), progress=False).gene_names(n)


def cells_of(found: anndata.AnnData, adata: anndata.AnnData, row: int) -> list[int]:
    return adata.obs_names.get_indexer(found.obs["cells"].iloc[row].split("\t")).tolist()
