"""Grounding of texts: the genes that a text names, and whether the cells express them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.answer import by_upper_case, named_genes
from cell2sen.data.expression import Expression
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

    They are all genes of the open data, also those that the model cannot write; without data those of the sentences.
    Cells express the genes with a value above 0, whether or not their sentences are long enough for them.
    """

    def __init__(self, session: Session, rows: NDArray[np.int64]) -> None:
        sentences = session.sentences
        self.organism = sentences.organism[int(rows[0])] if len(rows) else HUMAN
        lists = sentences.gene_lists()
        written = {int(row): list(lists[int(row)]) for row in rows}
        #: Name of a gene for the model → its name in the data.
        own = {symbol: symbol for symbol in sentences.symbols}
        if session.data is None:
            self._expressed = {row: frozenset(genes) for row, genes in written.items()}
            names = own
        else:
            symbols = session.data.gene_map.symbols
            own |= {
                name: symbols[column] for name, column in zip(session.data.symbols, session.data.columns, strict=True)
            }
            self._expressed = _expressed(session.data, rows)
            names = {**{symbol: symbol for symbol in symbols}, **own}
        self.measured = {spelled: names[name] for spelled, name in by_upper_case(names).items()}
        self._ranks = {
            row: {own[gene]: rank for rank, gene in enumerate(genes, start=1)} for row, genes in written.items()
        }

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


def _expressed(data: Expression, rows: NDArray[np.int64]) -> dict[int, frozenset[str]]:
    """Symbols with a value above 0 of each row, of all genes of the data."""
    symbols = np.asarray(data.gene_map.symbols, dtype=object)
    whole = replace(data, columns=np.arange(len(symbols)), symbols=data.gene_map.symbols)
    expressed: dict[int, frozenset[str]] = {}
    for block in whole[rows].blocks():
        values = block.values
        for place in range(values.shape[0]):
            part = slice(values.indptr[place], values.indptr[place + 1])
            columns = values.indices[part][values.data[part] > 0]
            expressed[int(rows[block.first + place])] = frozenset(symbols[columns])
    return expressed
