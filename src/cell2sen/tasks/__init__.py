"""Tasks: one file each, its name is the name that users type; each defines ``TASK``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from cell2sen.task import Task


def names() -> list[str]:
    """Names of the available tasks."""
    return sorted(_modules())


def load(task: str | Task) -> Task:
    """Task of this name; a :class:`Task` is returned as it is.

    Raises
    ------
    ValueError
        No such task; lists the available ones.
    """
    if isinstance(task, Task):
        return task
    if task not in _modules():
        raise ValueError(f"no task {task!r}; available: {names()}")
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
