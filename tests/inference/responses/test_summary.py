"""Summary of predicted responses."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.inference.responses.summary import N_PERTURBATIONS, summaries, text


def predicted(contexts: list[str], readout: str = "expected", share: float = 0.0) -> anndata.AnnData:
    delta = np.array([[1.0, -0.5, 0, 0.2], [3, -1.5, 0, 0], [0, 0, 2, 0]], dtype=np.float32)
    adata = anndata.AnnData(
        np.zeros((3, 4), np.float32),
        obs=pd.DataFrame({"perturbation": ["a", "a", "b"]}, index=["x", "y", "z"]),
        var=pd.DataFrame({"symbol": ["G1", "G2", "G3", "G4"]}, index=["1", "2", "3", "4"]),
        layers={"delta": sp.csr_matrix(delta)},
    )
    rows = [("a", name, 10, share, 0.0) for name in contexts or [""]] + [("b", "", 0, 1.0, 0.0)]
    basis = pd.DataFrame(rows, columns=["perturbation", "context", "perturbed_cells", "model_share", "unlike"])
    adata.uns["cell2sen"] = {"perturb": {"basis": basis, "readout": readout}}
    return adata


def test_genes_and_their_mean_changes() -> None:
    first, second = summaries(predicted(["T", "B"]))
    assert (first.perturbation, first.n_cells, second.n_cells) == ("a", 2, 1)
    assert first.rises == {"G1": 2.0, "G4": pytest.approx(0.1)}
    assert first.falls == {"G2": -1.0}
    assert second.falls == {}
    assert "rise  G1 +2.00, G4 +0.10" in text(predicted(["T", "B"]))
    assert "fall  no gene" in text(predicted(["T", "B"]))


@pytest.mark.parametrize(
    ("contexts", "readout", "share", "words"),
    [
        (["T", "B"], "expected", 0.0, "the most similar of 2 groups of training cells ('T', 'B')"),
        (["T", "B"], "expected", 0.3, "and 30% of what the model predicts beyond them"),
        (["T"], "expected", 0.0, "the mean change of training cells (T)"),
        ([], "expected", 1.0, "the model's own prediction"),
        ([], "sentence", 1.0, "sentences written by the model"),
    ],
)
def test_what_the_prediction_comes_from(contexts: list[str], readout: str, share: float, words: str) -> None:
    assert words in summaries(predicted(contexts, readout, share))[0].source


def test_many_perturbations_are_counted() -> None:
    adata = predicted(["T"])
    many = anndata.concat([adata] * 4, index_unique="-")
    many.var = adata.var
    many.obs["perturbation"] = [f"p{row}" for row in range(many.n_obs)]
    many.uns = adata.uns
    assert f"and {many.n_obs - N_PERTURBATIONS} more" in text(many)
