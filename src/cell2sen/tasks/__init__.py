"""Tasks: one file each, its name is the name that users type; each defines ``TASK``."""

from __future__ import annotations

import importlib
import pkgutil

from cell2sen.task import Task


def names() -> list[str]:
    """Names of the available tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(task: str | Task) -> Task:
    """Task of this name; a :class:`Task` is returned as it is.

    Raises
    ------
    ValueError
        No such task; lists the available ones.
    """
    if isinstance(task, Task):
        return task
    if task not in names():
        raise ValueError(f"no task {task!r}; available: {names()}")
    loaded: Task = importlib.import_module(f"cell2sen.tasks.{task}").TASK
    return loaded
