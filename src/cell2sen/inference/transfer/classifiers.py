"""Classifiers of a reference: nearest neighbours or logistic regression, chosen by held-out cells and calibrated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cell2sen.inference.transfer.features import Block, BlockName, FeatureName

Method = Literal["logistic", "neighbours"]
METHODS: tuple[Method, ...] = get_args(Method)

#: What a classifier compares. Logistic regression on both is the mean of the log-probabilities of two regressions, one
#: on the embedding and one on the genes: their mistakes differ, most of all on cells of another technology.
BLOCKS: dict[tuple[Method, FeatureName], tuple[BlockName, ...]] = {
    ("logistic", "embedding"): ("embedding",),
    ("logistic", "expression"): ("genes",),
    ("logistic", "both"): ("embedding", "genes"),
    ("neighbours", "embedding"): ("embedding",),
    ("neighbours", "expression"): ("components",),
    ("neighbours", "both"): ("embedding", "components"),
}

#: Folds of the reference, and cells above which classifiers are compared on a sample of it.
N_FOLDS, MAX_COMPARED = 5, 4000

#: Neighbours that vote, and the inverse of the penalty of the logistic regression (features have variance 1).
N_NEIGHBOURS, INVERSE_PENALTY = 15, 0.1

#: Classifier that is used unless another has a log loss that is lower by more than this.
USUAL: tuple[Method, FeatureName] = ("logistic", "both")
MIN_GAIN = 0.02

#: Log-probabilities below which held-out cells are not penalised further: one wrong cell must not decide.
_FLOOR = np.log(1e-6)


class Fitted(Protocol):
    """Classifier after its fit."""

    def log_probabilities(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """Log-probabilities before calibration, float64 (n, labels)."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Votes of the nearest reference cells, with one vote that is shared by all labels."""

    features: NDArray[np.float64]
    codes: NDArray[np.int64]
    n_labels: int

    def log_probabilities(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """Log of (votes + 1 / labels) / (neighbours + 1), float64 (n, labels)."""
        features = np.hstack([block.toarray() if sp.issparse(block) else block for block in blocks])
        rows, _ = nearest(self.features, features, N_NEIGHBOURS)
        votes = np.zeros((len(features), self.n_labels))
        np.add.at(votes, (np.arange(len(features))[:, None], self.codes[rows]), 1.0)
        return np.asarray(np.log((votes + 1 / self.n_labels) / (rows.shape[1] + 1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic:
    """Multinomial logistic regressions of scikit-learn, one for each block of features."""

    fitted: tuple[Any, ...]
    n_labels: int

    def log_probabilities(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """Mean log-probabilities, float64 (n, labels); labels without a cell in the fit have a very small one."""
        scores = np.full((blocks[0].shape[0], self.n_labels), 4 * _FLOOR)
        if len(scores):
            each = [model.predict_log_proba(block) for model, block in zip(self.fitted, blocks, strict=True)]
            scores[:, self.fitted[0].classes_] = np.maximum(np.mean(each, axis=0), 4 * _FLOOR)
        return scores


def fit_classifier(method: Method, blocks: Sequence[Block], codes: NDArray[np.int64], n_labels: int) -> Fitted:
    """Classifier of cells.

    Parameters
    ----------
    blocks
        Features of the cells, float64 (n, dimensions) each: see :data:`BLOCKS`.
    codes
        Number of the label of each cell, int64 (n,).
    """
    if method == "neighbours" or len(np.unique(codes)) < 2:
        dense = [block.toarray() if sp.issparse(block) else block for block in blocks]
        return Neighbours(features=np.hstack(dense), codes=codes, n_labels=n_labels)
    from sklearn.linear_model import LogisticRegression

    fitted = tuple(LogisticRegression(C=INVERSE_PENALTY, max_iter=300).fit(block, codes) for block in blocks)
    return Logistic(fitted=fitted, n_labels=n_labels)


def nearest(
    reference: NDArray[np.float64], features: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` nearest reference cells of each cell, and their Euclidean distances, ascending.

    Distances are computed for each pair alone, so that a cell's neighbours do not depend on the other cells.

    Returns
    -------
    Rows of the reference, int64 (n, k), of equal distances the first; distances, float64 (n, k). `k` is at most the
    number of reference cells.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(reference))
    if not len(features):
        return np.zeros((0, k), dtype=np.int64), np.zeros((0, k))
    # More candidates than neighbours: products of matrices round in another way for another set of cells.
    candidates = NearestNeighbors(n_neighbors=min(k + 10, len(reference)), algorithm="brute").fit(reference)
    rows = np.sort(candidates.kneighbors(features, return_distance=False), axis=1)
    distances = np.empty(rows.shape)
    for first in range(0, len(features), 1024):
        part = slice(first, first + 1024)
        distances[part] = np.sqrt(np.sum((reference[rows[part]] - features[part, None, :]) ** 2, axis=2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)


def folds_of(
    keys: Sequence[str], codes: NDArray[np.int64], groups: Sequence[str | None] | None = None, n_folds: int = N_FOLDS
) -> NDArray[np.int64]:
    """Fold of each cell, int64 (n,); cells with the same key or group are in one fold, whatever the order of the cells.

    Parameters
    ----------
    keys
        Text that copies of one cell share.
    codes
        Labels, which the folds have in equal shares.
    groups
        Donors or batches, which are held out as a whole; ``None``: cells are.

    Raises
    ------
    ValueError
        Fewer than two groups.
    """
    if groups is not None:
        names = sorted({str(group) for group in groups}, key=_digest)
        if len(names) < 2:
            raise ValueError(f"held-out groups must be at least two, found {names}: choose another column of obs")
        number = {name: place % n_folds for place, name in enumerate(names)}
        return np.array([number[str(group)] for group in groups], dtype=np.int64)
    label_of: dict[str, int] = {}
    for key, code in sorted(zip(keys, codes.tolist(), strict=True)):
        label_of.setdefault(key, code)
    fold, n_of_label = {}, dict.fromkeys(label_of.values(), 0)
    for key in sorted(label_of, key=_digest):
        label = label_of[key]
        fold[key] = (n_of_label[label] + label) % n_folds  # labels with few cells begin in different folds
        n_of_label[label] += 1
    return np.array([fold[key] for key in keys], dtype=np.int64)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A classifier and how it did on cells of the reference that were held out."""

    method: Method
    features: FeatureName
    temperature: float
    """Divisor of the log-probabilities, fitted on the held-out cells."""

    log_probabilities: NDArray[np.float64] = field(repr=False)
    """Of the held-out cells, calibrated, float64 (n, labels)."""

    scores: Mapping[str, float] = field(default_factory=dict)
    """``accuracy``, ``macro_f1``, ``log_loss`` (after calibration) and ``ece`` of the held-out cells."""

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.method} on {self.features}"


def compare(
    block: Callable[[BlockName], Block],
    codes: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_labels: int,
    menu: Sequence[tuple[Method, FeatureName]],
) -> list[Candidate]:
    """Each classifier of a menu on held-out folds.

    Parameters
    ----------
    block
        Name of a block of features → values of all cells.
    """
    regressions: dict[BlockName, NDArray[np.float64]] = {}
    candidates = []
    for method, features in menu:
        names = BLOCKS[method, features]
        if method == "neighbours":
            raw = _held_out(method, [block(name) for name in names], codes, folds, n_labels)
        else:
            for name in names:
                if name not in regressions:  # that of both is the mean of two that are compared, too
                    regressions[name] = _held_out(method, [block(name)], codes, folds, n_labels)
            raw = np.asarray(np.mean([regressions[name] for name in names], axis=0))
        candidates.append(_candidate(method, features, raw, codes))
    return candidates


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Logistic regression on both, unless another classifier has a log loss that is lower by more than 0.02.

    Held-out cells are of the reference's own experiments: small differences between classifiers on them do not hold
    for another technology, on which the mean of two regressions was the best of all candidates, or nearly so, in each
    pair of data sets that was measured. Without that candidate, the smallest log loss; of equal ones the first.
    """
    best = min(candidates, key=lambda candidate: round(candidate.scores["log_loss"], 6))
    usual = [candidate for candidate in candidates if (candidate.method, candidate.features) == USUAL]
    return usual[0] if usual and usual[0].scores["log_loss"] <= best.scores["log_loss"] + MIN_GAIN else best


def _held_out(
    method: Method,
    blocks: Sequence[Block],
    codes: NDArray[np.int64],
    folds: NDArray[np.int64],
    n_labels: int,
) -> NDArray[np.float64]:
    """Log-probabilities of each cell from the cells of the other folds, before calibration, float64 (n, labels)."""
    raw = np.zeros((len(codes), n_labels))
    for fold in np.unique(folds):
        held_out = folds == fold
        fitted = fit_classifier(method, [block[~held_out] for block in blocks], codes[~held_out], n_labels)
        raw[held_out] = fitted.log_probabilities([block[held_out] for block in blocks])
    return raw


def _candidate(method: Method, features: FeatureName, raw: NDArray[np.float64], codes: NDArray[np.int64]) -> Candidate:
    temperature = fit_temperature(raw, codes)
    calibrated = np.asarray(log_softmax(raw / temperature, axis=1))
    return Candidate(
        method=method,
        features=features,
        temperature=temperature,
        log_probabilities=calibrated,
        scores=held_out_scores(calibrated, codes),
    )


def fit_temperature(log_probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Divisor of log-probabilities with the smallest log loss (Guo et al. 2017, temperature scaling).

    The true label has the target 1 − 1 / (cells + 2) and the others share the rest (as in Platt 1999), so that a few
    cells that are all right do not give certainty.
    """
    n_cells, n_labels = log_probabilities.shape
    rest = 1 / (n_cells + 2)

    def loss(log_temperature: float) -> float:
        scaled = np.asarray(log_softmax(log_probabilities / np.exp(log_temperature), axis=1))
        true = scaled[np.arange(n_cells), codes]
        others = (scaled.sum(axis=1) - true) / max(n_labels - 1, 1)
        return float(-np.mean((1 - rest) * np.maximum(true, _FLOOR) + rest * others))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def held_out_scores(log_probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> dict[str, float]:
    """Scores of calibrated log-probabilities against the labels' numbers."""
    from sklearn.metrics import f1_score

    predicted = log_probabilities.argmax(axis=1)
    right = predicted == codes
    confidence = np.exp(log_probabilities.max(axis=1))
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(right[bins == number].mean() - confidence[bins == number].mean()) for number in np.unique(bins)]
    weights = [np.mean(bins == number) for number in np.unique(bins)]
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1_score(codes, predicted, average="macro", zero_division=0)),
        "log_loss": _log_loss(log_probabilities, codes),
        "ece": float(np.dot(gaps, weights)),
    }


def _log_loss(log_probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    return float(-np.mean(np.maximum(log_probabilities[np.arange(len(codes)), codes], _FLOOR)))
