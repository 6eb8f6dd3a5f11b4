"""Metrics of written cell sentences: validity and uniqueness."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cell2sen.answer import parse_sentence
from cell2sen.evaluation.metrics import metric


@metric(level="sentences", perfect=1.0, range=(0.0, 1.0), shown="groups")
def validity(sentence: str | Sequence[str], vocabulary: Collection[str]) -> float:
    """Share of the written words that are known genes, repeated ones included.

    genes / words (compare Levine et al., ICML 2024); 0 for an empty sentence.
    """
    return parse_sentence(_text(sentence), vocabulary).validity


@metric(level="sentences", perfect=1.0, range=(0.0, 1.0))
def uniqueness(sentence: str | Sequence[str], vocabulary: Collection[str]) -> float:
    """Share of the written genes that are named for the first time.

    distinct genes / genes (compare Levine et al., ICML 2024); 0 without a known gene.
    """
    return parse_sentence(_text(sentence), vocabulary).uniqueness


def _text(sentence: str | Sequence[str]) -> str:
    return sentence if isinstance(sentence, str) else " ".join(sentence)
