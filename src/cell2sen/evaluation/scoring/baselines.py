"""Baselines: what predicted cells have to beat, and the ceiling, as mean profiles and as cells of an embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import Cells, label
from cell2sen.evaluation.metrics.distributions import neighbours
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.arms import (
    ARMS_OF,
    CEILING,
    PREDICTION,
    SENTENCES,
    Key,
    Missing,
    Profile,
    Quadruple,
    Task,
)
from cell2sen.evaluation.scoring.pca import Embedding, SentenceFit

_BLOCK = 4096


@dataclass(kw_only=True)
class Arms:
    """All arms of all groups."""

    task: Task
    predicted: Cells
    real: Cells
    train: Cells | None
    predicted_groups: Mapping[Key, NDArray[np.int64]]
    real_groups: Mapping[Key, NDArray[np.int64]]
    controls: Mapping[Key, NDArray[np.int64]]
    """Context → control cells. For generated cells one context, (), of all real cells."""
    train_groups: Mapping[Key, NDArray[np.int64]] = field(default_factory=dict)
    train_controls: Mapping[Key, NDArray[np.int64]] = field(default_factory=dict)
    split_controls: bool = False
    """Take true and predicted change from different halves of the controls, for all metrics of change."""
    resamples: int = 100
    max_cells: int = 500
    min_cells: int = 10
    seed: int = 0
    sentence_fit: SentenceFit | None = None
    """How predictions that are sentences become expression; None for other predictions."""
    embedding: Embedding | None = None
    _means: dict[tuple[Any, ...], NDArray[np.float64]] = field(default_factory=dict)
    _profiles: dict[tuple[Any, ...], Profile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = [key for key in self.predicted_groups if key in self.real_groups]
        self.names = tuple(arm for arm in ARMS_OF[self.task] if arm != SENTENCES or self.sentence_fit is not None)
        self._half = {key: self._halves(rows, "truth", key) for key, rows in self.real_groups.items()}
        self._control_half = {key: self._halves(rows, "control", key) for key, rows in self.controls.items()}
        self._shuffled = _derangement(self.keys, self.context, bootstrap.generator(self.seed, "shuffle"))
        self._sources = self._source_halves()

    def context(self, key: Key) -> Key:
        """The part of a group's values that its controls share."""
        return key[1:] if self.task == "perturb" else ()

    # ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────

    def expression(self, key: Key) -> Iterator[Quadruple]:
        """Mean expression of one group, from all cells that there are."""
        truth = self._profile(self.real, self.real_groups[key], ("truth", key))
        for arm in self.names:
            try:
                if arm in (CEILING, SENTENCES):
                    yield arm, self._half_profile(key, 1), self._half_profile(key, 0, arm == SENTENCES), ""
                else:
                    yield arm, truth, self._expression(arm, key), ""
            except Missing as why:
                yield arm, None, None, str(why)

    def change(self, key: Key, fold: int | None) -> Iterator[Quadruple]:
        """Mean change of one group, of truth and arm from the same controls.

        In fold 0 and 1 the arm's change is taken from that half of the controls, the truth's from the other half.
        """
        source, reference = self._control_profiles(key, fold)
        truth = self._profile(self.real, self.real_groups[key], ("truth", key)) - reference
        for arm in self.names:
            try:
                if arm in (CEILING, SENTENCES):
                    half, read = fold or 0, arm == SENTENCES
                    before = self._control_profiles(key, fold, read)[0]
                    answer = self._half_profile(key, half, read) - before
                    yield arm, self._half_profile(key, 1 - half) - reference, answer, ""
                else:
                    yield arm, truth, self._change(arm, key, fold, source), ""
            except Missing as why:
                yield arm, None, None, str(why)

    def true_change(self, key: Key) -> NDArray[np.float64]:
        """Mean change of a real group against all its controls, float64 (genes,)."""
        return self._mean(self.real, self.real_groups[key], ("real", key)) - self._control_mean(self.context(key))

    def predicted_change(self, key: Key) -> NDArray[np.float64]:
        """Mean change of all predicted cells of a group against all controls, float64 (genes,)."""
        rows = self.predicted_groups[key]
        if self._has_delta:
            return self.predicted.mean(rows, "delta")
        return self.predicted.mean(rows) - self._control_mean(self.context(key))

    def _expression(self, arm: str, key: Key) -> Profile:
        if arm == PREDICTION:
            return self._profile(self.predicted, self.predicted_groups[key], ("predicted", key))
        if arm == "label_shuffle":
            return self._expression(PREDICTION, self._other(key))
        if arm == "no_change":
            return self._control(key)
        if arm == "mean_shift":
            control, shift = self._control(key), self._mean_shift(key)
            return Profile(point=np.maximum(control.point + shift, 0), samples=np.maximum(control.samples + shift, 0))
        if arm == "random_cells":
            return self._profile(self.real, self._random(key), ("random", key))
        if arm == "nearest_training_cell":
            return self._profile(*self._nearest(key, None), ("nearest", key))
        return self._constant(arm, key)

    def _change(self, arm: str, key: Key, fold: int | None, source: Profile) -> Profile:
        if arm == PREDICTION:
            return self._predicted_change(key, fold, source)
        if arm == "label_shuffle":
            other = self._other(key)
            return self._predicted_change(other, fold, self._control_profiles(other, fold)[0])
        if arm == "no_change":
            still = np.zeros_like(source.point)
            return Profile(point=still, samples=still[None])
        if arm == "mean_shift":
            shift = self._mean_shift(key)
            return Profile(point=shift, samples=shift[None])
        if arm == "random_cells":
            return self._profile(self.real, self._random(key), ("random", key)) - source
        if arm == "nearest_training_cell":
            return self._profile(*self._nearest(key, fold), ("nearest", key)) - source
        return self._constant(arm, key) - source

    def _predicted_change(self, key: Key, fold: int | None, source: Profile) -> Profile:
        """From cells that were not made from the controls which the true change is taken from, where this is known."""
        rows = self.predicted_groups[key]
        half = self._sources[rows]
        kept = rows[half == fold] if fold is not None and (half >= 0).all() and (half == fold).any() else rows
        if self._has_delta:
            # Control and prediction went through the same rank fit: in their difference its errors cancel.
            return self._profile(self.predicted, kept, ("predicted", key), layer="delta")
        # Cells of unknown origin were most likely made from all controls, so that is what they have changed from.
        before = source if len(kept) < len(rows) else self._control(key)
        return self._profile(self.predicted, kept, ("predicted", key)) - before

    @property
    def _has_delta(self) -> bool:
        return self.task == "perturb" and "delta" in self.predicted.layers

    def _constant(self, arm: str, key: Key) -> Profile:
        if arm == "control_mean":
            sizes = [len(rows) for rows in self.controls.values()]
            mean = np.average([self._control_mean(context) for context in self.controls], axis=0, weights=sizes)
        elif arm == "mean_of_all":
            mean = self._control_mean(())
        else:
            mean = np.mean([mean for mean, _ in self._donor_means(key)], axis=0)
        return Profile(point=mean, samples=mean[None])

    def _mean_shift(self, key: Key) -> NDArray[np.float64]:
        shift: NDArray[np.float64] = np.mean([mean - control for mean, control in self._donor_means(key)], axis=0)
        return shift

    def _half_profile(self, key: Key, half: int, as_sentences: bool = False) -> Profile:
        if min(map(len, self._half[key])) < 1:
            raise Missing("one real cell: it cannot be split")
        return self._profile(self.real, self._half[key][half], ("half", key, half), as_sentences=as_sentences)

    def _control(self, key: Key, as_sentences: bool = False) -> Profile:
        context = self.context(key)
        if context not in self.controls:
            raise Missing(f"no control cells in {label(context) or 'the data'}")
        return self._profile(self.real, self.controls[context], ("control", context), as_sentences=as_sentences)

    def _control_profiles(self, key: Key, fold: int | None, as_sentences: bool = False) -> tuple[Profile, Profile]:
        """Of the half that predictions start from, and of the half that the true change is taken from."""
        context = self.context(key)
        if fold is None or context not in self.controls:
            one = self._control(key, as_sentences)
            return one, one
        halves = self._control_half[context]
        if min(map(len, halves)) < 1:
            raise Missing(
                f"{len(self.controls[context])} control cell in {label(context) or 'all'}: it cannot be split into "
                "halves"
            )
        first, second = (
            self._profile(self.real, half, ("control", context, at), as_sentences=as_sentences)
            for at, half in enumerate(halves)
        )
        return (first, second) if fold == 0 else (second, first)

    def _profile(
        self,
        side: Cells,
        rows: NDArray[Any],
        purpose: tuple[Any, ...],
        layer: str | None = None,
        as_sentences: bool = False,
    ) -> Profile:
        """Mean of some cells; computed once a group."""
        name = (*purpose, layer, as_sentences, len(rows), int(rows[0]))
        if name not in self._profiles:
            drawn = bootstrap.weights(bootstrap.generator(self.seed, *purpose), self.resamples, len(rows))
            point = np.zeros(len(side.columns))
            samples = np.zeros((self.resamples, len(side.columns)))
            for start in range(0, len(rows), _BLOCK):
                block = side.rows(rows[start : start + _BLOCK], layer)
                if as_sentences:
                    assert self.sentence_fit is not None
                    block = self.sentence_fit.apply(block)
                point += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
                samples += (block.T @ drawn[:, start : start + _BLOCK].astype(np.float32).T).T
            self._profiles[name] = Profile(point=point / len(rows), samples=samples / len(rows))
        return self._profiles[name]

    def forget(self) -> None:
        """Drop the profiles of the last group: memory is bounded by one group."""
        self._profiles.clear()

    # ── cells of an embedding ─────────────────────────────────────────────────────────────────────────────────────

    def sample(self, key: Key) -> Samples:
        """Equal numbers of cells of every arm, to be compared with one half of the real cells.

        Raises
        ------
        Missing
            Fewer than `min_cells` predicted cells or half as many real ones.
        """
        halves = self._half[key]
        rows = {CEILING: halves[0], "truth": halves[1], PREDICTION: self.predicted_groups[key]}
        sizes = {name: len(one) for name, one in rows.items()}
        n = min(*sizes.values(), self.max_cells)
        if n < self.min_cells:
            raise Missing(
                f"{sizes[PREDICTION]} predicted and {sizes[CEILING]} + {sizes['truth']} real cells: at least "
                f"{self.min_cells} of each "
                "are needed (min_cells=)"
            )
        source = self.controls.get(self.context(key), np.array([], dtype=np.int64))
        if len(source) >= self.min_cells:
            n = min(n, len(source))
        return Samples(self, key, n, rows | {"no_change": source})

    def coordinates(self, side: Cells, rows: NDArray[Any], as_sentences: bool = False) -> NDArray[np.float64]:
        """Cells in the embedding; Missing where this side does not have it."""
        if self.embedding is None:
            raise Missing("no embedding was asked for")
        if as_sentences and self.embedding.genes is None:
            raise Missing(f"obsm[{self.embedding.key!r}] holds no sentences")
        return self.embedding.cells(side, rows, self.sentence_fit.apply if as_sentences and self.sentence_fit else None)

    def _nearest(self, key: Key, fold: int | None, most: int = 2000) -> tuple[Cells, NDArray[np.int64]]:
        """The training cell nearest to each control cell; for generated cells, training cells of the same label."""
        side, pool = self._donor_rows(key)
        rng = bootstrap.generator(self.seed, "donors", key)
        if self.task == "generate":
            return side, _some(pool, self.max_cells, rng)
        context = self.context(key)
        if context not in self.controls:
            raise Missing(f"no control cells in {label(context) or 'the data'}")
        source = self.controls[context] if fold is None else self._control_half[context][fold]
        pool, source = _some(pool, most, rng), _some(source, self.max_cells, rng)
        if not len(source):
            raise Missing("no control cells")
        found = neighbours(self.coordinates(side, pool), self.coordinates(self.real, source), 1)[:, 0]
        return side, pool[found]

    # ── what training would have known ────────────────────────────────────────────────────────────────────────────

    def donors(self, key: Key) -> list[Key]:
        """Groups that a baseline may learn from: of `train`; else the other groups of the real data, held out in turn.

        Preferred: the very group (of `train` only), then the same perturbation in other contexts, then other
        perturbations in the same context, then whatever there is.
        """
        pool = [
            other
            for other in (self.train_groups if self.train is not None else self.real_groups)
            if self.train is not None or other != key
        ]
        same = [other for other in pool if other == key]
        alike = [other for other in pool if self.task == "perturb" and other[0] == key[0]]
        near = [other for other in pool if self.task == "perturb" and self.context(other) == self.context(key)]
        controls = self.train_controls if self.train is not None else self.controls
        for some in (same, alike, near, pool):
            usable = [other for other in some if self.context(other) in controls]
            if usable:
                return usable
        where = (
            "train= has no group to learn from"
            if self.train is not None
            else "there is no other group to learn from; pass train="
        )
        raise Missing(where)

    def _donor_means(self, key: Key) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        found = []
        for other in self.donors(key):
            if self.train is not None:
                mean = self._mean(self.train, self.train_groups[other], ("train", other))
                context = self.context(other)
                control = self._mean(self.train, self.train_controls[context], ("train control", context))
            else:
                mean = self._mean(self.real, self.real_groups[other], ("real", other))
                control = self._control_mean(self.context(other))
            found.append((mean, control))
        return found

    def _donor_rows(self, key: Key) -> tuple[Cells, NDArray[np.int64]]:
        if self.task == "generate":
            if self.train is None:
                raise Missing("training cells are not known; pass train=")
            if key not in self.train_groups:
                raise Missing(f"train= has no cells of {label(key)}")
            return self.train, self.train_groups[key]
        groups = self.donors(key)
        side = self.train if self.train is not None else self.real
        table = self.train_groups if self.train is not None else self.real_groups
        return side, np.concatenate([table[other] for other in groups])

    def _random(self, key: Key) -> NDArray[np.int64]:
        every = self.real.by_name(np.concatenate(list(self.real_groups.values())))
        return _some(
            every, min(self.max_cells, len(self.predicted_groups[key])), bootstrap.generator(self.seed, "random", key)
        )

    def _other(self, key: Key) -> Key:
        if self._shuffled.get(key, key) == key:
            raise Missing("there is only one group to exchange labels with")
        return self._shuffled[key]

    def _control_mean(self, context: Key) -> NDArray[np.float64]:
        if context not in self.controls:
            raise Missing(f"no control cells in {label(context) or 'the data'}")
        return self._mean(self.real, self.controls[context], ("control", context))

    def _mean(self, side: Cells, rows: NDArray[Any], name: tuple[Any, ...]) -> NDArray[np.float64]:
        if name not in self._means:
            self._means[name] = side.mean(rows)
        return self._means[name]

    def _halves(self, rows: NDArray[np.int64], purpose: str, key: Key) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        mixed = bootstrap.generator(self.seed, "halves", purpose, key).permutation(rows)
        return mixed[: len(rows) // 2], mixed[len(rows) // 2 :]

    def _source_halves(self) -> NDArray[np.int64]:
        """Half of the controls that each predicted cell was made from, known by its name; -1 for other names."""
        half = {}
        for parts in self._control_half.values():
            for at, rows in enumerate(parts):
                half.update(dict.fromkeys(self.real.names[rows], at))
        return np.array([half.get(name, -1) for name in self.predicted.names], dtype=np.int64)


class Samples:
    """Equal numbers of cells of the arms of one group, in the embedding."""

    def __init__(self, arms: Arms, key: Key, n: int, rows: Mapping[str, NDArray[Any]]) -> None:
        self.arms, self.key, self.n, self._rows = arms, key, n, rows

    def cells(self, arm: str) -> NDArray[np.float64]:
        """Coordinates of the `n` cells of an arm (or of ``"truth"``), float64 (n, components)."""
        arms, key = self.arms, self.key
        if arm in ("truth", CEILING, PREDICTION):
            return self._draw(arms.predicted if arm == PREDICTION else arms.real, self._rows[arm], arm)
        if arm == SENTENCES:
            return self._draw(arms.real, self._rows[CEILING], CEILING, as_sentences=True)
        if arm == "label_shuffle":
            return self._draw(arms.predicted, self._exchanged(), arm)
        if arm == "random_cells":
            return self._draw(arms.real, arms.real.by_name(np.concatenate(list(arms.real_groups.values()))), arm)
        if arm == "nearest_training_cell":
            return self._draw(*arms._nearest(key, None), arm)
        if arm == "mean_of_all":
            return self._repeat(arms.real, np.concatenate(list(arms.real_groups.values())))
        if arm == "control_mean":
            return self._repeat(arms.real, np.concatenate(list(arms.controls.values())))
        if arm == "mean_of_perturbed":
            side, groups = (arms.real, arms.real_groups) if arms.train is None else (arms.train, arms.train_groups)
            centre = np.mean([self._centre(side, groups[other]) for other in arms.donors(key)], axis=0)
            return np.repeat(centre[None], self.n, axis=0)
        source = self._rows["no_change"]
        if len(source) < self.n:
            raise Missing(f"{len(source)} control cells in {label(arms.context(key))}, {self.n} are compared")
        control = self._draw(arms.real, source, "no_change")
        return control + self._shift() if arm == "mean_shift" else control

    def _exchanged(self) -> NDArray[np.int64]:
        """Predictions of the exchange partner, and of its partner, until there are enough."""
        rows = [self.arms.predicted_groups[other := self.arms._other(self.key)]]
        while sum(map(len, rows)) < self.n and (other := self.arms._other(other)) != self.key:
            rows.append(self.arms.predicted_groups[other])
        return np.concatenate(rows)

    def _shift(self) -> NDArray[np.float64]:
        arms = self.arms
        side = arms.train if arms.train is not None else arms.real
        groups, controls = (
            (arms.train_groups, arms.train_controls) if arms.train is not None else (arms.real_groups, arms.controls)
        )
        shifts = [
            self._centre(side, groups[other]) - self._centre(side, controls[arms.context(other)])
            for other in arms.donors(self.key)
        ]
        shift: NDArray[np.float64] = np.mean(shifts, axis=0)
        return shift

    def _draw(self, side: Cells, rows: NDArray[Any], purpose: str, as_sentences: bool = False) -> NDArray[np.float64]:
        if len(rows) < self.n:
            raise Missing(f"{len(rows)} cells, {self.n} are compared")
        some = _some(rows, self.n, bootstrap.generator(self.arms.seed, "sample", purpose, self.key))
        return self.arms.coordinates(side, some, as_sentences)

    def _centre(self, side: Cells, rows: NDArray[Any]) -> NDArray[np.float64]:
        some = _some(
            rows, self.arms.max_cells, bootstrap.generator(self.arms.seed, "centre", len(rows), side.names[rows[0]])
        )
        centre: NDArray[np.float64] = self.arms.coordinates(side, some).mean(axis=0)
        return centre

    def _repeat(self, side: Cells, rows: NDArray[Any]) -> NDArray[np.float64]:
        return np.repeat(self._centre(side, side.by_name(rows))[None], self.n, axis=0)


def _some(rows: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(rows)[:n] if len(rows) > n else np.asarray(rows)


def _derangement(keys: Sequence[Key], context: Any, rng: np.random.Generator) -> dict[Key, Key]:
    """Each group's exchange partner: of the same context where there is another one, else any other group."""
    partner: dict[Key, Key] = {}
    by_context: dict[Key, list[Key]] = {}
    for key in keys:
        by_context.setdefault(context(key), []).append(key)
    alone = []
    for some in by_context.values():
        if len(some) > 1:
            mixed = [some[at] for at in rng.permutation(len(some))]
            partner.update(zip(mixed, [*mixed[1:], mixed[0]], strict=True))
        else:
            alone += some
    mixed = [alone[at] for at in rng.permutation(len(alone))]
    if len(mixed) > 1:
        partner.update(zip(mixed, [*mixed[1:], mixed[0]], strict=True))
    elif mixed and len(keys) > 1:
        partner[mixed[0]] = next(key for key in keys if key != mixed[0])
    return partner
