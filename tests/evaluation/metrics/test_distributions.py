"""Metrics between sets of cells, against their definitions, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from scipy.spatial.distance import cdist

from cell2sen.evaluation.metrics import distributions as distances
from cell2sen.evaluation.metrics import names


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 6)), rng.normal(0.4, 1.3, size=(25, 6))


def pairs_one_by_one(x: np.ndarray, y: np.ndarray, kernel) -> tuple[float, float, float]:
    cross = np.mean([kernel(a, b) for a in x for b in y])
    within = [np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    return cross, within[0], within[1]


def test_e_distance_and_mmd_equal_their_definitions(cells: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = cells
    cross, xx, yy = pairs_one_by_one(x, y, lambda a, b: np.linalg.norm(a - b))
    assert distances.e_distance(x, y) == pytest.approx(2 * cross - xx - yy)
    sigma = np.median(cdist(x, x)[np.triu_indices(40, 1)])
    cross, xx, yy = pairs_one_by_one(x, y, lambda a, b: math.exp(-np.sum((a - b) ** 2) / (2 * sigma**2)))
    assert distances.mmd(x, y) == pytest.approx(xx + yy - 2 * cross)


def test_biased_versions_equal_independent_ones(cells: tuple[np.ndarray, np.ndarray]) -> None:
    """scikit-learn's kernel, and the formula of cell-eval and pertpy, which count each cell's pair with itself."""
    sklearn = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = cells
    n, m = len(x), len(y)
    v_statistic = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    u_from_v = v_statistic - cdist(x, x).sum() / n**2 / (n - 1) - cdist(y, y).sum() / m**2 / (m - 1)
    assert distances.e_distance(x, y) == pytest.approx(u_from_v)
    gamma = 1 / (2 * 1.7**2)
    k = [sklearn.rbf_kernel(a, b, gamma=gamma) for a, b in ((x, x), (y, y), (x, y))]
    unbiased = (k[0].sum() - n) / (n * (n - 1)) + (k[1].sum() - m) / (m * (m - 1)) - 2 * k[2].mean()
    assert distances.mmd(x, y, bandwidth=1.7) == pytest.approx(unbiased)


def test_each_projection_of_wasserstein_equals_scipy(cells: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = cells
    directions = np.random.default_rng(0).normal(size=(6, distances.PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    expected = np.mean([scipy.stats.wasserstein_distance(x @ direction, y @ direction) for direction in directions.T])
    assert distances.wasserstein(x, y) == pytest.approx(expected)


def frechet(x: np.ndarray, y: np.ndarray, shrinkage: float) -> float:
    means = x.mean(axis=0), y.mean(axis=0)
    covariances = []
    for cells in (x, y):
        plain = np.cov(cells, rowvar=False)
        covariances.append((1 - shrinkage) * plain + shrinkage * np.trace(plain) / len(plain) * np.eye(len(plain)))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_scfid_equals_the_textbook_formula(cells: tuple[np.ndarray, np.ndarray], shrinkage: float) -> None:
    assert distances.scfid(*cells, shrinkage=shrinkage) == pytest.approx(frechet(*cells, shrinkage), rel=1e-9)


def test_scfid_of_normal_distributions_is_known() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (40_000, 2)), rng.normal(1, 2, (40_000, 2))
    assert distances.scfid(x, y, shrinkage=0) == pytest.approx(2 * 1 + 2 * (2 - 1) ** 2, rel=0.03)


def test_scfid_with_fewer_cells_than_dimensions_is_finite() -> None:
    rng = np.random.default_rng(2)
    value = distances.scfid(rng.normal(size=(5, 30)), rng.normal(size=(5, 30)))
    assert math.isfinite(value)
    assert value > 0


def test_scfid_in_parts_equals_scfid_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    weights = rng.integers(0, 3, (7, 30)).astype(float), rng.integers(0, 3, (7, 20)).astype(float)
    whole = distances.scfid(x, y, weights)
    monkeypatch.setattr(distances, "_MAX_ELEMENTS", 2 * 9)
    np.testing.assert_allclose(distances.scfid(x, y, weights), whole, rtol=1e-12)


@pytest.mark.parametrize("function", [distances.e_distance, distances.mmd, distances.wasserstein, distances.scfid])
def test_distances_detect_shift_and_spread(function) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 4))
    same, moved, wide = rng.normal(size=(150, 4)), rng.normal(0.5, 1, (150, 4)), rng.normal(0, 2, (150, 4))
    point = np.repeat(x.mean(axis=0)[None], 150, axis=0)
    near = function(x, same)
    assert near < 0.5 * min(function(x, other) for other in (moved, wide, point))
    assert function(x, rng.normal(1.5, 1, (150, 4))) > function(x, moved)
    assert function(x, same[:, ::-1]) == pytest.approx(near, abs=0.3)


@pytest.mark.parametrize("function", [distances.e_distance, distances.mmd, distances.wasserstein, distances.scfid])
def test_weights_are_copies_of_cells(function, cells: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = cells
    rng = np.random.default_rng(4)
    w, v = rng.multinomial(40, np.full(40, 1 / 40), 3), rng.multinomial(25, np.full(25, 1 / 25), 3)
    extra = {"bandwidth": distances.median_distance(x)} if function is distances.mmd else {}
    replicates = function(x, y, weights=(w.astype(float), v.astype(float)), **extra)
    for at in range(3):
        copies = np.repeat(x, w[at], axis=0), np.repeat(y, v[at], axis=0)
        if function in (distances.wasserstein, distances.scfid):
            assert replicates[at] == pytest.approx(function(*copies))
            continue
        names = np.repeat(np.arange(40), w[at]), np.repeat(np.arange(25), v[at])
        sigma = distances.median_distance(x)

        def kernel(a: np.ndarray, b: np.ndarray, sigma: float = sigma) -> np.ndarray:
            return cdist(a, b) if function is distances.e_distance else np.exp(-(cdist(a, b) ** 2) / (2 * sigma**2))

        # Copies of one cell are no pair.
        within = [kernel(z, z)[name[:, None] != name[None]].mean() for z, name in zip(copies, names, strict=True)]
        sign = 1 if function is distances.e_distance else -1
        assert replicates[at] == pytest.approx(sign * (2 * kernel(*copies).mean() - sum(within)))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"same dimensions are needed, found shapes \(3, 2\) and \(3, 4\)"):
        distances.e_distance(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="at least two cells on each side are needed, found 3 and 1"):
        distances.scfid(np.zeros((3, 2)), np.zeros((1, 2)))


def test_knn_equals_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 90)
    known = rng.normal(size=(90, 5)) + labels[:, None]
    queries = rng.normal(size=(5000, 5)) + 1
    for k in (1, 3, 10):
        model = neighbors.KNeighborsClassifier(k).fit(known, labels)
        expected = model.predict_proba(queries)
        clear = np.sort(expected, axis=1)[:, -1] > np.sort(expected, axis=1)[:, -2]
        votes = distances.Neighbours(known, labels.astype(str), queries).votes(k).astype(int)
        assert (votes[clear] == expected.argmax(axis=1)[clear]).all()


def test_knn_accuracies_are_listed_by_their_number_of_neighbours() -> None:
    assert [name for name in names() if name.startswith("knn")] == [f"knn_accuracy_{k}" for k in (3, 5, 10, 25)]


def test_knn_ties_go_to_the_nearest() -> None:
    known = np.array([[0.0], [1.0], [2.1], [3.0]])
    votes = distances.Neighbours(known, ["b", "a", "a", "b"], [[0.2], [2.4]]).votes(4)
    assert list(votes) == ["b", "a"]
    assert distances.knn_accuracy(known, ["b", "a", "a", "b"], [[0.2], [2.4]], ["b", "b"], 4) == 0.5
    assert math.isnan(distances.knn_accuracy(known, ["b", "a", "a", "b"], [[0.2]], ["b"], 5))


def test_neighbours_equal_sorted_distances_with_ties_and_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid most distances tie, and far from the origin products lose the digits that differences keep."""
    monkeypatch.setattr(distances, "_MAX_DISTANCES", 700)  # several blocks
    rng = np.random.default_rng(8)
    for offset in (0.0, 1e6):
        known = rng.integers(0, 4, (90, 3)) + offset
        queries = rng.integers(0, 4, (40, 3)) + offset
        for k in (1, 7, 90, 200):
            expected = np.argsort(cdist(queries, known), axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(distances.neighbours(known, queries, k), expected)


def test_foscttm_equals_counting() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(30, 4))
    y = x + rng.normal(0, 1, (30, 4))
    shares = []
    for a, b in ((x, y), (y, x)):
        distance = cdist(a, b)
        shares += [np.mean([distance[i, j] < distance[i, i] for j in range(30) if j != i]) for i in range(30)]
    assert distances.foscttm(x, y) == pytest.approx(np.mean(shares))
    assert distances.foscttm(x, x) == 0
    assert distances.foscttm(x, rng.normal(size=(30, 4))) == pytest.approx(0.5, abs=0.12)
    assert distances.foscttm(np.zeros((5, 2)), np.zeros((5, 2))) == 0.5
    with pytest.raises(ValueError, match="same cells in the same dimensions"):
        distances.foscttm(x, x[:5])
