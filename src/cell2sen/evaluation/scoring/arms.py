"""Arms: what is scored side by side: the prediction, its baselines and its ceilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, ...]
Task = Literal["perturb", "generate"]

PREDICTION, CEILING, SENTENCES = "prediction", "ceiling", "sentence_ceiling"

#: Arms that no prediction has to beat.
NO_RIVALS = (PREDICTION, CEILING, SENTENCES)

#: Arm → what it is, for tables, reports and the documentation.
ARMS = {
    PREDICTION: "the cells to be judged",
    "no_change": "the control cells of the same context, unchanged",
    "control_mean": "the mean of all control cells, for each cell",
    "mean_of_perturbed": "the mean of the perturbed training cells, for each cell",
    "mean_shift": "control cells of the same context plus the mean change in training",
    "mean_of_all": "the mean of all real cells, for each cell",
    "random_cells": "real cells drawn regardless of their label",
    "nearest_training_cell": "the training cell nearest to each control cell (generated cells: any of the same label)",
    "label_shuffle": "the prediction itself, its groups exchanged",
    SENTENCES: "as the ceiling, but the one half written as sentences of the prediction's length and read back",
    CEILING: "one half of the real cells against the other half",
}
ARMS_OF: dict[str, tuple[str, ...]] = {
    "perturb": (
        PREDICTION,
        "no_change",
        "control_mean",
        "mean_of_perturbed",
        "mean_shift",
        "nearest_training_cell",
        "label_shuffle",
        SENTENCES,
        CEILING,
    ),
    "generate": (
        PREDICTION,
        "mean_of_all",
        "random_cells",
        "nearest_training_cell",
        "label_shuffle",
        SENTENCES,
        CEILING,
    ),
}

#: Means that differ by less come from the rounding of float32, not from biology.
_ROUNDING = 1e-6


class Missing(Exception):
    """An arm does not exist for a group; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A vector over genes (mean expression, or change from control) with its bootstrap samples."""

    point: NDArray[np.float64]
    samples: NDArray[np.float64]
    """(resamples, genes), or (1, genes) where nothing was resampled."""

    def __sub__(self, other: Profile) -> Profile:
        return Profile(point=rounded(self.point - other.point), samples=self.samples - other.samples)


Quadruple = tuple[str, Profile | None, Profile | None, str]
"""Arm, truth (the ceiling has its own), answer, and why there is none."""


def rounded(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences without those that are only the rounding of float32."""
    return np.where(np.abs(change) < _ROUNDING, 0.0, change)
