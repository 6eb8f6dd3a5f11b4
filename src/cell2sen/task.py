"""Task: prompt templates, kind of answer, and how the answer is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.answer import parse_blocks, parse_label, parse_number, parse_sentence, parse_yes_no
from cell2sen.data.genes.organism import scientific_name
from cell2sen.data.space.samples import SpaceSamples
from cell2sen.prompt import N_GENES, Genes, Prompt, as_it_is
from cell2sen.sentences.gene_list import GeneList

if TYPE_CHECKING:
    from cell2sen.sentences.sentences import Sentences

#: Slots that every template may have, filled by :meth:`Task.prompt` itself.
BUILT_IN_SLOTS = ("cells", "genes", "n_cells", "n_genes", "number", "organism")

#: Kinds of answers: none (embeddings), one label, one label per cell, a number, yes or no, genes that are no cell (a
#: gene set), sentences of one or several cells, free text, labels or numbers of several obs columns.
AnswerKind = Literal["none", "label", "labels", "number", "yes_no", "genes", "sentences", "text", "joint"]

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Template:
    """Prompt and answer of a task, with ``{slots}``.

    ``{genes}`` is the sentence of one cell. ``{cells}`` is :attr:`cell`, repeated for each cell of a sample. Any other
    slot is text, or a sequence of genes that is no cell (a gene set).
    """

    prompt: str
    """Prompt; does not end in whitespace."""

    answer: str = ""
    """Answer; begins with whitespace."""

    cell: str = ""
    """Text per cell for ``{cells}`` of the prompt: ``"Cell {number}: {genes}.\\n"``; ``{number}`` counts from 1."""

    answer_cell: str = ""
    """Text per cell for ``{cells}`` of the answer: ``"\\nCell {number}: {sentence}."``."""

    @property
    def prompt_slots(self) -> frozenset[str]:
        """Slots of the prompt and its repeated block."""
        return frozenset(_SLOT.findall(self.prompt + self.cell))

    @property
    def answer_slots(self) -> frozenset[str]:
        """Slots of the answer and its repeated block."""
        return frozenset(_SLOT.findall(self.answer + self.answer_cell))


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompt templates and kind of answer of a task.

    Inference uses the first template; training draws from all.
    """

    name: str
    templates: tuple[Template, ...]
    answer: AnswerKind
    """Decoding of ``"sentences"`` and ``"genes"`` is restricted to genes by default; labels come from a closed set."""

    target: str | None = None
    """Slot of the answer."""

    column: str | None = None
    """obs column of the answer, for tasks that were made from its name (:func:`cell2sen.tasks.column_task`)."""

    parts: tuple[Task, ...] = ()
    """Of a joint answer: the task of each column; its target is a slot of the answer."""

    cells: tuple[int, int] | None = None
    """Minimum and maximum number of cells in a sample, for tasks whose prompt or answer has ``{cells}``."""

    space: SpaceSamples | None = None
    """Samples of cells with coordinates that the task is of (:mod:`cell2sen.data.space.samples`)."""

    source: str = "cell2sen"
    """Origin of the templates, for the provenance and for comparison with those that a checkpoint was trained on."""

    defaults: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError(f"task {self.name!r} has no template")
        for template in self.templates:
            if ("{cells}" in template.prompt) != bool(template.cell):
                raise ValueError(
                    f"task {self.name!r}: a template must have both {{cells}} in prompt= and cell=, or neither"
                )

    @property
    def answered(self) -> tuple[Task, ...]:
        """Tasks of single answers: the parts of a joint answer in the order of the answer, else the task itself."""
        answer = self.templates[0].answer
        return tuple(sorted(self.parts, key=lambda part: answer.find(f"{{{part.target}}}"))) or (self,)

    @property
    def answer_names(self) -> list[str]:
        """Columns and slots of the answers, which must not be in the prompt."""
        return [name for part in self.answered for name in (part.column, part.target) if name]

    @property
    def is_of_columns(self) -> bool:
        """Whether the task was made from names of obs columns."""
        return self.column is not None or bool(self.parts)

    @property
    def slots(self) -> frozenset[str]:
        """Slots of the prompt that the caller fills."""
        return self.templates[0].prompt_slots - set(BUILT_IN_SLOTS)

    @property
    def reads_cells(self) -> bool:
        """Whether the prompt has a cell sentence, of one cell or several."""
        return "genes" in self.templates[0].prompt_slots

    @property
    def reads_samples(self) -> bool:
        """Whether the prompt has cell sentences of several cells."""
        return "{genes}" in self.templates[0].cell

    @property
    def slots_of_cells(self) -> frozenset[str]:
        """Slots within the repeated block of the prompt, which have one value per cell of a sample."""
        return frozenset(_SLOT.findall(self.templates[0].cell)) & self.slots

    @property
    def template_hash(self) -> str:
        """SHA-256 over all templates, 16 hex digits; part of the provenance."""
        payload = [
            [template.prompt, template.answer, *filter(None, [template.cell, template.answer_cell])]
            for template in self.templates
        ]
        return hashlib.sha256(json.dumps(payload).encode()).hexdigest()[:16]

    def prompt(
        self,
        *,
        genes: Sequence[str] = (),
        cells: Mapping[str, Sequence[str]] | None = None,
        organism: str = "Homo sapiens",
        key: str = "",
        answer_genes: int | None = None,
        variant: int = 0,
        context: str = "",
        **slots: str | Sequence[str],
    ) -> Prompt:
        """Prompt from template number `variant`.

        Parameters
        ----------
        genes
            Genes of the cell, for templates with ``{genes}``.
        cells
            Name and genes of each cell of a sample, for templates with ``{cells}``.
        key
            Name of the row, which seeds its sampling.
        answer_genes
            Number of genes in the answer, for answers that are gene lists.
        context
            Text in front of the template (:func:`cell2sen.prompt.context_line`); empty for none.
        **slots
            Text, or for a gene set its genes. Slots within the repeated block: one value, or one per cell.

        Raises
        ------
        KeyError
            A slot of the template has no value; lists the given ones.
        """
        template = self.templates[variant]
        cells = {key: genes} if cells is None else cells
        values: dict[str, Any] = {**self.defaults, **slots, "organism": scientific_name(organism)}
        values |= {"n_cells": str(len(cells)), "genes": Genes(symbols=_symbols(genes), cell=key)}
        segments: list[str | Genes] = [context]
        for literal, slot in _parts(template.prompt):
            segments.append(literal)
            if slot == "cells":
                for number, (name, symbols) in enumerate(cells.items()):
                    per_cell = {slot: _of_cell(value, number) for slot, value in values.items()}
                    per_cell |= {"number": str(number + 1), "genes": Genes(symbols=_symbols(symbols), cell=name)}
                    for text, inner in _parts(template.cell):
                        segments += [text, *self._filled(inner, per_cell)]
            else:
                segments += self._filled(slot, values)
        return Prompt(segments=_merged(segments), key=key, answer_genes=answer_genes)

    def prompts(
        self,
        sentences: Sentences,
        rows: Sequence[int] | Sequence[Sequence[int]] | Sequence[NDArray[np.int64]] | NDArray[np.int64],
        *,
        length: int | None = None,
        answer_genes: Sequence[int] | NDArray[np.int64] | None = None,
        slots: Sequence[Mapping[str, Any]] | None = None,
        variants: Sequence[int] | None = None,
        contexts: Sequence[str] | None = None,
    ) -> list[Prompt]:
        """Prompts of a dataset, one per cell or per sample of cells.

        Parameters
        ----------
        rows
            Row numbers of cells; for tasks of samples, those of each sample.
        length
            Maximum number of genes per cell. All cells of a sample have as many as its shortest sentence.
        answer_genes, slots, variants, contexts
            One entry per prompt, as for :meth:`prompt`.

        Returns
        -------
        Prompts in the order of `rows`, each named after its cell, or after the first cell of its sample.

        Raises
        ------
        KeyError
            A slot of the template has no value.
        ValueError
            Two cells of a sample have the same name.
        """
        lists = sentences.gene_lists(length)
        prompts: list[Prompt] = []
        for position, row in enumerate(rows):
            cells = [int(cell) for cell in np.atleast_1d(row)]
            names = [str(sentences.names[cell]) for cell in cells]
            if len(set(names)) < len(names):
                raise ValueError(f"the cells of a sample must have different names, found {names}")
            genes: dict[str, Any] = {"genes": lists[cells[0]]}
            if self.reads_samples:
                shortest = min(len(lists[cell]) for cell in cells)
                genes = {"cells": {name: lists[cell][:shortest] for name, cell in zip(names, cells, strict=True)}}
            prompts.append(
                self.prompt(
                    **genes,
                    organism=sentences.organism[cells[0]],
                    key=names[0],
                    answer_genes=None if answer_genes is None else int(answer_genes[position]),
                    variant=0 if variants is None else variants[position],
                    context="" if contexts is None else contexts[position],
                    **(slots[position] if slots is not None else {}),
                )
            )
        return prompts

    def complete(self, *, variant: int = 0, n_cells: int = 1, **slots: str | Sequence[str]) -> str:
        """Text of the correct answer, with its leading space and final full stop.

        A slot within the repeated block has one value for each of `n_cells` cells; a gene list is joined by spaces.
        """
        template = self.templates[variant]
        blocks = [
            self._text(template.answer_cell, {name: _of_cell(value, number) for name, value in slots.items()}, number)
            for number in range(n_cells)
        ]
        return self._text(template.answer, {**slots, "cells": "".join(blocks)})

    def openings(self, n_cells: int = 1, variant: int = 0) -> list[str]:
        """Text before each part of an answer (each cell's, or each column's), and after the last part."""
        values: dict[str, Any] = {str(part.target): "\0" for part in self.answered}
        return self.complete(variant=variant, n_cells=n_cells, **values).split("\0")

    def parse(self, text: str, vocabulary: Collection[str] = ()) -> Any:
        """Parsed answer.

        Returns
        -------
        By kind of answer: ``"label"`` and ``"text"`` a str; ``"labels"`` a tuple of str, one per cell; ``"joint"`` the
        same, one per column, empty if the text has another form;
        ``"number"`` a float, or ``None`` for other answers;
        ``"yes_no"`` a bool, or ``None`` for neither; ``"genes"`` a :class:`~cell2sen.answer.ParsedSentence`;
        ``"sentences"`` a tuple of them, one per cell.
        """
        block, target = self.templates[0].answer_cell, self.target or ""
        if self.answer == "sentences":
            parts = parse_blocks(text, block, target) if block else (text,)
            return tuple(parse_sentence(part, vocabulary) for part in parts)
        if self.answer == "labels":
            return tuple(parse_label(part) for part in parse_blocks(text, block, target))
        if self.answer == "joint":
            between = [rf"\s*{re.escape(opening.strip())}\s*" for opening in self.openings()]
            found = re.fullmatch("(.+?)".join(between[:-1]) + f"(.+?){between[-1]}?", text.strip())
            return () if found is None else tuple(map(parse_label, found.groups()))
        return _PARSERS[self.answer](text, vocabulary)

    def reworded(self, templates: Sequence[Template], source: str) -> Task:
        """This task with other templates.

        Raises
        ------
        ValueError
            No template, or one that lacks the cell sentence or a slot of this task, has an unknown slot, or has the
            cell sentence more than once.
        """
        if not templates:
            raise ValueError(f"task {self.name!r} needs at least one template, found none")
        own = self.templates[0]
        optional = {"n_genes", "organism"} | ({"n_cells", "number"} if self.cells or own.cell else set())
        for template in templates:
            for part, text, needed, present in (
                ("prompt", template.prompt, own.prompt_slots, template.prompt_slots),
                ("answer", template.answer, own.answer_slots, template.answer_slots),
            ):
                where = f"task {self.name!r}: the {part} {text[:80]!r}"
                if unknown := sorted(present - needed - optional):
                    raise ValueError(f"{where} has unknown slots {unknown}; available: {sorted(needed | optional)}")
                if missing := sorted(needed - optional - present):
                    raise ValueError(f"{where} lacks the slots {missing}")
            if max(template.prompt.count("{genes}"), template.cell.count("{genes}")) > 1:
                raise ValueError(
                    f"task {self.name!r}: the prompt {template.prompt[:80]!r} has {{genes}} more than once"
                )
        return replace(self, templates=tuple(templates), source=source)

    def _filled(self, slot: str, values: Mapping[str, Any]) -> list[str | Genes]:
        """The segment of one slot."""
        if slot == "":
            return []
        if slot == "n_genes":
            return [N_GENES]
        value = self._value(slot, values)
        if isinstance(value, str):
            return [as_it_is(value)]
        if isinstance(value, Genes):
            return [value]
        return [Genes(symbols=_symbols(value))] if isinstance(value, Sequence) else [str(value)]

    def _text(self, template: str, values: Mapping[str, Any], number: int = 0) -> str:
        """Part of an answer with its slots filled."""
        values = {**values, "number": str(number + 1)}
        parts = [(literal, self._value(slot, values) if slot else "") for literal, slot in _parts(template)]
        return "".join(literal + (value if isinstance(value, str) else " ".join(value)) for literal, value in parts)

    def _value(self, slot: str, values: Mapping[str, Any]) -> Any:
        if slot not in values:
            given = sorted(set(values) - set(BUILT_IN_SLOTS) | ({"organism"} & set(values)))
            raise KeyError(f"task {self.name!r} needs a value for {slot!r}; given: {given}")
        return values[slot]


_PARSERS: dict[str, Any] = {
    "label": lambda text, _: parse_label(text),
    "text": lambda text, _: text.strip(),
    "number": lambda text, _: parse_number(text),
    "yes_no": lambda text, _: parse_yes_no(text),
    "genes": parse_sentence,
}


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """``(text, slot that follows it)``; the last slot is empty."""
    pieces = _SLOT.split(template)
    yield from zip(pieces[::2], [*pieces[1::2], ""], strict=True)


def _of_cell(value: Any, number: int) -> Any:
    """Value of one cell; `value` itself if it is the same for all cells."""
    return value if isinstance(value, str | Genes) else value[number]


def _symbols(genes: Sequence[str]) -> tuple[str, ...] | GeneList:
    return genes if isinstance(genes, GeneList) else tuple(genes)


def _merged(segments: Sequence[str | Genes]) -> tuple[str | Genes, ...]:
    """Segments with neighbouring texts joined and empty ones dropped."""
    merged: list[str | Genes] = []
    for segment in segments:
        if isinstance(segment, str) and merged and isinstance(merged[-1], str):
            merged[-1] += segment
        elif segment != "":
            merged.append(segment)
    return tuple(merged)
