"""Principal components of cells, or of a key of obsm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from experiment import REAL, TWIN, log_cp10k, perturbed, run

from cell2sen.evaluation.inputs import read
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.pca import Embedding


@pytest.mark.slow
def test_an_embedding_of_the_users_own_is_compared() -> None:
    real, predicted = REAL.copy(), perturbed(TWIN)
    for side in (real, predicted):
        side.obsm["X_model"] = log_cp10k(side)[:, :20]
    evaluation = run(predicted, real, embedding="X_model")
    assert {**evaluation.settings["embedding"], "explained_variance": None} == {
        "key": "X_model",
        "components": 10,
        "explained_variance": None,
        "genes": None,
    }
    assert math.isfinite(evaluation.table.loc["scfid", "prediction"])
    predicted.obsm["X_model"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['X_model'\] of 1 predicted cells is not finite"):
        run(predicted, real, embedding="X_model")


def test_components_equal_a_singular_value_decomposition() -> None:
    cells = read(REAL, "real")
    rows = np.arange(100)
    embedding = Embedding.fit("pca", cells, rows, 4)
    values = cells.rows(rows).toarray().astype(np.float64)
    centred = values - values.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    # The largest loading of each component is positive.
    sign = np.sign(right[np.arange(4), np.abs(right[:4]).argmax(axis=1)])
    np.testing.assert_allclose(embedding.cells(cells, rows), (left[:, :4] * singular[:4]) * sign, atol=1e-4)
    record = embedding.record()
    assert record["explained_variance"] == pytest.approx((singular[:4] ** 2).sum() / (singular**2).sum(), abs=1e-4)
    assert (record["components"], record["genes"]) == (4, 150)
    assert Embedding.fit("pca", cells, rows[:4], 50).record()["components"] == 3


def test_equal_cells_have_no_variance() -> None:
    flat = REAL.copy()
    flat.obsm["X_model"] = np.ones((flat.n_obs, 5))
    cells = read(flat, "real")
    embedding = Embedding.fit("X_model", cells, np.arange(9), 2)
    assert embedding.record()["explained_variance"] == 0
    assert not embedding.cells(cells, np.arange(3)).any()


def test_only_expression_can_be_transformed() -> None:
    real = REAL.copy()
    real.obsm["X_model"] = log_cp10k(real)[:, :20]
    cells = read(real, "real")
    embedding = Embedding.fit("X_model", cells, np.arange(50), 3)
    with pytest.raises(Missing, match=r"obsm\['X_model'\] holds no sentences"):
        embedding.cells(cells, np.arange(3), lambda block: block)
    pca = Embedding.fit("pca", cells, np.arange(50), 3)
    zeros = pca.cells(cells, np.arange(3), lambda block: 0 * block)
    assert (zeros == zeros[0]).all()
    with pytest.raises(KeyError, match=r"obsm of the real cells has no 'X_scGPT'; available: \['pca', 'X_model'\]"):
        Embedding.fit("X_scGPT", cells, np.arange(50), 3)
