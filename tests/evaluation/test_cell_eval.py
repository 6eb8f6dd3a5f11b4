"""Pairs of AnnData for cell-eval, and its scores beside ours."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.evaluation.cell_eval import cell_eval, pairs
from cell2sen.evaluation.evaluate import evaluate


def cells(seed: int, drugs: tuple[str, ...]) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = [(drug, kind) for drug in drugs for kind in ("B", "T") for _ in range(30)]
    gain = {
        "unseen": 1.0,
        "unpredicted": 1.0,
        "ctrl": 1.0,
        "a": np.where(np.arange(40) < 10, 3.0, 1.0),
        "b": np.where(np.arange(40) > 30, 3.0, 1.0),
    }
    rows = np.array([rng.poisson(3 * gain[drug] * np.ones(40)) for drug, _ in obs], dtype=np.float32)
    table = pd.DataFrame(obs, columns=["drug", "kind"], index=[f"s{seed}c{number}" for number in range(len(obs))])
    return ad.AnnData(sp.csr_matrix(rows), obs=table, var=pd.DataFrame(index=[f"G{number}" for number in range(40)]))


OPTIONS: dict[str, Any] = {"perturbation": "drug", "control": "ctrl", "context": "kind"}


def test_pairs_are_aligned_and_share_their_controls() -> None:
    predicted = cells(1, ("a", "b"))[:, ::-1].copy()
    contexts = pairs(predicted, cells(0, ("ctrl", "a", "b")), **OPTIONS)
    assert list(contexts) == ["B", "T"]
    for ours, theirs in contexts.values():
        assert list(ours.var_names) == list(theirs.var_names)
        assert ours.obs["perturbation"].value_counts().to_dict() == {"control": 30, "a": 30, "b": 30}
        control = (ours.obs["perturbation"] == "control").to_numpy()
        np.testing.assert_array_equal(ours.X[control].toarray(), theirs.X[control].toarray())
        np.testing.assert_allclose(np.expm1(theirs.X.toarray()).sum(axis=1), 1e4, rtol=1e-4)


def test_pairs_equal_a_twin_made_with_tables() -> None:
    predicted, real = cells(1, ("a", "b", "unseen")), cells(0, ("ctrl", "a", "b", "unpredicted"))

    def table(adata: ad.AnnData, drug: str, kind: str) -> pd.DataFrame:
        counts = adata.to_df().drop(columns="ONLYHERE", errors="ignore")
        whole = adata.to_df().sum(axis=1)
        some = (adata.obs["drug"] == drug) & (adata.obs["kind"] == kind)
        return np.log1p(counts.div(whole, axis=0) * 1e4)[some].sort_index().sort_index(axis=1)

    # A gene that the prediction does not have: part of the sums of the real cells, but not compared.
    genes = pd.DataFrame(index=[*real.var_names, "ONLYHERE"])
    real = ad.AnnData(sp.hstack([real.X, sp.csr_matrix(np.full((real.n_obs, 1), 7.0))], "csr"), obs=real.obs, var=genes)
    contexts = pairs(predicted, real, **OPTIONS)
    assert list(contexts) == ["B", "T"]
    for kind, pair in contexts.items():
        for made, side in zip(pair, (predicted, real), strict=True):
            parts = {"control": table(real, "ctrl", kind)} | {drug: table(side, drug, kind) for drug in ("a", "b")}
            assert made.obs["perturbation"].tolist() == [name for name, part in parts.items() for _ in part.index]
            np.testing.assert_allclose(made.X.toarray(), np.concatenate(list(parts.values())), rtol=1e-5, atol=1e-6)
            assert list(made.var_names) == sorted(predicted.var_names)


def test_one_call_runs_cell_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class MetricsEvaluator:
        def __init__(self, predicted: Any, real: Any, **options: Any) -> None:
            calls.append((predicted.n_obs, real.n_obs, options["control_pert"], options["pert_col"]))

        def compute(self, profile: str, write_csv: bool) -> tuple[Any, None]:
            return SimpleNamespace(to_dict=lambda as_series: {"perturbation": ["a", "b"], "mae": [0.1, 0.2]}), None

    monkeypatch.setitem(sys.modules, "cell_eval", SimpleNamespace(MetricsEvaluator=MetricsEvaluator))
    scores = cell_eval(cells(1, ("a", "b")), cells(0, ("ctrl", "a", "b")), **OPTIONS)
    assert calls == [(90, 90, "control", "perturbation")] * 2
    assert scores["context"].tolist() == ["B", "B", "T", "T"]
    monkeypatch.setitem(sys.modules, "cell_eval", None)
    with pytest.raises(ImportError, match="pip install cell-eval"):
        cell_eval(cells(1, ("a",)), cells(0, ("ctrl", "a")), **OPTIONS)


@pytest.mark.filterwarnings("ignore")
def test_scores_equal_those_of_cell_eval() -> None:
    pytest.importorskip("cell_eval", exc_type=ImportError)
    predicted, real = cells(1, ("a", "b")), cells(0, ("ctrl", "a", "b"))
    theirs = cell_eval(predicted, real, profile="anndata", **OPTIONS).set_index(["perturbation", "context"])
    ours = evaluate(predicted, real, resamples=0, metrics=["pearson_delta", "rmse_delta"], **OPTIONS).scores
    for metric, column, power in (("pearson_delta", "pearson_delta", 1), ("rmse_delta", "mse_delta", 2)):
        some = ours[(ours["metric"] == metric) & (ours["method"] == "prediction") & (ours["group"] != "all")]
        for group, value in zip(some["group"], some["value"], strict=True):
            assert value**power == pytest.approx(theirs.loc[tuple(group.split(" | ")), column], rel=1e-4)


def test_contexts_without_controls_are_explained() -> None:
    real = cells(0, ("ctrl", "a", "b"))
    real = real[(real.obs["drug"] != "ctrl") | (real.obs["kind"] == "T")].copy()
    predicted = cells(1, ("a", "b"))
    with pytest.raises(ValueError, match=r"none of the contexts .* has control cells.*scored are B, controls are in T"):
        pairs(predicted[predicted.obs["kind"] == "B"].copy(), real, **OPTIONS)
