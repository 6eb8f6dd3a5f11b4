"""Menu of metrics: each is one documented function under @metric."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Level = Literal[
    "written_labels", "labels", "confidence", "text", "free_text", "named_genes", "numbers", "intervals", "profile",
    "change", "disjoint_change", "cells", "neighbours", "sentences", "set_genes", "set_names", "pairs",
]  # fmt: skip
"""Kind of values that a metric compares, and arguments of its function; see :func:`metric`."""

Shown = Literal["groups", "table", "encoder", "ontology", "request", "never"]
"""Where a metric appears: in the table and in the report's tables by group; in the table; in the table if a text
encoder is passed, or with ``ontology=True``; in the table if it is named in ``metrics=``; nowhere (a function only).
"""

Function = TypeVar("Function", bound=Callable[..., Any])
Derived = TypeVar("Derived")


class Missing(Exception):
    """No value can be computed. The message is the reason, for tables and reports."""


@dataclass(frozen=True)
class MeanOver:
    """Resampling of a mean over cells (or texts): `values` returns one value for each, float64 (n,)."""

    values: Callable[..., Any]


@dataclass(frozen=True)
class OfConfusion:
    """Resampling of a function of confusion matrices: `score` maps (…, labels, labels) to (…)."""

    score: Callable[..., Any]


@dataclass(frozen=True)
class Faster:
    """Resampling by an approximation: `score` maps truths and answers (resamples, genes) to (resamples,).

    Its spread must be right. Its mean need not be, as intervals are centred on the exact value.
    """

    score: Callable[..., Any]


@dataclass(frozen=True)
class OfSamples:
    """Resampling of two sets of cells: `score` maps two :class:`Sample` to (resamples,)."""

    score: Callable[..., Any]


Resampling = MeanOver | OfConfusion | Faster | OfSamples


class Sample:
    """A set of cells with its bootstrap samples. What metrics derive from one side alone is computed once.

    Parameters
    ----------
    cells
        float64 (n, dimensions).
    counts
        How often each cell is drawn in each bootstrap sample, float64 (resamples, n).
    """

    def __init__(self, cells: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        self.cells, self.counts = cells, counts
        self._derived: dict[str, Any] = {}

    def once(self, name: str, derive: Callable[[], Derived]) -> Derived:
        """What `derive` returns, which is called once for each name."""
        if name not in self._derived:
            self._derived[name] = derive()
        value: Derived = self._derived[name]
        return value

    def part(self, span: slice) -> Sample:
        """The same cells with some of the bootstrap samples."""
        return Sample(self.cells, self.counts[span])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its function, arguments, resampling, range and perfect value."""

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
        What is compared, and so the arguments of the function:

        ``labels``, ``written_labels``
            Two lists of labels, normalised or as written.
        ``confidence``
            Two lists of normalised labels and the probability of each answer.
        ``text``
            Two lists of texts, and `encoder` where one was passed. ``free_text``: without encoder, for the task text.
        ``named_genes``
            For each answer, the genes that it names and those that its cells express, as two lists of sets.
            Two lists of texts, and `encoder` where one was passed.
        ``numbers``, ``intervals``
            True and predicted numbers, float64 (cells,); or true numbers and both ends of the predicted intervals.
        ``profile``, ``change``, ``disjoint_change``
            Mean expression, or its change from control, float64 (genes,); also (resamples, genes) if the function
            accepts it, and (1, genes) for an answer that is the same in all of them. In ``disjoint_change`` true and
            predicted change are taken from different halves of the controls. Arguments named `genes` (order of
            :func:`cell2sen.evaluation.metrics.changes.de_genes`) and `others` (true changes of the other groups of the
            context, (groups, genes)) are passed if it has them.
        ``cells``
            Two sets of cells, float64 (n, dimensions). An argument named `weights` receives the bootstrap samples.
        ``neighbours``
            Real cells, their groups, predicted cells and their groups.
        ``set_genes``, ``set_names``
            Two lists of lists of genes, or of names of gene sets.
        ``pairs``
            Similarity of profiles and cells, float64 (profiles, cells), and the profile of each cell.
        ``sentences``
            A written sentence and the known genes; the metric is the mean over sentences.
    perfect
        Value of a perfect answer: the upper end of `range` if higher is better, else the lower end. Unbiased estimators
        of distances may fall below it by chance.
    range
        Smallest and largest possible value.
    undefined
        Why the function may return NaN.
    name
        Name of the metric, if it is not that of the function.
    resampling
        How bootstrap samples are scored, if not by calling the function for each.
    shown
        Where the metric appears; see :data:`Shown`.
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
    """Names of all metrics; those of a file in its order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return list(_METRICS)


def get(name: str) -> Metric:
    """The metric of that name.

    Raises
    ------
    KeyError
        There is no such metric; the message lists all.
    """
    if name not in names():
        raise KeyError(f"no metric {name!r}; available: {sorted(_METRICS)}")
    return _METRICS[name]
