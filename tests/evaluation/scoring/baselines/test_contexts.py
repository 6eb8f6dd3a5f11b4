"""Baselines that learn from other contexts equal their definitions and learn nothing from the scored group."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cell2sen.data.similar_contexts import KnownChanges, Transfer, fit_transfer
from cell2sen.evaluation.evaluate import evaluate

KINDS, GENES, CELLS = ("A", "B", "C", "D", "E"), 60, 16


def screen(*, changed: str = "") -> ad.AnnData:
    """Two drugs in five cell types, of two kinds; in the treated cells of `changed` the genes are exchanged."""
    rng = np.random.default_rng(0)
    base = rng.exponential(2.0, (2, GENES))
    effect = np.where(rng.random((2, 2, GENES)) < 0.3, 3.0, rng.uniform(0.2, 1, (2, 2, GENES)))
    parts, obs = [], []
    for number, kind in enumerate(KINDS):
        mean = base[number % 2] * rng.uniform(0.9, 1.1, GENES)
        for drug, factor in (("control", np.ones(GENES)), ("x", effect[number % 2, 0]), ("y", effect[number % 2, 1])):
            counts = rng.poisson(20 * mean * factor, (CELLS, GENES)).astype(np.float32)
            if kind == changed and drug != "control":
                counts = counts[:, ::-1]
            parts.append(counts)
            obs += [(drug, kind)] * CELLS
    table = pd.DataFrame(obs, columns=["perturbation", "cell_type"])
    table.index = [f"{drug}-{kind}-{cell}" for cell, (drug, kind) in enumerate(obs)]
    return ad.AnnData(np.concatenate(parts), obs=table, var=pd.DataFrame(index=[f"G{gene}" for gene in range(GENES)]))


def scores(real: ad.AnnData, train: ad.AnnData | None = None) -> pd.DataFrame:
    predicted = real[real.obs["perturbation"] != "control"].copy()
    predicted.X = predicted.X + 1.0
    options = {"metrics": ["pearson_delta", "pearson", "e_distance"], "leaks": "report", "min_cells": 4}
    return evaluate(predicted, real, train=train, context="cell_type", resamples=3, **options).scores


def means(real: ad.AnnData) -> dict[tuple[str, str], np.ndarray]:
    values = np.log1p(real.X / real.X.sum(axis=1, keepdims=True) * 1e4)
    return {
        key: values[np.asarray(rows)].mean(axis=0)
        for key, rows in real.obs.reset_index().groupby(["perturbation", "cell_type"]).groups.items()
    }


def known(found: dict, drug: str, kinds: list[str]) -> KnownChanges:
    controls = np.array([found["control", kind] for kind in kinds])
    changes = np.array([found[drug, kind] for kind in kinds]) - controls
    return KnownChanges(controls=controls, changes=changes, n_cells=[CELLS] * len(kinds))


def test_similar_contexts_equal_their_definition() -> None:
    real = screen()
    found, table = means(real), scores(real).set_index(["metric", "method", "group"])["value"]
    for kind in KINDS:
        others = [other for other in KINDS if other != kind]
        rule = fit_transfer([known(found, drug, others) for drug in ("x", "y")])
        predicted = rule.change(found["control", kind], known(found, "x", others))
        truth = found["x", kind] - found["control", kind]
        expected = np.corrcoef(truth, predicted)[0, 1]
        assert table["pearson_delta", "similar_contexts", f"x | {kind}"] == pytest.approx(expected, abs=1e-4)
        level = np.maximum(found["control", kind] + predicted, 0)
        expected = np.corrcoef(found["x", kind], level)[0, 1]
        assert table["pearson", "similar_contexts", f"x | {kind}"] == pytest.approx(expected, abs=1e-4)
    overall = scores(real).query("group == 'all' and metric == 'pearson_delta'").set_index("method")["value"]
    assert overall["similar_contexts"] > overall["mean_shift"] + 0.05
    assert overall["similar_contexts"] <= overall["ceiling"] + 0.1
    distance = scores(real).query("group == 'all' and metric == 'e_distance'").set_index("method")["value"]
    assert distance["similar_contexts"] < distance["no_change"]


def test_the_scored_group_is_not_learned_from() -> None:
    """With other treated cells in one type, its own prediction is the same, to the correlation with another truth."""
    found, changed = means(screen()), means(screen(changed="A"))
    others = list(KINDS[1:])
    rule = fit_transfer([known(found, drug, others) for drug in ("x", "y")])
    predicted = rule.change(found["control", "A"], known(found, "x", others))
    table = scores(screen(changed="A")).set_index(["metric", "method", "group"])["value"]
    truth = changed["x", "A"] - changed["control", "A"]
    expected = np.corrcoef(truth, predicted)[0, 1]
    assert table["pearson_delta", "similar_contexts", "x | A"] == pytest.approx(expected, abs=1e-4)


def test_ridge_equals_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    from cell2sen.evaluation.scoring.baselines.contexts import _ridge

    found = means(screen())
    contexts, control = known(found, "x", list(KINDS[1:])), found["control", "A"]
    predicted = _ridge(control, contexts, 0.1)
    for gene in (0, 7, 30):
        weights = np.full(4, 0.25)
        line = Ridge(alpha=0.1).fit(contexts.controls[:, [gene]], contexts.changes[:, gene], sample_weight=weights)
        expected = max(line.predict(control[[gene]][:, None])[0], -control[gene])
        assert predicted[gene] == pytest.approx(expected)
    np.testing.assert_allclose(_ridge(control, contexts, np.inf), np.maximum(contexts.changes.mean(axis=0), -control))


def test_training_cells_are_learned_from_where_there_are_some() -> None:
    real = screen()
    table = scores(real, train=screen(changed="B")).set_index(["metric", "method", "group"])["value"]
    found = means(screen(changed="B"))
    rule = fit_transfer([known(found, drug, list(KINDS)) for drug in ("x", "y")])
    truth, control = means(real)["x", "B"], means(real)["control", "B"]
    predicted = rule.change(control, known(found, "x", ["B"]))  # the same group of training cells
    expected = np.corrcoef(truth - control, predicted)[0, 1]
    assert table["pearson_delta", "similar_contexts", "x | B"] == pytest.approx(expected, abs=1e-4)
    assert Transfer().weights(control, known(found, "x", ["B"])).tolist() == [1.0]


def by_hand(found: dict, kind: str) -> np.ndarray:
    """Change of drug x in a type from the other types, without the package: NumPy, one context at a time."""

    def predict(target: str, drug: str, sources: list[str], temperature: float, shares: bool) -> np.ndarray:
        own = found["control", target]
        rho = np.array([np.corrcoef(own, found["control", other])[0, 1] for other in sources])
        weights = np.exp(rho / temperature) if np.isfinite(temperature) else np.ones(len(rho))
        total = np.zeros(GENES)
        for weight, other in zip(weights / weights.sum(), sources, strict=True):
            before = found["control", other]
            move = found[drug, other] - before
            share = np.divide(move, before, out=np.zeros(GENES), where=before > 0)
            total += weight * np.where((move < 0) & shares, share * own, move)
        return total

    others = [other for other in KINDS if other != kind]
    best, rule = -2.0, (0.08, True)
    for choice in [rule, *((t, s) for t in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, np.inf) for s in (True, False))]:
        values = [
            np.corrcoef(
                predict(left, drug, [name for name in others if name != left], *choice),
                found[drug, left] - found["control", left],
            )[0, 1]
            for drug in ("x", "y")
            for left in others
        ]
        if round(float(np.mean(values)), 9) > best:
            best, rule = round(float(np.mean(values)), 9), choice
    return predict(kind, "x", others, *rule)


def correlations_by_hand(real: ad.AnnData) -> dict[str, float]:
    found = means(real)
    return {
        f"x | {kind}": float(np.corrcoef(by_hand(found, kind), found["x", kind] - found["control", kind])[0, 1])
        for kind in KINDS
    }


def of_judge(real: ad.AnnData) -> dict[str, float]:
    table = scores(real)
    own = table[(table["metric"] == "pearson_delta") & (table["method"] == "similar_contexts")]
    return {name: float(own.set_index("group")["value"][name]) for name in own["group"] if name.startswith("x |")}


def test_a_judge_that_fits_on_the_scored_type_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival equals one by hand; with its temperature fitted on the scored type, too, it does not."""
    real = screen(changed="C")
    expected = correlations_by_hand(real)
    assert of_judge(real) == pytest.approx(expected, abs=1e-4)

    def leaky(groups: object, key: object) -> Transfer:
        everything = {}
        for other in groups.source.groups:  # type: ignore[attr-defined]
            everything.setdefault(other[0], []).append(other)
        return fit_transfer([module.known_changes(groups, keys) for keys in everything.values()])

    from cell2sen.evaluation.scoring.baselines import contexts as module

    monkeypatch.setattr(module, "transfer_rule", leaky)
    wrong = of_judge(real)
    assert max(abs(wrong[name] - expected[name]) for name in expected) > 1e-3
