"""Tasks: one file each, its name is the name that users type; each defines ``TASK``. Tasks of obs columns by name."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

from cell2sen.prompt import words_of
from cell2sen.task import BUILT_IN_SLOTS, Task, Template

#: Beginning of the names of tasks that are made from an obs column → kind of their answer.
COLUMN_TASKS: Mapping[str, Literal["label", "number"]] = {"label": "label", "number": "number"}

#: Beginning of the names of tasks that answer several obs columns in one text.
JOINT = "joint"

#: A plus sign within the name of a column, in the name of such a task.
PLUS = r"\+"

#: Slots of other meaning, which no column may have.
_RESERVED = frozenset({*BUILT_IN_SLOTS, "sample", "sentence", "key", "variant", "context", "answer_genes", "self"})


def names() -> list[str]:
    """Names of the available tasks."""
    return sorted(_modules())


def load(task: str | Task) -> Task:
    """Task of this name; a :class:`Task` is returned as it is.

    ``label:COLUMN`` and ``number:COLUMN`` are tasks of any obs column: see :func:`column_task`; ``joint:COLUMN+COLUMN``
    answers several in one text: see :func:`joint_task`.

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
    if colon and kind == JOINT:
        return joint_task(task)
    if task not in _modules():
        forms = [*(f"{name}:COLUMN" for name in COLUMN_TASKS), f"{JOINT}:COLUMN+COLUMN"]
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


def is_of_columns(name: str) -> bool:
    """Whether a task of this name is made from names of obs columns."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in (*COLUMN_TASKS, JOINT)


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


def joint_task(name: str) -> Task:
    r"""Task of several obs columns: cell sentence → the cell's values in them, in one answer.

    Parameters
    ----------
    name
        ``"joint:tissue+disease+sex"``. Columns are labels; those of numbers are written ``number:age``. A ``+`` within
        the name of a column is written ``\+`` (:func:`joint_name`).

    Raises
    ------
    ValueError
        Another form, a column twice, or fewer than two.
    """
    kind, _, columns = name.partition(":")
    texts = [text.replace(PLUS, "+").strip() for text in re.split(r"(?<!\\)\+", columns)]
    parts = [column_task(text if text.partition(":")[0] in COLUMN_TASKS else f"label:{text}") for text in texts if text]
    named = [str(part.column) for part in parts]
    if kind != JOINT or len(parts) < 2 or len(set(named)) < len(named):
        raise ValueError(
            f"tasks of several columns of obs are named {JOINT}:COLUMN+COLUMN, with two different columns or more, "
            f"found {name!r}"
        )
    slots: list[str] = []
    for part in parts:  # "donor.state" and "donor_state" are one slot
        slot, number = str(part.target), 2
        while slot in slots:
            slot, number = f"{part.target}_{number}", number + 1
        slots.append(slot)
    words = [words_of(column) for column in named]
    return Task(
        name=joint_name([part.name for part in parts]),
        answer="joint",
        parts=tuple(replace(part, target=slot) for part, slot in zip(parts, slots, strict=True)),
        templates=(
            Template(
                prompt=(
                    "Below are the {n_genes} most expressed genes of one {organism} cell, strongest first.\n"
                    "Cell sentence: {genes}.\n"
                    f"The {', '.join(words[:-1])} and {words[-1]} of this cell are:"
                ),
                answer=" " + "; ".join(f"{{{slot}}}" for slot in slots) + ".",
            ),
        ),
    )


def joint_name(parts: Sequence[str]) -> str:
    """Name of the task that answers several tasks of one column each: ``["label:tissue", "number:age"]``."""
    columns = [part.removeprefix("label:") for part in parts]
    named = [
        part if column.partition(":")[0] in COLUMN_TASKS else column
        for part, column in zip(parts, columns, strict=True)
    ]
    return f"{JOINT}:{'+'.join(name.replace('+', PLUS) for name in named)}"


def written_in_joint(answer: str) -> str:
    """Answer as a part of a joint one, whose parts are separated by semicolons: its own become commas."""
    return answer.replace(";", ",")
