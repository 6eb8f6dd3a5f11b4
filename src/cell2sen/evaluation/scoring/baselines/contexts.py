"""Baselines of responses that learn from other contexts: similar contexts, regression on the control level."""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.similar_contexts import KnownChanges, Transfer, fit_transfer
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.baselines.cells import Baseline, NoChange
from cell2sen.evaluation.scoring.baselines.method import baseline
from cell2sen.evaluation.scoring.groups import Groups, Key
from cell2sen.evaluation.scoring.resampling import Group, Profile

#: Ridge penalties among which :class:`RidgeOnControl` chooses, in units of the variance of ln(1 + CP10k).
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, np.inf)


class _FromContexts(Baseline, abc.ABC):
    """Control cells plus a change that is learned from other contexts."""

    @abc.abstractmethod
    def changes(self, control: NDArray[np.float64], levels: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
        """Predicted change at control levels, float64 (..., genes), of a context with this control mean (genes,)."""

    def expression(self, group: Group) -> Profile:
        """Mean of the controls plus the predicted change, at least 0."""
        control, change = group.control(), self.change(group, None)
        return Profile(
            point=np.maximum(control.point + change.point, 0), samples=np.maximum(control.samples + change.samples, 0)
        )

    def change(self, group: Group, fold: int | None) -> Profile:
        """The predicted change."""
        control = group.controls(fold)[0]
        return Profile(
            point=self.changes(control.point, control.point, group),
            samples=self.changes(control.point, control.samples, group),
        )

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Control cells, moved by the predicted change of their mean in the embedding."""
        if group.embedding is None:
            raise Missing("there is no embedding, as no metric of sets of cells was chosen")
        return np.asarray(NoChange().cells(group, n) + group.embedding.change(self.change(group, None).point))


@baseline("perturb")
class SimilarContexts(_FromContexts):
    """The changes in other contexts, weighted by the likeness of their controls, falls as shares of the own control."""

    def changes(self, control: NDArray[np.float64], levels: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
        """Weighted mean of the changes (:class:`cell2sen.data.similar_contexts.Transfer`)."""
        groups = group.groups
        rule, known = transfer_rule(groups, group.key), known_changes(groups, groups.donors(group.key))
        return rule.change(control, known, levels)


@baseline("perturb")
class RidgeOnControl(_FromContexts):
    """The change that a ridge regression on the control level expects, gene by gene, from other contexts."""

    def changes(self, control: NDArray[np.float64], levels: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
        """Line through the contexts; penalty chosen by leaving out each of them."""
        groups, keys = group.groups, group.groups.donors(group.key)
        known, name = known_changes(groups, keys), ("ridge penalty", *keys)
        return _ridge(levels, known, groups.once(name, lambda: _penalty(known)))


def transfer_rule(groups: Groups, key: Key) -> Transfer:
    """Rule of :class:`SimilarContexts` for a group, fitted without it: on groups that baselines may learn from.

    All perturbations of the source are used, in contexts other than the scored one, so that neither the perturbed cells
    of the scored group nor other perturbations of its context take part. Training cells have no scored cell.
    """
    contexts = {groups.context(other) for other in groups.source.groups}
    left_out = () if groups.train is not None else (groups.context(key),)
    name = ("transfer", left_out)

    def fit() -> Transfer:
        by_perturbation: dict[str, list[Key]] = {}
        for other in groups.source.groups:
            if groups.context(other) in contexts.difference(left_out) & set(groups.source.controls):
                by_perturbation.setdefault(other[0], []).append(other)
        return fit_transfer([known_changes(groups, keys) for keys in by_perturbation.values()])

    rule: Transfer = groups.once(name, fit)
    return rule


def known_changes(groups: Groups, keys: list[Key]) -> KnownChanges:
    """Means of some groups that baselines learn from."""
    source = groups.source
    controls = np.array([groups.control_mean(source, groups.context(key)) for key in keys])
    treated = np.array([groups.mean(source, key) for key in keys])
    return KnownChanges(
        controls=controls, changes=treated - controls, n_cells=[len(source.groups[key]) for key in keys]
    )


def _ridge(control: NDArray[np.float64], known: KnownChanges, penalty: float) -> NDArray[np.float64]:
    """Change at the level of `control`: weighted mean change plus slope × distance from the mean control."""
    weights = np.sqrt(np.asarray(known.n_cells, dtype=np.float64))
    weights /= weights.sum()
    level, change = weights @ known.controls, weights @ known.changes
    slope = (weights @ ((known.controls - level) * (known.changes - change))) / (
        weights @ (known.controls - level) ** 2 + penalty
    )
    return np.asarray(np.maximum(change + slope * (control - level), -control))


def _penalty(known: KnownChanges) -> float:
    """Penalty with the highest mean correlation over contexts, each predicted from the others; no slope for two."""
    if len(known) < 3:
        return float(np.inf)

    def left_out(penalty: float) -> float:
        values = [
            np.corrcoef(_ridge(known.controls[k], known.without(k), penalty), known.changes[k])[0, 1]
            for k in range(len(known))
        ]
        return float(np.mean(np.nan_to_num(values)))

    return max(PENALTIES, key=left_out)
