"""Change of a context from those of similar contexts: weighted by the likeness of their controls, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Temperatures among which :func:`fit_transfer` chooses; the last one weights all contexts alike.
TEMPERATURES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, np.inf)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownChanges:
    """Mean changes of one perturbation in several contexts, such as cell types."""

    controls: Array
    """Mean expression of the control cells of each context, ln(1 + CP10k), float64 (contexts, genes)."""

    changes: Array
    """Mean of the perturbed cells minus that of the controls, float64 (contexts, genes)."""

    n_cells: Sequence[int]
    """Perturbed cells of each context."""

    cells: Sequence[Array] | None = None
    """Some control cells of each context, float64 (cells, genes), for rules that predict cell by cell."""

    def __len__(self) -> int:
        return len(self.controls)

    def without(self, context: int) -> KnownChanges:
        """All contexts but one."""
        kept = np.arange(len(self)) != context
        return KnownChanges(
            controls=self.controls[kept],
            changes=self.changes[kept],
            n_cells=[n for number, n in enumerate(self.n_cells) if kept[number]],
            cells=None if self.cells is None else [some for number, some in enumerate(self.cells) if kept[number]],
        )


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Rule by which the change of a context follows from those of others.

    A context has the weight √n · exp(ρ / temperature): n is the number of its perturbed cells, ρ the correlation of its
    control mean with that of the predicted context.
    """

    temperature: float = 0.08
    shares: bool = True
    """Whether a gene falls by the same share of its control level as in the other contexts, rather than by the same
    difference of logarithms: a gene that the predicted context hardly expresses cannot fall by much."""

    def weights(self, control: Array, known: KnownChanges) -> Array:
        """Weight of each context, float64 (..., contexts), of sum 1."""
        likeness = correlations(control, known.controls)
        weights = np.sqrt(np.asarray(known.n_cells, dtype=np.float64)) * np.exp(
            (likeness - likeness.max(axis=-1, keepdims=True)) / self.temperature
        )
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))

    def change(self, control: Array, known: KnownChanges, levels: Array | None = None) -> Array:
        """Predicted change of a context with this control mean, or of single cells.

        Parameters
        ----------
        control
            Mean expression of its control cells, ln(1 + CP10k), float64 (genes,), or control cells (cells, genes), each
            of which gets weights of its own.
        known
            At least one context.
        levels
            Control levels of which shares are taken, float64 (..., genes), such as those of single control cells or of
            resampled ones. Default: `control`.

        Returns
        -------
        float64, of the shape of `levels`.
        """
        return self.weighted(self.weights(control, known), known, control if levels is None else levels)

    def weighted(self, weights: Array, known: KnownChanges, levels: Array) -> Array:
        """:meth:`change` with given weights, float64 (..., contexts)."""
        if not self.shares:
            return np.broadcast_to(weights @ known.changes, levels.shape).copy()
        expressed = known.controls > 0
        share = np.divide(known.changes, known.controls, out=np.zeros_like(known.changes), where=expressed)
        falls = known.changes < 0
        return np.asarray(
            weights @ np.where(falls, 0.0, known.changes) + (weights @ np.where(falls, share, 0)) * levels
        )


def fit_transfer(perturbations: Sequence[KnownChanges], default: Transfer | None = None) -> Transfer:
    """Temperature and rule of falls with which contexts are predicted best from the others of the same perturbation.

    The criterion is the mean correlation of predicted and true change, with weights √n. A context that is to be
    predicted must not be among them.

    Parameters
    ----------
    perturbations
        Those with fewer than three contexts are left out: one of two leaves nothing to weight. With cells, the change
        of a context is the mean of those of its cells.
    default
        Rule where none is left (:class:`Transfer`'s defaults), and the preferred one of equally good rules.
    """
    default = default or Transfer()
    usable = [known for known in perturbations if len(known) > 2]
    if not usable:
        return default
    rules = [Transfer(temperature=value, shares=shares) for value in TEMPERATURES for shares in (True, False)]
    scores = {rule: round(_left_out(rule, usable), 9) for rule in (default, *rules)}  # the order of sums decides no tie
    return max(scores, key=scores.__getitem__)


def _left_out(rule: Transfer, perturbations: Sequence[KnownChanges]) -> float:
    """Mean correlation over contexts, each predicted from the others."""
    values, weights = [], []
    for known in perturbations:
        for context in range(len(known)):
            cells = known.controls[context] if known.cells is None else known.cells[context]
            predicted = np.atleast_2d(rule.change(cells, known.without(context))).mean(axis=0)
            values.append(_correlation(predicted, known.changes[context]))
            weights.append(np.sqrt(known.n_cells[context]))
    return float(np.average(values, weights=weights))


def correlations(cells: Array, controls: Array) -> Array:
    """Pearson's correlation of cells with contexts, float64 (..., contexts); 0 for a constant.

    Parameters
    ----------
    cells, controls
        Expression, float64 (..., genes) and (contexts, genes).
    """
    return np.asarray(_standardised(cells) @ _standardised(controls).T)


def _standardised(values: Array) -> Array:
    """Rows of mean 0 and length 1; constant ones are 0."""
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 0))


def _correlation(first: Array, second: Array) -> float:
    """Pearson's correlation; 0 for a constant."""
    return float(correlations(first, second[None])[0])
