"""Prompt/completion pairs for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt
from cell2sen.task import Task
from cell2sen.training.cells import Augmentation, Cells, contexts


def pairs(
    cells: Cells,
    tasks: Mapping[str, Task],
    *,
    draw: int,
    held_out: bool,
    lengths: Mapping[str, int],
    augmentation: Augmentation,
    seed: int,
) -> Iterator[tuple[str, Prompt, str]]:
    """``(task, prompt, completion)`` for every cell of one side of the split, in one draw.

    Parameters
    ----------
    lengths
        Genes per sentence for each task.

    Raises
    ------
    ValueError
        A task needs an obs column that the training file does not name, or cannot be learned from pairs.
    """
    generator = np.random.default_rng([seed, draw, 1])
    sentences = cells.sentences(draw, augmentation, seed)
    names = cells.names
    everyone = np.flatnonzero((cells.test == held_out) & np.array([len(sentence) > 0 for sentence in sentences]))
    for name in cells.data.tasks:
        task, length = tasks[name], lengths[name]
        share = 1.0 if held_out else cells.data.draws.get(name, 1.0) - draw
        side = everyone if share >= 1 else everyone[generator.random(len(everyone)) < share]
        if task.answer == "none":
            raise ValueError(f"task {name!r} has no answer to be learned")
        from_genes = "{genes}" in task.templates[0].prompt
        if task.answer == "sentences" and from_genes and "perturbation" not in task.slots:
            raise ValueError(f"task {name!r}: sentences are learned from labels, or from controls and a perturbation")
        answers = cells.values(str(task.target)) if task.answer == "label" else None
        slots = {slot: cells.values(slot) for slot in sorted(task.slots)}
        if task.answer == "sentences" and from_genes:
            sources = control_pairs(cells, everyone, side, generator)
        else:
            sources = ((cell, cell) for cell in map(int, side))
        for source, cell in sources:
            values = {slot: column[cell] for slot, column in slots.items()}
            if from_genes and "perturbation" in values and cells.is_control(cell):
                values["perturbation"] = cells.data.no_perturbation
            answer = answers[cell] if answers is not None else None
            if None in values.values() or (answers is not None and answer is None):
                continue
            variant = int(generator.integers(len(task.templates))) if len(task.templates) > 1 else 0
            genes = sentences[source][:length]
            if answer is not None:
                filled = {str(task.target): answer}
            elif not from_genes and not cells.is_control(cell):
                continue
            else:
                filled = {"sentence": " ".join(sentences[cell][:length])}
            asked = min(length, len(sentences[cell]))
            organism = cells.organism[cell]
            prompt = task.prompt(
                genes=genes, organism=organism, key=names[cell], answer_genes=asked, variant=variant, **values
            )
            yield name, prompt, task.complete(variant=variant, **filled)


def control_pairs(
    cells: Cells, everyone: NDArray[np.int64], chosen: NDArray[np.int64], generator: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Each chosen perturbed cell with a random control of the same context, both from the same side of the split.

    Where no perturbation has a name, each chosen control with another control of its context, too.
    """
    assert cells.perturbation is not None
    context = contexts(cells)
    controls: dict[tuple[str, ...], list[int]] = {}
    for cell in everyone:
        if cells.is_control(cell):
            controls.setdefault(context[cell], []).append(cell)
    for cell in chosen:
        if cells.perturbation[cell] is None or context[cell] not in controls:
            continue
        candidates = controls[context[cell]]
        if not cells.is_control(cell):
            yield int(generator.choice(candidates)), int(cell)
        elif cells.data.no_perturbation and len(candidates) > 1:
            source = int(generator.choice(candidates))
            while source == cell:
                source = int(generator.choice(candidates))
            yield source, int(cell)
