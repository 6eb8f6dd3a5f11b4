"""Evaluations and labelled cells for several files."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from experiment import REAL, TWIN, copied_control, perturbed, run, shuffled, swapped

from cell2sen.evaluation.result import Evaluation


@pytest.fixture(scope="session")
def answers() -> dict[str, Evaluation]:
    """Name of a prediction of known quality → its evaluation."""
    predictions = {
        "perfect": perturbed(REAL),
        "good": perturbed(TWIN),
        "swapped": swapped(),
        "shuffled": shuffled(),
        "copied": copied_control(),
    }
    return {name: run(cells) for name, cells in predictions.items()}


@pytest.fixture(scope="session")
def labelled() -> ad.AnnData:
    adata = REAL.copy()
    rng = np.random.default_rng(0)
    adata.obs["cell_type"] = adata.obs["cell_type"].map({"B": "B cells", "T": "T cells"}).astype(str)
    right = rng.random(adata.n_obs) < 0.9
    adata.obs["cell2sen_cell_type"] = np.where(right, adata.obs["cell_type"].str.removesuffix("s"), "NK cell")
    adata.obs["cell2sen_cell_type_score"] = np.where(right, 0.9, 0.6)
    adata.uns["cell2sen"] = {"annotate": {"labels": ["B cell", "T cell", "NK cell"], "key": "cell2sen_cell_type"}}
    return adata
