"""Bootstrap: reproducible samples of cells and groups, percentile intervals, verdicts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: Share of the replicates inside an interval.
LEVEL = 0.95
#: Bootstrap samples of units.
GROUP_RESAMPLES = 2000
#: Units (perturbations, contexts, donors) that an interval over units needs.
MIN_UNITS = 3

Verdict = Literal["better", "worse", "no difference seen", "missing", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its bootstrap replicates, or the reason why there is none."""

    value: float = math.nan
    by_cells: NDArray[np.float64] = field(default_factory=lambda: np.array([]))
    """Replicates over cells; empty where none were computed."""

    by_units: NDArray[np.float64] = field(default_factory=lambda: np.array([]))
    """Replicates over units (perturbations, contexts, donors); empty where none were computed."""

    reason: str = ""


def generator(seed: int, *names: Any) -> np.random.Generator:
    """Random generator of a purpose, named by `names`, so that results do not depend on the order of work."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def weights(rng: np.random.Generator, resamples: int, n: int) -> NDArray[np.float64]:
    """Number of times that each of `n` cells is in each bootstrap sample of `n`, float64 (resamples, n)."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64) if n else np.zeros((resamples, 0))


def interval(point: float, replicates: NDArray[np.float64], span: tuple[float, float]) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap replicates, centred on the point estimate, inside the metric's range.

    Bootstrap samples contain copies of cells, which biases distances between sets of cells upwards: the spread of the
    replicates is right, their centre is not. So they are moved by point − mean. NaN with fewer than two replicates.
    """
    values = replicates[np.isfinite(replicates)]
    if len(values) < 2 or not math.isfinite(point):
        return math.nan, math.nan
    shift = point - values.mean()
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + shift
    return float(max(low, min(span[0], point))), float(min(high, max(span[1], point)))


def over_units(values: NDArray[np.float64], units: Sequence[Any], seed: int) -> NDArray[np.float64]:
    """Means of groups in bootstrap samples of their units (all groups of a perturbation are drawn together).

    Parameters
    ----------
    values
        (groups,), NaN where a group has none; such groups are left out.
    units
        Unit of each group.

    Returns
    -------
    float64 (2000,), or an empty array with fewer than three units.
    """
    keep = np.isfinite(values)
    names = sorted({str(unit) for unit, kept in zip(units, keep, strict=True) if kept})
    if len(names) < MIN_UNITS:
        return np.array([])
    index = {name: number for number, name in enumerate(names)}
    code = np.array([index[str(unit)] for unit, kept in zip(units, keep, strict=True) if kept])
    sums = np.bincount(code, values[keep], len(names))
    sizes = np.bincount(code, minlength=len(names))
    drawn = weights(generator(seed, "units", *names), GROUP_RESAMPLES, len(names))
    means: NDArray[np.float64] = (drawn @ sums) / (drawn @ sizes)
    return means


def verdict(prediction: Estimate, baseline: Estimate, higher_is_better: bool) -> Verdict:
    """Verdict on a prediction: better or worse than a baseline if all intervals of the paired difference exclude 0.

    Replicates of both must be of the same bootstrap samples. Without replicates (over cells or over units) of one,
    there is no such interval; without any interval the verdict is "unknown".
    """
    if not math.isfinite(prediction.value):
        return "missing"
    if not math.isfinite(baseline.value):
        return "unknown"
    sign = 1.0 if higher_is_better else -1.0
    difference = sign * (prediction.value - baseline.value)
    bounds = []
    for ours, theirs in ((prediction.by_cells, baseline.by_cells), (prediction.by_units, baseline.by_units)):
        if len(ours) == len(theirs) and np.isfinite(replicates := sign * (ours - theirs)).sum() > 1:
            bounds.append(interval(difference, replicates, (-math.inf, math.inf)))
    if not bounds:
        return "unknown"
    if all(low > 0 for low, _ in bounds):
        return "better"
    return "worse" if all(high < 0 for _, high in bounds) else "no difference seen"


def mean_of(parts: Mapping[Any, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Replicates of a mean over groups; empty if a group has none."""
    if not parts or any(not len(replicates) for replicates in parts.values()):
        return np.array([])
    mean: NDArray[np.float64] = np.mean(np.stack(list(parts.values())), axis=0)
    return mean
