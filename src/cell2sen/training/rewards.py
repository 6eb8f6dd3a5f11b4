"""Rewards of written cell sentences, for reinforcement learning: one function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.metrics.profiles import kendall_tau as _tau
from cell2sen.evaluation.metrics.profiles import pearson

#: Gene lists → vectors, float32 (n, dimensions).
Embed = Callable[[Sequence[Sequence[str]]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A written sentence and its reference; genes are in descending order."""

    written: Sequence[str]
    """Genes that the model wrote, each once."""

    truth: Sequence[str]
    """Genes of real cells after the perturbation, or of the given type; as many as the answer should have."""

    control: Sequence[str] = ()
    """Genes of cells before the perturbation; empty for tasks without one."""

    genes: Sequence[str] = ()
    """Gene set to compare; all genes if empty."""

    n_words: int = 0
    """Number of words of the answer."""

    n_unknown: int = 0
    """Number of words that are not genes."""


#: One answer → reward; for :func:`embedding` all answers and the embedding function → rewards.
Reward = Callable[..., float | Sequence[float]]


def kendall_tau(answer: Answer) -> float:
    """Kendall's tau-b of the written and the real order of the gene set; missing genes share the last rank.

    From -1 to 1. 0 if the answer has no gene of the set, NaN if the truth has none.
    """
    genes = _compared_genes(answer, answer.written, answer.truth)
    truth, written = strength(answer.truth, genes), strength(answer.written, genes)
    return _correlation(truth, written, _tau)


def overlap(answer: Answer) -> float:
    """Jaccard index of written and real genes of the gene set.

    From 0 to 1; NaN if the truth has no gene of the set.
    """
    written, truth = set(answer.written), set(answer.truth)
    if answer.genes:
        written, truth = written & set(answer.genes), truth & set(answer.genes)
    return len(written & truth) / len(written | truth) if truth else math.nan


def change(answer: Answer) -> float:
    """Pearson correlation of written and real change from control over the gene set.

    Changes are differences of :func:`strength`. From -1 to 1. 0 if the answer changes nothing; NaN if the truth changes
    nothing, or without control.
    """
    if not answer.control:
        return math.nan
    genes = _compared_genes(answer, answer.written, answer.truth, answer.control)
    before = strength(answer.control, genes)
    return _correlation(strength(answer.truth, genes) - before, strength(answer.written, genes) - before, pearson)


def validity(answer: Answer) -> float:
    """Share of words that are genes, repeated ones included; always 1 for guided answers.

    From 0 to 1; 0 for an empty answer.
    """
    return (answer.n_words - answer.n_unknown) / answer.n_words if answer.n_words else 0.0


def uniqueness(answer: Answer) -> float:
    """Share of the words for genes that are not repetitions; always 1 for guided answers.

    From 0 to 1; 0 without a gene.
    """
    known = answer.n_words - answer.n_unknown
    return len(answer.written) / known if known else 0.0


def embedding(answers: Sequence[Answer], embed: Embed) -> list[float]:
    """Negative Euclidean distance of the embeddings of written and real genes of the gene set.

    In units of the norm of the real sentence's vector, so that the scale of the embedding has no effect. 0 is perfect.
    """
    kept = [_restricted(sentence, answer) for answer in answers for sentence in (answer.written, answer.truth)]
    vectors = np.asarray(embed(kept), dtype=np.float64).reshape(len(answers), 2, -1)
    norm = np.maximum(np.linalg.norm(vectors[:, 1], axis=1), 1e-12)
    distances: list[float] = (-np.linalg.norm(vectors[:, 0] - vectors[:, 1], axis=1) / norm).tolist()
    return distances


#: Rewards by name. :func:`embedding` takes all answers at once, the others one answer.
REWARDS: Mapping[str, Reward] = {
    reward.__name__: reward for reward in (kendall_tau, overlap, change, validity, uniqueness, embedding)
}


def score(names: Sequence[str], answers: Sequence[Answer], embed: Embed | None = None) -> NDArray[np.float64]:
    """Rewards of answers, float64 (answers, names).

    Raises
    ------
    ValueError
        An unknown reward; lists the available ones. `embedding` without an embedding function.
    """
    if unknown := sorted(set(names) - set(REWARDS)):
        raise ValueError(f"there are no rewards {unknown}; available: {list(REWARDS)}")
    scores = np.full((len(answers), len(names)), np.nan)
    for column, name in enumerate(names):
        if name != embedding.__name__:
            scores[:, column] = [REWARDS[name](answer) for answer in answers]
        elif embed is None:
            raise ValueError("the reward 'embedding' needs a model that embeds sentences; pass embed=")
        elif answers:
            scores[:, column] = embedding(answers, embed)
    return scores


def strength(sentence: Sequence[str], genes: Sequence[str]) -> NDArray[np.float64]:
    """Relative expression of genes in a sentence, float64 (genes,); 0 for missing genes.

    ln((n + 1) / (rank + 1)) for a sentence of n genes, ranks from 0: expression is linear in the logarithm of the rank
    (:class:`cell2sen.sentences.rank_fit.RankFit`).
    """
    rank = {gene: number for number, gene in enumerate(sentence)}
    top = math.log(len(sentence) + 1)
    return np.array([top - math.log(1 + rank[gene]) if gene in rank else 0.0 for gene in genes])


def _compared_genes(answer: Answer, *sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(answer.genes) or tuple(dict.fromkeys(gene for sentence in sentences for gene in sentence))


def _restricted(sentence: Sequence[str], answer: Answer) -> list[str]:
    genes = frozenset(answer.genes)
    return [gene for gene in sentence if gene in genes] if genes else list(sentence)


def _correlation(truth: NDArray[np.float64], written: NDArray[np.float64], correlate: Callable[..., float]) -> float:
    """Correlation; 0 for a constant answer, NaN for a constant truth."""
    if np.ptp(truth) == 0:
        return math.nan
    return 0.0 if np.ptp(written) == 0 else float(correlate(truth, written))
