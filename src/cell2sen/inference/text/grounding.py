"""Grounding of texts: the genes that a text names, and whether the cells express them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.symbol_table import HUMAN, MOUSE, symbol_table
from cell2sen.inference.session import Session

State = Literal["present", "absent", "unmeasured"]

#: Words of a text that may be gene symbols: letters and digits with hyphens, dots and slashes between them.
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")

#: Symbols of approved genes that texts on cells use as words or abbreviations of something else.
NOT_GENES = frozenset(
    "AND ALL AN AS AT BE CAN CELL FOR GENE HAS HAVE IMPACT IN IS IT KIT MAY MET MICE NOT OF OR REST SET SHE SO THE TO WAS "
    "WITH DNA RNA MRNA MHC HLA TCR BCR NK ER ROS ATP GTP UV T B C G A".split()
)


@dataclass(frozen=True, kw_only=True)
class NamedGene:
    """A gene that a text names."""

    gene: str
    """As the text writes it."""

    state: State
    """``"present"``: at least one of the cells expresses it. ``"absent"``: none does. ``"unmeasured"``: the data have no
    such gene."""

    n_cells: int = 0
    """Cells that express it."""

    rank: int | None = None
    """Its best rank in the cells' sentences, from 1; ``None`` if none has it."""


class CellGenes:
    """Genes of a session's cells, in which the names of texts are looked up.

    Cells express what their sentences have, in full length: all genes with a value above 0, unless the model's recipe
    limits sentences; then also the further genes of the open matrix are read.
    """

    def __init__(self, session: Session, rows: NDArray[np.int64]) -> None:
        sentences = session.sentences
        self.organism = sentences.organism[int(rows[0])] if len(rows) else HUMAN
        self._n_rows = len(rows)
        measured = sentences.symbols
        #: Spelling in upper case → symbol of the data. Symbols are the model's, texts may use another case.
        self.measured: dict[str, str] = {}
        for symbol in measured:
            self.measured.setdefault(symbol.upper(), symbol)
        lists = sentences.gene_lists()
        self._ranks: dict[int, dict[str, int]] = {
            int(row): {gene: rank for rank, gene in enumerate(lists[int(row)], start=1)} for row in rows
        }
        self._expressed = _expressed(session, rows)

    def look_up(self, word: str, rows: Sequence[int]) -> NamedGene | None:
        """The gene of a word of a text on some of the cells; ``None`` if the word is no gene symbol."""
        symbol = self.measured.get(word.upper())
        if symbol is None:
            return NamedGene(gene=word, state="unmeasured") if word in approved(self.organism) else None
        n_cells = sum(symbol in self._expressed[row] for row in rows)
        ranks = [self._ranks[row][symbol] for row in rows if symbol in self._ranks[row]]
        state: State = "present" if n_cells else "absent"
        return NamedGene(gene=word, state=state, n_cells=n_cells, rank=min(ranks, default=None))


def ground(text: str, genes: CellGenes, rows: Sequence[int]) -> tuple[NamedGene, ...]:
    """Genes that a text on some cells names, each once, in the order of the text.

    A word is a gene symbol if it is written like one, in the case of the organism's approved symbols or in that of the
    data, and is in the data or among the approved symbols of human and mouse. Words of a sentence's beginning that have
    letters only, such as "Cat", and those in :data:`NOT_GENES` are not.
    """
    found: dict[str, NamedGene] = {}
    for match in _WORD.finditer(text):
        word = match[0]
        if word in found or not is_written_like_a_symbol(word, at_beginning=_begins_sentence(text, match.start())):
            continue
        if (named := genes.look_up(word, rows)) is not None:
            found[word] = named
    return tuple(found.values())


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


def states(named: Sequence[NamedGene]) -> dict[State, list[str]]:
    """Genes by state, in the order of the text."""
    by_state: dict[State, list[str]] = {"present": [], "absent": [], "unmeasured": []}
    for gene in named:
        by_state[gene.state].append(gene.gene)
    return by_state


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
def approved(organism: str) -> frozenset[str]:
    """Approved symbols of an organism, of human and mouse for others."""
    organisms = [organism] if organism in (HUMAN, MOUSE) else [HUMAN, MOUSE]
    return frozenset(symbol for name in organisms for symbol in symbol_table(name).others)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'([")
    return not before or before[-1] in ".!?:\n"


def _expressed(session: Session, rows: NDArray[np.int64]) -> dict[int, frozenset[str]]:
    """Symbols with a value above 0 of each row."""
    sentences = session.sentences
    if session.data is None or sentences.recipe.max_genes is None:
        lists = sentences.gene_lists()
        return {int(row): frozenset(lists[int(row)]) for row in rows}
    symbols = np.asarray(session.data.symbols, dtype=object)
    expressed: dict[int, frozenset[str]] = {}
    chosen = session.data[rows]
    for block in chosen.blocks():
        values = block.values
        for place in range(values.shape[0]):
            part = slice(values.indptr[place], values.indptr[place + 1])
            columns = values.indices[part][values.data[part] > 0]
            expressed[int(rows[block.first + place])] = frozenset(symbols[columns])
    return expressed
