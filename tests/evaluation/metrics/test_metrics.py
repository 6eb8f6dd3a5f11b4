"""Contract of all metrics: documentation with a source, range, perfect value, and agreement with another library."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial.distance import cdist

from cell2sen.evaluation import metrics
from cell2sen.evaluation.metrics import Metric, get, metric


def example_of_labels(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    truth = list(rng.choice(["b cell", "t cell", "nk"], 300))
    answer = [label if rng.random() < 0.7 else "platelet" for label in truth]
    stated = rng.random(300)
    with_confidence = metric.level == "confidence"
    return (truth, answer, *[stated] * with_confidence), (truth, truth, *[np.ones(300)] * with_confidence)


def example_of_texts(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 30, 6)) for _ in range(4)]
    return (texts, texts[::-1]), (texts, texts)


def example_of_named_genes(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    genes = ["CD3D", "LYZ", "NKG7", "CD4"]
    named = [frozenset(rng.choice(genes, rng.integers(0, 4))) for _ in range(12)]
    return (named, [frozenset(["LYZ", "CD4"])] * 12), (named, [frozenset(genes)] * 12)


def example_of_sentences(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    known = {"CD3D", "LYZ", "NKG7"}
    return (list(rng.choice(["CD3D", "LYZ", "FOO", "NKG7"], 20)), known), (sorted(known), known)


def example_of_profiles(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    x = rng.gamma(0.4, 1.0, 400) * (rng.random(400) < 0.6)
    y = np.maximum(x + rng.normal(0, 0.5, 400), 0)
    x, y = (x, y) if metric.level == "profile" else (x - 0.3, y - 0.4)
    # The answer is nearer to some of the others than to its own truth.
    others = np.stack([y + rng.normal(0, width, 400) for width in (0.05, 0.1, 0.2, 1.0, 2.0)])
    context = {"genes": np.argsort(-np.abs(x), kind="stable"), "others": others}
    extra = [context[name] for name in context if name in metric.arguments]
    return (x, y, *extra), (x, x, *extra)


def example_of_neighbours(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    cells, labels = rng.normal(size=(91, 4)), rng.choice(["a", "b"], 91)
    cells[labels == "a"] += 1
    queries, expected = rng.normal(0.5, 1, size=(60, 4)), rng.choice(["a", "b"], 60)
    # scikit-learn breaks ties of an even number of neighbours differently: see test_distributions.py.
    votes = [list(labels[np.argsort(cdist([query], cells)[0])[:10]]).count("a") for query in queries]
    clear = np.array(votes) != 5
    far = np.where(labels == "a", 0.0, 100.0)[:, None] + cells
    return (cells, list(labels), queries[clear], list(expected[clear])), (far, list(labels), far, list(labels))


def example_of_cells(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    x = rng.normal(size=(50, 5))
    return (x, rng.normal(0.4, 1.3, size=(50, 5))), (x, x)


def example_of_numbers(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    truth = rng.normal(50, 10, 300)
    answer = truth + rng.normal(3, 5, 300)
    if metric.level == "intervals":
        return (truth, answer - 6, answer + 6), (truth, truth, truth)
    return (truth, answer), (truth, truth)


def example_of_gene_sets(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    if metric.level == "set_names":
        names = ["HALLMARK_MYC_TARGETS_V1", "response to hypoxia", "T cell activation", "apoptosis"]
        return (names, ["myc targets v1", "hypoxia", "T Cell activation.", "cell cycle"]), (
            names,
            [*map(str.upper, names)],
        )
    lists = [list(rng.choice([f"G{gene}" for gene in range(30)], 12, replace=False)) for _ in range(6)]
    return (lists, [[*genes[:5], "X", "Y"] for genes in lists]), (lists, [genes[::-1] for genes in lists])


def example_of_pairs(rng: np.random.Generator, metric: Metric) -> tuple[Any, Any]:
    own = np.repeat(np.arange(5), 4)
    right = (own[None] == np.arange(5)[:, None]).astype(float)
    return (right + rng.normal(0, 0.7, right.shape), own), (right + rng.uniform(0, 0.1, right.shape), own)


#: Level → arguments of an imperfect and of a perfect answer.
EXAMPLES: dict[str, Callable[[np.random.Generator, Metric], tuple[Any, Any]]] = {
    "written_labels": example_of_labels,
    "labels": example_of_labels,
    "confidence": example_of_labels,
    "text": example_of_texts,
    "free_text": example_of_texts,
    "named_genes": example_of_named_genes,
    "profile": example_of_profiles,
    "change": example_of_profiles,
    "disjoint_change": example_of_profiles,
    "cells": example_of_cells,
    "neighbours": example_of_neighbours,
    "sentences": example_of_sentences,
    "numbers": example_of_numbers,
    "intervals": example_of_numbers,
    "set_genes": example_of_gene_sets,
    "set_names": example_of_gene_sets,
    "pairs": example_of_pairs,
}


def arguments_of(metric: Metric, encoder: Path) -> tuple[Any, Any]:
    given, perfect = EXAMPLES[metric.level](np.random.default_rng(11), metric)
    extra = (str(encoder),) if metric.level == "text" else ()
    return (*given, *extra), (*perfect, *extra)


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_keeps_the_contract(name: str, encoder: Path) -> None:
    metric = get(name)
    assert metric.range[0] < metric.range[1]
    assert metric.perfect in metric.range
    assert metric.undefined
    assert re.fullmatch(r"[A-Z].*\.", metric.summary), "the first line is a sentence"
    assert re.search(r"\b(1[89]|20)\d\d\b", metric.function.__doc__ or ""), "the source of the formula has a year"
    given, perfect = arguments_of(metric, encoder)
    value, best = float(metric.function(*given)), float(metric.function(*perfect))
    assert metric.range[0] <= value <= metric.range[1]
    assert value != pytest.approx(metric.perfect, abs=1e-3)
    # Unbiased estimators are below 0 for a sample and itself.
    assert best == pytest.approx(metric.perfect, abs=1e-6) or (metric.level == "cells" and best < 0)


@pytest.mark.parametrize("name", metrics.names())
def test_resampling_agrees_with_the_metric(name: str, encoder: Path) -> None:
    metric = get(name)
    given, _ = arguments_of(metric, encoder)
    if metric.level == "neighbours":
        cells, labels, queries, expected = given
        nearest = metrics.distributions.Neighbours(cells, labels, queries)
        hits = metric.resampling.values(nearest, np.array(expected, dtype=object))
        assert hits.mean() == pytest.approx(metric.function(*given))
    elif isinstance(metric.resampling, metrics.MeanOver):
        assert metric.resampling.values(*given).mean() == pytest.approx(metric.function(*given))
    elif "weights" in metric.arguments:
        once = tuple(np.ones((2, len(cells))) for cells in given)
        np.testing.assert_allclose(metric.function(*given, weights=once), [metric.function(*given)] * 2)


def test_the_menu_finds_metrics_of_any_file() -> None:
    assert get("accuracy").higher_is_better
    assert not get("scfid").higher_is_better
    assert {get(name).level for name in metrics.names()} == set(EXAMPLES)
    with pytest.raises(KeyError, match=r"no metric 'tau'; available: \['accuracy'"):
        get("tau")


def test_a_metric_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))

    @metric(level="change", perfect=0.0, range=(0.0, math.inf))
    def largest_error(truth: np.ndarray, answer: np.ndarray) -> float:
        """The largest error of all genes."""
        return float(np.abs(truth - answer).max())

    assert get("largest_error").function is largest_error
    with pytest.raises(ValueError, match="must be one end of the range"):
        metric(level="cells", perfect=0.5, range=(0.0, 1.0))


# ── oracles ───────────────────────────────────────────────────────────────────────────────────────────────────────


def top_set(values: np.ndarray, k: int) -> set[int]:
    return {int(gene) for gene in np.argsort(-values, kind="stable")[:k] if values[gene] > 0}


def knn(k: int) -> Callable[..., float]:
    def oracle(known: np.ndarray, labels: list[str], queries: np.ndarray, expected: list[str]) -> float:
        neighbors = pytest.importorskip("sklearn.neighbors")
        predicted = neighbors.KNeighborsClassifier(k).fit(known, labels).predict(queries)
        return float(np.mean(predicted == np.array(expected)))

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
    return float(np.mean([stats.wasserstein_distance(x @ direction, y @ direction) for direction in directions.T]))


def closer(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    distances = (cdist(x, y), cdist(y, x))
    shares = [(distance[i] < distance[i, i]).sum() / (n - 1) for distance in distances for i in range(n)]
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


def character_f(truth: list[str], answer: list[str]) -> float:
    """Mean over texts of the mean over n = 1 to 6 of the F-score (β = 2) of character n-grams without spaces."""

    def grams(text: str, n: int) -> Counter[str]:
        letters = text.replace(" ", "")
        return Counter(letters[at : at + n] for at in range(len(letters) - n + 1))

    def f_score(t: Counter[str], a: Counter[str]) -> float:
        shared = (t & a).total()
        precision, recall = shared / a.total(), shared / t.total()
        return 5 * precision * recall / (4 * precision + recall) if shared else 0.0

    pairs = zip(truth, answer, strict=True)
    return float(np.mean([np.mean([f_score(grams(t, n), grams(a, n)) for n in range(1, 7)]) for t, a in pairs]))


def closer_pairs(similarity: np.ndarray, own: np.ndarray) -> float:
    """Over profiles the mean of both directions, counted one pair at a time."""
    shares = []
    for profile in range(len(similarity)):
        mine, others = np.flatnonzero(own == profile), np.flatnonzero(own != profile)
        profiles = [other for other in range(len(similarity)) if other != profile]
        cells = [similarity[other, cell] > similarity[profile, cell] for cell in mine for other in profiles]
        rivals = [similarity[profile, other] > similarity[profile, cell] for cell in mine for other in others]
        shares.append((np.mean(cells) + np.mean(rivals)) / 2)
    return float(np.mean(shares))


def in_plain_words(name: str) -> list[str]:
    return name.replace("_", " ").replace(".", "").lower().split()


def f1_of_words(truth: list[str], answer: list[str]) -> float:
    scores = []
    for t, a in zip(map(in_plain_words, truth), map(in_plain_words, answer), strict=True):
        shared = sum(min(t.count(word), a.count(word)) for word in set(t))
        precision, recall = shared / len(a), shared / len(t)
        scores.append(2 * precision * recall / (precision + recall) if shared else 0)
    return float(np.mean(scores))


def share_of_named(named: list[Any], expressed: list[Any]) -> float:
    shares = []
    for genes, cells in zip(named, expressed, strict=True):
        if genes:
            shares.append(sum(gene in cells for gene in genes) / len(genes))
    return sum(shares) / len(shares)


ORACLES: dict[str, Callable[..., float]] = {
    "accuracy": scikit_learn("accuracy_score"),
    "normalised_accuracy": scikit_learn("accuracy_score"),  # on labels that need no normalising
    "macro_f1": scikit_learn("f1_score", average="macro", zero_division=0),
    "expected_calibration_error": calibration_by_torchmetrics,
    "brier": brier_by_scikit_learn,
    "chrf": character_f,
    "grounded_genes": share_of_named,
    "set_overlap": lambda x, y: np.mean([len([g for g in t if g in a]) / len(t) for t, a in zip(x, y, strict=True)]),
    "set_jaccard": lambda x, y: np.mean(
        [len([g for g in t if g in a]) / len({*t, *a}) for t, a in zip(x, y, strict=True)]
    ),
    "exact_name": lambda x, y: np.mean([in_plain_words(t) == in_plain_words(a) for t, a in zip(x, y, strict=True)]),
    "word_f1": f1_of_words,
    "foscttm_of_profiles": closer_pairs,
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
    "balanced_accuracy": lambda x, y: np.mean(
        [np.mean([b == label for a, b in zip(x, y, strict=True) if a == label]) for label in set(x)]
    ),
    "mean_absolute_error": scikit_learn("mean_absolute_error"),
    "median_absolute_error": scikit_learn("median_absolute_error"),
    "pearson_of_numbers": lambda x, y: np.corrcoef(x, y)[0, 1],
    "spearman_of_numbers": lambda x, y: np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1],
    "interval_coverage": lambda x, low, high: sum(a <= v <= b for v, a, b in zip(x, low, high, strict=True)) / len(x),
    "discrimination": rank_among,
    "pearson_delta_specific": lambda x, y, others: np.corrcoef(x - others.mean(0), y - others.mean(0))[0, 1],
}
#: Against their definition, with an encoder, in test_text.py; with the ontology in test_ontology.py.
ELSEWHERE = {"bertscore", "biobert_score", "ontology_accuracy", "ontology_f1"}


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) | ELSEWHERE == set(metrics.names())


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_every_metric_equals_its_oracle(name: str) -> None:
    metric = get(name)
    given, _ = EXAMPLES[metric.level](np.random.default_rng(11), metric)
    assert float(metric.function(*given)) == pytest.approx(float(ORACLES[name](*given)), abs=1e-6)


def test_documentation_has_each_metric_with_its_range_and_perfect_value() -> None:
    def number(value: float) -> str:
        return "∞" if value == math.inf else f"{value:g}".replace("-", "−")

    page = (Path(__file__).parents[3] / "docs" / "how-to" / "evaluate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\S+) to (\S+) \| (\d) \|$", page, re.M)
    assert {name: (low, high, perfect) for name, low, high, perfect in rows} == {
        name: tuple(map(number, (*get(name).range, get(name).perfect))) for name in metrics.names()
    }
