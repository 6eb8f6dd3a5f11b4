"""Metrics of labels and probabilities: accuracy, macro F1, calibration, Brier score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cell2sen.data.names.labels import normalise_label, trim_label
from cell2sen.evaluation.metrics import MeanOver, OfConfusion, metric

Labels = Sequence[Any] | NDArray[Any]

#: Bins of equal width between 0 and 1, as in Guo et al., ICML 2017.
CALIBRATION_BINS = 15


def matches(truth: Labels, answer: Labels) -> NDArray[np.float64]:
    """1 for each trimmed label that is right, else 0, float64 (cells,)."""
    truth, answer = paired(truth, answer)
    return np.array([trim_label(a) == trim_label(t) for t, a in zip(truth, answer, strict=True)], dtype=np.float64)


def squared_errors(truth: Labels, answer: Labels, confidence: ArrayLike) -> NDArray[np.float64]:
    """Squared distance of each answer's probability from right (1) or wrong (0), float64 (cells,)."""
    right = matches(truth, answer)
    return (_probabilities(confidence, len(right)) - right) ** 2


@metric(level="written_labels", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(matches), shown="groups")
def accuracy(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Share of cells whose label is exactly right, after dropping a final full stop.

    mean(answerᵢ = truthᵢ). Surrounding white space, one final full stop and a trailing ", human" or ", mouse" (which
    the 27B checkpoint writes) are dropped, nothing else. Definition of Rizvi et al. 2025 (C2S-Scale).
    """
    return float(np.mean(matches(truth, answer)))


@metric(level="labels", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(matches), shown="groups")
def normalised_accuracy(
    truth: Sequence[str], answer: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> float:
    """Share of cells whose label is right up to case, punctuation, plural and given synonyms.

    mean(normalise(answerᵢ) = normalise(truthᵢ)), see :func:`cell2sen.data.names.labels.normalise_label`; else as
    :func:`accuracy` (Rizvi et al. 2025).
    """
    truth, answer = paired(truth, answer)
    same = [normalise_label(a, synonyms) == normalise_label(t, synonyms) for t, a in zip(truth, answer, strict=True)]
    return float(np.mean(same))


def f1_of_confusion(counts: NDArray[Any]) -> Any:
    """Macro F1 of confusion matrices (…, labels, labels); labels that are in neither truth nor answer are left out."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    named = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1 = np.divide(2.0 * right, named, out=np.zeros(right.shape), where=named > 0)
    return f1.sum(axis=-1) / (named > 0).sum(axis=-1)


@metric(level="labels", perfect=1.0, range=(0.0, 1.0), resampling=OfConfusion(f1_of_confusion))
def macro_f1(truth: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of each label, averaged over labels, so that rare types count as much as frequent ones.

    F1 = 2·TP / (2·TP + FP + FN), over labels of the truth or of the answers, so an answer that is no label of the truth
    lowers the mean. The macro average of van Rijsbergen's F (Information Retrieval, 1979), as in scikit-learn.
    """
    truth, answer = paired(truth, answer)
    return float(f1_of_confusion(confusion(truth, answer)[0]))


def balanced_of_confusion(counts: NDArray[Any]) -> Any:
    """Mean recall over the true labels of confusion matrices (…, labels, labels)."""
    right, named = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
    recall = np.divide(right, named, out=np.zeros(right.shape), where=named > 0)
    return recall.sum(axis=-1) / (named > 0).sum(axis=-1)


@metric(level="labels", perfect=1.0, range=(0.0, 1.0), resampling=OfConfusion(balanced_of_confusion))
def balanced_accuracy(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Share of right answers for each true label, averaged over these labels, as in scikit-learn.

    1 / number of labels for a constant answer, whatever the frequencies (Brodersen et al., ICPR 2010).
    """
    truth, answer = paired(truth, answer)
    return float(balanced_of_confusion(confusion(truth, answer)[0]))


def confusion(truth: Labels, answer: Labels) -> tuple[NDArray[np.int64], list[Any]]:
    """Counts of (truth, answer), int64 (labels, labels), and the labels in alphabetical order."""
    labels = sorted(set(truth) | set(answer))
    index = {label: number for number, label in enumerate(labels)}
    codes = np.array([index[t] * len(labels) + index[a] for t, a in zip(truth, answer, strict=True)], dtype=np.int64)
    return np.bincount(codes, minlength=len(labels) ** 2).reshape(len(labels), len(labels)), labels


@metric(level="confidence", perfect=0.0, range=(0.0, 1.0))
def expected_calibration_error(truth: Sequence[str], answer: Sequence[str], confidence: ArrayLike) -> float:
    """Mean distance between the probability of the answer and the share that is right, over 15 bins of equal width.

    See :func:`calibration_error` (Naeini et al., AAAI 2015; Guo et al., ICML 2017).
    """
    return calibration_error(matches(truth, answer), confidence)


def calibration_error(right: ArrayLike, confidence: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: Σ_b (n_b / n) · |share right in b − mean probability in b|.

    Parameters
    ----------
    right
        Whether each answer is right, bool or 0 and 1 (cells,).
    confidence
        Probability of each answer, between 0 and 1 (cells,).
    bins
        Number of bins of equal width, open on the left and closed on the right.
    """
    n, hits, stated = calibration_curve(right, confidence, bins)
    return float(np.abs(hits - stated).sum() / n.sum())


def calibration_curve(
    right: ArrayLike, confidence: ArrayLike, bins: int = CALIBRATION_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Cells, number of right answers and sum of probabilities in each bin, each (bins,); see :func:`calibration_error`.

    Raises
    ------
    ValueError
        `confidence` is not one probability for each answer.
    """
    right = np.asarray(right, dtype=np.float64)
    stated = _probabilities(confidence, len(right))
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, stated, side="left") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, values, bins).astype(np.float64) for values in (right, stated)]
    return counts.astype(np.int64), sums[0], sums[1]


@metric(level="confidence", perfect=0.0, range=(0.0, 1.0), resampling=MeanOver(squared_errors))
def brier(truth: Sequence[str], answer: Sequence[str], confidence: ArrayLike) -> float:
    """Mean squared distance between the probability of the answer and whether it is right.

    mean((pᵢ − [answerᵢ = truthᵢ])²) (Brier, Monthly Weather Review 1950; for the answered label only).
    """
    return float(np.mean(squared_errors(truth, answer, confidence)))


def paired(truth: Labels, answer: Labels) -> tuple[list[Any], list[Any]]:
    """Truth and answer as lists; ValueError if their lengths differ or they are empty."""
    truth, answer = list(truth), list(answer)
    if len(truth) != len(answer) or not truth:
        raise ValueError(
            f"truth and answer must be of the same length and not empty, found {len(truth)} and {len(answer)}"
        )
    return truth, answer


def _probabilities(confidence: ArrayLike, n: int) -> NDArray[np.float64]:
    stated = np.asarray(confidence, dtype=np.float64)
    if stated.shape != (n,):
        raise ValueError(f"confidence must be {n} probabilities between 0 and 1, found shape {stated.shape}")
    if not np.all((stated >= 0) & (stated <= 1)):
        values = f"values from {stated.min():.3g} to {stated.max():.3g}"
        raise ValueError(f"confidence must be {n} probabilities between 0 and 1, found {values}")
    return stated
