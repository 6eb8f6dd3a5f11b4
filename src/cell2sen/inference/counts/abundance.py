"""Target counts of a cell whose genes change their mean abundance by measured folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class AbundanceChange:
    """Measured changes of abundance for the predicted cells of one perturbation."""

    rows: NDArray[np.int64]
    """Places of its cells among the predicted ones, int64 (cells,)."""

    weights: NDArray[np.float64]
    """Weight of each training context, float64 (cells, contexts)."""

    abundances: NDArray[np.float64]
    """Mean abundance in the contexts' controls, counts per 10,000, float64 (contexts, genes)."""

    log_folds: NDArray[np.float64]
    """ln(perturbed / control) of it, float64 (contexts, genes)."""

    places: NDArray[np.int64]
    """Place of each gene among the symbols, int64 (genes,); other genes do not change."""

    def target(self, cell: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Target counts, float64 (symbols,), of one of its cells with these counts, (symbols,).

        The target of a gene that falls by the factor f is f times its counts; of one that rises, its counts and f − 1
        times the counts that are expected of such a cell: (x + 1) · μ / (μ + 1), where x are its counts and μ the mean
        of the contexts in a cell of this size. That is the posterior mean of a Poisson rate with a gamma prior of shape
        1, so that genes without counts can rise, too.
        """
        fold = np.exp(self.weights[cell] @ self.log_folds)
        own = counts[self.places].astype(np.float64)
        mean = self.weights[cell] @ self.abundances * (counts.sum() / 1e4)
        expected = (own + 1) * mean / (mean + 1)
        result = counts.astype(np.float64)
        result[self.places] = np.where(fold <= 1, own * fold, own + (fold - 1) * expected)
        return result


def target_counts(
    changes: Sequence[AbundanceChange], row: int, counts: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """:meth:`AbundanceChange.target` for a predicted cell; ``None`` if no change was measured for it."""
    for change in changes:
        place = int(np.searchsorted(change.rows, row))
        if place < len(change.rows) and change.rows[place] == row:
            return change.target(place, counts)
    return None
