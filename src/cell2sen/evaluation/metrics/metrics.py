"""Metrics: one documented function each under @metric; here those of labels, calibration and written sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cell2sen.data.labels import normalise_label, trim_label

Level = Literal["labels", "confidence", "text", "profile", "change", "cells", "sentences"]
"""What a metric compares: labels; probabilities with labels; texts; mean expression; mean change from control; sets of
cells in an embedding; written sentences.
"""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A function with what is needed to read its numbers."""

    name: str
    function: Callable[..., Any]
    perfect: float
    range: tuple[float, float]
    level: Level
    undefined: str
    """When there is no value, in words that complete "not defined: …"."""

    resampled: Callable[..., Any] | None = None
    """A faster function for many bootstrap samples, whose spread (not level) is that of `function`."""

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are better."""
        return self.perfect == self.range[1]

    @property
    def summary(self) -> str:
        """First line of the function's documentation."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


METRICS: dict[str, Metric] = {}


def metric(
    *,
    perfect: float,
    range: tuple[float, float],
    level: Level,
    undefined: str = "there are no values",
    name: str = "",
    resampled: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Register a function ``(truth, answer) → float`` as a metric, under its own name.

    Parameters
    ----------
    perfect
        Value of a perfect answer. It is the upper or the lower end of `range`, which says whether higher is better.
        Unbiased estimators of distances may fall below it by chance.
    range
        Smallest and largest possible value.
    level
        What is compared, which decides what the function is called with: ``profile`` and ``change`` with vectors
        (genes,), or (resamples, genes) if it broadcasts, ``cells`` with two sets of cells (n, dimensions), ``labels``
        and ``text`` with sequences of strings. Arguments named ``genes`` (de_genes' order), ``others`` (true changes
        of other groups) and ``weights`` (bootstrap samples) are filled in.
    undefined
        Why the function may return NaN.
    """
    if perfect not in range:
        raise ValueError(f"perfect ({perfect}) must be one end of the range {range}")

    def register(function: Function) -> Function:
        key = name or function.__name__
        METRICS[key] = Metric(
            name=key,
            function=function,
            perfect=perfect,
            range=range,
            level=level,
            undefined=undefined,
            resampled=resampled,
        )
        return function

    return register


def get(name: str) -> Metric:
    """The metric of that name; KeyError with the menu."""
    if name not in METRICS:
        raise KeyError(f"no metric {name!r}; available: {sorted(METRICS)}")
    return METRICS[name]


# ── labels ────────────────────────────────────────────────────────────────────────────────────────────────────────


@metric(perfect=1.0, range=(0.0, 1.0), level="labels")
def accuracy(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Share of cells whose label is exactly right, after dropping a final full stop.

    mean(answerᵢ = truthᵢ). Surrounding white space, one final full stop and a trailing ", human" or ", mouse" (which
    the 27B checkpoint writes) are dropped, nothing else. Definition of Rizvi et al. 2025 (C2S-Scale).
    """
    truth, answer = _paired(truth, answer)
    return float(np.mean([trim_label(a) == trim_label(t) for t, a in zip(truth, answer, strict=True)]))


@metric(perfect=1.0, range=(0.0, 1.0), level="labels")
def normalised_accuracy(
    truth: Sequence[str], answer: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> float:
    """Share of cells whose label is right up to case, punctuation, plural and given synonyms.

    mean(normalise(answerᵢ) = normalise(truthᵢ)), see :func:`cell2sen.data.labels.normalise_label`.
    """
    truth, answer = _paired(truth, answer)
    same = [normalise_label(a, synonyms) == normalise_label(t, synonyms) for t, a in zip(truth, answer, strict=True)]
    return float(np.mean(same))


@metric(perfect=1.0, range=(0.0, 1.0), level="labels")
def macro_f1(truth: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of each label, averaged over labels, so that rare types count as much as frequent ones.

    F1 = 2·TP / (2·TP + FP + FN); labels are those in the truth or in the answers, so an answer outside of the truth's
    labels costs. The macro average of van Rijsbergen's F (Information Retrieval, 1979), as in scikit-learn.
    """
    truth, answer = _paired(truth, answer)
    return float(f1_of_confusion(confusion(truth, answer)[0]))


def confusion(truth: Sequence[Any], answer: Sequence[Any]) -> tuple[NDArray[np.int64], list[Any]]:
    """Counts of (truth, answer), int64 (labels, labels), and the labels."""
    labels = sorted(set(truth) | set(answer))
    number = {one: at for at, one in enumerate(labels)}
    codes = np.array([number[t] * len(labels) + number[a] for t, a in zip(truth, answer, strict=True)], dtype=np.int64)
    return np.bincount(codes, minlength=len(labels) ** 2).reshape(len(labels), len(labels)), labels


def f1_of_confusion(counts: NDArray[Any]) -> Any:
    """Macro F1 of confusion matrices (…, labels, labels); labels without truth and answer do not count."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    named = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1 = np.divide(2.0 * right, named, out=np.zeros(right.shape), where=named > 0)
    return f1.sum(axis=-1) / (named > 0).sum(axis=-1)


@metric(perfect=0.0, range=(0.0, 1.0), level="confidence")
def expected_calibration_error(
    truth: Sequence[str], answer: Sequence[str], confidence: ArrayLike, bins: int = 15
) -> float:
    """Mean distance between stated probability and share that is right, over bins of equal width.

    Σ_b (n_b / n) · |accuracy_b − confidence_b| (Naeini et al., AAAI 2015; bins as in Guo et al., ICML 2017: half-open
    on the left). Probabilities of the answered label, between 0 and 1.
    """
    n, right, stated = calibration_curve(truth, answer, confidence, bins)
    return float(np.abs(right - stated).sum() / n.sum())


@metric(perfect=0.0, range=(0.0, 1.0), level="confidence")
def brier(truth: Sequence[str], answer: Sequence[str], confidence: ArrayLike) -> float:
    """Mean squared distance between the probability of the answer and whether it is right.

    mean((pᵢ − [answerᵢ = truthᵢ])²) (Brier, Monthly Weather Review 1950; for the answered label only).
    """
    truth, answer = _paired(truth, answer)
    right = np.array([trim_label(a) == trim_label(t) for t, a in zip(truth, answer, strict=True)], dtype=float)
    return float(np.mean((_probabilities(confidence, len(truth)) - right) ** 2))


def calibration_curve(
    truth: Sequence[str], answer: Sequence[str], confidence: ArrayLike, bins: int = 15
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Cells, number of right answers and sum of stated probabilities in each bin, each (bins,)."""
    truth, answer = _paired(truth, answer)
    stated = _probabilities(confidence, len(truth))
    right = np.array([trim_label(a) == trim_label(t) for t, a in zip(truth, answer, strict=True)], dtype=float)
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, stated, side="left") - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums = [np.bincount(which, values, bins).astype(np.float64) for values in (right, stated)]
    return counts.astype(np.int64), sums[0], sums[1]


# ── sentences ─────────────────────────────────────────────────────────────────────────────────────────────────────


@metric(perfect=1.0, range=(0.0, 1.0), level="sentences", undefined="the sentence is empty")
def validity(sentence: str | Sequence[str], vocabulary: Collection[str]) -> float:
    """Share of the words of a generated sentence that are known genes.

    Repetitions count each time, see :func:`uniqueness`. NaN for an empty sentence.
    """
    words = _words(sentence)
    return sum(word in vocabulary for word in words) / len(words) if words else math.nan


@metric(perfect=1.0, range=(0.0, 1.0), level="sentences", undefined="the sentence names no known gene")
def uniqueness(sentence: str | Sequence[str], vocabulary: Collection[str]) -> float:
    """Share of the known genes of a generated sentence that are named for the first time.

    distinct genes / genes named. NaN where no known gene is named.
    """
    genes = [word for word in _words(sentence) if word in vocabulary]
    return len(set(genes)) / len(genes) if genes else math.nan


def _words(sentence: str | Sequence[str]) -> list[str]:
    return re.sub(r"\s*\.\s*$", "", sentence).split() if isinstance(sentence, str) else list(sentence)


def _paired(truth: Sequence[Any], answer: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    truth, answer = list(truth), list(answer)
    if len(truth) != len(answer) or not truth:
        raise ValueError(
            f"truth and answer must be of the same length and not empty, found {len(truth)} and {len(answer)}"
        )
    return truth, answer


def _probabilities(confidence: ArrayLike, n: int) -> NDArray[np.float64]:
    stated = np.asarray(confidence, dtype=np.float64)
    if stated.shape != (n,) or not np.all((stated >= 0) & (stated <= 1)):
        raise ValueError(f"confidence must be {n} probabilities between 0 and 1, found shape {stated.shape}")
    return stated
