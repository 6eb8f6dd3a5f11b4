"""Training pairs of cells in space: same neighbourhood or niche, a further neighbour; ligands and receptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.space.interactions import read_interactions
from cell2sen.data.space.samples import SpaceCells, draw_samples
from cell2sen.prompt import Prompt
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.draws import Draw


def prompts_of_space(
    cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64], length: int
) -> Iterator[tuple[Prompt, str, list[str]]]:
    """Prompts, answers and names of the cells of a draw, for samples around `rows`, each of one side of the split.

    The number of cells is random, within the limits of the task and of the settings, and the same in the whole draw.

    Raises
    ------
    ValueError
        The training file has no settings of space, or no obs column of the niche where the task needs it.
    """
    settings, space = cells.data.matrix.space, cells.space
    if settings is None or space is None or task.space is None or task.cells is None:
        raise ValueError(
            f"task {task.name!r} on {cells.data.file} needs the neighbourhoods of the cells, such as matrix: "
            "{space: {radius: 50}}, or {space: {}} for a stored graph"
        )
    least, most = task.cells
    most = min(most, max(least, settings.n_cells))
    n_cells = int(drawn.generator.integers(least, most + 1))
    names, usable = cells.names, np.zeros(len(cells.test), dtype=bool)
    usable[drawn.side] = True
    sampled = draw_samples(
        task.space,
        SpaceCells(
            names=names,
            neighbourhoods=space.neighbourhoods,
            usable=usable,
            sections=space.sections,
            niches=cells.values("niche") if task.space == "same_niche" else None,
        ),
        n_cells=n_cells,
        seed=int(drawn.generator.integers(2**32)),
        centres=rows,
    )
    lists = drawn.sentences.gene_lists(length)
    answers: list[dict[str, Any]] = [
        {str(task.target): sample.answer if sample.target is None else lists[sample.target]} for sample in sampled
    ]
    sizes = [0 if sample.target is None else len(lists[sample.target]) for sample in sampled]
    variants = [drawn.variant(task) for _ in sampled]
    prompts = task.prompts(
        drawn.sentences,
        [sample.cells for sample in sampled],
        length=length,
        answer_genes=sizes if task.answer == "sentences" else None,
        variants=variants,
        contexts=drawn.context_lines(task, [sample.cells for sample in sampled]),
    )
    for prompt, answer, variant, sample in zip(prompts, answers, variants, sampled, strict=True):
        written = [] if sample.target is None else [sample.target]
        yield prompt, task.complete(variant=variant, **answer), [names[cell] for cell in [*sample.cells, *written]]


def prompts_of_interactions(cells: TrainingCells, task: Task, drawn: Draw) -> Iterator[tuple[Prompt, str]]:
    """Prompts and answers of a draw of a table of ligands and receptors, all in the training; none are held out.

    In the last draw of a fractional number they are a random share.

    Raises
    ------
    ValueError
        The training file names no table.
    """
    settings = cells.data.matrix.space
    if settings is None or settings.interactions is None:
        raise ValueError(
            f"task {task.name!r} on {cells.data.file} needs a table of ligands and receptors, such as matrix: "
            "{space: {interactions: pairs.csv}}"
        )
    if drawn.held_out:
        return
    share = cells.data.tasks[task.name] - drawn.number
    organism = str(cells.organism[0])
    for ligand, receptors in read_interactions(cells.base / settings.interactions, cells.symbols).items():
        if drawn.generator.random() < share:
            variant = drawn.variant(task)
            prompt = task.prompt(
                organism=organism, ligand=ligand, key=ligand, answer_genes=len(receptors), variant=variant
            )
            yield prompt, task.complete(variant=variant, receptors=receptors)
