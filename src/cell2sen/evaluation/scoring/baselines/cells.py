"""Baselines and ceilings of predicted cells: one class each under @baseline."""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import Cells, group_name
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.metrics.distributions import neighbours
from cell2sen.evaluation.scoring.baselines.method import baseline
from cell2sen.evaluation.scoring.groups import Groups, Key, Rows
from cell2sen.evaluation.scoring.resampling import Group, Profile, Transform, at_most

#: Training cells among which the nearest is searched, at most.
_MAX_POOL_CELLS = 2000


class Baseline:
    """Base class of methods for cells. Scores of what a subclass does not define are missing, with a reason."""

    name: str
    """Set by :func:`cell2sen.evaluation.scoring.baselines.method.baseline`."""

    def available(self, groups: Groups) -> bool:
        """Whether the method is scored at all."""
        return True

    def truth(self, group: Group) -> Profile:
        """Mean expression that :meth:`expression` is compared with."""
        return group.truth()

    def true_change(self, group: Group, fold: int | None) -> Profile:
        """Change that :meth:`change` is compared with."""
        return group.truth() - group.controls(fold)[1]

    def expression(self, group: Group) -> Profile:
        """Predicted mean expression of the group."""
        raise Missing(f"{self.name} predicts no expression")

    def change(self, group: Group, fold: int | None) -> Profile:
        """Predicted mean change from the controls: half `fold` of them, or all of them if it is None."""
        return self.expression(group) - group.controls(fold)[0]

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """`n` predicted cells in the embedding, float64 (n, components)."""
        raise Missing(f"{self.name} predicts no cells")


@baseline("perturb", "generate", role="prediction")
class Prediction(Baseline):
    """The predicted cells."""

    def expression(self, group: Group) -> Profile:
        """Mean of the predicted cells."""
        return group.profile(group.groups.predicted.cells, group.predicted_rows, ("predicted", group.key))

    def change(self, group: Group, fold: int | None) -> Profile:
        """Mean change; in a fold, only of cells made from that half of the controls, if their origin is known."""
        groups, rows, purpose = group.groups, group.predicted_rows, ("predicted", group.key)
        source = group.controls(fold)[0]
        half = groups.source_halves[rows]
        kept = rows[half == fold] if fold is not None and (half >= 0).all() and (half == fold).any() else rows
        if groups.with_controls and "delta" in groups.predicted.cells.layers:
            # Control and prediction went through the same rank fit, whose errors cancel in their difference.
            return group.profile(groups.predicted.cells, kept, purpose, layer="delta")
        # Cells of unknown origin were most likely made from all controls.
        before = source if len(kept) < len(rows) else group.control()
        return group.profile(groups.predicted.cells, kept, purpose) - before

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Predicted cells."""
        return group.draw(group.groups.predicted.cells, group.predicted_rows, n, self.name)


@baseline("perturb")
class NoChange(Baseline):
    """The control cells of the same context, unchanged."""

    def expression(self, group: Group) -> Profile:
        """Mean of the controls."""
        return group.control()

    def change(self, group: Group, fold: int | None) -> Profile:
        """Zero."""
        return Profile.constant(np.zeros_like(group.controls(fold)[0].point))

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Control cells."""
        rows = group.groups.controls(group.context)
        if len(rows) < n:
            raise Missing(f"{len(rows)} control cells in {group_name(group.context)}, {n} are compared")
        return group.draw(group.groups.real.cells, rows, n, NoChange.name)


class _OneMean(Baseline, abc.ABC):
    """The same mean for each cell."""

    @abc.abstractmethod
    def mean(self, group: Group) -> NDArray[np.float64]:
        """Mean expression, float64 (genes,)."""

    @abc.abstractmethod
    def centre(self, group: Group) -> NDArray[np.float64]:
        """Mean in the embedding, float64 (components,)."""

    def expression(self, group: Group) -> Profile:
        """The mean."""
        return Profile.constant(self.mean(group))

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """The mean, `n` times."""
        return np.repeat(self.centre(group)[None], n, axis=0)


@baseline("perturb")
class ControlMean(_OneMean):
    """The mean of all control cells, for each cell."""

    def mean(self, group: Group) -> NDArray[np.float64]:
        """Mean of the contexts' means, weighted by their numbers of control cells."""
        real = group.groups.real
        sizes = [len(rows) for rows in real.controls.values()]
        means = [group.groups.control_mean(real, context) for context in real.controls]
        return np.asarray(np.average(means, axis=0, weights=sizes))

    def centre(self, group: Group) -> NDArray[np.float64]:
        """Mean of some control cells."""
        real = group.groups.real
        return group.centre(real.cells, real.cells.by_name(np.concatenate(list(real.controls.values()))))


@baseline("perturb")
class MeanOfPerturbed(_OneMean):
    """The mean of the perturbed training cells, for each cell."""

    def mean(self, group: Group) -> NDArray[np.float64]:
        """Mean of the means of groups to learn from."""
        groups = group.groups
        return np.asarray(np.mean([groups.mean(groups.source, key) for key in groups.donors(group.key)], axis=0))

    def centre(self, group: Group) -> NDArray[np.float64]:
        """The same in the embedding."""
        source = group.groups.source
        centres = [group.centre(source.cells, source.groups[key]) for key in group.groups.donors(group.key)]
        return np.asarray(np.mean(centres, axis=0))


@baseline("perturb")
class MeanShift(Baseline):
    """Control cells of the same context plus the mean change in training."""

    def expression(self, group: Group) -> Profile:
        """Mean of the controls plus the mean change, at least 0."""
        control, shift = group.control(), self._shift(group)
        return Profile(point=np.maximum(control.point + shift, 0), samples=np.maximum(control.samples + shift, 0))

    def change(self, group: Group, fold: int | None) -> Profile:
        """The mean change."""
        return Profile.constant(self._shift(group))

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Control cells moved by the mean change in the embedding."""
        source = group.groups.source
        control = NoChange().cells(group, n)
        shifts = [
            group.centre(source.cells, source.groups[key])
            - group.centre(source.cells, source.controls[group.groups.context(key)])
            for key in group.groups.donors(group.key)
        ]
        return np.asarray(control + np.mean(shifts, axis=0))

    def _shift(self, group: Group) -> NDArray[np.float64]:
        groups = group.groups
        shifts = [
            groups.mean(groups.source, key) - groups.control_mean(groups.source, groups.context(key))
            for key in groups.donors(group.key)
        ]
        return np.asarray(np.mean(shifts, axis=0))


@baseline("generate")
class MeanOfAll(_OneMean):
    """The mean of all real cells, for each cell."""

    def mean(self, group: Group) -> NDArray[np.float64]:
        """Mean of all real cells."""
        return group.groups.control_mean(group.groups.real, group.context)

    def centre(self, group: Group) -> NDArray[np.float64]:
        """Mean of some of them."""
        real = group.groups.real
        return group.centre(real.cells, real.cells.by_name(real.grouped))


@baseline("generate")
class RandomCells(Baseline):
    """Real cells drawn regardless of their label."""

    def expression(self, group: Group) -> Profile:
        """Mean of as many real cells as were predicted, `max_cells` at most."""
        groups = group.groups
        n = min(groups.sampling.max_cells, len(group.predicted_rows))
        rows = at_most(self._rows(group), n, groups.generator("random", group.key))
        return group.profile(groups.real.cells, rows, ("random", group.key))

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Real cells."""
        return group.draw(group.groups.real.cells, self._rows(group), n, self.name)

    def _rows(self, group: Group) -> Rows:
        return group.groups.real.cells.by_name(group.groups.real.grouped)


@baseline("perturb", "generate")
class NearestTrainingCell(Baseline):
    """The training cell nearest to each control cell (generated cells: any of the same label)."""

    def expression(self, group: Group) -> Profile:
        """Mean of the training cells."""
        return group.profile(*self._nearest(group, None), ("nearest", group.key))

    def change(self, group: Group, fold: int | None) -> Profile:
        """Mean of the training cells nearest to the controls of a fold, minus that of these controls."""
        return group.profile(*self._nearest(group, fold), ("nearest", group.key)) - group.controls(fold)[0]

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Training cells."""
        return group.draw(*self._nearest(group, None), n, self.name)

    def _nearest(self, group: Group, fold: int | None) -> tuple[Cells, Rows]:
        groups, most = group.groups, group.groups.sampling.max_cells
        side, pool = self._pool(groups, group.key)
        rng = groups.generator("donors", group.key)
        if not groups.with_controls:
            return side, at_most(pool, most, rng)
        control = groups.controls(group.context)
        if fold is not None:
            control = groups.control_halves[group.context][fold]
        pool, control = at_most(pool, _MAX_POOL_CELLS, rng), at_most(control, most, rng)
        if not len(control):
            raise Missing("no control cells")
        nearest = neighbours(group.coordinates(side, pool), group.coordinates(groups.real.cells, control), 1)[:, 0]
        return side, pool[nearest]

    def _pool(self, groups: Groups, key: Key) -> tuple[Cells, Rows]:
        """Training cells to choose from."""
        if groups.with_controls:
            source = groups.source
            return source.cells, np.concatenate([source.groups[other] for other in groups.donors(key)])
        if groups.train is None:
            raise Missing("training cells are not known; pass train=")
        if key not in groups.train.groups:
            raise Missing(f"train= has no cells of {group_name(key)}")
        return groups.train.cells, groups.train.groups[key]


@baseline("perturb", "generate")
class LabelShuffle(Baseline):
    """The prediction itself, its groups exchanged."""

    def expression(self, group: Group) -> Profile:
        """Predicted expression of another group."""
        return Prediction().expression(group.partner())

    def change(self, group: Group, fold: int | None) -> Profile:
        """Predicted change of another group from its own controls."""
        return Prediction().change(group.partner(), fold)

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Predicted cells of the exchange partner, then of its partner, until there are `n`."""
        groups, other = group.groups, group.groups.partner(group.key)
        rows = [groups.predicted.groups[other]]
        while sum(map(len, rows)) < n and (other := groups.partner(other)) != group.key:
            rows.append(groups.predicted.groups[other])
        return group.draw(groups.predicted.cells, np.concatenate(rows), n, self.name)


class _Half(Baseline):
    """One half of the real cells; the other half is the truth."""

    def transform(self, group: Group) -> Transform:
        """Transform of the first half's expression, or None."""
        return None

    def truth(self, group: Group) -> Profile:
        """Mean of the second half."""
        return group.half(1)

    def expression(self, group: Group) -> Profile:
        """Mean of the first half."""
        return group.half(0, self.transform(group))

    def true_change(self, group: Group, fold: int | None) -> Profile:
        """Change of the half that :meth:`change` does not use."""
        reference = group.controls(fold)[1]
        return group.half(1 - (fold or 0)) - reference

    def change(self, group: Group, fold: int | None) -> Profile:
        """Change of the first half; in fold 1 of the second."""
        transform = self.transform(group)
        return group.half(fold or 0, transform) - group.controls(fold, transform)[0]

    def cells(self, group: Group, n: int) -> NDArray[np.float64]:
        """Cells of the first half."""
        rows = group.groups.halves[group.key][0]
        return group.draw(group.groups.real.cells, rows, n, Ceiling.name, self.transform(group))


@baseline("perturb", "generate", role="ceiling")
class SentenceCeiling(_Half):
    """The ceiling after writing the one half as sentences of the prediction's length and reading them back."""

    def available(self, groups: Groups) -> bool:
        """Whether the prediction consists of sentences of this package."""
        return groups.round_trip is not None

    def transform(self, group: Group) -> Transform:
        """Round trip through sentences."""
        return group.groups.round_trip


@baseline("perturb", "generate", role="ceiling")
class Ceiling(_Half):
    """One half of the real cells against the other half."""
