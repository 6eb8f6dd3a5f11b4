"""Metrics of gene sets: overlap of lists of genes, words of names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.gene_sets import name_in_text
from cell2sen.evaluation.metrics import MeanOver, metric

Lists = Sequence[Sequence[str]]


def shares_listed(truth: Lists, answer: Lists) -> NDArray[np.float64]:
    """Share of the genes of each set that were listed, float64 (sets,); 0 for a set without genes."""
    pairs = [(set(t), set(a)) for t, a in zip(truth, answer, strict=True)]
    return np.array([len(t & a) / len(t) if t else 0.0 for t, a in pairs])


def jaccards(truth: Lists, answer: Lists) -> NDArray[np.float64]:
    """Shared genes of each set and its list over the genes of either, float64 (sets,); 0 if both are empty."""
    pairs = [(set(t), set(a)) for t, a in zip(truth, answer, strict=True)]
    return np.array([len(t & a) / len(t | a) if t | a else 0.0 for t, a in pairs])


def words_of(name: str) -> Counter[str]:
    """Words of a name in lower case, with their numbers."""
    return Counter(re.findall(r"[^\W_]+", name_in_text(name).lower()))


def word_f1s(truth: Sequence[str], answer: Sequence[str]) -> NDArray[np.float64]:
    """F1 of the words of each name, float64 (sets,); 0 for an empty name."""
    scores = []
    for true, answered in zip(truth, answer, strict=True):
        first, second = words_of(true), words_of(answered)
        total = first.total() + second.total()
        scores.append(2 * (first & second).total() / total if total else 0.0)
    return np.array(scores)


def same_names(truth: Sequence[str], answer: Sequence[str]) -> NDArray[np.float64]:
    """1 for each name whose words are the true ones in their order, else 0, float64 (sets,)."""
    plain = [[re.findall(r"[^\W_]+", name_in_text(name).lower()) for name in names] for names in (truth, answer)]
    return np.array([float(t == a) for t, a in zip(*plain, strict=True)])


@metric(level="set_genes", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(shares_listed), shown="groups")
def set_overlap(truth: Lists, answer: Lists) -> float:
    """Share of the genes of a set that were listed, averaged over sets.

    |A ∩ B| / |A|, A the set and B the list. Equals the share of the list that is right where both have as many genes.
    Published overlaps (Rizvi et al. 2025) do not name their denominator; see :func:`set_jaccard` for the other one.
    """
    return float(np.mean(shares_listed(truth, answer)))


@metric(level="set_genes", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(jaccards), shown="groups")
def set_jaccard(truth: Lists, answer: Lists) -> float:
    """Shared genes of a set and its list over the genes of either, averaged over sets.

    |A ∩ B| / |A ∪ B| (Jaccard 1901).
    """
    return float(np.mean(jaccards(truth, answer)))


@metric(level="set_names", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(same_names), shown="groups")
def exact_name(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Share of sets whose name is exactly right, up to case, underscores and punctuation.

    The accuracy of answers as text (exact match: Rajpurkar et al., EMNLP 2016).
    """
    return float(np.mean(same_names(truth, answer)))


@metric(level="set_names", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(word_f1s), shown="groups")
def word_f1(truth: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of the words of true and predicted names, averaged over sets.

    2 |A ∩ B| / (|A| + |B|) of the words in lower case, repeated ones counted (as for answers in SQuAD: Rajpurkar et
    al., EMNLP 2016). Needs no text encoder.
    """
    return float(np.mean(word_f1s(truth, answer)))
