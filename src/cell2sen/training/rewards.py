"""Rewards of written cell sentences, for reinforcement learning: one plain function each; gene sets from GMT files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.metrics.profiles import kendall_tau as _tau
from cell2sen.evaluation.metrics.profiles import pearson

#: Sentences → vectors, float32 (n, dimensions).
Embed = Callable[[Sequence[Sequence[str]]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A written sentence and what it is compared with. Sentences are genes, the strongest first."""

    written: Sequence[str]
    """Genes as the model wrote them, each once."""

    truth: Sequence[str]
    """Real cells after the perturbation, or of the wanted type; as many genes as were asked for."""

    control: Sequence[str] = ()
    """Cells before the perturbation; empty where there are none."""

    genes: Sequence[str] = ()
    """The gene set that counts; all genes where it is empty."""

    n_words: int = 0
    """Words that the model wrote, whatever they are."""


Reward = Callable[..., float | Sequence[float]]


def kendall_tau(answer: Answer) -> float:
    """Kendall's tau-b between written and real order of the gene set; genes that are not named share the last place.

    From -1 to 1. 0 where the answer names none of the set, NaN where the truth names none.
    """
    genes = _set(answer, answer.written, answer.truth)
    truth, written = strength(answer.truth, genes), strength(answer.written, genes)
    return _defined(truth, written, _tau)


def overlap(answer: Answer) -> float:
    """Genes of the set that written and real sentence both name, over those that at least one names (Jaccard).

    From 0 to 1; NaN where the truth names none of the set.
    """
    written, truth = set(answer.written), set(answer.truth)
    if answer.genes:
        written, truth = written & set(answer.genes), truth & set(answer.genes)
    return len(written & truth) / len(written | truth) if truth else math.nan


def change(answer: Answer) -> float:
    """Pearson's correlation of written and real change from control over the gene set.

    A change is that of :func:`strength`, the logarithm of the place in the sentence, in which expression is linear.
    From -1 to 1. 0 where the answer changes nothing, NaN where the truth does not, or there is no control.
    """
    if not answer.control:
        return math.nan
    genes = _set(answer, answer.written, answer.truth, answer.control)
    before = strength(answer.control, genes)
    return _defined(strength(answer.truth, genes) - before, strength(answer.written, genes) - before, pearson)


def validity(answer: Answer) -> float:
    """Share of the written words that are genes named for the first time; 1 by construction where answers are guided.

    From 0 to 1; 0 for an empty answer.
    """
    return len(answer.written) / answer.n_words if answer.n_words else 0.0


def embedding(answers: Sequence[Answer], embed: Embed) -> list[float]:
    """Minus the distance between the embeddings of written and real sentence, of the gene set only if there is one.

    Euclidean distance over the length of the real sentence's vector, so that it does not depend on the scale of the
    embedding; 0 is perfect.
    """
    kept = [_restricted(sentence, answer) for answer in answers for sentence in (answer.written, answer.truth)]
    vectors = np.asarray(embed(kept), dtype=np.float64).reshape(len(answers), 2, -1)
    length = np.maximum(np.linalg.norm(vectors[:, 1], axis=1), 1e-12)
    distances: list[float] = (-np.linalg.norm(vectors[:, 0] - vectors[:, 1], axis=1) / length).tolist()
    return distances


#: What may be named under ``rewards:``. :func:`embedding` looks at all answers at once, the others at one.
REWARDS: Mapping[str, Reward] = {
    one.__name__: one for one in (kendall_tau, overlap, change, validity, embedding)
}  # fmt: skip


def score(names: Sequence[str], answers: Sequence[Answer], embed: Embed | None = None) -> NDArray[np.float64]:
    """Every reward of every answer, float64 (answers, names).

    Raises
    ------
    ValueError
        No such reward; lists those there are. `embedding` without a function that embeds.
    """
    if unknown := sorted(set(names) - set(REWARDS)):
        raise ValueError(f"no rewards {unknown}; available: {list(REWARDS)}")
    scores = np.full((len(answers), len(names)), np.nan)
    for column, name in enumerate(names):
        if name != embedding.__name__:
            scores[:, column] = [REWARDS[name](answer) for answer in answers]
        elif embed is None:
            raise ValueError("the reward 'embedding' needs a model that embeds sentences")
        elif answers:
            scores[:, column] = embedding(answers, embed)
    return scores


def strength(sentence: Sequence[str], genes: Sequence[str]) -> NDArray[np.float64]:
    """How strongly a sentence says that each gene is expressed, float64 (genes,).

    log((n + 1) / (1 + place)) for a sentence of n genes, places from 0; 0 for genes that it does not name. Expression
    is linear in the logarithm of the place (see :class:`cell2sen.sentences.ranking.RankFit`), so this is expression
    without scale.
    """
    place = {gene: number for number, gene in enumerate(sentence)}
    top = math.log(len(sentence) + 1)
    return np.array([top - math.log(1 + place[gene]) if gene in place else 0.0 for gene in genes])


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Gene sets of a GMT file: a name, a description and the genes in each line, between tabs.

    Raises
    ------
    ValueError
        A line is not that.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        genes = tuple(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
        if not name.strip() or not genes:
            raise ValueError(f"{path}, line {number}, is no gene set: it must be name, description, genes, with tabs")
        sets[name.strip()] = genes
    return sets


def gene_set(path: Path, name: str) -> tuple[str, ...]:
    """One set of a GMT file.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No such set; lists those there are.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of gene sets {path} (GMT: name, description, genes, with tabs)")
    sets = read_gmt(path)
    if name not in sets:
        raise ValueError(f"{path} has no gene set {name!r}; available: {sorted(sets)}")
    return sets[name]


def _set(answer: Answer, *sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(answer.genes) or tuple(dict.fromkeys(gene for sentence in sentences for gene in sentence))


def _restricted(sentence: Sequence[str], answer: Answer) -> list[str]:
    wanted = frozenset(answer.genes)
    return [gene for gene in sentence if gene in wanted] if wanted else list(sentence)


def _defined(
    truth: NDArray[np.float64], written: NDArray[np.float64], correlate: Callable[..., float]
) -> float:  # fmt: skip
    """A correlation that punishes an answer that says nothing."""
    if np.ptp(truth) == 0:
        return math.nan
    return 0.0 if np.ptp(written) == 0 else float(correlate(truth, written))
