"""Parsing of answers: sentences and their validity, gene lists, labels, numbers, yes or no; genes that a text names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from cell2sen.data.genes.symbol_table import HUMAN, MOUSE, symbol_table

#: Words of a text that may be gene symbols: letters and digits, with hyphens and dots between them.
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")

#: Abbreviations in texts on cells that are names of something else than the gene of that symbol.
NOT_GENES = frozenset(["NK", "DNA", "RNA", "MRNA", "MHC", "HLA", "TCR", "BCR", "ER", "ROS", "ATP", "GTP", "UV"])


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


def named_genes(text: str, measured: Mapping[str, str], organism: str = HUMAN) -> dict[str, str | None]:
    """Words of a text that are gene symbols, each once in its order → symbol in the data, ``None`` for other genes.

    A word is one if it is written like a symbol (:func:`is_written_like_a_symbol`) and is in the data or among the
    approved symbols of the organism.

    Parameters
    ----------
    measured
        Symbols of the data by their spelling in upper case (:func:`by_upper_case`).
    """
    found: dict[str, str | None] = {}
    for match in _WORD.finditer(text):
        word = match[0]
        if word in found or not is_written_like_a_symbol(word, at_beginning=_begins_sentence(text, match.start())):
            continue
        symbol = measured.get(word.upper())
        is_approved = word in approved_symbols(organism)
        if word != word.upper() and word.isalpha() and word != symbol and not is_approved:
            continue  # "Cat" in a text on human cells
        if symbol is not None or is_approved:
            found[word] = symbol
    return found


def by_upper_case(symbols: Iterable[str]) -> dict[str, str]:
    """Spelling in upper case → symbol, the first of several."""
    spelled: dict[str, str] = {}
    for symbol in symbols:
        spelled.setdefault(symbol.upper(), symbol)
    return spelled


def is_written_like_a_symbol(word: str, *, at_beginning: bool = False) -> bool:
    """Whether a word of a text could be a gene symbol: upper case, or a capital letter and a digit or lower case.

    Words in lower case never are; those with one capital letter, like mouse symbols, only if they have a digit or stand
    within a sentence.
    """
    letters = [character for character in word if character.isalpha()]
    if len(word) < 2 or not letters or word.upper() in NOT_GENES:
        return False
    has_digit = any(character.isdigit() for character in word)
    if word == word.upper():
        return True
    if re.fullmatch(r"[0-9]{6,}[A-Z][0-9]{2}Rik|C[0-9XY]+orf[0-9]+|[A-Z]{2,}[0-9]*[a-z]{1,2}[0-9]*", word):
        return True
    return word[0].isupper() and word[1:] == word[1:].lower() and (has_digit or not at_beginning)


def marked(text: str, states_of_genes: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pieces of a text with the state of each; "" for what is no gene. Joined, the pieces are the text."""
    pieces: list[tuple[str, str]] = []
    last = 0
    for match in _WORD.finditer(text):
        if match[0] in states_of_genes:
            pieces += [(text[last : match.start()], ""), (match[0], states_of_genes[match[0]])]
            last = match.end()
    return [piece for piece in (*pieces, (text[last:], "")) if piece[0]]


@lru_cache(maxsize=4)
def approved_symbols(organism: str) -> frozenset[str]:
    """Approved symbols of an organism, of human and mouse for others."""
    organisms = [organism] if organism in (HUMAN, MOUSE) else [HUMAN, MOUSE]
    return frozenset(symbol for name in organisms for symbol in symbol_table(name).others)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'([")
    return not before or before[-1] in ".!?:\n"
