"""Bootstrap samples of a group: mean profiles, and cells drawn in the embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import BLOCK_CELLS, Cells, group_name
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.groups import Groups, Key, Rows
from cell2sen.evaluation.scoring.pca import Embedding

#: Smaller differences of means are rounding errors of float32.
_ROUNDING = 1e-6

#: Changes the expression of cells before their mean is taken or they are embedded.
Transform = Callable[[Any], Any] | None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A vector over genes (mean expression, or change from control) with its bootstrap samples."""

    point: NDArray[np.float64]
    samples: NDArray[np.float64]
    """(resamples, genes), or (1, genes) if the profile is not resampled."""

    @classmethod
    def constant(cls, point: NDArray[np.float64]) -> Profile:
        """A profile that is not resampled."""
        return cls(point=point, samples=point[None])

    def __sub__(self, other: Profile) -> Profile:
        difference = self.point - other.point
        point = np.where(np.abs(difference) < _ROUNDING, 0.0, difference)
        return Profile(point=point, samples=self.samples - other.samples)


class Group:
    """One group with its profiles, which are computed once and freed with it.

    The last ones of all groups are kept, as groups of a context have the same controls.
    """

    def __init__(self, groups: Groups, key: Key, embedding: Embedding | None) -> None:
        self.groups, self.key, self.embedding = groups, key, embedding
        self.context = groups.context(key)
        self._profiles: dict[Any, Profile] = {}

    @property
    def predicted_rows(self) -> Rows:
        """Predicted cells of the group."""
        return self.groups.predicted.groups[self.key]

    @property
    def real_rows(self) -> Rows:
        """Real cells of the group."""
        return self.groups.real.groups[self.key]

    def partner(self) -> Group:
        """The group that exchanges its prediction with this one; profiles are shared."""
        other = Group(self.groups, self.groups.partner(self.key), self.embedding)
        other._profiles = self._profiles
        return other

    # ── profiles ──────────────────────────────────────────────────────────────────────────────────────────────────

    def truth(self) -> Profile:
        """Mean expression of all real cells."""
        return self.profile(self.groups.real.cells, self.real_rows, ("truth", self.key))

    def half(self, half: int, transform: Transform = None) -> Profile:
        """Mean expression of one half of the real cells."""
        halves = self.groups.halves[self.key]
        if min(map(len, halves)) < 1:
            raise Missing("one real cell: it cannot be split")
        return self.profile(self.groups.real.cells, halves[half], ("half", self.key, half), transform=transform)

    def control(self, transform: Transform = None) -> Profile:
        """Mean expression of all control cells of the context."""
        rows = self.groups.controls(self.context)
        return self.profile(self.groups.real.cells, rows, ("control", self.context), transform=transform)

    def controls(self, fold: int | None, transform: Transform = None) -> tuple[Profile, Profile]:
        """Mean expression of the controls that the predicted and the true change are measured from.

        Both are all controls of the context; in folds 0 and 1 they are different halves of them.
        """
        if fold is None or self.context not in self.groups.real.controls:
            control = self.control(transform)
            return control, control
        halves = self.groups.control_halves[self.context]
        if min(map(len, halves)) < 1:
            raise Missing(
                f"{sum(map(len, halves))} control cell in {group_name(self.context) or 'all'}: it cannot be split into "
                "halves"
            )
        first, second = (
            self.profile(self.groups.real.cells, half, ("control", self.context, at), transform=transform)
            for at, half in enumerate(halves)
        )
        return (first, second) if fold == 0 else (second, first)

    def profile(
        self,
        side: Cells,
        rows: Rows,
        purpose: tuple[Any, ...],
        *,
        layer: str | None = None,
        transform: Transform = None,
    ) -> Profile:
        """Mean of some cells, computed once; `purpose` seeds the bootstrap samples."""
        name = (*purpose, layer, transform is not None, rows.tobytes())
        if name in self._profiles:
            return self._profiles[name]
        profile: Profile | None = self.groups.recent.get(name)
        if profile is None:
            n, resamples = len(rows), self.groups.sampling.resamples
            drawn = bootstrap.weights(self.groups.generator(*purpose), resamples, n)
            point, samples = np.zeros(len(side.columns)), np.zeros((resamples, len(side.columns)))
            for start in range(0, n, BLOCK_CELLS):
                block = side.rows(rows[start : start + BLOCK_CELLS], layer)
                if transform is not None:
                    block = transform(block)
                point += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
                samples += (block.T @ drawn[:, start : start + BLOCK_CELLS].astype(np.float32).T).T
            profile = Profile(point=point / n, samples=samples / n)
            self.groups.recent.add(name, profile, profile.samples.nbytes)
        self._profiles[name] = profile
        return profile

    # ── cells in the embedding ────────────────────────────────────────────────────────────────────────────────────

    def n_compared(self) -> int:
        """Number of compared cells, the same for each method and the truth.

        Raises
        ------
        Missing
            Fewer than `min_cells` predicted cells, or real cells in one half.
        """
        first, second = self.groups.halves[self.key]
        sizes, sampling = (len(self.predicted_rows), len(first), len(second)), self.groups.sampling
        n = min(*sizes, sampling.max_cells)
        if n < sampling.min_cells:
            raise Missing(
                f"{sizes[0]} predicted and {sizes[1]} + {sizes[2]} real cells: at least {sampling.min_cells} of each "
                "are needed (min_cells=)"
            )
        n_controls = len(self.groups.real.controls.get(self.context, ()))
        return min(n, n_controls) if n_controls >= sampling.min_cells else n

    def coordinates(self, side: Cells, rows: Rows, transform: Transform = None) -> NDArray[np.float64]:
        """Cells in the embedding, float64 (cells, components); Missing if there is no embedding."""
        if self.embedding is None:
            raise Missing("there is no embedding, as no metric of sets of cells was chosen")
        return self.embedding.cells(side, rows, transform)

    def draw(self, side: Cells, rows: Rows, n: int, purpose: str, transform: Transform = None) -> NDArray[np.float64]:
        """`n` random cells in the embedding, float64 (n, components)."""
        if len(rows) < n:
            raise Missing(f"{len(rows)} cells, {n} are compared")
        return self.coordinates(side, at_most(rows, n, self.groups.generator("sample", purpose, self.key)), transform)

    def centre(self, side: Cells, rows: Rows) -> NDArray[np.float64]:
        """Mean of at most `max_cells` cells in the embedding, float64 (components,)."""
        rng = self.groups.generator("centre", len(rows), side.names[rows[0]])
        centre: NDArray[np.float64] = self.coordinates(side, at_most(rows, self.groups.sampling.max_cells, rng)).mean(
            axis=0
        )
        return centre


def at_most(rows: NDArray[Any], n: int, rng: np.random.Generator) -> Rows:
    """`n` random rows, or all rows in their order if there are no more."""
    return rng.permutation(rows)[:n] if len(rows) > n else np.asarray(rows)
