from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats
from scipy.spatial.distance import cdist

from cell2sen.evaluation.metrics import distributions as distances
from cell2sen.evaluation.metrics import metrics, profiles
from cell2sen.evaluation.metrics import text as bertscore
from cell2sen.evaluation.metrics.metrics import METRICS

TRUTH = ["B cell", "B cell", "T cell", "NK cell", "T cell", "NK cell"]
ANSWER = ["B cell", "T cell", "T cell", "NK cell", "T cell.", "platelet"]


def test_every_metric_says_what_it_is() -> None:
    assert {one.level for one in METRICS.values()} == {
        "labels", "confidence", "text", "profile", "change", "cells", "sentences",
    }  # fmt: skip
    for one in METRICS.values():
        assert one.range[0] < one.range[1]
        assert one.perfect in one.range
        assert one.summary.endswith("."), one.name
        assert one.undefined
    assert METRICS["accuracy"].higher_is_better
    assert not METRICS["scfid"].higher_is_better
    assert {module.__name__ for module in (bertscore, distances, profiles)}


def test_a_metric_of_the_users_own() -> None:
    try:

        @metrics.metric(perfect=0.0, range=(0.0, math.inf), level="change")
        def largest_error(truth: np.ndarray, answer: np.ndarray) -> float:
            """The largest error of all genes."""
            return float(np.abs(truth - answer).max())

        assert metrics.get("largest_error").function is largest_error
    finally:
        METRICS.pop("largest_error", None)
    with pytest.raises(ValueError, match="must be one end of the range"):
        metrics.metric(perfect=0.5, range=(0.0, 1.0), level="cells")
    with pytest.raises(KeyError, match=r"no metric 'tau'; available: \['accuracy'"):
        metrics.get("tau")


def test_accuracy_is_exact_up_to_the_final_full_stop() -> None:
    assert metrics.accuracy(TRUTH, ANSWER) == pytest.approx(4 / 6)
    assert metrics.accuracy(["B cell"], ["b cell"]) == 0
    assert metrics.accuracy(["B cell", "T cell"], [" B cell. ", "T cell, human"]) == 1
    with pytest.raises(ValueError, match="same length and not empty, found 0 and 1"):
        metrics.accuracy([], ["B cell"])


def test_normalisation_keeps_apart_what_is_different() -> None:
    assert metrics.normalised_accuracy(["CD14+ Mono", "CD25+ T"], ["CD14 Mono", "CD25- T"]) == 0
    assert metrics.normalised_accuracy(["Monocytes"], ["CD14+ Mono"], {"CD14+ mono": "monocyte"}) == 1


def test_macro_f1_equals_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n_labels in (2, 5):
        truth = rng.integers(0, n_labels, 200).astype(str)
        answer = np.where(rng.random(200) < 0.6, truth, rng.integers(0, n_labels + 1, 200).astype(str))
        expected = sklearn.f1_score(truth, answer, average="macro", zero_division=0)
        assert metrics.macro_f1(list(truth), list(answer)) == pytest.approx(expected, abs=1e-12)
        assert metrics.accuracy(list(truth), list(answer)) == pytest.approx(sklearn.accuracy_score(truth, answer))


def test_macro_f1_counts_rare_labels_as_much_as_frequent_ones() -> None:
    truth = ["T"] * 99 + ["DC"]
    assert metrics.macro_f1(truth, ["T"] * 100) == pytest.approx((2 * 99 / (2 * 99 + 1) + 0) / 2)


def test_f1_of_stacked_confusion_matrices() -> None:
    counts = np.stack([metrics.confusion(TRUTH, TRUTH)[0], np.zeros((3, 3), int)])
    counts[1, 0, 0], counts[1, 0, 1] = 1, 1  # the third label occurs nowhere and does not count
    assert metrics.f1_of_confusion(counts) == pytest.approx([1.0, (2 / 3 + 0) / 2])


def ece_one_by_one(right: np.ndarray, stated: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(stated) if b / bins < p <= (b + 1) / bins or (b == 0 and p == 0)]
        if inside:
            total += len(inside) / len(stated) * abs(np.mean(right[inside]) - np.mean(stated[inside]))
    return total


def test_calibration_equals_twin_and_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    stated = rng.random(400)
    right = rng.random(400) < stated**2
    answer = np.where(right, "a", "b")
    truth = ["a"] * 400
    found = metrics.expected_calibration_error(truth, list(answer), stated)
    assert found == pytest.approx(ece_one_by_one(right.astype(float), stated, 15))
    assert metrics.brier(truth, list(answer), stated) == pytest.approx(np.mean((stated - right) ** 2))
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    expected = torchmetrics.binary_calibration_error(torch.tensor(stated), torch.tensor(right).int(), n_bins=15)
    # Torchmetrics closes bins on the left; no value lies on an edge here.
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_calibration_of_a_perfect_and_a_boasting_model() -> None:
    assert metrics.expected_calibration_error(["a", "a"], ["a", "a"], [1.0, 1.0]) == 0
    assert metrics.expected_calibration_error(["a", "a"], ["b", "b"], [1.0, 1.0]) == 1
    with pytest.raises(ValueError, match="2 probabilities between 0 and 1"):
        metrics.expected_calibration_error(["a", "a"], ["a", "a"], [0.5, 1.5])


def test_validity_and_uniqueness() -> None:
    known = {"CD3D", "LYZ", "NKG7"}
    sentence = "CD3D LYZ CD3D FOO NKG7 CD3D."
    assert metrics.validity(sentence, known) == pytest.approx(5 / 6)
    assert metrics.uniqueness(sentence, known) == pytest.approx(3 / 5)
    assert math.isnan(metrics.validity("", known))
    assert math.isnan(metrics.uniqueness("FOO BAR", known))


@given(st.lists(st.sampled_from(["A", "B", "C", "x"]), min_size=1, max_size=30))
def test_validity_equals_counting(words: list[str]) -> None:
    known = {"A", "B", "C"}
    valid = [word for word in words if word != "x"]
    assert metrics.validity(words, known) == pytest.approx(len(valid) / len(words))
    if valid:
        assert metrics.uniqueness(words, known) == pytest.approx(len(set(valid)) / len(valid))


# ── every metric against somebody else's ──────────────────────────────────────────────────────────────────────────


def top_set(values: np.ndarray, k: int) -> set[int]:
    return {int(gene) for gene in np.argsort(-values, kind="stable")[:k] if values[gene] > 0}


def knn(k: int) -> Callable[..., float]:
    def oracle(known: np.ndarray, labels: list[str], queries: np.ndarray, expected: list[str]) -> float:
        neighbors = pytest.importorskip("sklearn.neighbors")
        found = neighbors.KNeighborsClassifier(k).fit(known, labels).predict(queries)
        return float(np.mean(found == np.array(expected)))

    return oracle


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    def shrunk(z: np.ndarray) -> np.ndarray:
        full = np.cov(z, rowvar=False)
        return 0.9 * full + 0.1 * np.trace(full) / len(full) * np.eye(len(full))

    root = linalg.sqrtm(shrunk(x) @ shrunk(y)).real
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(shrunk(x) + shrunk(y) - 2 * root))


def u_statistics(x: np.ndarray, y: np.ndarray, kernel: Callable[..., Any]) -> tuple[float, float, float]:
    def within(z: np.ndarray) -> float:
        return float(kernel(z, z)[~np.eye(len(z), dtype=bool)].mean())

    return float(kernel(x, y).mean()), within(x), within(y)


def energy(x: np.ndarray, y: np.ndarray) -> float:
    cross, xx, yy = u_statistics(x, y, cdist)
    return 2 * cross - xx - yy


def gaussian_mmd(x: np.ndarray, y: np.ndarray) -> float:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    width = np.median(cdist(x, x)[np.triu_indices(len(x), 1)])
    cross, xx, yy = u_statistics(x, y, lambda a, b: pairwise.rbf_kernel(a, b, gamma=1 / (2 * width**2)))
    return xx + yy - 2 * cross


def sliced(x: np.ndarray, y: np.ndarray) -> float:
    directions = np.random.default_rng(0).normal(size=(x.shape[1], 50))
    directions /= np.linalg.norm(directions, axis=0)
    return float(np.mean([stats.wasserstein_distance(x @ one, y @ one) for one in directions.T]))


def closer(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    shares = [(found[i] < found[i, i]).sum() / (n - 1) for found in (cdist(x, y), cdist(y, x)) for i in range(n)]
    return float(np.mean(shares))


def scikit_learn(name: str, **options: Any) -> Callable[..., float]:
    def oracle(*given: Any) -> float:
        return float(getattr(pytest.importorskip("sklearn.metrics"), name)(*given, **options))

    return oracle


def calibration_by_torchmetrics(truth: list[str], answer: list[str], stated: np.ndarray) -> float:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    right = torch.tensor([t == a for t, a in zip(truth, answer, strict=True)]).int()
    return float(classification.binary_calibration_error(torch.tensor(stated), right, n_bins=15))


def brier_by_scikit_learn(truth: list[str], answer: list[str], stated: np.ndarray) -> float:
    right = np.array([t == a for t, a in zip(truth, answer, strict=True)])
    return float(pytest.importorskip("sklearn.metrics").brier_score_loss(right, stated))


def rank_among(truth: np.ndarray, answer: np.ndarray, others: np.ndarray) -> float:
    own, rest = cdist([answer], [truth], "cityblock")[0, 0], cdist([answer], others, "cityblock")[0]
    return float(np.mean(rest > own))


ORACLES: dict[str, Callable[..., float]] = {
    "accuracy": scikit_learn("accuracy_score"),
    "normalised_accuracy": scikit_learn("accuracy_score"),  # on labels that need no normalising
    "macro_f1": scikit_learn("f1_score", average="macro", zero_division=0),
    "expected_calibration_error": calibration_by_torchmetrics,
    "brier": brier_by_scikit_learn,
    "validity": lambda words, known: 1 - [word in known for word in words].count(False) / len(words),
    "uniqueness": lambda words, known: len(known & set(words)) / len([word for word in words if word in known]),
    "e_distance": energy,
    "mmd": gaussian_mmd,
    "wasserstein": sliced,
    "scfid": frechet,
    "foscttm": closer,
    **{f"knn_accuracy_{k}": knn(k) for k in (3, 5, 10, 25)},
    "gene_overlap_100": lambda x, y: len(top_set(x, 100) & top_set(y, 100)) / 100,
    "gene_overlap_100_jaccard": lambda x, y: (
        len(top_set(x, 100) & top_set(y, 100)) / len(top_set(x, 100) | top_set(y, 100))
    ),
    "kendall_tau": lambda x, y: stats.kendalltau(x, y).statistic,
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
    "pearson_delta": lambda x, y: np.corrcoef(x, y)[0, 1],
    "pearson_delta_disjoint": lambda x, y: np.corrcoef(x, y)[0, 1],
    "spearman_delta": lambda x, y: stats.spearmanr(x, y).statistic,
    "pearson_delta_top20": lambda x, y, genes: stats.pearsonr(x[genes[:20]], y[genes[:20]]).statistic,
    "pearson_delta_top50": lambda x, y, genes: stats.pearsonr(x[genes[:50]], y[genes[:50]]).statistic,
    "direction_top50": lambda x, y, genes: float(np.mean([x[gene] * y[gene] > 0 for gene in genes[:50]])),
    "changed_overlap_50": lambda x, y: len(top_set(np.abs(x), 50) & top_set(np.abs(y), 50)) / 50,
    "rmse_delta": scikit_learn("root_mean_squared_error"),
    "discrimination": rank_among,
}
#: Against their definition, with an encoder, in test_bertscore.py.
WITH_ENCODER = {"bertscore", "biobert_score"}


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) | WITH_ENCODER == set(METRICS)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_every_metric_equals_its_oracle_and_is_perfect_for_a_perfect_answer(name: str) -> None:
    rng = np.random.default_rng(11)
    one = METRICS[name]
    perfect: tuple[Any, ...]
    if one.level in ("labels", "confidence"):
        truth = list(rng.choice(["b cell", "t cell", "nk"], 300))
        answer = [t if rng.random() < 0.7 else "platelet" for t in truth]
        extra = (rng.random(300),) if one.level == "confidence" else ()
        given, perfect = (truth, answer, *extra), (truth, truth, *(np.ones(300) for _ in extra))
    elif one.level == "sentences":
        known = {"CD3D", "LYZ", "NKG7"}
        given = (list(rng.choice(["CD3D", "LYZ", "FOO", "NKG7"], 20)), known)
        perfect = (sorted(known), known)
    elif one.level in ("profile", "change"):
        x = rng.gamma(0.4, 1.0, 400) * (rng.random(400) < 0.6)
        y = np.maximum(x + rng.normal(0, 0.5, 400), 0)
        x, y = (x, y) if one.level == "profile" else (x - 0.3, y - 0.4)
        order = np.argsort(-np.abs(x), kind="stable")
        # The answer is nearer to some of the others than to its own truth.
        others = np.stack([y + rng.normal(0, width, 400) for width in (0.05, 0.1, 0.2, 1.0, 2.0)])
        extra = {"discrimination": (others,)}.get(name, (order,) if "top" in name else ())
        given, perfect = (x, y, *extra), (x, x, *extra)
    elif name.startswith("knn"):
        known, labels = rng.normal(size=(91, 4)), rng.choice(["a", "b"], 91)
        known[labels == "a"] += 1
        queries = rng.normal(0.5, 1, size=(60, 4))
        given = (known, list(labels), queries, list(rng.choice(["a", "b"], 60)))
        far = np.where(labels == "a", 0.0, 100.0)[:, None] + known
        perfect = (far, list(labels), far, list(labels))
        if name == "knn_accuracy_10":  # of an even number, ties are ours alone: see test_distances.py
            votes = [list(labels[np.argsort(cdist([q], known)[0])[:10]]).count("a") for q in queries]
            kept = [at for at, n in enumerate(votes) if n != 5]
            given = (known, list(labels), queries[kept], [given[3][at] for at in kept])
    else:
        x = rng.normal(size=(50, 5))
        given, perfect = (x, rng.normal(0.4, 1.3, size=(50, 5))), (x, x)
    value = float(one.function(*given))
    assert value == pytest.approx(float(ORACLES[name](*given)), abs=1e-6)
    assert one.range[0] <= value <= one.range[1]
    assert value != pytest.approx(one.perfect, abs=1e-3)
    best = float(one.function(*perfect))
    if name in ("e_distance", "mmd"):  # unbiased: of a sample with itself below 0
        assert best <= 0
    else:
        assert best == pytest.approx(one.perfect, abs=1e-6)


def test_documentation_has_each_metric_with_its_range_and_perfect_value() -> None:
    def number(value: float) -> str:
        return "∞" if value == math.inf else f"{value:g}".replace("-", "−")

    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\S+) to (\S+) \| (\d) \|$", page, re.M)
    assert {name: (low, high, perfect) for name, low, high, perfect in rows} == {
        name: (number(one.range[0]), number(one.range[1]), number(one.perfect)) for name, one in METRICS.items()
    }
