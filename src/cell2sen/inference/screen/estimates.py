"""Effects with intervals over cells or donors, and the ranked table of a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.inference.screen.nulls import false_discovery_rates

COLUMNS = (
    "context", "rank", "item", "kind", "effect", "low", "high", "specific", "null_mean", "null_sd", "z", "p", "fdr",
    "null", "n_cells", "n_changed", "n_donors", "in_goal",
)  # fmt: skip

#: Between the two contexts of a dual-context screen, in the column ``context``.
MINUS = " − "


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A mean shift, with what its interval is computed from."""

    effect: float
    error: float
    """Standard error; NaN for fewer than two cells or donors."""

    freedom: float
    """Degrees of freedom of the t distribution."""

    n_cells: int
    n_changed: int
    donors: Mapping[str, float] = field(default_factory=dict)
    """Effect in each donor, if there are donors."""

    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        from scipy.stats import t

        half = float(t.ppf(0.975, self.freedom)) * self.error if self.freedom > 0 else float("nan")
        return self.effect - half, self.effect + half

    def p(self) -> float:
        """Two-sided p-value of the t test against no shift."""
        from scipy.stats import t

        if not (self.error > 0 and self.freedom > 0):
            return float("nan")
        return float(2 * t.sf(abs(self.effect) / self.error, self.freedom))


def weights_of_cells(n: int, donors: Sequence[str] | None) -> NDArray[np.float64]:
    """Weight of each cell in a mean, float64 (n,): equal, or so that each donor counts the same."""
    if donors is None:
        return np.full(n, 1 / max(n, 1))
    names, place, counts = np.unique(np.asarray(donors, dtype=str), return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(names) * counts[place]))


def mean_shift(values: NDArray[np.float64], donors: Sequence[str] | None = None) -> Estimate:
    """Mean of the shifts of cells; with donors the mean of the donors' means.

    Parameters
    ----------
    values
        Shift of each cell, float64 (n,).
    """
    n_changed = int((values != 0).sum())
    if donors is None:
        n = len(values)
        error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return Estimate(
            effect=float(values.mean()) if n else float("nan"), error=error, freedom=n - 1, n_cells=n,
            n_changed=n_changed,
        )  # fmt: skip
    own = _donor_means(values, donors)
    return _over_donors(own, len(values), n_changed)


def difference(
    values: NDArray[np.float64],
    controls: NDArray[np.float64],
    donors: Sequence[str] | None = None,
    control_donors: Sequence[str] | None = None,
) -> Estimate:
    """Mean of a measured group minus that of its controls: Welch's interval, or the mean of donors that have both."""
    n_cells = len(values)
    if donors is None or control_donors is None:
        sizes, variances = [n_cells, len(controls)], []
        for part in (values, controls):
            variances.append(float(part.var(ddof=1)) / len(part) if len(part) > 1 else float("nan"))
        error, freedom = _welch(variances, [size - 1 for size in sizes])
        effect = float(values.mean() - controls.mean())
        return Estimate(effect=effect, error=error, freedom=freedom, n_cells=n_cells, n_changed=n_cells)
    treated, untreated = _donor_means(values, donors), _donor_means(controls, control_donors)
    own = {name: treated[name] - untreated[name] for name in treated if name in untreated}
    return _over_donors(own, n_cells, n_cells)


def contrast(first: Estimate, second: Estimate) -> Estimate:
    """Effect in one context minus that in another: by donors that are in both, else as of independent cells."""
    n_cells, n_changed = min(first.n_cells, second.n_cells), min(first.n_changed, second.n_changed)
    both = {name: value - second.donors[name] for name, value in first.donors.items() if name in second.donors}
    if len(both) > 1:
        paired = _over_donors(both, n_cells, n_changed)
        return paired
    error, freedom = _welch([first.error**2, second.error**2], [first.freedom, second.freedom])
    return Estimate(
        effect=first.effect - second.effect, error=error, freedom=freedom, n_cells=n_cells, n_changed=n_changed
    )


def _welch(variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """Standard error of a difference, and its degrees of freedom (Welch-Satterthwaite)."""
    total = float(np.sum(variances))
    if not np.isfinite(total):
        return float("nan"), 0.0
    parts = [variance**2 / free for variance, free in zip(variances, freedoms, strict=True) if free > 0]
    return total**0.5, total**2 / sum(parts) if sum(parts) > 0 else float(max(freedoms))


def _donor_means(values: NDArray[np.float64], donors: Sequence[str]) -> dict[str, float]:
    names = np.asarray(donors, dtype=str)
    return {str(name): float(values[names == name].mean()) for name in np.unique(names)}


def _over_donors(own: Mapping[str, float], n_cells: int, n_changed: int) -> Estimate:
    means = np.array(list(own.values()), dtype=np.float64)
    n = len(means)
    return Estimate(
        effect=float(means.mean()) if n else float("nan"),
        error=float(means.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
        freedom=n - 1,
        n_cells=n_cells,
        n_changed=n_changed,
        donors=own,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """All items of a screen in one context."""

    context: str
    items: Sequence[str]
    kinds: Sequence[str]
    estimates: Sequence[Estimate]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    p: NDArray[np.float64]
    """float64 (items,) each: mean and standard deviation of the null, p-value."""

    null: Sequence[str]
    in_goal: Sequence[bool]


def table_of(scores: Sequence[Scores], towards: str) -> pd.DataFrame:
    """Ranked table with the columns :data:`COLUMNS`: contexts in order, in each the largest effect first.

    Parameters
    ----------
    towards
        ``"up"``: towards the goal; ``"down"``: the most negative effect first.
    """
    sign = 1 if towards == "up" else -1
    frames = []
    for each in scores:
        effects = np.array([estimate.effect for estimate in each.estimates], dtype=np.float64)
        intervals = np.array([estimate.interval() for estimate in each.estimates]).reshape(-1, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(each.spread > 0, (effects - each.centre) / each.spread, np.nan)
        frame = pd.DataFrame(
            {
                "context": each.context,
                "item": list(each.items),
                "kind": list(each.kinds),
                "effect": effects,
                "low": intervals[:, 0],
                "high": intervals[:, 1],
                "null_mean": each.centre,
                "null_sd": each.spread,
                "z": z,
                "p": each.p,
                "fdr": false_discovery_rates(each.p),
                "null": list(each.null),
                "n_cells": [estimate.n_cells for estimate in each.estimates],
                "n_changed": [estimate.n_changed for estimate in each.estimates],
                "n_donors": [len(estimate.donors) for estimate in each.estimates],
                "in_goal": list(each.in_goal),
            }
        )
        frame["specific"] = effects - frame.groupby("kind")["effect"].transform("median")
        frame["order"] = -sign * frame["effect"]
        frame = frame.sort_values(["order", "item", "kind"], kind="stable", na_position="last").drop(columns="order")
        frame["rank"] = np.arange(1, len(frame) + 1)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]
