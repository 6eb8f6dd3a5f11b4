"""Grounding of texts: the genes that a text names, and whether the cells express them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.answer import by_upper_case, named_genes
from cell2sen.data.genes.symbol_table import HUMAN
from cell2sen.inference.session import Session

State = Literal["present", "absent", "unmeasured"]


@dataclass(frozen=True, kw_only=True)
class NamedGene:
    """A gene that a text names."""

    gene: str
    """As the text writes it."""

    state: State
    """``"present"``: at least one of the cells expresses it. ``"absent"``: none does. ``"unmeasured"``: the data have
    no such gene."""

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
        self.measured = by_upper_case(sentences.symbols)
        lists = sentences.gene_lists()
        self._ranks: dict[int, dict[str, int]] = {
            int(row): {gene: rank for rank, gene in enumerate(lists[int(row)], start=1)} for row in rows
        }
        self._expressed = _expressed(session, rows)

    def look_up(self, word: str, symbol: str | None, rows: Sequence[int]) -> NamedGene:
        """The gene of a word of a text on some of the cells; `symbol` is its name in the data, if it is there."""
        if symbol is None:
            return NamedGene(gene=word, state="unmeasured")
        n_cells = sum(symbol in self._expressed[row] for row in rows)
        ranks = [self._ranks[row][symbol] for row in rows if symbol in self._ranks[row]]
        state: State = "present" if n_cells else "absent"
        return NamedGene(gene=word, state=state, n_cells=n_cells, rank=min(ranks, default=None))


def ground(text: str, genes: CellGenes, rows: Sequence[int]) -> tuple[NamedGene, ...]:
    """Genes that a text on some cells names, each once, in the order of the text; see :func:`named_genes`."""
    return tuple(
        genes.look_up(word, symbol, rows) for word, symbol in named_genes(text, genes.measured, genes.organism).items()
    )


def states(named: Sequence[NamedGene]) -> dict[State, list[str]]:
    """Genes by state, in the order of the text."""
    by_state: dict[State, list[str]] = {"present": [], "absent": [], "unmeasured": []}
    for gene in named:
        by_state[gene.state].append(gene.gene)
    return by_state


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
