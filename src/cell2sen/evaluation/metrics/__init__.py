"""Menu of metrics: each is one documented function under ``@metric``, in any file of this folder."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

Level = Literal[
    "written_labels", "labels", "confidence", "text", "profile", "change", "disjoint_change", "cells", "neighbours",
    "sentences",
]  # fmt: skip
"""What a metric compares, and so what its function is called with; see :func:`metric`."""

Shown = Literal["groups", "table", "encoder", "request", "never"]
"""Where a metric appears: in the table and in the report's tables by group; in the table; in the table where a text
encoder was passed; in the table where it was named; nowhere (a function only).
"""

Function = TypeVar("Function", bound=Callable[..., Any])


class Missing(Exception):
    """There is no value. The message is the reason, for tables and reports."""


@dataclass(frozen=True)
class MeanOver:
    """The metric is a mean over cells (or texts, sentences): `values` returns one value for each, float64 (n,)."""

    values: Callable[..., Any]


@dataclass(frozen=True)
class OfConfusion:
    """The metric is a function of confusion matrices: `score` maps (…, labels, labels) to (…)."""

    score: Callable[..., Any]


@dataclass(frozen=True)
class Faster:
    """`score` maps truths and answers (resamples, genes) to (resamples,): right in its spread, not in its level."""

    score: Callable[..., Any]


Resampling = MeanOver | OfConfusion | Faster


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A function with what is needed to call it, to resample it and to read its numbers."""

    name: str
    function: Callable[..., Any]
    level: Level
    perfect: float
    range: tuple[float, float]
    undefined: str
    """Why the function may return NaN."""

    resampling: Resampling | None = None
    """How bootstrap samples are scored; None: `function` is called for each."""

    shown: Shown = "table"

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are better."""
        return self.perfect == self.range[1]

    @property
    def summary(self) -> str:
        """First line of the function's documentation."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @cached_property
    def arguments(self) -> Collection[str]:
        """Names of the function's arguments."""
        return inspect.signature(self.function).parameters.keys()


_METRICS: dict[str, Metric] = {}


def metric(
    *,
    level: Level,
    perfect: float,
    range: tuple[float, float],
    undefined: str = "there are no values",
    name: str = "",
    resampling: Resampling | None = None,
    shown: Shown = "table",
) -> Callable[[Function], Function]:
    """Register a function ``(truth, answer) → float`` as a metric, under its own name.

    Parameters
    ----------
    level
        What is compared, which decides what the function is called with:

        ``labels``, ``written_labels``
            Two lists of labels, normalised or as written.
        ``confidence``
            Two lists of normalised labels and the probability of each answer.
        ``text``
            Two lists of texts, and `encoder` where one was passed.
        ``profile``, ``change``, ``disjoint_change``
            Mean expression, or its change from control, float64 (genes,); also (resamples, genes) if the function
            accepts it. In ``disjoint_change`` true and predicted change are taken from different halves of the
            controls. Arguments named `genes` (order of :func:`cell2sen.evaluation.metrics.changes.de_genes`) and
            `others` (true changes of the other groups of the context, (groups, genes)) are filled in.
        ``cells``
            Two sets of cells, float64 (n, dimensions). An argument named `weights` receives the bootstrap samples.
        ``neighbours``
            Real cells, their groups, predicted cells and their groups.
        ``sentences``
            A written sentence and the known genes; the metric is the mean over sentences.
    perfect
        Value of a perfect answer. It is the upper or the lower end of `range`, which tells whether higher is better.
        Unbiased estimators of distances may fall below it by chance.
    range
        Smallest and largest possible value.
    undefined
        Why the function may return NaN.
    name
        Name of the metric, if it is not that of the function.
    resampling
        How bootstrap samples are scored, where there is something better than calling the function for each.
    shown
        Where the metric appears.
    """
    if perfect not in range:
        raise ValueError(f"perfect ({perfect}) must be one end of the range {range}")

    def register(function: Function) -> Function:
        key = name or function.__name__
        _METRICS[key] = Metric(
            name=key, function=function, level=level, perfect=perfect, range=range, undefined=undefined,
            resampling=resampling, shown=shown,
        )  # fmt: skip
        return function

    return register


def names() -> list[str]:
    """All metrics, those of a level in the order of their file."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return list(_METRICS)


def get(name: str) -> Metric:
    """The metric of that name.

    Raises
    ------
    KeyError
        No such metric; lists those there are.
    """
    if name not in names():
        raise KeyError(f"no metric {name!r}; available: {sorted(_METRICS)}")
    return _METRICS[name]
