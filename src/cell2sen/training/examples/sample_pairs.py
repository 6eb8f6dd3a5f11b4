"""Training pairs of samples: one label or text, a label for each cell, or the cells themselves as answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt
from cell2sen.sentences.samples import draw_samples, split_into_samples
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.draws import Draw
from cell2sen.training.examples.pair import Pair, PairOfCells


def pairs_of_samples(
    cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64], length: int
) -> Iterator[Pair]:
    """Pairs of samples of cells; their size is random within the task's limits, and the same in the whole draw.

    Cells of a sample share organism, value in the column of the slot ``<task>_sample`` (or else ``sample``), and the
    values of all slots and answers that are not of single cells. Each cell is in one sample at most, and all cells of a
    sample have the same number of genes. There are no pairs if no group has enough cells.
    """
    assert task.cells is not None
    fewest, most = task.cells
    n_cells = int(drawn.generator.integers(fewest, most + 1))
    of_cells = {slot: cells.values(slot, drawn.number) for slot in sorted(task.slots_of_cells)}
    if task.answer == "labels":
        of_cells[str(task.target)] = cells.values(str(task.target), drawn.number)
    own = f"{task.name}_sample"
    shared = [
        own if own in cells.data.columns else "sample",
        *([] if task.answer in ("labels", "sentences") else [str(task.target)]),
    ]
    columns = {slot: cells.values(slot, drawn.number) for slot in (*shared, *sorted(task.slots - set(of_cells)))}
    groups: list[tuple[str, ...] | None] = [None] * len(cells.names)
    for row in rows:
        values = tuple(column[row] for column in columns.values())
        alone = [column[row] for column in of_cells.values()]
        groups[row] = None if None in (*values, *alone) else (cells.organism[row], *values)
    sizes = Counter(group for group in groups if group is not None)
    if max(sizes.values(), default=0) < fewest:
        return
    seed = int(drawn.generator.integers(2**32))
    # Equal sizes use all cells, but a group of 3 cells is no sample of exactly 2.
    split = draw_samples if fewest == most else split_into_samples
    samples = split(groups, cells.names, n_cells=n_cells, min_cells=fewest, seed=seed)
    contexts = drawn.context_lines(task, samples) or [""] * len(samples)
    slots = [
        {slot: columns[slot][sample[0]] for slot in task.slots if slot in columns}
        | {slot: list(of_cells[slot][sample]) for slot in task.slots if slot in of_cells}
        for sample in samples
    ]
    variants = [drawn.variant(task) for _ in samples]
    if task.answer == "sentences":
        yield from _of_sentences(task, drawn, samples, slots, variants, contexts, length)
        return
    # Together, since the gene lists of all cells are made for each call.
    prompts = task.prompts(drawn.sentences, samples, length=length, slots=slots, variants=variants, contexts=contexts)
    target = str(task.target)
    for sample, prompt, variant in zip(samples, prompts, variants, strict=True):
        answer = list(of_cells[target][sample]) if task.answer == "labels" else columns[target][sample[0]]
        if task.answer == "text":
            answer = as_line(str(answer), ends=task.templates[variant].answer.endswith("}"))
        filled: dict[str, Any] = {target: answer}
        yield Pair(task.name, prompt, task.complete(variant=variant, n_cells=len(sample), **filled))


def _of_sentences(
    task: Task,
    drawn: Draw,
    samples: Sequence[NDArray[np.int64]],
    slots: Sequence[Mapping[str, Any]],
    variants: Sequence[int],
    contexts: Sequence[str],
    length: int,
) -> Iterator[Pair]:
    """Pairs whose answers are the cells of samples."""
    lists = drawn.sentences.gene_lists(length)
    for sample, values, variant, context in zip(samples, slots, variants, contexts, strict=True):
        names = [str(drawn.sentences.names[row]) for row in sample]
        genes: list[Sequence[str]] = [lists[row] for row in sample]
        prompt = task.prompt(
            cells=dict.fromkeys(names, ()),
            organism=drawn.sentences.organism[sample[0]],
            key=names[0],
            answer_genes=min(map(len, genes)),
            variant=variant,
            context=context,
            **values,
        )
        write = partial(_with_genes, task, prompt, genes, variant)
        yield PairOfCells.of(task.name, write, min(map(len, genes)), names)


def _with_genes(
    task: Task, prompt: Prompt, genes: Sequence[Sequence[str]], variant: int, n_genes: int
) -> tuple[Prompt, str]:
    """Prompt and answer with this number of genes per cell."""
    filled: dict[str, Any] = {str(task.target): [list(symbols[:n_genes]) for symbols in genes]}
    completion = task.complete(variant=variant, n_cells=len(genes), **filled)
    return replace(prompt, answer_genes=n_genes), completion


def as_line(text: str, *, ends: bool = True) -> str:
    """A text to be learned in one line.

    If it `ends` the answer, with a full stop unless it has other punctuation there; otherwise without, as the template
    has one.
    """
    line = " ".join(text.split())
    if not ends:
        return line.removesuffix(".")
    return line if line.endswith((".", "!", "?")) else f"{line}."
