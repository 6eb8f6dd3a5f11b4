"""Parsing of answers: sentences with their validity, gene lists, labels, numbers, yes or no."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ParsedSentence:
    """Genes and numbers of words of a generated cell sentence or gene list."""

    genes: tuple[str, ...]
    """Known genes, each once, in order."""

    n_words: int
    """Words in the text."""

    n_unknown: int
    """Words outside the vocabulary."""

    n_repeated: int
    """Words that repeat a known gene."""

    @property
    def validity(self) -> float:
        """Share of the words that are known genes, repeated ones included; 0 for an empty answer."""
        return (self.n_words - self.n_unknown) / self.n_words if self.n_words else 0.0

    @property
    def uniqueness(self) -> float:
        """Share of first mentions among the words that are known genes; 0 without a known gene."""
        known = self.n_words - self.n_unknown
        return len(self.genes) / known if known else 0.0


def parse_sentence(text: str, vocabulary: Collection[str]) -> ParsedSentence:
    """Known genes of a generated cell sentence, in order.

    The final full stop is dropped, words are split on whitespace, words not in `vocabulary` are dropped, and a repeated
    gene takes the mean of its positions. Positions count all words of the text, so a gene that always preceded another
    one still does.
    """
    if not isinstance(vocabulary, AbstractSet | Mapping):
        vocabulary = frozenset(vocabulary)
    words = re.sub(r"\s*\.\s*$", "", text).split()
    positions: dict[str, list[int]] = {}
    for position, word in enumerate(words):
        if word in vocabulary:
            positions.setdefault(word, []).append(position)
    n_known = sum(map(len, positions.values()))
    genes = sorted(positions, key=lambda gene: (sum(positions[gene]) / len(positions[gene]), positions[gene][0]))
    return ParsedSentence(
        genes=tuple(genes), n_words=len(words), n_unknown=len(words) - n_known, n_repeated=n_known - len(genes)
    )


def parse_label(text: str) -> str:
    """Text without surrounding whitespace and a final full stop."""
    return text.strip().removesuffix(".").strip()


def parse_number(text: str) -> float | None:
    """Number that the text begins with, ``None`` for other answers; what follows it, such as a unit, is ignored."""
    number = re.match(r"\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w])", text)
    return None if number is None else float(number[1])


def parse_yes_no(text: str) -> bool | None:
    """True for an answer that begins with the word yes, False for no, ``None`` for other answers; case is ignored."""
    word = re.match(r"\W*(yes|no)\b", text, flags=re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"


def parse_blocks(text: str, block: str, slot: str) -> tuple[str, ...]:
    """Value of `slot` in each repetition of a template's block, such as ``"Cell {number}: {sentence}."``.

    Values end where the next block begins; other slots match any word. Text before the first block is ignored.
    """
    before, _, after = block.partition("{" + slot + "}")
    opening = re.sub(r"\\\{\w+\\\}", r"\\S+?", re.escape(before.strip()))
    closing = re.escape(after.strip())
    parts = re.split(rf"(?:^|\s+){opening}(?:\s+|$)" if opening else r"\s*\n\s*", text.strip())
    values = [re.sub(rf"\s*{closing}\s*$", "", part).strip() for part in (parts[1:] if opening else parts)]
    return tuple(values)
