"""Training examples: prompt/completion pairs of cells and of samples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.draws import ChosenCells, Draw, sources
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.examples.pair import Pair, PairOfCells
from cell2sen.training.examples.references import ReferencedPrompt, prompts_with_references
from cell2sen.training.examples.sample_pairs import as_line, pairs_of_samples
from cell2sen.training.examples.space import prompts_of_interactions, prompts_of_space

__all__ = ["Examples", "Pair", "pairs"]

#: Added to the seed from one file to the next, so that files draw independently.
SEED_STEP = 7919

#: Kinds of answers that are read from an obs column.
_COLUMN_ANSWERS = ("label", "number", "yes_no", "text", "joint")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """All examples of a training run: the cells of its files, its tasks and their sentence lengths."""

    cells: Mapping[str, TrainingCells]
    """File → its cells."""

    tasks: Mapping[str, Task]
    lengths: Mapping[str, int]
    """Task → genes per sentence."""

    sets: Mapping[str, TrainingSets] = field(default_factory=dict)
    """GMT file → its gene sets."""

    def pairs(self, config: TrainConfig, *, held_out: bool) -> list[Pair]:
        """Pairs of all draws; of held-out cells ``checkpoints.eval_pairs`` random ones, equally many per task."""
        drawn: list[Pair] = self._drawn(pairs, config, held_out)
        for number, file in enumerate(self.sets.values()):
            for draw in range(1 if held_out else file.n_draws):
                seed = config.seed + SEED_STEP * number
                drawn += (
                    Pair(*pair)
                    for pair in file.pairs(self.tasks, draw=draw, held_out=held_out, lengths=self.lengths, seed=seed)
                )
        if not held_out:
            return drawn
        generator = np.random.default_rng(config.seed)
        shuffled = [drawn[place] for place in generator.permutation(len(drawn))]
        per_task = config.checkpoints.eval_pairs // max(1, len({pair.task for pair in drawn}))
        return [pair for name in self.tasks for pair in [pair for pair in shuffled if pair.task == name][:per_task]]

    def prompts(self, config: TrainConfig, *, held_out: bool) -> list[ReferencedPrompt]:
        """Prompts in the order of the training steps; of held-out cells ``grpo.answers.held_out`` random ones."""
        grpo = config.grpo
        assert grpo is not None
        drawn: list[ReferencedPrompt] = self._drawn(
            functools.partial(prompts_with_references, truth=grpo.truth), config, held_out
        )
        generator = np.random.default_rng(config.seed)
        if held_out or not drawn:
            return [drawn[place] for place in generator.permutation(len(drawn))[: grpo.answers.held_out]]
        steps, per_step = config.optimiser.max_steps, grpo.answers.prompts
        n = steps * per_step if steps > 0 else round(config.optimiser.epochs * len(drawn))
        passes = [generator.permutation(len(drawn)) for _ in range(-(-n // len(drawn)))]
        return [drawn[place] for place in np.concatenate(passes)[: n - n % per_step]]

    def _drawn(self, draws: Callable[..., Iterator[Any]], config: TrainConfig, held_out: bool) -> list[Any]:
        """Results of `draws` for each file and each draw; held-out cells are drawn once, without augmentation."""
        rows: list[Any] = []
        for number, file in enumerate(self.cells.values()):
            for draw in range(1 if held_out else file.n_draws):
                rows += draws(
                    file,
                    self.tasks,
                    draw=draw,
                    held_out=held_out,
                    lengths=self.lengths,
                    seed=config.seed + SEED_STEP * number,
                    augmentation=Augmentation() if held_out else config.data.augmentation,
                )
        return rows


def pairs(
    cells: TrainingCells,
    tasks: Mapping[str, Task],
    *,
    draw: int,
    held_out: bool,
    lengths: Mapping[str, int],
    augmentation: Augmentation,
    seed: int,
) -> Iterator[Pair]:
    """Pairs of the cells of one side of the split, in one draw.

    Parameters
    ----------
    lengths
        Genes per sentence for each task.

    Raises
    ------
    ValueError
        A task needs an obs column that the training file does not name, or cannot be learned from pairs.
    """
    drawn_of = {
        written: Draw(cells, draw, held_out, augmentation.of_answers if written else augmentation, [seed, draw, number])
        for written, number in ((False, 1), (True, 3))
        if written in {tasks[name].answer == "sentences" for name in cells.data.tasks}
    }
    for name in cells.data.tasks:
        drawn = drawn_of[tasks[name].answer == "sentences"]
        if tasks[name].space is not None:
            of_space = prompts_of_space(cells, tasks[name], drawn, drawn.rows(name), lengths[name])
            yield from (PairOfCells.named(name, *pair) for pair in of_space)
            continue
        if tasks[name].slots == {"ligand"}:
            of_table = prompts_of_interactions(cells, tasks[name], drawn)
            yield from (Pair(name, prompt, completion) for prompt, completion in of_table)
            continue
        _check_learnable(tasks[name])
        pairs_of = pairs_of_samples if tasks[name].cells is not None else _pairs_of_task
        yield from pairs_of(cells, tasks[name], drawn, drawn.rows(name), lengths[name])


def _check_learnable(task: Task) -> None:
    """Raise a ValueError unless the answer is read from an obs column or is a cell's sentence."""
    if task.answer == "none":
        raise ValueError(f"task {task.name!r} has no answer to be learned")
    learnable = [*_COLUMN_ANSWERS, "sentences", *(["labels"] if task.cells is not None else [])]
    if task.answer not in learnable:
        raise ValueError(
            f"task {task.name!r} cannot be learned from cells: its answer is of the kind {task.answer!r}; available: "
            f"{learnable}"
        )
    if task.answer == "sentences" and task.reads_cells and "perturbation" not in task.slots:
        raise ValueError(f"task {task.name!r}: sentences are learned from labels, or from controls and a perturbation")


def _pairs_of_task(
    cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64], length: int
) -> Iterator[Pair]:
    columns = cells.answers_of_parts(task, drawn.number) if task.answer in _COLUMN_ANSWERS else None
    targets = [str(part.target) for part in task.answered]
    slots = {slot: cells.values(slot, drawn.number) for slot in sorted(task.slots)}
    lists = drawn.sentences.gene_lists(length)
    chosen = ChosenCells(drawn)
    completions = []
    for source, cell in sources(cells, task, drawn, rows):
        values = {slot: column[cell] for slot, column in slots.items()}
        if task.reads_cells and "perturbation" in values and cells.is_control(cell):
            values["perturbation"] = cells.data.no_perturbation
        answers = [column[cell] for column in columns or ()]
        if None in values.values() or None in answers:
            continue
        variant = drawn.variant(task)
        if columns is None and not task.reads_cells and not cells.is_control(cell):
            continue
        if task.answer == "text":
            answers = [as_line(str(answers[0]), ends=task.templates[variant].answer.endswith("}"))]
        filled = {"sentence": lists[cell]} if columns is None else dict(zip(targets, answers, strict=True))
        completions.append(task.complete(variant=variant, **filled))
        chosen.add(source, cell, values, variant, len(lists[cell]))
    names, places = drawn.sentences.names, zip(chosen.sources, chosen.cells, strict=True)
    for prompt, completion, (source, cell) in zip(chosen.prompts(task, length), completions, places, strict=True):
        pair = Pair(task.name, prompt, completion)
        yield pair if source == cell else PairOfCells.named(*pair, [str(names[source]), str(names[cell])])
