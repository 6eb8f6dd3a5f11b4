"""Draws: the cells, genes and prompts of one pass over a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt, context_line
from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells


class Draw:
    """One draw of the sentences of a file, and the random choices for one side of the split.

    Parameters
    ----------
    number
        Number of the draw, from 0.
    held_out
        Held-out cells, or else training cells.
    seeds
        Seeds of the random choices; the first is also the seed of the sentences.
    """

    def __init__(
        self, cells: TrainingCells, number: int, held_out: bool, augmentation: Augmentation, seeds: list[int]
    ) -> None:
        self.cells, self.number, self.held_out = cells, number, held_out
        self.generator = np.random.default_rng(seeds)
        self.context, self.context_dropout = cells.prompt_context, augmentation.context_dropout
        self.sentences = cells.sentences(number, augmentation, seeds[0])
        #: Cells of this side of the split that have genes.
        self.side = np.flatnonzero((cells.test == held_out) & (self.sentences.n_genes > 0))

    def rows(self, task: str) -> NDArray[np.int64]:
        """Cells drawn for a task: all; a random share in the last draw of a fractional number; none after that."""
        share = 1.0 if self.held_out else self.cells.data.tasks[task] - self.number
        return self.side if share >= 1 else self.side[self.generator.random(len(self.side)) < share]

    def context_lines(self, task: Task, rows: Sequence[int] | Sequence[NDArray[np.int64]]) -> list[str] | None:
        """Context of the prompts of cells or samples; of a sample the values that its cells share."""
        if not self.context:
            return None
        names = self.cells.context_of(task)
        kept = np.ones((len(rows), len(names)), dtype=bool)
        if self.context_dropout:
            kept = self.generator.random(kept.shape) >= self.context_dropout
        lines = []
        for row, keep in zip(map(np.asarray, rows), kept, strict=True):
            values = self.context.shared(np.atleast_1d(row))
            lines.append(context_line({name: values[name] for name, has in zip(names, keep, strict=True) if has}))
        return lines

    def variant(self, task: Task) -> int:
        """Number of a randomly chosen template."""
        return int(self.generator.integers(len(task.templates))) if len(task.templates) > 1 else 0


class ChosenCells:
    """Rows of a draw for which prompts are built."""

    def __init__(self, drawn: Draw) -> None:
        self.drawn, self.sentences = drawn, drawn.sentences
        self.sources: list[int] = []
        self.cells: list[int] = []
        self.slots: list[Mapping[str, Any]] = []
        self.variants: list[int] = []
        self.n_genes: list[int] = []

    def add(self, source: int, cell: int, slots: Mapping[str, Any], variant: int, n_genes: int) -> None:
        """Add a prompt with the genes of `source`, whose answer is of `cell` and has `n_genes` genes."""
        self.sources.append(source)
        self.cells.append(cell)
        self.slots.append(slots)
        self.variants.append(variant)
        self.n_genes.append(n_genes)

    def prompts(self, task: Task, length: int) -> list[Prompt]:
        """Prompts for the chosen cells; keys are names of the answers' cells, contexts those of the prompts'."""
        answers, prompts = self.sentences[np.array(self.cells, dtype=np.int64)], range(len(self.cells))
        sources = self.sentences[np.array(self.sources, dtype=np.int64)]
        named = replace(sources, names=answers.names, organism=answers.organism)
        return task.prompts(
            named,
            prompts,
            length=length,
            answer_genes=self.n_genes,
            slots=self.slots,
            variants=self.variants,
            contexts=self.drawn.context_lines(task, self.sources),
        )


def sources(cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of the cell whose genes are in the prompt and the cell of the answer."""
    if task.answer == "sentences" and task.reads_cells:
        return control_pairs(cells, drawn, rows)
    return ((cell, cell) for cell in map(int, rows))


def control_pairs(cells: TrainingCells, drawn: Draw, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of a random control and a perturbed cell of `rows`, of the same context and side of the split.

    With a name for no perturbation (`no_perturbation`) also pairs of a random control and another control of `rows`.
    """
    assert cells.perturbation is not None
    context, generator = cells.contexts(), drawn.generator
    controls: dict[tuple[str | None, ...], list[int]] = {}
    for cell in map(int, drawn.side):
        if cells.is_control(cell) and None not in context[cell]:
            controls.setdefault(context[cell], []).append(cell)
    for cell in map(int, rows):
        if cells.perturbation[cell] is None or context[cell] not in controls:
            continue
        candidates = controls[context[cell]]
        if not cells.is_control(cell):
            yield int(generator.choice(candidates)), cell
        elif cells.data.no_perturbation and len(candidates) > 1:
            source = int(generator.choice(candidates))
            while source == cell:
                source = int(generator.choice(candidates))
            yield source, cell
