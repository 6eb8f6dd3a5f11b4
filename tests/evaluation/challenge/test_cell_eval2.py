"""Both sides of cell-eval2, and its scores where it is installed."""

from __future__ import annotations

import importlib.util

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
    monkeypatch.setitem(__import__("sys").modules, "cell_eval2", None)
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
