"""Prompts assembled from pieces that are tokenized once: instructions, genes, endings."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cell2sen.engine.tokenization import exactness
from cell2sen.prompt import Genes, Prompt
from cell2sen.sentences.gene_list import GeneList

if TYPE_CHECKING:
    import tokenizers

_log = logging.getLogger(__name__)

#: Text before a piece that is tokenized alone, so that its tokens and offsets are those within a text.
_ANCHOR = "A"

#: Number of prompts assembled at a time; maximum number of pieces (genes, endings, …) in the cache, then it is cleared.
_PROMPTS, _PIECES = 256, 2**19

#: Bytes of a token id.
_BYTES = 4

#: Maximum number of gene vocabularies whose pieces are cached: a few data sets in turn.
_TABLES = 8

#: Number of genes of a sentence that is tokenized as a whole to test the proof.
_PROBE = 1000

#: A single space between two other characters.
_CUT = re.compile(r"(?<=\S) (?=\S)")

#: Ids, int32 (length,), function that returns the gene of each token, int64 (length,), index of the answer's first one.
Row = tuple[NDArray[np.int32], Callable[[], NDArray[np.int64]], int]

#: For each answer of a prompt: ids after the last gene's piece, int32 (length,), and index of the answer's first one.
Endings = list[tuple[NDArray[np.int32], int]]


class _Part(NamedTuple):
    """Gene list of a prompt and the text after it."""

    genes: tuple[str, ...] | GeneList
    """Genes of the list, without the last one if text is joined to it."""

    end: tuple[str, str]
    """Last gene and the text that is joined to it, which may be empty."""

    rest: str
    """Remaining text up to the next list; may be empty."""

    @property
    def n_genes(self) -> int:
        return len(self.genes) + bool(self.end[1])


class _Plan(NamedTuple):
    """Pieces of a prompt and its answer: ``Cell sentence:| CD4| B2M| LYZ.| The type of this cell is:``."""

    instruction: str
    parts: tuple[_Part, ...]
    tail: int
    """Characters of the prompt after its last gene."""

    def gene_numbers(self) -> NDArray[np.int64]:
        """Number of each piece's gene among all genes of the prompt, int64 (pieces,); -1 for pieces without one."""
        numbers, first = [np.array([-1])], 0
        for part in self.parts:
            numbers.append(np.arange(first, first + part.n_genes))
            if part.rest:
                numbers.append(np.array([-1]))
            first += part.n_genes
        return np.concatenate(numbers)


class Assembler:
    """Token ids of prompts, assembled from pieces where that is proven to equal tokenizing the text.

    Parameters
    ----------
    bos
        Id of the beginning-of-text token; None if the model has none.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, bos: int | None) -> None:
        self._tokenizer = tokenizer
        self._bos = bos
        self._broken = False
        self._clear()

    def _clear(self) -> None:
        # Number of each piece by its key: symbol of a gene, (gene, text) of an ending, text of an instruction or rest.
        self._genes: dict[str, int] = {}
        self._instructions: dict[str, int] = {}
        self._ends: dict[tuple[str, str], int] = {}
        self._rests: dict[str, int] = {}
        # Pieces of the genes of a vocabulary, by id() of its array; the array is kept so that no other one gets its id.
        self._tables: dict[int, tuple[NDArray[Any], NDArray[np.int32]]] = {}
        # By the text after the last gene, and the answers.
        self._endings: dict[tuple[str, tuple[str, ...]], Endings | None] = {}
        # Of the tokens of all pieces: ids, whether a token covers its gene, its last character (counted from the end of
        # the gene, in a rest from its beginning). Of each piece: start and length, whether it has tokens of no gene,
        # its ids as one binary value.
        self._ids, self._stops = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        self._covers = np.empty(0, dtype=bool)
        self._starts, self._lengths = (np.empty(0, dtype=np.int64) for _ in range(2))
        self._mixed = np.empty(0, dtype=bool)
        self._binary = _as_binary(self._ids, self._starts)

    @cached_property
    def _verdict(self) -> exactness.Verdict:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        verdict = exactness.prove(exactness.describe(self._tokenizer), vocabulary)
        if not verdict.by:
            _warn(f"for this tokenizer it is not proven that both have equal ids, because {verdict.why}")
        return verdict

    @property
    def exact(self) -> bool:
        """Whether prompts may be assembled from pieces. Logs one warning if that is not proven."""
        return bool(self._verdict.by) and not self._broken

    def lengths(self, prompts: Sequence[Prompt]) -> Iterator[int | None]:
        """Number of tokens of each prompt; None if its text must be tokenized as a whole."""
        for first in range(0, len(prompts), _PROMPTS):
            plans = [self._plan(prompt, "") for prompt in prompts[first : first + _PROMPTS]]
            pieces, bounds = self._piece_numbers(plans)
            lengths = iter(np.diff(np.append(0, np.cumsum(self._lengths[pieces]))[bounds]).tolist())
            yield from (None if plan is None else next(lengths) for plan in plans)

    def rows(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Iterator[Row | None]:
        """Tokens of each prompt with its answer; None if the text must be tokenized as a whole."""
        for first in range(0, len(prompts), _PROMPTS):
            part = slice(first, first + _PROMPTS)
            plans = [self._plan(*pair) for pair in zip(prompts[part], answers[part], strict=True)]
            pieces, bounds = self._piece_numbers(plans)
            ids, ends = _joined(pieces, self._binary)
            spans = itertools.pairwise(zip(bounds.tolist(), ends[bounds].tolist(), strict=True))
            for plan, answer in zip(plans, answers[part], strict=True):
                if plan is None:
                    yield None
                    continue
                (first_piece, begin), (last_piece, end) = next(spans)
                row = pieces[first_piece:last_piece]
                of_answer = self._of_answer(plan, row) if answer else 0
                genes = partial(
                    _genes_of, plan, row, ends[first_piece : last_piece + 1], self._mixed, self._starts, self._covers
                )
                yield ids[begin:end], genes, end - begin - of_answer

    def endings(self, prompt: Prompt, answers: Sequence[str]) -> Endings | None:
        """Tokens after the last gene of a prompt, with each answer; None if the prompt cannot be cut before them.

        They depend on the text after the last gene and on the answers alone, so they are kept for the next prompt.
        """
        texts, lists = _alternating(prompt)
        key = (texts[-1], tuple(answers))
        if not lists or not self.exact:
            return None
        if key not in self._endings:
            if len(self._endings) >= _TABLES:
                self._endings.clear()
            self._endings[key] = self._endings_of(*key)
        return self._endings[key]

    def _endings_of(self, tail: str, answers: tuple[str, ...]) -> Endings | None:
        splits = [self._split(tail + answer) for answer in answers]
        joined = splits[0][0]
        # The answers begin after the cut, so that all have the same text before it.
        if len(joined) >= len(tail) or any(before != joined or not rest for before, rest in splits):
            return None
        self._add_rests([rest for _, rest in splits])
        endings = []
        for _, rest in splits:
            piece = self._rests[rest]
            beyond = self._part(self._stops, piece) + len(joined) > len(tail)
            begin = int(np.argmax(beyond)) if beyond.any() else len(beyond)
            endings.append((self._part(self._ids, piece).copy(), begin))
        return endings

    def _of_answer(self, plan: _Plan, pieces: NDArray[np.int32]) -> int:
        """Number of tokens of the answer, which begins with the first token that extends beyond the prompt."""
        stops, last = [], plan.parts[-1]
        if last.end[1]:
            stops.append(self._part(self._stops, pieces[-2 if last.rest else -1]))
        if last.rest:
            stops.append(self._part(self._stops, pieces[-1]) + len(last.end[1]))
        beyond = np.concatenate(stops) > plan.tail
        return len(beyond) - int(np.argmax(beyond)) if beyond.any() else 0

    def _part(self, array: NDArray[Any], piece: int) -> NDArray[Any]:
        return array[self._starts[piece] : self._starts[piece] + self._lengths[piece]]

    def _plan(self, prompt: Prompt, answer: str) -> _Plan | None:
        """Pieces of a prompt; None if it cannot be cut into pieces."""
        texts, lists = _alternating(prompt)
        if not lists or not all(len(symbols) for symbols in lists):
            return None
        *opening, tail = texts
        # The space before a list belongs to its first gene. Between two lists there may be that space alone.
        if any(text[-1:] != " " for text in opening) or not self._may_end(opening[0][:-1]):
            return None
        between = [text[:-1] for text in opening[1:]]
        if any(text and not self._may_end(text) for text in between):
            return None
        parts = []
        for symbols, text in zip(lists, [*between, tail + answer], strict=True):
            joined, rest = self._split(text)
            parts.append(_Part(symbols[:-1] if joined else symbols, (symbols[-1], joined), rest))
        return _Plan(opening[0][:-1], tuple(parts), len(tail))

    def _split(self, text: str) -> tuple[str, str]:
        """Text after a gene list, cut at the first place where that is allowed."""
        return _split(text, self._verdict.mark, self._verdict.joined)

    def _may_end(self, text: str) -> bool:
        return _may_end(text, self._verdict.mark, self._verdict.joined)

    def _piece_numbers(self, plans: list[_Plan | None]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Numbers of the pieces of all prompts, int32 (pieces,), and bounds of the prompts, (prompts + 1,).

        Plans with pieces that cannot be tokenized alone become None.
        """
        if len(self._lengths) > _PIECES:
            self._clear()
        rows = {place: self._look_up(plan) for place, plan in enumerate(plans) if plan is not None}
        if not _known(*rows.values()) and self.exact:
            lacking = [place for place, row in rows.items() if not _known(row)]
            incomplete = [(place, plan) for place in lacking if (plan := plans[place]) is not None]
            self._add_missing([plan for _, plan in incomplete])
            rows |= {place: self._look_up(plan) for place, plan in incomplete}
        if not _known(*rows.values()) or self._broken:  # a test of the proof may have failed
            for place in [place for place, row in rows.items() if self._broken or not _known(row)]:
                plans[place] = None
                del rows[place]
        bounds = np.append(0, np.cumsum(list(map(len, rows.values())), dtype=np.int64))
        return np.concatenate([np.empty(0, dtype=np.int32), *rows.values()]), bounds

    def _look_up(self, plan: _Plan) -> NDArray[np.int32]:
        """Numbers of a plan's pieces, int32; -1 for pieces not in the cache."""
        numbers = np.empty(1 + sum(part.n_genes + bool(part.rest) for part in plan.parts), dtype=np.int32)
        numbers[0] = self._instructions.get(plan.instruction, -1)
        start = 1
        for part in plan.parts:
            stop = start + len(part.genes)
            self._look_up_genes(part.genes, numbers[start:stop])
            if part.end[1]:
                numbers[stop] = self._ends.get(part.end, -1)
                stop += 1
            if part.rest:
                numbers[stop] = self._rests.get(part.rest, -1)
                stop += 1
            start = stop
        return numbers

    def _look_up_genes(self, genes: tuple[str, ...] | GeneList, numbers: NDArray[np.int32]) -> None:
        """Writes the numbers of the genes' pieces into `numbers`."""
        if isinstance(genes, GeneList):
            numbers[:] = self._table(genes.symbols)[genes.ids]
            return
        try:
            if len(genes) > 1:  # one call for all genes; itemgetter of a single key returns no tuple
                numbers[:] = np.fromiter(itemgetter(*genes)(self._genes), dtype=np.int32, count=len(genes))
                return
        except KeyError:
            pass
        numbers[:] = [self._genes.get(gene, -1) for gene in genes]

    def _table(self, symbols: NDArray[Any]) -> NDArray[np.int32]:
        """Number of each symbol's piece, int32 (symbols,); -1 if it is not in the cache."""
        if id(symbols) not in self._tables:
            numbers = [self._genes.get(symbol, -1) for symbol in symbols.tolist()]
            self._tables[id(symbols)] = symbols, np.array(numbers, dtype=np.int32)
            if len(self._tables) > _TABLES:
                del self._tables[next(iter(self._tables))]
        return self._tables[id(symbols)][1]

    def _missing(self, genes: tuple[str, ...] | GeneList) -> Sequence[str]:
        """Genes that are not in the cache."""
        if isinstance(genes, GeneList):
            genes = genes.symbols[genes.ids[self._table(genes.symbols)[genes.ids] < 0]].tolist()
        return [gene for gene in genes if gene not in self._genes]

    def _add_missing(self, plans: Sequence[_Plan]) -> None:
        """Tokenizes the pieces that are not in the cache, except genes that the proof does not cover."""
        parts = [part for plan in plans for part in plan.parts]
        last = tuple(part.end[0] for part in parts)
        new = dict.fromkeys(itertools.chain.from_iterable(map(self._missing, (last, *(part.genes for part in parts)))))
        genes = [gene for gene in new if exactness.fits(gene, self._verdict, self._tokenizer)]
        self._add(self._genes, genes, [f" {gene}" for gene in genes], list(map(len, genes)))
        ends = [end for end in dict.fromkeys(part.end for part in parts) if end[1] and end not in self._ends]
        ends = [end for end in ends if end[0] in self._genes]
        self._add(self._ends, ends, [f" {gene}{text}" for gene, text in ends], [len(gene) for gene, _ in ends])
        self._add_rests([part.rest for part in parts])
        for text in dict.fromkeys(plan.instruction for plan in plans):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if ids and text not in self._instructions:  # without ids it is unknown whether the text begins with bos
                opened = ids if self._bos is None or ids[0] == self._bos else [self._bos, *ids]
                self._append(self._instructions, [text], [(opened, [0] * len(opened), [False] * len(opened))])
        if genes and not self._equal_in_sentences(genes):
            self._broken = True
            _warn("with this tokenizer genes have other ids alone than within a sentence")

    def _add_rests(self, texts: Sequence[str]) -> None:
        """Tokenizes texts after gene lists that are not in the cache."""
        rests = [rest for rest in dict.fromkeys(texts) if rest and rest not in self._rests]
        self._add(self._rests, rests, rests, [0] * len(rests))

    def _add(self, numbers: dict[Any, int], keys: Sequence[Any], texts: Sequence[str], genes: Sequence[int]) -> None:
        """Adds pieces to the cache; each begins with a space and a gene of this number of characters (0: no gene)."""
        skip = len(self._tokenizer.encode(_ANCHOR, add_special_tokens=False).ids)
        pieces = []
        encodings = self._tokenizer.encode_batch([_ANCHOR + text for text in texts], add_special_tokens=False)
        for length, encoding in zip(genes, encodings, strict=True):
            offsets = np.array(encoding.offsets[skip:], dtype=np.int64).reshape(-1, 2) - len(_ANCHOR)
            starts, stops = offsets.T
            covers = (starts < stops) & (starts < length + 1) & (length > 0)
            pieces.append((encoding.ids[skip:], stops - (length + 1 if length else 0), covers))
        self._append(numbers, keys, pieces)

    def _append(self, numbers: dict[Any, int], keys: Sequence[Any], pieces: Sequence[tuple[Any, Any, Any]]) -> None:
        """Appends pieces, given as ids, last characters and whether each token covers the gene."""
        if not keys:
            return
        lengths = np.array([len(ids) for ids, _, _ in pieces], dtype=np.int64)
        ids, stops, covers = (np.concatenate(column) for column in zip(*pieces, strict=True))
        numbers.update(zip(keys, range(len(self._lengths), len(self._lengths) + len(keys)), strict=True))
        self._starts = np.append(self._starts, len(self._ids) + np.cumsum(lengths) - lengths)
        self._lengths = np.append(self._lengths, lengths)
        self._ids = np.append(self._ids, ids.astype(np.int32))
        self._stops = np.append(self._stops, stops.astype(np.int64))
        self._covers = np.append(self._covers, covers.astype(bool))
        self._mixed = np.append(self._mixed, [not np.all(covers) for _, _, covers in pieces])
        self._binary = _as_binary(self._ids, self._starts)
        if numbers is self._genes:
            self._tables.clear()

    def _equal_in_sentences(self, genes: Sequence[str]) -> bool:
        """Whether sentences of these genes, in the given order and shuffled, have the ids of genes tokenized alone."""
        shuffled = np.random.default_rng(0).permutation(len(genes)).tolist()
        for order in (range(len(genes)), shuffled):
            for first in range(0, len(genes), _PROBE):
                part = [genes[gene] for gene in order[first : first + _PROBE]]
                text = _ANCHOR + "".join(f" {gene}" for gene in part)
                expected = self._tokenizer.encode(_ANCHOR, add_special_tokens=False).ids
                for gene in part:
                    expected += self._part(self._ids, self._genes[gene]).tolist()
                if self._tokenizer.encode(text, add_special_tokens=False).ids != expected:
                    return False
        return True


def _alternating(prompt: Prompt) -> tuple[list[str], list[tuple[str, ...] | GeneList]]:
    """Texts around the gene lists, one more than lists, and the lists."""
    texts, lists = [""], []
    for piece in prompt.pieces:
        if isinstance(piece, Genes):
            lists.append(piece.symbols)
            texts.append("")
        else:
            texts[-1] += piece
    return texts, lists


def _known(*rows: NDArray[np.int32]) -> bool:
    """Whether all pieces are in the cache."""
    return not rows or bool(np.concatenate(rows).min(initial=0) >= 0)


def _joined(pieces: NDArray[np.int32], binary: pa.LargeBinaryArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Concatenated ids of the pieces, int32 (tokens,), and bounds of the pieces, (pieces + 1,).

    By Arrow, which copies a piece at a time; NumPy would copy token by token.
    """
    if not len(pieces):
        return np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64)
    _, bounds, ids = pc.take(binary, pa.array(pieces), boundscheck=False).buffers()
    ends = np.frombuffer(bounds, dtype=np.int64, count=len(pieces) + 1) // _BYTES
    return np.frombuffer(ids, dtype=np.int32, count=ends[-1]), ends


def _genes_of(
    plan: _Plan,
    pieces: NDArray[np.int32],
    ends: NDArray[np.int64],
    mixed: NDArray[np.bool_],
    starts: NDArray[np.int64],
    covers: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Gene of each token of a prompt, int64 (tokens,)."""
    lengths, ends = np.diff(ends), ends - ends[0]
    genes = np.repeat(plan.gene_numbers(), lengths)
    partly = np.flatnonzero(mixed[pieces])
    places, tokens = (_ranges(first, lengths[partly]) for first in (ends[partly], starts[pieces[partly]]))
    genes[places[~covers[tokens]]] = -1
    return genes


def _as_binary(ids: NDArray[np.int32], starts: NDArray[np.int64]) -> pa.LargeBinaryArray:
    """Ids of each piece as one binary value, without a copy."""
    bounds = np.append(starts, len(ids)) * _BYTES
    return pa.Array.from_buffers(pa.large_binary(), len(starts), [None, pa.py_buffer(bounds), pa.py_buffer(ids)])


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated ranges ``start, start + 1, …`` of the given lengths, int64."""
    stops = np.cumsum(lengths)
    return np.repeat(starts - stops + lengths, lengths) + np.arange(stops[-1] if len(stops) else 0)


def _may_end(text: str, mark: str, joined: frozenset[str]) -> bool:
    return bool(text) and not text[-1].isspace() and text[-1] != mark and text[-1] not in joined


@lru_cache(maxsize=64)  # the prompts of a task mostly have the same ending
def _split(text: str, mark: str, joined: frozenset[str]) -> tuple[str, str]:
    if text[:1] == " " and text[1:2].strip():
        return "", text
    cuts = (match.start() for match in _CUT.finditer(text) if _may_end(text[: match.start()], mark, joined))
    at = next(cuts, len(text))
    return text[:at], text[at:]


def _warn(why: str) -> None:
    _log.warning("whole sentences are tokenized, which is slower than gene by gene: %s", why)
