"""Prompts with references: the real cells that rewards compare written sentences with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt
from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.draws import ChosenCells, Draw, sources


@dataclass(frozen=True, kw_only=True)
class ReferencedPrompt:
    """A prompt for a sentence, and the genes of real cells that its answers are compared with."""

    task: str
    file: str
    """File of the cells; answers may have its genes."""

    prompt: Prompt
    truth: tuple[str, ...]
    """Genes of the real cells in descending order, as many as the answer has."""

    control: tuple[str, ...]
    """The same for controls; empty for tasks without controls."""


def prompts_with_references(
    cells: TrainingCells,
    tasks: Mapping[str, Task],
    *,
    draw: int,
    held_out: bool,
    lengths: Mapping[str, int],
    augmentation: Augmentation,
    seed: int,
    truth: str = "mean",
) -> Iterator[ReferencedPrompt]:
    """Prompts of one draw: one for each sentence task and each cell of one side of the split that it applies to.

    Parameters
    ----------
    truth
        ``"mean"``: the reference is the mean of all real cells of the same side, context and perturbation (or type),
        its control the mean of the controls of that context. ``"cell"``: the reference is one cell, its control the one
        in the prompt; this is noisier and keeps the variety of cells.

    Raises
    ------
    ValueError
        The answer of a task is not a sentence, or several.
    """
    drawn = Draw(cells, draw, held_out, augmentation.of_answers, [seed, draw, 2])
    for name in cells.data.tasks:
        task = tasks[name]
        if task.answer != "sentences":
            raise ValueError(
                f"rewards compare cell sentences, but the answer of task {name!r} is of the kind {task.answer!r}; "
                "choose perturb or generate, or leave out grpo:"
            )
        if task.cells is not None:
            raise ValueError(f"rewards compare single cells, but task {name!r} writes several; leave out grpo:")
        rows = drawn.rows(name)
        references = _References(cells, task, drawn.side) if truth == "mean" else None
        yield from _prompts_of_task(cells, task, drawn, rows, lengths[name], references)


def _prompts_of_task(
    cells: TrainingCells,
    task: Task,
    drawn: Draw,
    rows: NDArray[np.int64],
    length: int,
    references: _References | None,
) -> Iterator[ReferencedPrompt]:
    slots = {slot: cells.values(slot) for slot in sorted(task.slots)}
    lists = drawn.sentences.gene_lists()
    if not task.reads_cells:
        rows = np.array([cell for cell in rows if cells.is_control(cell)], dtype=np.int64)
    chosen = ChosenCells(drawn)
    sides: list[tuple[Sequence[str], Sequence[str]]] = []
    for source, cell in sources(cells, task, drawn, rows):
        values = {slot: column[cell] for slot, column in slots.items()}
        if None in values.values():
            continue
        truth: Sequence[str] = lists[cell] if references is None else references.of(cell)
        control: Sequence[str] = lists[source] if references is None else references.of(source)
        n_genes = min(length, len(lists[source] if task.reads_cells else truth))
        chosen.add(source, cell, values, drawn.variant(task), n_genes)
        sides.append((truth[:n_genes], control[:n_genes] if task.reads_cells else ()))
    for prompt, (after, before) in zip(chosen.prompts(task, length), sides, strict=True):
        yield ReferencedPrompt(
            task=task.name, file=cells.data.file, prompt=prompt, truth=tuple(after), control=tuple(before)
        )


class _References:
    """Mean sentences of the groups of cells of one side of the split, each computed once."""

    def __init__(self, cells: TrainingCells, task: Task, side: NDArray[np.int64]) -> None:
        self.cells = cells
        self.reads_cells = task.reads_cells
        self.context = cells.contexts()
        slots = [cells.values(slot) for slot in sorted(task.slots)]
        self.values = [tuple(column[cell] for column in slots) for cell in range(len(cells.test))]
        self.members: dict[Any, list[int]] = {}
        for cell in map(int, side):
            self.members.setdefault(self._group(cell), []).append(cell)
        self.means: dict[Any, list[str]] = {}

    def of(self, cell: int) -> list[str]:
        """Mean sentence of the group of a cell."""
        group = self._group(cell)
        if group not in self.means:
            self.means[group] = mean_sentence(self.cells, self.members[group])
        return self.means[group]

    def _group(self, cell: int) -> Any:
        control = self.cells.is_control(cell)
        if not self.reads_cells:
            return control, self.values[cell]
        return self.context[cell], None if control else self.values[cell]


def mean_sentence(cells: TrainingCells, rows: Sequence[int]) -> list[str]:
    """Mean sentence of some cells: genes that any of them expresses, in descending mean log10(1 + CP10k)."""
    chosen: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)
    matrix = cells.matrix[chosen].copy()
    matrix.data = cells.scale.log10_cp10k(matrix.data, np.repeat(cells.totals[chosen], np.diff(matrix.indptr)))
    values: NDArray[Any] = np.asarray(matrix.mean(axis=0)).ravel()
    order = np.argsort(-values, kind="stable")
    return [cells.symbols[gene] for gene in order[: int(np.sum(values > 0))]]
