"""Numbers beside their baselines and ceiling."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from experiment import REAL, TWIN

from cell2sen.evaluation.evaluate import evaluate


def with_dose(adata: ad.AnnData) -> ad.AnnData:
    """A dose that the expressed genes tell; every tenth cell has none."""
    adata = adata.copy()
    dose = adata.obs["drug"].map({"control": 0.0, "alpha": 1.0, "beta": 5.0, "gamma": 20.0}).astype(float)
    adata.obs["dose"] = dose.where(np.arange(adata.n_obs) % 10 != 0)
    return adata


@pytest.fixture
def predicted() -> ad.AnnData:
    adata = with_dose(REAL)
    noise = np.random.default_rng(0).normal(0, 0.1, adata.n_obs)
    dose = REAL.obs["drug"].map({"control": 0.0, "alpha": 1.0, "beta": 5.0, "gamma": 20.0}).astype(float)
    adata.obs["cell2sen_dose"] = dose + noise
    adata.obs["cell2sen_dose_low"], adata.obs["cell2sen_dose_high"] = dose + noise - 0.1, dose + noise + 0.1
    record = {"column": "dose", "key": "cell2sen_dose", "labels": ["0", "20"], "interval": 0.9}
    adata.uns["cell2sen"] = {"annotate": record}
    return adata


def test_numbers_beside_their_baselines(predicted: ad.AnnData, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    real, train = with_dose(REAL), with_dose(TWIN)
    evaluation = evaluate(predicted, real, label="dose", train=train, context="donor", resamples=30, leaks="report")
    assert evaluation.task == "number", "as recorded"
    table = evaluation.table
    known = real.obs["dose"].notna().to_numpy()
    truth = real.obs["dose"][known].to_numpy()
    errors = np.abs(predicted.obs["cell2sen_dose"][known].to_numpy() - truth)
    error = table.loc["mean_absolute_error"]
    assert error["prediction"] == pytest.approx(errors.mean())
    assert error["low"] < errors.mean() < error["high"]
    assert np.isfinite(error["low_groups"])
    learned = train.obs["dose"].dropna()
    assert error["median_number"] == pytest.approx(np.abs(truth - learned.median()).mean())
    assert error["mean_number"] == pytest.approx(np.abs(truth - learned.mean()).mean())
    assert max(error["nearest_training_cells"], error["ridge_regression"], error["ceiling"]) < error["median_number"]
    assert (error["verdict"], error["better"]) == ("better", "lower")
    assert table.loc["interval_coverage", "prediction"] == pytest.approx((errors <= 0.1).mean())
    of_ceiling = evaluation.scores.query("metric == 'interval_coverage' and method == 'ceiling'")
    assert of_ceiling["reason"].tolist() == ["this method has no intervals"]
    assert evaluation.notes == (f"{int((~known).sum())} cells have no true number and are not scored",)
    evaluation.report(tmp_path / "report.html")
    assert "Predicted numbers of cells" in (tmp_path / "report.html").read_text(encoding="utf-8")
    evaluation.to_json(tmp_path / "scores.json")


def test_numbers_of_other_tools(predicted: ad.AnnData) -> None:
    other = predicted.copy()
    del other.uns["cell2sen"]
    other.obs["theirs"] = other.obs["cell2sen_dose"].astype(str)
    real = with_dose(REAL)
    evaluation = evaluate(
        other, real, task="number", label="dose", predicted_label="theirs", resamples=5, leaks="report"
    )
    assert "no column 'theirs_low'" in evaluation.table.loc["interval_coverage", "reason"]
    missing = evaluation.scores.query("method == 'ridge_regression'")["reason"]
    assert set(missing.iloc[:4]) == {"training cells are not known; pass train="}
    with pytest.raises(ValueError, match="'drug' must be numbers, found 'control'"):
        evaluate(other, real, task="number", label="dose", predicted_label="drug")
    with pytest.raises(ValueError, match="are the same column 'dose'"):
        evaluate(real, real, task="number", label="dose", predicted_label="dose")
