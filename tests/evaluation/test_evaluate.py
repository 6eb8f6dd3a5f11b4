"""Known answers: what deserves which rank gets it, on made-up cells and on the real ones of Kang et al."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.evaluation.evaluate import Evaluation, evaluate
from cell2sen.evaluation.leakage import LeakError, sha256_of_names

GENES = [f"GENE{number}" for number in range(150)]
TYPES = ["B", "T"]
DRUGS = ["alpha", "beta", "gamma"]
N = 36


def world(seed: int = 0) -> ad.AnnData:
    """Counts of two cell types under control and three drugs; each drug moves 15 genes, a little differently in each
    type.
    """
    rng = np.random.default_rng(seed)
    base = {kind: rng.gamma(0.5, 2.0, len(GENES)) + 0.05 for kind in TYPES}
    effect = {drug: np.where(np.arange(len(GENES)) // 15 == at, 1.6, 0.0) for at, drug in enumerate(DRUGS)}
    rows, obs = [], []
    for kind in TYPES:
        for drug in ["control", *DRUGS]:
            shift = effect[drug] * (0.8 if kind == "B" else 1.2) if drug != "control" else 0.0
            mean = base[kind] * np.exp(shift)
            rows.append(rng.poisson(mean / mean.sum() * rng.uniform(800, 1200, (N, 1))))
            obs += [(drug, kind, f"d{number % 4}") for number in range(N)]
    names = [f"cell{number}" for number in range(len(obs))]
    table = pd.DataFrame(obs, columns=["drug", "cell_type", "donor"], index=names)
    return ad.AnnData(sp.csr_matrix(np.concatenate(rows).astype(np.float32)), obs=table, var=pd.DataFrame(index=GENES))


REAL = world(0)
#: Other cells of the same world: what a good model would draw.
TWIN = world(0)
_GROUP_MEANS = [np.asarray(REAL.X[first : first + N].mean(axis=0)).ravel() for first in range(0, REAL.n_obs, N)]
TWIN.X = sp.csr_matrix(np.random.default_rng(9).poisson(np.repeat(_GROUP_MEANS, N, axis=0)).astype(np.float32))
TWIN.obs_names = [f"twin{number}" for number in range(TWIN.n_obs)]


def perturbed(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.obs["drug"] != "control"].copy()


def copied_control() -> ad.AnnData:
    """The control cells, presented as the answer to each drug."""
    controls = REAL[REAL.obs["drug"] == "control"]
    parts = []
    for drug in DRUGS:
        part = controls.copy()
        part.obs["drug"] = drug
        part.obs_names = [f"{drug}-{name}" for name in part.obs_names]
        parts.append(part)
    return ad.concat(parts)


def swapped() -> ad.AnnData:
    """Good cells under the name of another drug."""
    found = perturbed(TWIN)
    found.obs["drug"] = found.obs["drug"].map(dict(zip(DRUGS, [*DRUGS[1:], DRUGS[0]], strict=True))).astype(str)
    return found


def shuffled() -> ad.AnnData:
    found = perturbed(TWIN)
    found.obs["drug"] = np.random.default_rng(0).permutation(found.obs["drug"])
    return found


def run(predicted: Any, real: Any = REAL, **options: Any) -> Evaluation:
    options = {
        "perturbation": "drug",
        "context": "cell_type",
        "leaks": "report",
        "resamples": 20,
        "components": 10,
        **options,
    }
    return evaluate(predicted, real, **options)


@pytest.fixture(scope="module")
def answers() -> dict[str, Evaluation]:
    made = {
        "perfect": perturbed(REAL),
        "good": perturbed(TWIN),
        "swapped": swapped(),
        "shuffled": shuffled(),
        "copied": copied_control(),
    }
    return {name: run(one) for name, one in made.items()}


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
    # Not 1, as the noise of the two halves of the controls differs; but as far up as anything.
    assert table.loc["pearson_delta_disjoint", "prediction"] > table.loc["pearson_delta_disjoint", "ceiling"]
    # Distances between samples are unbiased: cells that are compared with themselves lie below, not above, perfection.
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
def test_each_answer_is_ranked_as_it_deserves(answers: dict[str, Evaluation], metric: str) -> None:
    sign = 1 if answers["good"].table.loc[metric, "better"] == "higher" else -1
    values = {name: sign * one.table.loc[metric, "prediction"] for name, one in answers.items()}
    assert values["perfect"] >= values["good"] > max(values["swapped"], values["shuffled"])
    assert not values["copied"] >= values["good"]
    # What is worse than knowing nothing is called so.
    assert answers["swapped"].table.loc[metric, "verdict"] != "better"


def test_good_prediction_beats_the_baselines_and_reaches_the_ceiling(answers: dict[str, Evaluation]) -> None:
    table = answers["good"].table
    # "mean_shift" learns from the same drug in the other cell type and is strong, as it should be in such a world.
    for arm in ("no_change", "control_mean", "mean_of_perturbed", "label_shuffle"):
        assert table.loc["e_distance", arm] > 3 * abs(table.loc["e_distance", "prediction"])
        assert table.loc["pearson", arm] < table.loc["pearson", "prediction"]
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


def test_missing_values_have_reasons_and_no_value_is_invented(answers: dict[str, Evaluation]) -> None:
    for one in answers.values():
        missing = one.scores["value"].isna()
        assert (one.scores.loc[missing, "reason"] != "").all()
        assert (one.scores.loc[~missing, "reason"] == "").all()


def test_intervals_hold_their_values(answers: dict[str, Evaluation]) -> None:
    for one in answers.values():
        for low, high in (("low", "high"), ("low_groups", "high_groups")):
            some = one.scores.dropna(subset=[low])
            assert len(some) > 20
            assert (some[low] <= some["value"] + 1e-9).all()
            assert (some[high] >= some["value"] - 1e-9).all()
    assert answers["good"].settings["unit_of_group_intervals"] == "perturbation"


# ── values against slow twins ─────────────────────────────────────────────────────────────────────────────────────


def log_cp10k(adata: ad.AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def means(adata: ad.AnnData) -> dict[tuple[str, str], np.ndarray]:
    values, found = log_cp10k(adata), {}
    for drug in ["control", *DRUGS]:
        for kind in TYPES:
            found[drug, kind] = values[
                ((adata.obs["drug"] == drug) & (adata.obs["cell_type"] == kind)).to_numpy()
            ].mean(axis=0)
    return found


def test_arms_equal_what_their_names_say(answers: dict[str, Evaluation]) -> None:
    true, predicted = means(REAL), means(TWIN)
    overall = answers["good"].scores.query("group != 'all'").set_index(["metric", "arm", "group"])["value"].sort_index()
    for kind in TYPES:
        other = TYPES[1 - TYPES.index(kind)]
        control = true["control", kind]
        for drug in DRUGS:
            group = f"{drug} | {kind}"
            delta = true[drug, kind] - control
            shift = true[drug, other] - true["control", other]
            expected = {
                ("pearson_delta", "prediction"): np.corrcoef(delta, predicted[drug, kind] - control)[0, 1],
                ("pearson_delta", "mean_shift"): np.corrcoef(delta, shift)[0, 1],
                ("pearson_delta", "mean_of_perturbed"): np.corrcoef(delta, true[drug, other] - control)[0, 1],
                ("pearson", "no_change"): np.corrcoef(true[drug, kind], control)[0, 1],
                ("pearson", "mean_shift"): np.corrcoef(true[drug, kind], np.maximum(control + shift, 0))[0, 1],
                ("rmse_delta", "no_change"): math.sqrt(np.mean(delta**2)),
                ("pearson", "control_mean"): np.corrcoef(
                    true[drug, kind], (true["control", "B"] + true["control", "T"]) / 2
                )[0, 1],
            }
            for (metric, arm), value in expected.items():
                assert overall[metric, arm, group] == pytest.approx(value, abs=1e-5), (metric, arm, group)
            own = np.abs(predicted[drug, kind] - true[drug, kind]).sum()
            nearer = sum(np.abs(predicted[drug, kind] - true[one, kind]).sum() < own for one in DRUGS if one != drug)
            assert overall["discrimination", "prediction", group] == 1 - nearer / 2
    found = answers["good"].table.loc["pearson_delta", "prediction"]
    assert found == pytest.approx(overall["pearson_delta", "prediction"].mean())


def test_split_controls_share_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    from cell2sen.evaluation.scoring import baselines

    seen = []
    profile = baselines.Arms._profile

    def spy(self: Any, side: Any, rows: Any, purpose: Any, *arguments: Any, **named: Any) -> Any:
        seen.append((purpose, set(rows)))
        return profile(self, side, rows, purpose, *arguments, **named)

    monkeypatch.setattr(baselines.Arms, "_profile", spy)
    run(perturbed(TWIN), controls="split", metrics=["pearson_delta"])
    halves = {purpose: rows for purpose, rows in seen if purpose[0] == "control"}
    for kind in TYPES:
        first, second = halves["control", (kind,), 0], halves["control", (kind,), 1]
        assert len(first) == len(second) == N // 2
        assert not first & second


def test_shared_controls_flatter_an_answer_without_signal() -> None:
    """Noise of few controls is in both changes and correlates; from disjoint halves it does not."""
    few = REAL[(REAL.obs["drug"] == "control").to_numpy().nonzero()[0][::9]].copy()
    real = ad.concat([few, perturbed(REAL)])
    # Control cells under the names of drugs: they differ from the controls by chance alone.
    unmoved = perturbed(TWIN)
    unmoved.X = sp.vstack(
        [TWIN.X[(TWIN.obs["cell_type"] == kind).to_numpy()][:N] for kind in TYPES for _ in DRUGS], format="csr"
    )
    found = run(unmoved, real, metrics=["pearson_delta", "pearson_delta_disjoint"]).table["prediction"]
    assert found["pearson_delta"] > found["pearson_delta_disjoint"] + 0.05


# ── what must not change the numbers ──────────────────────────────────────────────────────────────────────────────


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
    found = run(predicted)
    same(answers["good"], found, atol=1e-3)
    assert "log base e" in found.settings["scale"]["predicted"]
    assert found.settings["scale"]["real"] == "counts"


def test_constant_predictions_are_not_taken_for_linear_values() -> None:
    """Rows of one mean have equal sums, as values normalised without a logarithm have."""
    predicted = perturbed(REAL)
    values = log_cp10k(REAL)
    predicted.X = np.tile(values.mean(axis=0), (predicted.n_obs, 1)).astype(np.float32)
    found = run(predicted, metrics=["pearson"])
    assert found.settings["scale"]["predicted"].startswith("log base e")
    expected = np.mean(
        [np.corrcoef(values.mean(axis=0), one)[0, 1] for (drug, _), one in means(REAL).items() if drug != "control"]
    )
    assert found.table.loc["pearson", "prediction"] == pytest.approx(expected, abs=1e-5)


def test_genes_that_are_missing_from_the_prediction_are_told() -> None:
    predicted = perturbed(TWIN)[:, 60:].copy()
    found = run(predicted, metrics=["pearson"])
    assert found.settings["genes"]["compared"] == 90
    assert found.settings["genes"]["share_of_true_change"] < 0.85
    assert any("the compared genes hold" in note for note in found.notes)


@pytest.mark.slow
def test_the_seed_is_all_there_is_to_chance(answers: dict[str, Evaluation]) -> None:
    same(answers["good"], run(perturbed(TWIN)), atol=0)
    other = run(perturbed(TWIN), seed=1)
    assert other.table.loc["e_distance", "prediction"] != answers["good"].table.loc["e_distance", "prediction"]
    assert other.table.loc["pearson", "prediction"] == pytest.approx(answers["good"].table.loc["pearson", "prediction"])


# ── leaks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_copied_control_raises() -> None:
    with pytest.raises(
        LeakError, match=r"leak check failed\. prediction is not a copied control: 100\.0% of 216"
    ) as caught:
        run(copied_control(), leaks="raise")
    assert caught.value.checks[0].status == "failed"


def own_prediction(cells: ad.AnnData, drug: str = "alpha") -> ad.AnnData:
    """As tl.perturb writes it."""
    predicted = ad.AnnData(
        sp.csr_matrix(log_cp10k(cells).astype(np.float32)), obs=cells.obs.copy(), var=cells.var.copy()
    )
    predicted.layers["control"] = predicted.X.copy()
    target = log_cp10k(REAL)[(REAL.obs["drug"] == drug).to_numpy()].mean(axis=0)
    predicted.X = sp.csr_matrix((0.5 * predicted.X.toarray() + 0.5 * target).astype(np.float32))
    predicted.layers["delta"] = (predicted.X - predicted.layers["control"]).tocsr()
    predicted.obs["perturbation"] = drug
    predicted.obs["sentence"] = [" ".join(GENES[:30])] * predicted.n_obs
    predicted.obs["validity"] = 0.75
    predicted.obs["n_unknown"] = 10
    predicted.obs["n_repeated"] = 0
    predicted.uns["cell2sen"] = {"perturb": {"model": {"name": "test", "weights_sha256": "ab"}}}
    return predicted


def test_own_predictions_are_read_without_being_told_how() -> None:
    found = run(own_prediction(REAL[REAL.obs["drug"] == "control"]), leaks="raise")
    assert found.task == "perturb"
    assert found.settings["groups"] == ["alpha | B", "alpha | T"]
    assert found.table.loc["validity", "prediction"] == pytest.approx(30 / 40)
    assert found.table.loc["uniqueness", "prediction"] == 1
    assert found.settings["model"]["name"] == "test"
    # The change is that of the prediction's own record, not X minus real controls.
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
    assert found.table.loc["pearson_delta", "prediction"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_prediction_made_from_the_truth_raises() -> None:
    with pytest.raises(LeakError, match="bear names of cells of the truth"):
        run(own_prediction(REAL[REAL.obs["drug"].isin(["control", "alpha"])]), leaks="raise")


def test_an_own_prediction_that_is_its_control_raises() -> None:
    predicted = own_prediction(REAL[REAL.obs["drug"] == "control"])
    predicted.X = predicted.layers["control"] * 1.001
    with pytest.raises(LeakError, match="unchanged"):
        run(predicted, leaks="raise")


def test_controls_among_the_truth_raise() -> None:
    real = REAL.copy()
    half = np.flatnonzero((real.obs["drug"] == "control").to_numpy())[::2]
    doubled = real[half].copy()
    doubled.obs["drug"] = "alpha"
    doubled.obs_names = [f"again{number}" for number in range(len(half))]
    with pytest.raises(LeakError, match="real cells of the truth have the expression of a control cell"):
        run(perturbed(TWIN), ad.concat([real, doubled]), leaks="raise")


def test_cells_that_were_trained_on_raise(tmp_path: Path) -> None:
    names = list(perturbed(REAL).obs_names[:5])
    with pytest.raises(LeakError, match="5 of 216 test cells are among the 6 training cells"):
        run(perturbed(TWIN), leaks="raise", train_names=[*names, "another"])
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert run(perturbed(TWIN), train_names=tmp_path / "names.txt", metrics=["pearson"]).leaked
    found = run(perturbed(TWIN), leaks="raise", train_names=["another"], metrics=["pearson"])
    assert {one.name: one.status for one in found.checks}["no test cell was trained on"] == "passed"


def test_a_models_record_of_its_split_is_read(tmp_path: Path) -> None:
    def status(split: Any) -> str:
        found = run(perturbed(TWIN), split=split, metrics=["pearson"])
        return {one.name: one.status for one in found.checks}["no test cell was trained on"]

    digest = sha256_of_names(REAL.obs_names)
    split = {"real.h5ad": {"n_train": 100, "n_held_out": REAL.n_obs, "sha256_of_held_out": digest}}
    assert status(split) == "passed"
    (tmp_path / "cell2sen.json").write_text(json.dumps({"split": split}))
    assert status(tmp_path / "cell2sen.json") == "passed"
    assert status({"real.h5ad": {"n_train": REAL.n_obs - 8, "n_held_out": 8, "sha256_of_held_out": "x"}}) == "warning"
    assert status({"real.h5ad": {"n_train": 7, "n_held_out": 8, "sha256_of_held_out": "x"}}) == "not checked"


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_nan() -> ad.AnnData:
    found = perturbed(TWIN)
    found.X = found.X.toarray()
    found.X[3, 5] = np.nan
    return found


def other_genes() -> ad.AnnData:
    found = perturbed(TWIN)
    found.var_names = [f"ENSG{number:011d}" for number in range(found.n_vars)]
    found.var["symbol"] = [f"mouse{number}" for number in range(found.n_vars)]
    return found


@pytest.mark.parametrize(
    ("predicted", "options", "error", "text"),
    [
        (
            perturbed(TWIN),
            {"control": "DMSO"},
            ValueError,
            r"obs\['drug'\] of the real cells never is \['DMSO'\]; available: \['alpha'",
        ),
        (
            perturbed(TWIN),
            {"perturbation": "dose", "task": "perturb"},
            KeyError,
            r"no column 'dose'; available: \['drug'",
        ),
        (perturbed(TWIN), {"context": "tissue"}, KeyError, r"no column 'tissue'"),
        (perturbed(TWIN), {"rename": {drug: "x" + drug for drug in DRUGS}}, ValueError, r"no perturbation is in both"),
        (with_nan(), {}, ValueError, r"1 of 216 predicted cells hold NaN or infinite .* \['twin39'\]"),
        (other_genes(), {}, ValueError, r"no gene in common: predicted has \['mouse0'"),
        (
            perturbed(TWIN),
            {"task": "perturbation"},
            ValueError,
            r"task must be one of \['perturb', 'generate', 'annotate'\]",
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
def test_errors_say_what_to_do(predicted: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(predicted, **options)


@pytest.mark.slow
def test_groups_of_one_cell_have_no_distances_and_say_so() -> None:
    keep = np.ones(REAL.n_obs, bool)
    keep[np.flatnonzero(((REAL.obs["drug"] == "beta") & (REAL.obs["cell_type"] == "B")).to_numpy())[1:]] = False
    found = run(perturbed(TWIN), REAL[keep].copy())
    scores = found.scores.set_index(["metric", "arm", "group"])
    row = scores.loc[("e_distance", "prediction", "beta | B")]
    assert math.isnan(row["value"])
    assert "at least 10 of each are needed (min_cells=)" in row["reason"]
    assert "fewer than two real cells" in scores.loc[("pearson_delta", "prediction", "beta | B"), "reason"]
    assert "cannot be split" in scores.loc[("pearson", "ceiling", "beta | B"), "reason"]
    assert any("beta | B: 1" in note for note in found.notes)
    # The mean is over the groups that can be scored, and the table says how many.
    assert found.table.loc["e_distance", "n_groups"] == 5
    assert math.isfinite(found.table.loc["e_distance", "prediction"])


@pytest.mark.slow
def test_an_answer_must_not_choose_its_groups() -> None:
    """Undefined in one hard group: the mean over the others is told in the reason only."""
    predicted = perturbed(TWIN)
    controls = REAL[(REAL.obs["drug"] == "control") & (REAL.obs["cell_type"] == "T")].copy()
    controls.obs["drug"] = "gamma"
    controls.obs_names = [f"copy-{name}" for name in controls.obs_names]
    others = predicted[~((predicted.obs["drug"] == "gamma") & (predicted.obs["cell_type"] == "T"))]
    row = run(ad.concat([others, controls])).table.loc["pearson_delta"]
    assert math.isnan(row["prediction"])
    assert row["reason"].startswith("no value in 1 of 6 groups (gamma | T:")
    assert "mean of the others 0.9" in row["reason"]


# ── labels ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def labelled() -> ad.AnnData:
    adata = REAL.copy()
    rng = np.random.default_rng(0)
    adata.obs["cell_type"] = adata.obs["cell_type"].map({"B": "B cells", "T": "T cells"}).astype(str)
    right = rng.random(adata.n_obs) < 0.9
    adata.obs["cell2sen_cell_type"] = np.where(right, adata.obs["cell_type"].str.removesuffix("s"), "NK cell")
    adata.obs["cell2sen_cell_type_score"] = np.where(right, 0.9, 0.6)
    adata.uns["cell2sen"] = {"annotate": {"labels": ["B cell", "T cell", "NK cell"], "key": "cell2sen_cell_type"}}
    return adata


def test_labels_beside_their_baselines(labelled: ad.AnnData) -> None:
    pytest.importorskip("sklearn")
    found = evaluate(labelled, labelled, resamples=30, context="donor", train_names=["x"])
    table = found.table
    right = float((labelled.obs["cell2sen_cell_type"] + "s" == labelled.obs["cell_type"]).mean())
    assert table.loc["accuracy", "prediction"] == 0
    assert table.loc["normalised_accuracy", "prediction"] == pytest.approx(right)
    assert table.loc["normalised_accuracy", "majority_label"] == 0.5
    assert table.loc["normalised_accuracy", "verdict"] == "better"
    assert table.loc["normalised_accuracy", "ceiling"] > 0.95
    assert 0.4 < table.loc["normalised_accuracy", "label_shuffle"] < 0.55
    assert table.loc["normalised_accuracy", "low"] < right < table.loc["normalised_accuracy", "high"]
    assert math.isfinite(table.loc["macro_f1", "low_groups"])
    expected = abs(0.9 * right - right) + 0.6 * (1 - right)
    assert table.loc["expected_calibration_error", "prediction"] == pytest.approx(expected)
    missing = found.scores.query("metric == 'accuracy' and arm == 'nearest_training_cell'")
    assert missing["reason"].iloc[0] == "training cells are not known; pass train="
    assert set(found.scores["group"]) == {"all", "B cells", "T cells"}


def test_nearest_training_cell_needs_training_cells(labelled: ad.AnnData) -> None:
    train = TWIN.copy()
    train.obs["cell_type"] = train.obs["cell_type"].map({"B": "B cells", "T": "T cells"}).astype(str)
    found = evaluate(labelled, labelled, train=train, resamples=5, metrics=["normalised_accuracy"])
    assert found.table.loc["normalised_accuracy", "nearest_training_cell"] > 0.95


def test_labels_of_other_tools(labelled: ad.AnnData) -> None:
    predicted = labelled.copy()
    del predicted.uns["cell2sen"]
    predicted.obs["celltypist"] = np.where(labelled.obs["cell_type"] == "B cells", "B lymphocyte", "T lymphocyte")
    options = {"predicted_label": "celltypist", "resamples": 5}
    unknown = evaluate(predicted, labelled, **options)
    assert unknown.table.loc["normalised_accuracy", "prediction"] == 0
    assert any(
        "2 of 2 predicted labels (B lymphocyte, T lymphocyte) are none of the real" in one for one in unknown.notes
    )
    names = {"B lymphocyte": "B cells", "T lymphocyte": "T cells"}
    found = evaluate(predicted, labelled, rename=names, **options).table
    assert found.loc["normalised_accuracy", "prediction"] == 1
    assert "obs has no column 'celltypist_score'" in found.loc["brier", "reason"]


def test_label_errors(labelled: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="no column 'annotation'"):
        evaluate(labelled, labelled, label="annotation")
    other = labelled.copy()
    other.obs_names = [f"x{name}" for name in other.obs_names]
    with pytest.raises(ValueError, match="no cell is in both files"):
        evaluate(other, labelled)
    with pytest.raises(LeakError, match="test cells are among"):
        evaluate(labelled, labelled, train_names=list(labelled.obs_names[:3]))


# ── generated cells ───────────────────────────────────────────────────────────────────────────────────────────────


def test_generated_cells_of_the_right_type_beat_those_of_the_wrong_one() -> None:
    generated = TWIN[TWIN.obs["drug"] == "control"].copy()
    wrong = generated.copy()
    wrong.obs["cell_type"] = wrong.obs["cell_type"].map({"B": "T", "T": "B"}).astype(str)
    real = REAL[REAL.obs["drug"] == "control"].copy()
    options = {"task": "generate", "resamples": 10, "components": 10}
    good, bad = (evaluate(one, real, **options).table for one in (generated, wrong))
    for metric in ("e_distance", "scfid", "mmd", "wasserstein"):
        assert good.loc[metric, "prediction"] < good.loc[metric, "mean_of_all"]
        assert good.loc[metric, "prediction"] < bad.loc[metric, "prediction"]
        assert good.loc[metric, "label_shuffle"] > good.loc[metric, "prediction"]
    assert good.loc["knn_accuracy_5", "prediction"] > 0.9 > 0.1 > bad.loc["knn_accuracy_5", "prediction"]
    assert good.loc["pearson_delta", "prediction"] > 0.9
    assert bad.loc["pearson_delta", "prediction"] < -0.9
    assert good.loc["pearson_delta_disjoint", "reason"] == "generated cells have no controls to be split"
    assert "no_change" not in good


# ── output ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_and_csv_hold_everything(answers: dict[str, Evaluation], tmp_path: Path) -> None:
    one = answers["copied"]
    stored = json.loads(one.to_json(tmp_path / "scores.json"))
    assert stored == json.loads((tmp_path / "scores.json").read_text())
    assert stored["leaked"] is True
    assert stored["settings"]["arguments"]["control"] == "control"
    assert stored["settings"]["controls"] == {"B": N, "T": N}
    rows = {row["metric"]: row for row in stored["table"]}
    assert rows["pearson_delta"]["prediction"] is None
    assert rows["pearson_delta"]["reason"]
    assert len(stored["scores"]) == len(one.scores)
    one.to_csv(tmp_path / "scores.csv")
    again = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False, na_values=[""])
    np.testing.assert_allclose(again["value"], one.scores["value"])
    assert "LEAK: prediction is not a copied control" in str(one)


@pytest.mark.slow
def test_an_embedding_of_the_users_own_is_compared() -> None:
    real, predicted = REAL.copy(), perturbed(TWIN)
    for side in (real, predicted):
        side.obsm["X_model"] = log_cp10k(side)[:, :20]
    found = run(predicted, real, embedding="X_model")
    assert {**found.settings["embedding"], "explained_variance": None} == {
        "key": "X_model",
        "components": 10,
        "explained_variance": None,
        "genes": None,
    }
    assert math.isfinite(found.table.loc["scfid", "prediction"])
    predicted.obsm["X_model"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['X_model'\] of 1 predicted cells is not finite"):
        run(predicted, real, embedding="X_model")


@pytest.mark.slow
def test_training_cells_feed_the_baselines() -> None:
    found = run(perturbed(TWIN), train=TWIN, leaks="report")
    assert found.settings["baselines_learn_from"] == "train"
    # The training cells hold the very groups: their mean is a prediction as good as the cells allow.
    assert found.table.loc["pearson_delta", "mean_of_perturbed"] > 0.9
    assert found.table.loc["e_distance", "nearest_training_cell"] < 0.3 * found.table.loc["e_distance", "no_change"]


# ── real cells ────────────────────────────────────────────────────────────────────────────────────────────────────


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
        rng.permutation(one)[:60]
        for one in adata.obs.groupby(["condition", "cell_type"], observed=True).indices.values()
    ]
    return adata[np.sort(np.concatenate(rows))].copy()


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
    found = {
        name: evaluate(one, kang, **options)
        for name, one in (("copied", copied), ("perfect", stimulated), ("wrong", wrong))
    }
    tables = {name: one.table for name, one in found.items()}
    assert found["copied"].leaked
    assert not found["perfect"].leaked
    for metric in ("e_distance", "scfid", "mmd", "wasserstein", "rmse_delta"):
        assert tables["perfect"].loc[metric, "prediction"] < tables["wrong"].loc[metric, "prediction"]
        assert tables["perfect"].loc[metric, "prediction"] < tables["copied"].loc[metric, "prediction"]
        assert tables["perfect"].loc[metric, "verdict"] == "better"
        assert tables["copied"].loc[metric, "verdict"] == "worse"
    assert tables["perfect"].loc["pearson_delta", "prediction"] == pytest.approx(1, abs=1e-6)
    assert math.isnan(tables["copied"].loc["pearson_delta", "prediction"])
    # Cells of the wrong type have seen the same cytokine: better than no change, worse than the right ones.
    assert 0.3 < tables["wrong"].loc["pearson_delta", "prediction"] < 0.95
    ranks = [tables[name].loc["knn_accuracy_5", "prediction"] for name in ("copied", "wrong", "perfect")]
    assert ranks == sorted(ranks)
    assert ranks[0] < 0.1 < 0.7 < ranks[2]
    # Interferon moves a shared programme, so the mean change of the other cell types is the baseline to beat.
    assert tables["wrong"].loc["pearson_delta", "mean_shift"] > 0.7
