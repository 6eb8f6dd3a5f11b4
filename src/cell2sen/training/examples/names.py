"""Names in all files: held-out cells by barcode, one name for a combination, checks of what is learned."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.names.labels import twins, without_type
from cell2sen.data.names.perturbations import same_combinations
from cell2sen.data.names.text import MISSING, some
from cell2sen.data.obs import warn_of_missing
from cell2sen.data.splits import are_counted, barcode
from cell2sen.inference.annotate import MIN_TRAINING_CELLS, trained_labels
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells

logger = logging.getLogger(__name__)


def check_names(
    cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task], spellings: Mapping[str, list[str]]
) -> None:
    """Warn of missing and doubtful names of labels and perturbations, and refuse labels that cannot be learned.

    Parameters
    ----------
    cells
        File → its cells.
    spellings
        Label → other spellings that users may choose.

    Raises
    ------
    ValueError
        Two labels have the same meaning by their spellings, or an obs column has fewer than two labels to choose from.
    """
    _check_columns(cells, tasks)
    labels: Counter[str] = Counter()
    perturbations: Counter[str] = Counter()
    for file in cells.values():
        learned = [tasks[name] for name in file.data.tasks]
        if file.label is not None and file.data.cell_type is not None and _uses(learned, "cell_type"):
            labels.update(_counts(file.label))
            if not MISSING & set(file.data.cell_type.names):  # names: {NA: …} makes labels of them
                warn_of_missing(file.obs, file.data.cell_type.column, file.owner, "no label is learned from them")
        if file.perturbation is not None and file.data.perturbation is not None and _uses(learned, "perturbation"):
            perturbations.update(_counts(file.perturbation))
            if None in file.perturbation.tolist():  # not where they are the controls
                warn_of_missing(file.obs, file.data.perturbation.column, file.owner, "they are left out")
        for task in learned:
            for part in task.answered:
                if part.column is not None:
                    column = file.data.columns.get(str(part.target), part.column)
                    warn_of_missing(file.obs, column, file.owner, f"task {task.name!r} is not learned from them")
        for column in file.data.context:
            warn_of_missing(file.obs, column, file.owner, "they are not paired with controls")
    for kind, counts, key in (
        ("labels", labels, "cell_type.names"),
        ("perturbations", perturbations, "perturbation.names"),
    ):
        for group in twins(counts):
            logger.warning(
                "the %s %s differ only in spelling and are learned apart; %s gives them one name",
                kind,
                " and ".join(f"{name!r} ({counts[name]} cells)" for name in group),
                key,
            )
    if nameless := without_type(labels):
        logger.warning(
            "%s are learned as cell types, like others; cell_type.names: {%s: null} leaves these cells out",
            some([f"{name} ({labels[name]} cells)" for name in nameless]),
            nameless[0],
        )
    trained_labels(list(labels), list(labels), spellings)


def _check_columns(cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task]) -> None:
    """Refuse columns with fewer than two labels to learn; warn of contexts from which an answer can be read."""
    for task in tasks.values():
        files = [file for file in cells.values() if task.name in file.data.tasks]
        if not task.is_of_columns or not files:
            continue
        for part in task.answered if task.parts else ():
            alone = [
                np.array([value for value in file.answers(part)[~file.test] if value is not None]) for file in files
            ]
            _check_labels(task, part, np.concatenate(alone))
        columns = [
            np.concatenate(parts) for parts in zip(*(_learned_answers(file, task) for file in files), strict=True)
        ]
        for part, answers in zip(task.answered, columns, strict=True):
            counts = _check_labels(task, part, answers, " of cells with all values" if task.parts else "")
            for group in twins(counts) if part.answer == "label" else ():
                logger.warning(
                    "the labels %s of obs[%r] differ only in spelling and are learned apart; give them one name",
                    " and ".join(f"{name!r} ({counts[name]} cells)" for name in group),
                    part.column,
                )
            _warn_of_answers_in_context(files, task, part, answers)


def _check_labels(task: Task, part: Task, answers: NDArray[Any], which: str = "") -> Counter[Any]:
    """Numbers of the answers to a part of a task; an error if they are labels, and fewer than two can be learned."""
    counts = Counter(answers.tolist())
    frequent = [name for name, count in counts.items() if count >= MIN_TRAINING_CELLS]
    if part.answer == "label" and len(frequent) < 2:
        advice = f"; as a number, its task is 'number:{part.column}'" if len(counts) > 2 else ""
        raise ValueError(
            f"task {task.name!r} needs two labels with at least {MIN_TRAINING_CELLS} training cells, found "
            f"{len(frequent)} of {len(counts)} in obs[{part.column!r}] ({some(sorted(map(str, counts)))})"
            f"{which}{advice}"
        )
    return counts


def _learned_answers(file: TrainingCells, task: Task) -> list[NDArray[Any]]:
    """Answers of each part of a task, of the training cells that have one."""
    return [
        np.array([answer for answer in column[~file.test] if answer is not None], dtype=object)
        for column in file.answers_of_parts(task)
    ]


def _warn_of_answers_in_context(files: Sequence[TrainingCells], task: Task, part: Task, answers: NDArray[Any]) -> None:
    """Log contexts that have one answer for each of their values: donor, where the disease is learned."""
    known = [np.array([value is not None for value in file.answers_of_parts(task)[0]]) & ~file.test for file in files]
    slots = {"organism": [file.organism for file in files]}
    slots |= {name: [file.context_values(name) for file in files] for file in files for name in file.context_of(task)}
    for name, columns in slots.items():
        values = np.concatenate([column[rows] for column, rows in zip(columns, known, strict=True)])
        pairs = {(value, answer) for value, answer in zip(values, answers, strict=True) if value is not None}
        different = {value for value, _ in pairs}
        if len({answer for _, answer in pairs}) > 1 and len(pairs) == len(different) <= len(answers) / 2:
            logger.warning(
                "task %r: in the training cells, %r in the prompt determines %r: the model may read the answer there "
                "instead of in the genes",
                task.name,
                name,
                part.column or part.target,
            )


def unite_combinations(cells: Mapping[str, TrainingCells]) -> None:
    """Give one name to combinations of perturbations that two files have in another order (A+B, B+A; A+ctrl, A)."""
    perturbed = [(file, file.perturbation) for file in cells.values() if file.perturbation is not None]
    counts: Counter[str] = Counter()
    for file, names in perturbed:
        counts.update(name for name in names.tolist() if name not in (None, file.data.control))
    same = same_combinations(counts, (), {file.data.control for file, _ in perturbed}) if len(perturbed) > 1 else {}
    for name, other in same.items():
        logger.warning("%r is %r in another order; in all files both are learned as %r", name, other, other)
    for file, names in perturbed if same else ():
        file.perturbation = np.array([same.get(name or "", name) for name in names], dtype=object)


def exclude_held_out(cells: Mapping[str, TrainingCells]) -> None:
    """Hold out cells that the files in ``split.exclude_held_out_of`` hold out; matched by barcode."""
    for file in cells.values():
        for other in file.data.split.exclude_held_out_of:
            if other not in cells:
                raise ValueError(
                    f"split.exclude_held_out_of names {other!r}, which is not among the files {sorted(cells)}"
                )
            if are_counted(file.names) and are_counted(cells[other].names):
                logger.warning(
                    "split.exclude_held_out_of: the cells of %s and %s are called %s, …, so that equal names may be "
                    "different cells; give them names of their own",
                    file.data.file,
                    other,
                    file.names[0],
                )
            barcodes = {barcode(name) for name, test in zip(cells[other].names, cells[other].test, strict=True) if test}
            file.test |= np.array([barcode(name) in barcodes for name in file.names])


def _uses(tasks: Iterable[Task], slot: str) -> bool:
    return any(slot in (*task.slots, task.target) for task in tasks)


def _counts(names: NDArray[Any]) -> Counter[str]:
    return Counter(name for name in names.tolist() if name is not None)
