"""Training examples: prompt/completion pairs (fine-tuning) and prompts with references (reinforcement learning)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cell2sen.prompt import Prompt
from cell2sen.sentences.samples import split_into_samples
from cell2sen.task import Task
from cell2sen.training.cells import TrainingCells
from cell2sen.training.config.data import Augmentation
from cell2sen.training.config.settings import TrainConfig

#: Added to the seed from one file to the next, so that files draw independently.
SEED_STEP = 7919


class Pair(NamedTuple):
    """A prompt and the answer to be learned."""

    task: str
    prompt: Prompt
    completion: str


@dataclass(frozen=True, kw_only=True)
class ReferencedPrompt:
    """A prompt for a sentence, and the real cells that answers to it are compared with."""

    task: str
    file: str
    """File whose genes the answer may have."""

    prompt: Prompt
    truth: tuple[str, ...]
    """Genes of the real cells in descending order, as many as the answer has."""

    control: tuple[str, ...]
    """The same of the controls; empty for tasks without controls."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """All examples of a training run: the cells of its files, its tasks and their sentence lengths."""

    cells: Mapping[str, TrainingCells]
    """File → its cells."""

    tasks: Mapping[str, Task]
    lengths: Mapping[str, int]
    """Task → genes per sentence."""

    def pairs(self, config: TrainConfig, *, held_out: bool) -> list[Pair]:
        """Pairs of all draws of one side of the split; held out a random `eval_pairs`, equally many per task."""
        drawn: list[Pair] = self._drawn(pairs, config, held_out)
        if not held_out:
            return drawn
        generator = np.random.default_rng(config.seed)
        shuffled = [drawn[place] for place in generator.permutation(len(drawn))]
        per_task = config.checkpoints.eval_pairs // max(1, len({pair.task for pair in drawn}))
        return [pair for name in self.tasks for pair in [pair for pair in shuffled if pair.task == name][:per_task]]

    def prompts(self, config: TrainConfig, *, held_out: bool) -> list[ReferencedPrompt]:
        """Prompts of one side of the split in the order of the training steps; held out a random part of them."""
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
        """Results of `draws` for each file and draw of one side of the split; held-out cells are drawn once."""
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
    """Pairs of every cell of one side of the split, in one draw.

    Parameters
    ----------
    lengths
        Genes per sentence for each task.

    Raises
    ------
    ValueError
        A task needs an obs column that the training file does not name, or cannot be learned from pairs.
    """
    drawn = Draw(cells, draw, held_out, augmentation, [seed, draw, 1])
    for name in cells.data.tasks:
        _check_learnable(tasks[name])
        pairs_of = _pairs_of_samples if tasks[name].reads_samples else _pairs_of_task
        yield from pairs_of(cells, tasks[name], drawn, drawn.rows(name), lengths[name])


def _check_learnable(task: Task) -> None:
    """Raise a ValueError if the task has no answer, or no defined source of the genes of its prompt."""
    if task.answer == "none":
        raise ValueError(f"task {task.name!r} has no answer to be learned")
    if task.reads_samples and task.answer != "label":
        raise ValueError(f"task {task.name!r}: of samples of cells, labels are learned; its answer is {task.answer!r}")
    if task.answer == "sentences" and task.reads_cells and "perturbation" not in task.slots:
        raise ValueError(f"task {task.name!r}: sentences are learned from labels, or from controls and a perturbation")


def _pairs_of_task(
    cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64], length: int
) -> Iterator[Pair]:
    answers = cells.values(str(task.target)) if task.answer == "label" else None
    slots = {slot: cells.values(slot) for slot in sorted(task.slots)}
    lists = drawn.sentences.gene_lists(length)
    chosen = _Chosen(drawn)
    completions = []
    for source, cell in _sources(cells, task, drawn, rows):
        values = {slot: column[cell] for slot, column in slots.items()}
        if task.reads_cells and "perturbation" in values and cells.is_control(cell):
            values["perturbation"] = cells.data.no_perturbation
        answer = answers[cell] if answers is not None else None
        if None in values.values() or (answers is not None and answer is None):
            continue
        variant = drawn.variant(task)
        if answers is None and not task.reads_cells and not cells.is_control(cell):
            continue
        filled = {"sentence": lists[cell]} if answers is None else {str(task.target): answer}
        completions.append(task.complete(variant=variant, **filled))
        chosen.add(source, cell, values, variant, len(lists[cell]))
    for prompt, completion in zip(chosen.prompts(task, length), completions, strict=True):
        yield Pair(task.name, prompt, completion)


def _pairs_of_samples(
    cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64], length: int
) -> Iterator[Pair]:
    """Pairs of samples of one size a draw, random within the task's limits; each cell is in one sample at most.

    The cells of a sample have the same value in the column of the slot ``sample``, and the same answer. There are none
    of a side of the split whose samples are too small.
    """
    assert task.cells is not None
    target, (fewest, most) = str(task.target), task.cells
    n_cells = int(drawn.generator.integers(fewest, most + 1))
    columns = {slot: cells.values(slot) for slot in ("sample", target, *sorted(task.slots))}
    groups: list[tuple[str, ...] | None] = [None] * len(cells.names)
    for row in rows:
        values = tuple(column[row] for column in columns.values())
        groups[row] = None if None in values else (cells.organism[row], *values)
    sizes = Counter(group for group in groups if group is not None)
    if max(sizes.values(), default=0) < fewest:
        return
    seed = int(drawn.generator.integers(2**32))
    samples = split_into_samples(groups, cells.names, n_cells=n_cells, min_cells=fewest, seed=seed)
    variants = [drawn.variant(task) for _ in samples]
    slots = [{slot: columns[slot][sample[0]] for slot in task.slots} for sample in samples]
    prompts = task.prompts(drawn.sentences, samples, length=length, slots=slots, variants=variants)
    for prompt, sample, variant in zip(prompts, samples, variants, strict=True):
        answer: dict[str, Any] = {target: columns[target][sample[0]]}
        yield Pair(task.name, prompt, task.complete(variant=variant, **answer))


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
    """One prompt for every cell of one side of the split to which a sentence task applies, in one draw.

    Parameters
    ----------
    truth
        ``"mean"``: the reference is the mean of all real cells of the same side, context and perturbation (or type),
        and its control the mean of the controls of that context. ``"cell"``: one of the cells, and the control in the
        prompt, which is noisier and keeps the variety of cells.

    Raises
    ------
    ValueError
        A task whose answer is no sentence.
    """
    drawn = Draw(cells, draw, held_out, augmentation, [seed, draw, 2])
    for name in cells.data.tasks:
        task = tasks[name]
        if task.answer != "sentences":
            raise ValueError(
                f"rewards compare cell sentences, but the answer of task {name!r} is of the kind {task.answer!r}; "
                "choose perturb or generate, or leave out grpo:"
            )
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
    chosen = _Chosen(drawn)
    sides: list[tuple[Sequence[str], Sequence[str]]] = []
    for source, cell in _sources(cells, task, drawn, rows):
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


class Draw:
    """One draw of the sentences of a file, and the random choices of one side of the split."""

    def __init__(
        self, cells: TrainingCells, number: int, held_out: bool, augmentation: Augmentation, seeds: list[int]
    ) -> None:
        self.cells, self.number, self.held_out = cells, number, held_out
        self.generator = np.random.default_rng(seeds)
        self.sentences = cells.sentences(number, augmentation, seeds[0])
        #: Cells of this side that have genes.
        self.side = np.flatnonzero((cells.test == held_out) & (self.sentences.n_genes > 0))

    def rows(self, task: str) -> NDArray[np.int64]:
        """Cells that are drawn for a task: all, or in the last draw of a fractional number a random share."""
        share = 1.0 if self.held_out else self.cells.data.tasks[task] - self.number
        return self.side if share >= 1 else self.side[self.generator.random(len(self.side)) < share]

    def variant(self, task: Task) -> int:
        """Number of a random template."""
        return int(self.generator.integers(len(task.templates))) if len(task.templates) > 1 else 0


class _Chosen:
    """Rows of a draw for which prompts are built."""

    def __init__(self, drawn: Draw) -> None:
        self.sentences = drawn.sentences
        self.sources: list[int] = []
        self.cells: list[int] = []
        self.slots: list[Mapping[str, Any]] = []
        self.variants: list[int] = []
        self.n_genes: list[int] = []

    def add(self, source: int, cell: int, slots: Mapping[str, Any], variant: int, n_genes: int) -> None:
        """One prompt with the genes of `source` for the answer of `cell`, which has `n_genes` genes."""
        self.sources.append(source)
        self.cells.append(cell)
        self.slots.append(slots)
        self.variants.append(variant)
        self.n_genes.append(n_genes)

    def prompts(self, task: Task, length: int) -> list[Prompt]:
        """The prompts, each named after its cell."""
        answers, prompts = self.sentences[np.array(self.cells, dtype=np.int64)], range(len(self.cells))
        sources = self.sentences[np.array(self.sources, dtype=np.int64)]
        named = replace(sources, names=answers.names, organism=answers.organism)
        return task.prompts(
            named, prompts, length=length, answer_genes=self.n_genes, slots=self.slots, variants=self.variants
        )


class _References:
    """Mean sentences of the groups of cells that one side of the split has, each computed once."""

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
        """The mean sentence of the group of a cell."""
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
    """All genes that any of some cells expresses, in the order of their mean log10(1 + CP10k)."""
    chosen: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)
    matrix = cells.matrix[chosen].copy()
    matrix.data = cells.scale.log10_cp10k(matrix.data, np.repeat(cells.totals[chosen], np.diff(matrix.indptr)))
    values = np.asarray(matrix.mean(axis=0)).ravel()
    order = np.argsort(-values, kind="stable")
    return [cells.symbols[gene] for gene in order[: int(np.sum(values > 0))]]


def control_pairs(cells: TrainingCells, drawn: Draw, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Each perturbed cell of `rows` with a random control of the same side of the split and context.

    Where no perturbation has a name (`no_perturbation`), each control of `rows` with another control, too.
    """
    assert cells.perturbation is not None
    context, generator = cells.contexts(), drawn.generator
    controls: dict[tuple[str, ...], list[int]] = {}
    for cell in map(int, drawn.side):
        if cells.is_control(cell):
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


def _sources(cells: TrainingCells, task: Task, drawn: Draw, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """``(cell whose genes are in the prompt, cell of the answer)``."""
    if task.answer == "sentences" and task.reads_cells:
        return control_pairs(cells, drawn, rows)
    return ((cell, cell) for cell in map(int, rows))
