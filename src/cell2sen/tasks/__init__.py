"""Tasks: one file each, its name is the name that users type; each defines ``TASK``. Tasks of obs columns by name."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

from cell2sen.prompt import words_of
from cell2sen.task import BUILT_IN_SLOTS, Task, Template

#: Beginning of the names of tasks that are made from an obs column → kind of their answer.
COLUMN_TASKS: Mapping[str, Literal["label", "number"]] = {"label": "label", "number": "number"}

#: Slots of other meaning, which no column may have.
_RESERVED = frozenset({*BUILT_IN_SLOTS, "sample", "sentence", "key", "variant", "context", "answer_genes"})


def names() -> list[str]:
    """Names of the available tasks."""
    return sorted(_modules())


def load(task: str | Task) -> Task:
    """Task of this name; a :class:`Task` is returned as it is.

    ``label:COLUMN`` and ``number:COLUMN`` are tasks of any obs column: see :func:`column_task`.

    Raises
    ------
    ValueError
        No such task; lists the available ones.
    """
    if isinstance(task, Task):
        return task
    kind, colon, _ = task.partition(":")
    if colon and kind in COLUMN_TASKS:
        return column_task(task)
    if task not in _modules():
        forms = [f"{name}:COLUMN" for name in COLUMN_TASKS]
        raise ValueError(f"no task {task!r}; available: {[*names(), *forms]} (COLUMN: any column of obs)")
    loaded: Task = importlib.import_module(_modules()[task]).TASK
    return loaded


@cache
def _modules() -> dict[str, str]:
    """Name of each task → its module, in this folder or one below."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        name = f"{__name__}.{module.name}"
        if module.ispkg:
            below = pkgutil.iter_modules(importlib.import_module(name).__path__)
            found.update({inner.name: f"{name}.{inner.name}" for inner in below})
        else:
            found[module.name] = name
    return found


def column_task(name: str) -> Task:
    """Task of an obs column: cell sentence → the cell's value in it.

    Parameters
    ----------
    name
        ``"label:COLUMN"`` for a label (tissue, disease, sex, donor state), ``"number:COLUMN"`` for a number (age, dose,
        time). The prompt has the column's name as words.

    Raises
    ------
    ValueError
        Another form, or a column without a letter.
    """
    kind, _, column = name.partition(":")
    column = column.strip()
    words, slot = words_of(column), re.sub(r"\W+", "_", column).strip("_")
    if kind not in COLUMN_TASKS or not words or not slot:
        forms = " or ".join(f"{kind}:COLUMN" for kind in COLUMN_TASKS)
        raise ValueError(f"tasks of a column of obs are named {forms}, found {name!r}")
    if slot.lower() in _RESERVED:
        slot += "_of_cell"
    return Task(
        name=f"{kind}:{column}",
        answer=COLUMN_TASKS[kind],
        target=slot,
        column=column,
        templates=(
            Template(
                prompt=(
                    "Below are the {n_genes} most expressed genes of one {organism} cell, strongest first.\n"
                    "Cell sentence: {genes}.\n"
                    f"The {words} of this cell is:"
                ),
                answer=f" {{{slot}}}.",
            ),
        ),
    )
