"""Names that are learned: one for a combination in all files, and checks before the first step of a training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.names.labels import twins, without_type
from cell2sen.data.names.perturbations import same_combinations
from cell2sen.data.names.text import MISSING, some
from cell2sen.data.obs import warn_of_missing
from cell2sen.inference.annotate import trained_labels
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells

logger = logging.getLogger(__name__)


def check_names(
    cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task], spellings: Mapping[str, list[str]]
) -> None:
    """Warn of missing and doubtful names of labels and perturbations, and refuse labels that cannot be told apart.

    Parameters
    ----------
    cells
        File → its cells.
    spellings
        Label → other spellings that users may choose.

    Raises
    ------
    ValueError
        Two labels have the same meaning by their spellings.
    """
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


def _uses(tasks: Iterable[Task], slot: str) -> bool:
    return any(slot in (*task.slots, task.target) for task in tasks)


def _counts(names: NDArray[Any]) -> Counter[str]:
    return Counter(name for name in names.tolist() if name is not None)
