"""Edits of cell sentences: genes deleted or moved to the front, alone or together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cell2sen.data.names.text import some
from cell2sen.sentences.sentences import Sentences

EditKind = Literal["delete", "overexpress"]

#: Instead of names: all genes that enough cells have.
ALL = "all"


@dataclass(frozen=True)
class Edit:
    """Genes that are deleted from sentences, or moved to their front in this order."""

    kind: EditKind
    genes: tuple[int, ...]
    """Ids of the genes in the sentences' vocabulary."""

    name: str


def parse_edits(names: Iterable[str], kind: EditKind, symbols: Sequence[str]) -> list[Edit]:
    """Edits of genes, or of several together (``"STAT1+JAK2"``), each once.

    Raises
    ------
    ValueError
        Genes that are not in the data or not known to the model.
    """
    ids = {symbol.upper(): number for number, symbol in enumerate(symbols)}
    edits: dict[str, Edit] = {}
    unknown: list[str] = []
    for name in names:
        whole = str(name).strip()
        parts = [whole] if whole.upper() in ids else [part.strip() for part in whole.split("+")]
        if missing := [part for part in parts if part.upper() not in ids]:
            unknown += missing
            continue
        genes = tuple(dict.fromkeys(ids[part.upper()] for part in parts))
        title = "+".join(symbols[gene] for gene in genes)
        edits.setdefault(title, Edit(kind, genes, title))
    if unknown:
        raise ValueError(
            f"{kind}: {len(unknown)} genes are not in the data or not known to the model, such as {some(unknown)}; "
            "leave them out, or check the names"
        )
    return list(edits.values())


class EditedSentences:
    """Sentences of some cells, and what edits make of them.

    Parameters
    ----------
    rows
        int64 (m,): rows of the cells.
    length
        Genes of a prompt. An edit that leaves the first `length` genes as they are changes nothing.
    """

    def __init__(self, sentences: Sentences, rows: NDArray[np.int64], length: int | None) -> None:
        self._sentences, self.rows = sentences, rows
        ids, ends = sentences.genes.flatten().to_numpy(), np.cumsum(sentences.n_genes)
        starts = ends - sentences.n_genes
        self._lists = [ids[starts[row] : ends[row]] for row in rows]
        self._length = length
        self.n_prompt_genes = np.array([len(genes[:length]) for genes in self._lists], dtype=np.int64)
        self._places: list[dict[int, int]] = [
            {gene: place for place, gene in enumerate(genes[:length].tolist())} for genes in self._lists
        ]

    def cells_with(self, n_symbols: int) -> NDArray[np.int64]:
        """Number of these cells whose prompt has each gene, int64 (symbols,)."""
        if not self._lists:
            return np.zeros(n_symbols, dtype=np.int64)
        return np.bincount(np.concatenate([genes[: self._length] for genes in self._lists]), minlength=n_symbols)

    def changed(self, edit: Edit) -> tuple[list[int], list[NDArray[np.int32]]]:
        """Cells whose prompt an edit changes, as numbers of :attr:`rows`, and their edited genes.

        Cells that would have no gene left are not among them.
        """
        places, lists = [], []
        front = np.array(edit.genes, dtype=np.int32)
        for place, (genes, own) in enumerate(zip(self._lists, self._places, strict=True)):
            if edit.kind == "delete":
                if not any(gene in own for gene in edit.genes):
                    continue
                edited = genes[~np.isin(genes, front)]
            else:
                if tuple(genes[: len(front)].tolist()) == edit.genes:
                    continue
                edited = np.concatenate([front, genes[~np.isin(genes, front)]]).astype(np.int32)
            if len(edited) and len(genes):
                places.append(place)
                lists.append(edited)
        return places, lists

    def sentences(self, places: Sequence[int], lists: Sequence[NDArray[np.int32]]) -> Sentences:
        """Sentences of these genes, one for each of `places` (numbers of :attr:`rows`)."""
        return with_genes(self._sentences, self.rows[np.asarray(places, dtype=np.int64)], lists)


def with_genes(sentences: Sentences, rows: NDArray[np.int64], lists: Sequence[NDArray[Any]]) -> Sentences:
    """The cells of `rows`, which may be repeated, with other genes: ids into the vocabulary."""
    offsets = np.append(0, np.cumsum([len(genes) for genes in lists])).astype(np.int32)
    flat = np.concatenate([*lists, np.zeros(0, dtype=np.int32)]).astype(np.int32)
    return replace(sentences[rows], genes=pa.ListArray.from_arrays(offsets, flat))


def first_genes(sentences: Sentences, rows: NDArray[np.int64], n_genes: NDArray[np.int64]) -> Sentences:
    """The cells of `rows`, which may be repeated, each with its first `n_genes` genes."""
    ids, ends = sentences.genes.flatten().to_numpy(), np.cumsum(sentences.n_genes)
    starts = ends - sentences.n_genes
    lists = [ids[starts[row] : min(starts[row] + n, ends[row])] for row, n in zip(rows, n_genes, strict=True)]
    return with_genes(sentences, rows, lists)
