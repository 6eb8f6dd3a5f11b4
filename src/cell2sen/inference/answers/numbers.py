"""Bins: numbers as a closed set of written answers; expected value and interval of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Maximum number of bins: each is an answer that is scored for each cell.
MAX_BINS = 24

#: Share of the probability within an interval.
LEVEL = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """Numbers that stand for themselves (doses, times), or for an interval of values each (ages)."""

    values: NDArray[np.float64]
    """Numbers in ascending order, float64 (bins,)."""

    edges: NDArray[np.float64] | None = None
    """Limits of the intervals, float64 (bins + 1,); ``None`` for numbers that stand for themselves."""

    def __post_init__(self) -> None:
        if len(self.values) < 2 or not (np.diff(self.values) > 0).all():
            raise ValueError(f"numbers to choose from must be two or more, ascending, found {self.values.tolist()}")

    @classmethod
    def of(cls, numbers: Sequence[Any]) -> Bins:
        """Bins of given numbers, each of which stands for itself; other values belong to the nearest.

        Raises
        ------
        ValueError
            Fewer than two different numbers, or text that is no number.
        """
        try:
            parsed = np.array([float(number) for number in numbers], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"numbers to choose from must be numbers, found {list(numbers)[:5]}") from error
        if not np.isfinite(parsed).all():
            raise ValueError(f"numbers to choose from must be finite, found {list(numbers)[:5]}")
        return cls(values=np.unique(parsed))

    @classmethod
    def fit(cls, values: ArrayLike, max_bins: int = MAX_BINS) -> Bins:
        """Bins of the values of training cells.

        Up to `max_bins` different values stand for themselves. More are divided at quantiles into intervals of about
        equal numbers of cells; each is written as the median of its cells, with the fewest digits that tell the bins
        apart.

        Parameters
        ----------
        values
            float64 (cells,), NaN where missing.

        Raises
        ------
        ValueError
            Fewer than two different values.
        """
        known = np.asarray(values, dtype=np.float64)
        known = known[np.isfinite(known)]
        different = np.unique(known)
        if len(different) < 2:
            raise ValueError(f"numbers need at least two different values to learn from, found {different.tolist()}")
        if len(different) <= max_bins:
            return cls(values=different)
        edges = np.unique(np.quantile(known, np.linspace(0, 1, max_bins + 1)))
        place = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, len(edges) - 2)
        medians = np.array([np.median(known[place == number]) for number in np.unique(place)])
        edges = np.append(edges[np.unique(place)], edges[-1])
        return cls(values=_fewest_digits(medians), edges=edges)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Bins:
        """Bins as :meth:`record` stored them in a model's metadata."""
        edges = record.get("edges")
        return cls(
            values=np.array(record["values"], dtype=np.float64),
            edges=None if edges is None else np.array(edges, dtype=np.float64),
        )

    def record(self) -> dict[str, Any]:
        """Values and edges as plain numbers."""
        return {"values": self.values.tolist(), "edges": None if self.edges is None else self.edges.tolist()}

    @property
    def answers(self) -> tuple[str, ...]:
        """The numbers as they are written, without exponents."""
        return tuple(map(_text, self.values))

    def place(self, values: ArrayLike) -> NDArray[np.int64]:
        """Number of the bin of each value, int64 (n,); -1 for missing ones. Values beyond the ends are in the last."""
        numbers = np.asarray(values, dtype=np.float64)
        limits = (self.values[1:] + self.values[:-1]) / 2 if self.edges is None else self.edges[1:-1]
        return np.where(np.isfinite(numbers), np.searchsorted(limits, numbers, side="right"), -1).astype(np.int64)

    def write(self, values: ArrayLike) -> NDArray[Any]:
        """Written answer of each value, object (n,); ``None`` for missing ones."""
        answers = np.array([*self.answers, None], dtype=object)
        return np.asarray(answers[self.place(values)])

    def expected(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected value of each row of probabilities (n, bins), float64 (n,): Σ probability · number."""
        return np.asarray(probabilities @ self.values)

    def interval(self, probabilities: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
        """Central interval with at least a share `level` of the probability, float64 (n, 2).

        Between the quantiles (1 − level) / 2 and (1 + level) / 2. Within the interval of a bin, values are uniformly
        distributed; numbers that stand for themselves have no values between them.
        """
        limits = np.full((len(probabilities), 2), np.nan)
        cumulative = np.cumsum(probabilities, axis=1)
        for side, share in enumerate(((1 - level) / 2, (1 + level) / 2)):
            for row, sums in enumerate(cumulative):
                if not np.isfinite(sums).all():
                    continue
                bin_ = min(int(np.searchsorted(sums, share - 1e-12)), len(self.values) - 1)
                if self.edges is None:
                    limits[row, side] = self.values[bin_]
                    continue
                below, mass = (sums[bin_ - 1] if bin_ else 0.0), probabilities[row, bin_]
                part = min(max((share - below) / mass, 0.0), 1.0) if mass > 0 else 0.0
                limits[row, side] = self.edges[bin_] + part * (self.edges[bin_ + 1] - self.edges[bin_])
        return limits


def _text(number: float) -> str:
    return np.format_float_positional(number, trim="-")


def _fewest_digits(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending numbers, rounded to the fewest significant digits (at least two) that keep them apart."""
    for digits in range(2, 17):
        rounded = np.array([float(f"{number:.{digits}g}") for number in numbers])
        if (np.diff(rounded) > 0).all():
            return rounded
    return numbers
