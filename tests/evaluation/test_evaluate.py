"""Known answers: predictions are ranked by their quality, on simulated cells and on those of Kang et al."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from experiment import DRUGS, REAL, TWIN, TYPES, N, log_cp10k, means, own_prediction, perturbed, run

from cell2sen.evaluation.evaluate import choose_metrics, evaluate, task_of
from cell2sen.evaluation.inputs import read
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.settings import Columns, Settings

pytestmark = pytest.mark.slow


def test_perfect_prediction_has_perfect_scores(answers: dict[str, Evaluation]) -> None:
    table = answers["perfect"].table
    for name in (
        "pearson_delta",
        "spearman_delta",
        "pearson_delta_top20",
        "pearson_delta_top50",
        "direction_top50",
        "changed_overlap_50",
        "rmse_delta",
        "discrimination",
        "gene_overlap_100",
        "gene_overlap_100_jaccard",
        "kendall_tau",
        "pearson",
        "spearman",
    ):
        assert table.loc[name, "prediction"] == pytest.approx(table.loc[name, "perfect"], abs=1e-6), name
    # Not 1, as the two halves of the controls have different noise; but above the ceiling.
    assert table.loc["pearson_delta_disjoint", "prediction"] > table.loc["pearson_delta_disjoint", "ceiling"]
    # These distances are unbiased: those of cells from themselves are at most 0.
    assert (table.loc[["e_distance", "mmd"], "prediction"] <= 0).all()


@pytest.mark.parametrize(
    "metric",
    [
        "pearson_delta",
        "pearson_delta_disjoint",
        "spearman_delta",
        "pearson_delta_top20",
        "direction_top50",
        "changed_overlap_50",
        "rmse_delta",
        "discrimination",
        "pearson",
        "kendall_tau",
        "e_distance",
        "mmd",
        "wasserstein",
        "scfid",
        "knn_accuracy_5",
    ],
)
def test_answers_are_ranked_by_their_quality(answers: dict[str, Evaluation], metric: str) -> None:
    sign = 1 if answers["good"].table.loc[metric, "better"] == "higher" else -1
    values = {name: sign * answer.table.loc[metric, "prediction"] for name, answer in answers.items()}
    assert values["perfect"] >= values["good"] > max(values["swapped"], values["shuffled"])
    assert not values["copied"] >= values["good"]
    # A prediction that is worse than a baseline is never judged better.
    assert answers["swapped"].table.loc[metric, "verdict"] != "better"


def test_good_prediction_beats_the_baselines_and_reaches_the_ceiling(answers: dict[str, Evaluation]) -> None:
    table = answers["good"].table
    # Without "mean_shift": it learns from the same drug in the other cell type, where the effect is nearly the same.
    for method in ("no_change", "control_mean", "mean_of_perturbed", "label_shuffle"):
        assert table.loc["e_distance", method] > 3 * abs(table.loc["e_distance", "prediction"])
        assert table.loc["pearson", method] < table.loc["pearson", "prediction"]
    assert table.loc["discrimination", "prediction"] == 1
    assert table.loc["pearson_delta", "prediction"] > table.loc["pearson_delta", "ceiling"] - 0.05
    assert table.loc["discrimination", "verdict"] in ("better", "no difference seen")


def test_copied_control_scores_nothing_where_nothing_is_defined(answers: dict[str, Evaluation]) -> None:
    table = answers["copied"].table
    for metric in ("pearson_delta", "spearman_delta", "pearson_delta_top20", "direction_top50", "changed_overlap_50"):
        assert math.isnan(table.loc[metric, "prediction"])
        assert table.loc[metric, "verdict"] == "missing"
        assert table.loc[metric, "reason"]
    assert table.loc["rmse_delta", "prediction"] == pytest.approx(table.loc["rmse_delta", "no_change"], abs=1e-6)
    assert table.loc["knn_accuracy_5", "prediction"] < 0.1
    assert answers["copied"].leaked


def same(first: Evaluation, second: Evaluation, atol: float = 1e-6) -> None:
    numbers = ["prediction", "low", "high", "low_groups", "high_groups", "ceiling", "mean_shift", "label_shuffle"]
    pd.testing.assert_frame_equal(first.table[numbers], second.table[numbers], atol=atol, rtol=1e-4)
    assert list(first.table["verdict"]) == list(second.table["verdict"])


@pytest.mark.slow
def test_order_of_cells_and_genes_and_storage_do_not_matter(answers: dict[str, Evaluation], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real = REAL[rng.permutation(REAL.n_obs), rng.permutation(REAL.n_vars)].copy()
    predicted = perturbed(TWIN)[rng.permutation(len(DRUGS) * len(TYPES) * N)].copy()
    same(answers["good"], run(predicted, real))
    predicted.X = predicted.X.toarray()
    real.X = real.X.tocsc()
    predicted.write_h5ad(tmp_path / "predicted.h5ad")
    real.write_h5ad(tmp_path / "real.h5ad")
    again = run(tmp_path / "predicted.h5ad", tmp_path / "real.h5ad")
    same(answers["good"], again)
    assert again.settings["files"] == {"predicted": "predicted.h5ad", "real": "real.h5ad"}


@pytest.mark.slow
def test_counts_and_logarithms_are_the_same_prediction(answers: dict[str, Evaluation]) -> None:
    predicted = perturbed(TWIN)
    predicted.X = log_cp10k(predicted).astype(np.float32)
    evaluation = run(predicted)
    same(answers["good"], evaluation, atol=1e-3)
    assert "log base e" in evaluation.settings["scale"]["predicted"]
    assert evaluation.settings["scale"]["real"] == "counts"


@pytest.mark.slow
def test_draws_depend_on_the_seed_only(answers: dict[str, Evaluation]) -> None:
    same(answers["good"], run(perturbed(TWIN)), atol=0)
    other = run(perturbed(TWIN), seed=1)
    assert other.table.loc["e_distance", "prediction"] != answers["good"].table.loc["e_distance", "prediction"]
    assert other.table.loc["pearson", "prediction"] == pytest.approx(answers["good"].table.loc["pearson", "prediction"])


def test_predictions_of_this_package_are_scored_by_their_columns() -> None:
    evaluation = run(own_prediction(REAL[REAL.obs["drug"] == "control"]), leaks="raise")
    assert evaluation.task == "perturb"
    assert evaluation.settings["groups"] == ["alpha | B", "alpha | T"]
    # Of 40 written words, 30 were genes: the obs column counts them, the stored sentence does not.
    assert evaluation.table.loc["validity", "prediction"] == pytest.approx(30 / 40)
    assert evaluation.table.loc["uniqueness", "prediction"] == 1
    assert evaluation.settings["model"]["name"] == "test"
    # The change is the delta layer of the prediction, not X minus real controls.
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    true = means(REAL)
    delta = predicted.layers["delta"].toarray()
    expected = [
        np.corrcoef(
            true["alpha", kind] - true["control", kind],
            delta[(predicted.obs["cell_type"] == kind).to_numpy()].mean(axis=0),
        )[0, 1]
        for kind in TYPES
    ]
    assert evaluation.table.loc["pearson_delta", "prediction"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_generated_cells_of_the_right_type_beat_those_of_the_wrong_one() -> None:
    generated = TWIN[TWIN.obs["drug"] == "control"].copy()
    wrong = generated.copy()
    wrong.obs["cell_type"] = wrong.obs["cell_type"].map({"B": "T", "T": "B"}).astype(str)
    real = REAL[REAL.obs["drug"] == "control"].copy()
    options = {"task": "generate", "resamples": 10, "components": 10}
    good, bad = (evaluate(cells, real, **options).table for cells in (generated, wrong))
    for metric in ("e_distance", "scfid", "mmd", "wasserstein"):
        assert good.loc[metric, "prediction"] < good.loc[metric, "mean_of_all"]
        assert good.loc[metric, "prediction"] < bad.loc[metric, "prediction"]
        assert good.loc[metric, "label_shuffle"] > good.loc[metric, "prediction"]
    assert good.loc["knn_accuracy_5", "prediction"] > 0.9 > 0.1 > bad.loc["knn_accuracy_5", "prediction"]
    assert good.loc["pearson_delta", "prediction"] > 0.9
    assert bad.loc["pearson_delta", "prediction"] < -0.9
    assert good.loc["pearson_delta_disjoint", "reason"] == "generated cells have no controls to be split"
    assert "no_change" not in good


@pytest.mark.parametrize(
    ("predicted", "options", "error", "text"),
    [
        (
            perturbed(TWIN),
            {"control": "DMSO"},
            ValueError,
            r"obs\['drug'\] of the real cells is never \['DMSO'\]; available: \['alpha'",
        ),
        (
            perturbed(TWIN),
            {"perturbation": "dose", "task": "perturb"},
            KeyError,
            r"no column 'dose'; available: \['drug'",
        ),
        (perturbed(TWIN), {"context": "tissue"}, KeyError, r"no column 'tissue'"),
        (perturbed(TWIN), {"rename": {drug: "x" + drug for drug in DRUGS}}, ValueError, r"no perturbation is in both"),
        (
            perturbed(TWIN),
            {"task": "perturbation"},
            ValueError,
            r"task must be one of \['perturb', 'generate', 'annotate', 'number', 'text', ",
        ),
        (perturbed(TWIN), {"metrics": ["pearsn"]}, KeyError, r"no metric 'pearsn'; available"),
        (perturbed(TWIN), {"metrics": ["accuracy"]}, ValueError, r"metrics \['accuracy'\] do not fit task 'perturb'"),
        (perturbed(TWIN), {"embedding": "X_scGPT"}, KeyError, r"no 'X_scGPT'; available: \['pca'\]"),
        (perturbed(TWIN), {"controls": "half"}, ValueError, r"controls must be 'split' or 'shared', found 'half'"),
        (perturbed(TWIN), {"layer": "scaled"}, KeyError, r"no layer 'scaled'"),
        (Path("nowhere.h5ad"), {}, FileNotFoundError, r"no file nowhere.h5ad with the predicted cells"),
        ([1, 2], {}, TypeError, r"must be AnnData or the path"),
    ],
)
def test_errors_contain_the_remedy(predicted: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(predicted, **options)


@pytest.fixture(scope="module")
def kang(shared_data: Path) -> ad.AnnData:
    """400 genes, the larger cell types, at most 60 cells of each."""
    adata = ad.read_h5ad(shared_data / "kang_ifnb_2000x9015.h5ad")
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    variance = np.asarray(adata.X.multiply(adata.X).mean(axis=0)).ravel() - mean**2
    genes = np.sort(np.argsort(-variance / np.maximum(mean, 1e-9) * (mean > 0.02))[:400])
    adata = adata[adata.obs["cell_type"].isin(["CD4 T cells", "CD14+ Monocytes", "B cells", "NK cells"]), genes]
    rng = np.random.default_rng(0)
    rows = [
        rng.permutation(group)[:60]
        for group in adata.obs.groupby(["condition", "cell_type"], observed=True).indices.values()
    ]
    return adata[np.sort(np.concatenate(rows))].copy()


@pytest.mark.slow
def test_real_cells_rank_known_answers(kang: ad.AnnData) -> None:
    control = kang[kang.obs["condition"] == "control"].copy()
    stimulated = kang[kang.obs["condition"] == "IFN-beta"].copy()
    control.obs["condition"] = "IFN-beta"
    copied = control.copy()
    rng = np.random.default_rng(0)
    wrong = stimulated.copy()
    wrong.obs["cell_type"] = np.asarray(wrong.obs["cell_type"])[rng.permutation(wrong.n_obs)]
    options = {
        "perturbation": "condition",
        "context": "cell_type",
        "leaks": "report",
        "resamples": 20,
        "components": 20,
    }
    evaluation = {
        name: evaluate(cells, kang, **options)
        for name, cells in (("copied", copied), ("perfect", stimulated), ("wrong", wrong))
    }
    tables = {name: scored.table for name, scored in evaluation.items()}
    assert evaluation["copied"].leaked
    assert not evaluation["perfect"].leaked
    for metric in ("e_distance", "scfid", "mmd", "wasserstein", "rmse_delta"):
        assert tables["perfect"].loc[metric, "prediction"] < tables["wrong"].loc[metric, "prediction"]
        assert tables["perfect"].loc[metric, "prediction"] < tables["copied"].loc[metric, "prediction"]
        assert tables["perfect"].loc[metric, "verdict"] == "better"
        assert tables["copied"].loc[metric, "verdict"] == "worse"
    assert tables["perfect"].loc["pearson_delta", "prediction"] == pytest.approx(1, abs=1e-6)
    assert math.isnan(tables["copied"].loc["pearson_delta", "prediction"])
    # Cells of the wrong type with the same cytokine: better than no change, worse than the right ones.
    assert 0.3 < tables["wrong"].loc["pearson_delta", "prediction"] < 0.95
    ranks = [tables[name].loc["knn_accuracy_5", "prediction"] for name in ("copied", "wrong", "perfect")]
    assert ranks == sorted(ranks)
    assert ranks[0] < 0.1 < 0.7 < ranks[2]
    # Interferon changes a programme that all cell types share, so the mean change of the others is a strong baseline.
    assert tables["wrong"].loc["pearson_delta", "mean_shift"] > 0.7


def test_metrics_are_those_of_the_task() -> None:
    names = [metric.name for metric in choose_metrics("annotate", Settings())]
    assert names == [
        "accuracy", "normalised_accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error", "brier",
    ]  # fmt: skip
    names = [metric.name for metric in choose_metrics("number", Settings())]
    assert names == [
        "mean_absolute_error", "median_absolute_error", "pearson_of_numbers", "spearman_of_numbers",
        "interval_coverage",
    ]  # fmt: skip
    assert choose_metrics("annotate", Settings(encoder="directory"))[-1].name == "bertscore"
    assert [metric.name for metric in choose_metrics("annotate", Settings(metrics=["biobert_score"]))] == [
        "biobert_score"
    ]
    assert "foscttm" not in [metric.name for metric in choose_metrics("generate", Settings())]
    with pytest.raises(ValueError, match=r"metrics \['foscttm'\] do not fit task 'generate'"):
        choose_metrics("generate", Settings(metrics=["foscttm"]))


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        (Settings(task="generate", columns=Columns(perturbation="drug")), "generate"),
        (Settings(columns=Columns(perturbation="drug")), "perturb"),
        (Settings(columns=Columns(predicted_label="drug")), "annotate"),
    ],
)
def test_the_task_is_taken_from_columns(settings: Settings, task: str) -> None:
    assert task_of(read(TWIN, "predicted"), settings) == task


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"pass task= \(one of \['perturb', .* obs: \['drug', 'cell_type', 'donor'\]"):
        task_of(read(TWIN, "predicted"), Settings())


def test_calibrated_columns_place_the_prediction_between_shuffle_and_ceiling(answers: dict[str, Evaluation]) -> None:
    table = answers["good"].table
    for metric in ("pearson_delta", "rmse_delta", "e_distance"):
        low, high, own = table.loc[metric, ["label_shuffle", "ceiling", "prediction"]].astype(float)
        sign = 1 if table.loc[metric, "better"] == "higher" else -1
        assert table.loc[metric, "dynamic_range"] == pytest.approx(sign * (high - low))
        assert table.loc[metric, "scaled"] == pytest.approx((own - low) / (high - low))
    assert answers["swapped"].table.loc["pearson_delta", "scaled"] < 0.3 < table.loc["pearson_delta", "scaled"]
    assert answers["good"].by_reliability()["n_groups"].sum() == table.loc["pearson_delta", "n_groups"]
