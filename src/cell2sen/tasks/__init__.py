"""Tasks: one file each, its name is the name that users type; each defines ``TASK``."""

from __future__ import annotations

import importlib
import pkgutil

from cell2sen.task import Task


def names() -> list[str]:
    """The tasks in the folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(task: str | Task) -> Task:
    """A task by name; a :class:`Task` is passed through.

    Raises
    ------
    ValueError
        No such task; lists those there are.
    """
    if isinstance(task, Task):
        return task
    if task not in names():
        raise ValueError(f"no task {task!r}; available: {names()}")
    loaded: Task = importlib.import_module(f"cell2sen.tasks.{task}").TASK
    return loaded
