"""Scored methods: the prediction, baselines and ceilings of each task, and the decorator that adds one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from cell2sen.evaluation.settings import TASKS, Task

Role = Literal["prediction", "baseline", "ceiling"]
"""A prediction should score better than the baselines; ceilings are scores of real cells."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A scored method: the prediction, a baseline or a ceiling."""

    name: str
    summary: str
    """Description in tables and reports."""

    role: Role
    run: Any
    """An object of :class:`cell2sen.evaluation.scoring.baselines.cells.Baseline`; for labels a function."""


_METHODS: dict[Task, dict[str, Method]] = {task: {} for task in TASKS}

Registered = TypeVar("Registered", bound=Callable[..., Any])


def baseline(*tasks: Task, role: Role = "baseline") -> Callable[[Registered], Registered]:
    """Decorator of a class (for cells) or function (for labels): a method of `tasks`, under its name in snake_case.

    The first line of its documentation is the description in tables and reports.
    """

    def register(registered: Registered) -> Registered:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", registered.__name__).lower()
        first_line = (registered.__doc__ or "").strip().splitlines()[0].rstrip(".")
        run: Any = registered
        if isinstance(registered, type):
            run.name = name
            run = run()
        method = Method(name=name, summary=first_line[:1].lower() + first_line[1:], role=role, run=run)
        for task in tasks:
            _METHODS[task][name] = method
        return registered

    return register


def methods(task: Task) -> list[Method]:
    """All methods of a task: the prediction, its baselines, its ceilings, each in the order of their definition."""
    return sorted(_METHODS[task].values(), key=lambda method: get_args(Role).index(method.role))
