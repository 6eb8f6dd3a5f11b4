"""Generated samples as AnnData, and their scores."""

from __future__ import annotations

import numpy as np
from cells import cells, fake

import cell2sen as c2s


def test_generated_samples_are_scored_by_what_they_were_generated_from() -> None:
    adata = cells(60)
    adata.obs["tissue"] = ["blood" if row % 2 else "lung" for row in range(60)]
    made = c2s.tl.generate_sample(["blood", "lung"], n=4, n_cells=5, genes=adata, model=fake())
    assert made.obs["sample"].nunique() == 8
    assert made.obs.groupby("sample", observed=True)["tissue"].nunique().eq(1).all()
    np.testing.assert_array_equal(made.obs["number"].to_numpy().reshape(8, 5), np.tile(np.arange(1, 6), (8, 1)))
    scores = c2s.evaluate(made, adata, label="tissue", resamples=5, min_cells=5, leaks="report")
    assert scores.task == "generate"
    assert np.isfinite(scores.table.loc["gene_overlap_100", "prediction"])


def test_abstract_is_recorded() -> None:
    made = c2s.tl.generate_sample(abstract="We studied blood.", n=1, n_cells=2, n_genes=3, genes=cells(9), model=fake())
    record = made.uns["cell2sen"]["generate"]
    assert record["abstract"] == "We studied blood."
    assert record["task"]["name"] == "sample_from_abstract"
    assert record["n_cells"] == 2
