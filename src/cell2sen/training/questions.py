"""Prompts for reinforcement learning, each with the real cells that its answers are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt
from cell2sen.task import Task
from cell2sen.training.cells import Augmentation, Cells, contexts
from cell2sen.training.examples import control_pairs


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt that asks for a sentence, and what its answers are compared with."""

    task: str
    file: str
    """Whose genes the answer may have."""

    prompt: Prompt
    truth: tuple[str, ...]
    """As many genes as are asked for, the strongest first."""

    control: tuple[str, ...]
    """The same of the controls; empty for tasks without."""


def questions(
    cells: Cells,
    tasks: Mapping[str, Task],
    *,
    draw: int,
    held_out: bool,
    lengths: Mapping[str, int],
    augmentation: Augmentation,
    seed: int,
    truth: str = "mean",
) -> Iterator[Question]:
    """One question for every cell of one side of the split that a sentence task can be asked about, in one draw.

    Parameters
    ----------
    truth
        ``"mean"``: answers are compared with the mean of all real cells of the same side, context and perturbation (or
        type), and changes are taken from the mean of the controls of that context. ``"cell"``: with one of the cells,
        and the control in the prompt, which is noisier and keeps the variety of cells.

    Raises
    ------
    ValueError
        A task whose answer is no sentence.
    """
    generator = np.random.default_rng([seed, draw, 2])
    sentences = cells.sentences(draw, augmentation, seed)
    side = np.flatnonzero((cells.test == held_out) & np.array([len(sentence) > 0 for sentence in sentences]))
    context = contexts(cells)
    for name in cells.data.tasks:
        task, length = tasks[name], lengths[name]
        if task.answer != "sentences":
            raise ValueError(f"rewards are of cell sentences: task {name!r} answers with a {task.answer}")
        from_genes = "{genes}" in task.templates[0].prompt
        share = 1.0 if held_out else cells.data.draws.get(name, 1.0) - draw
        chosen = side if share >= 1 else side[generator.random(len(side)) < share]
        slots = {slot: cells.values(slot) for slot in sorted(task.slots)}
        asked = [tuple(column[cell] for column in slots.values()) for cell in range(len(sentences))]
        alike: dict[Any, list[int]] = {}
        for cell in map(int, side):
            alike.setdefault(_group(cells, cell, context, asked, from_genes), []).append(cell)
        means: dict[Any, list[str]] = {}

        def mean(group: Any, alike: Any = alike, means: Any = means) -> list[str]:
            if group not in means:
                means[group] = mean_sentence(cells, alike[group])
            found: list[str] = means[group]
            return found

        alone = ((cell, cell) for cell in map(int, chosen) if cells.is_control(cell))
        for source, cell in control_pairs(cells, side, chosen, generator) if from_genes else alone:
            if None in asked[cell]:
                continue
            real, before = sentences[cell], sentences[source]
            if truth == "mean":
                real = mean(_group(cells, cell, context, asked, from_genes))
                before = mean(_group(cells, source, context, asked, from_genes))
            genes = sentences[source][:length] if from_genes else []
            ask = min(length, len(genes) if from_genes else len(real))
            variant = int(generator.integers(len(task.templates))) if len(task.templates) > 1 else 0
            prompt = task.prompt(
                genes=genes, organism=cells.organism[cell], key=cells.names[cell], answer_genes=ask, variant=variant,
                **dict(zip(slots, asked[cell], strict=True)),
            )  # fmt: skip
            yield Question(
                task=name, file=cells.data.file, prompt=prompt, truth=tuple(real[:ask]),
                control=tuple(before[:ask]) if from_genes else (),
            )  # fmt: skip


def mean_sentence(cells: Cells, rows: Sequence[int]) -> list[str]:
    """Genes in the order of their mean ln(1 + CP10k) over some cells, all that any of them expresses."""
    chosen: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)
    matrix = cells.matrix[chosen].copy()
    matrix.data = cells.scale.log10_cp10k(matrix.data, np.repeat(cells.totals[chosen], np.diff(matrix.indptr)))
    values = np.asarray(matrix.mean(axis=0)).ravel()
    order = np.argsort(-values, kind="stable")
    return [cells.symbols[gene] for gene in order[: int(np.sum(values > 0))]]


def _group(cells: Cells, cell: int, context: Any, asked: Any, from_genes: bool) -> Any:
    """What cells have in common that are averaged."""
    if not from_genes:
        return cells.is_control(cell), asked[cell]
    return context[cell], None if cells.is_control(cell) else asked[cell]
