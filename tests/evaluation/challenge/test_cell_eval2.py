"""Both sides of cell-eval2, and its scores where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import types
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cell2sen.evaluation.challenge.cell_eval2 import cell_eval2, matched_counts


def counts(names: list[str], genes: list[str], seed: int = 0) -> anndata.AnnData:
    values = np.random.default_rng(seed).poisson(3, (len(names), len(genes))).astype(np.float32)
    obs = pd.DataFrame({"perturbation": names}, index=[f"c{row}" for row in range(len(names))])
    return anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=genes))


def test_sides_share_genes_perturbations_and_the_real_controls() -> None:
    predicted = counts(["A", "B", "C", "control"], ["G1", "G2", "G9"])
    real = counts(["A", "control", "B", "control", "D"], ["G2", "G1"], seed=1)
    ours, truth = matched_counts(predicted, real, perturbation="perturbation", control="control")
    assert list(ours.var_names) == list(truth.var_names) == ["G2", "G1"]
    assert list(ours.obs["target"]) == ["control", "control", "A", "B"] == list(truth.obs["target"])
    np.testing.assert_array_equal(ours.X.toarray()[:2], real.X[[1, 3]])
    np.testing.assert_array_equal(ours.X.toarray()[2:], predicted[:2, ["G2", "G1"]].X)


@pytest.mark.parametrize(
    ("names", "genes", "words"),
    [
        (["A", "A"], ["G1"], "no real cell is a control"),
        (["A", "control"], ["G7"], "share 0 genes and 1 perturbations"),
    ],
)
def test_sides_that_do_not_fit(names: list[str], genes: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        matched_counts(counts(["A"], ["G1"]), counts(names, genes), perturbation="perturbation", control="control")


def test_without_the_package_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cell_eval2", None)
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[vcc\]'"):
        cell_eval2(counts(["A"], ["G1"]), counts(["A", "control"], ["G1"]))


@pytest.mark.skipif(
    importlib.util.find_spec("cell_eval2") is None, reason="needs cell-eval2: pip install cell2sen[vcc]"
)
def test_values_that_are_no_counts_are_refused() -> None:
    half = counts(["A"], ["G1"])
    half.X = half.X + 0.5
    with pytest.raises(ValueError, match="X of the predicted cells"):
        cell_eval2(half, counts(["A", "control"], ["G1"]))


class Wide:
    """Means of metrics, in the part of a polars DataFrame that is read."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    def filter(self, kept: np.ndarray) -> Wide:
        return Wide([row for row, keep in zip(self.rows, kept, strict=True) if keep])

    def to_dicts(self) -> list[dict[str, Any]]:
        return self.rows


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the fake package."""

    pert_col: str = ""
    control: str = ""
    target_gene_map: Any = None

    @classmethod
    def from_preset(cls, name: str) -> Config:
        return cls()


def test_a_replicate_that_is_refused_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ValueError("no measurable aggregate effect")

    means = [{"statistic": "mean", "pds_cosine": 0.7}, {"statistic": "std", "pds_cosine": 9.0}]
    base = types.SimpleNamespace(agg=Wide([{"statistic": "mean", "pds_cosine": 0.5}]))
    package, anchors = types.ModuleType("cell_eval2"), types.ModuleType("cell_eval2.anchor")
    vars(package).update(
        EvalConfig=Config,
        compute_metrics=lambda *_, **__: None,
        aggregate_metrics_wide=lambda _: Wide(means),
        build_generic_baseline=lambda *_, **__: base,
    )
    vars(anchors).update(compute_replicate_anchor=refused)
    monkeypatch.setitem(sys.modules, "cell_eval2", package)
    monkeypatch.setitem(sys.modules, "cell_eval2.anchor", anchors)
    [row] = cell_eval2(counts(["A"], ["G1"]), counts(["A", "control"], ["G1"])).to_dict("records")
    assert (row["metric"], row["prediction"], row["baseline"]) == ("pds_cosine", 0.7, 0.5)
    assert np.isnan([row["replicate"], row["scaled"]]).all()
    assert "no measurable aggregate effect" in caplog.text
    assert "has no replicate" in caplog.text
