"""Prompt: segments of text and gene lists, of one cell, several cells or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from cell2sen.sentences.gene_list import GeneList

#: Placeholder in text segments: number of genes of the longest list, or of the answer if there are no lists.
N_GENES = "{n_genes}"

#: How :func:`as_it_is` writes these characters of a value; U+FDD0 is never in a text.
_LITERAL = "{n_genes\ufdd0}"


def as_it_is(text: str) -> str:
    """A value of a slot, such as a question, for a text segment: in it :data:`N_GENES` is no placeholder."""
    return text.replace(N_GENES, _LITERAL)


def words_of(column: str) -> str:
    """Name of an obs column as words: ``"development_stage"`` → ``"development stage"``."""
    return " ".join(re.sub(r"[_.{}]+", " ", column).split())


def context_line(values: Mapping[str, str | None]) -> str:
    r"""Line in front of a prompt with what is known of its cell: ``"Known of this cell: tissue: lung; sex: male.\n"``.

    Missing values are left out, and without any value there is no line, so that the prompt is the plain one.
    """
    known = {name: as_it_is(text.removesuffix(".")) for name, text in values.items() if text}
    listed = "; ".join(f"{words_of(name)}: {text}" for name, text in known.items())
    return f"Known of this cell: {listed}.\n" if known else ""


@dataclass(frozen=True, kw_only=True)
class Genes:
    """Segment of a prompt: the genes of one cell, or a list of genes that is no cell."""

    symbols: tuple[str, ...] | GeneList
    """Gene symbols without whitespace; of a cell in descending expression."""

    cell: str | None = None
    """Name of the cell; ``None`` for a list that is no cell, such as a gene set."""

    @property
    def text(self) -> str:
        """Gene symbols joined by single spaces."""
        return " ".join(self.symbols)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Text and gene lists in order. :meth:`shorten` cuts all lists to the same length; text is never cut."""

    segments: tuple[str | Genes, ...]
    """Text (with :data:`N_GENES` where the number of genes belongs) and gene lists."""

    key: str = ""
    """Name of the row, usually that of the cell. It seeds the sampling, so that no row depends on its neighbours."""

    answer_genes: int | None = None
    """Number of genes in the answer, or in each cell of it; ``None`` for answers that are no gene lists."""

    @classmethod
    def of_cell(
        cls,
        before: str,
        genes: Sequence[str] = (),
        after: str = "",
        *,
        key: str = "",
        answer_genes: int | None = None,
    ) -> Prompt:
        """Prompt of one cell named `key`: text, its genes, text. Without genes, text alone."""
        symbols = genes if isinstance(genes, GeneList) else tuple(genes)
        segments = (before, Genes(symbols=symbols, cell=key), after) if symbols else (before + after,)
        return cls(segments=segments, key=key, answer_genes=answer_genes)

    @cached_property
    def lists(self) -> tuple[Genes, ...]:
        """The gene lists in order."""
        return tuple(segment for segment in self.segments if isinstance(segment, Genes))

    @property
    def genes(self) -> tuple[str, ...] | GeneList:
        """Genes of all lists, concatenated."""
        if len(self.lists) == 1:
            return self.lists[0].symbols
        return tuple(chain.from_iterable(genes.symbols for genes in self.lists))

    @property
    def cells(self) -> tuple[str | None, ...]:
        """Name of the cell of each of :attr:`genes`; ``None`` for genes of a list that is no cell."""
        return tuple(genes.cell for genes in self.lists for _ in range(len(genes.symbols)))

    @property
    def n_genes(self) -> int:
        """Number of genes of the longest list."""
        return max((len(genes.symbols) for genes in self.lists), default=0)

    @property
    def pieces(self) -> list[str | Genes]:
        """The segments with :data:`N_GENES` filled in."""
        return [piece.replace(_LITERAL, N_GENES) if isinstance(piece, str) else piece for piece in self._numbered]

    @property
    def _numbered(self) -> list[str | Genes]:
        """The segments with :data:`N_GENES` filled in, and the same characters of values as they are stored."""
        number = str(self.n_genes if self.n_genes or self.answer_genes is None else self.answer_genes)
        return [segment.replace(N_GENES, number) if isinstance(segment, str) else segment for segment in self.segments]

    @property
    def text(self) -> str:
        """The whole prompt."""
        return "".join(piece if isinstance(piece, str) else piece.text for piece in self.pieces)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """``(start, stop)`` of each of :attr:`genes` in :attr:`text`, in characters, stop excluded."""
        spans, start = [], 0
        for piece in self.pieces:
            if isinstance(piece, str):
                start += len(piece)
                continue
            for symbol in piece.symbols:
                spans.append((start, start + len(symbol)))
                start += len(symbol) + 1
            start -= bool(piece.symbols)  # no space after the last gene
        return spans

    def shorten(self, n_genes: int) -> Prompt:
        """The same prompt with the first `n_genes` genes of each list."""
        return replace(
            self,
            segments=tuple(
                segment if isinstance(segment, str) else replace(segment, symbols=segment.symbols[:n_genes])
                for segment in self.segments
            ),
        )

    def extended(self, *segments: str | Genes, key: str | None = None) -> Prompt:
        """The prompt with further segments, such as the answer so far; :data:`N_GENES` is filled in before."""
        return replace(self, segments=(*self._numbered, *segments), key=self.key if key is None else key)
