"""Density of a model's training cells in gene space, and the unseen score of cells that lie outside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from cell2sen.inference.novelty.gene_space import GeneSpace, rank_weights
from cell2sen.inference.transfer.novelty import Gaussians
from cell2sen.model import Model
from cell2sen.sentences.sentences import Sentences

#: File beside the weights.
DENSITY_FILE = "training_density.npz"

#: Unseen score above which a cell is unlike the training cells, and share of such cells above which a warning is given.
MAX_UNSEEN, MAX_SHARE_UNLIKE = 0.95, 0.5

#: Quantiles of the distances of held-out cells that are stored.
STEPS = np.linspace(0, 1, 501)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDensity:
    """Training cells in gene space: one normal distribution per label with a common covariance."""

    space: GeneSpace
    centres: NDArray[np.float64]
    """float64 (labels, d), whitened."""

    within: NDArray[np.float64]
    """float64 (d, d): whitens the cells of a label."""

    quantiles: NDArray[np.float64]
    """float64 (501,): quantiles of the distances of held-out cells, at equal steps from 0 to 1."""

    @classmethod
    def of(
        cls, space: GeneSpace, training: sp.csr_matrix, codes: NDArray[np.int64], held_out: sp.csr_matrix
    ) -> TrainingDensity:
        """Density of labelled training cells, with distances of held-out cells.

        Parameters
        ----------
        training, held_out
            :func:`cell2sen.inference.novelty.gene_space.rank_weights` of the cells.
        codes
            Number of each training cell's label, int64 (cells,).
        """
        fitted = Gaussians.of(space.features(training), codes)
        centres = fitted.centres @ fitted.within
        density = cls(space=space, centres=centres, within=fitted.within, quantiles=np.zeros(len(STEPS)))
        return replace(density, quantiles=np.quantile(density.distance(held_out), STEPS))

    def distance(self, weights: sp.csr_matrix) -> NDArray[np.float64]:
        """Mahalanobis distance of each cell to the nearest label, float64 (n,), from rank weights."""
        found = cdist(self.space.features(weights) @ self.within, self.centres)
        return np.asarray(found.min(axis=1), dtype=np.float64)

    def unseen(self, sentences: Sentences) -> NDArray[np.float64]:
        """Unseen score, float64 (n,): share of the model's held-out cells that are nearer to a label of the training.

        NaN for cells without genes. Held-out cells are calibrated as they are and as other technologies might have
        found them (:mod:`cell2sen.training.augmentation`).
        """
        distance = self.distance(rank_weights(sentences, self.space.genes))
        scores = np.interp(distance, self.quantiles, STEPS)
        return np.where(sentences.n_genes > 0, scores, np.nan)

    def write(self, folder: Path) -> None:
        """Write the file of the density into a model's directory."""
        np.savez_compressed(
            folder / DENSITY_FILE,
            genes=np.frombuffer("\n".join(self.space.genes).encode(), dtype=np.uint8),
            vectors=self.space.vectors.astype(np.float16),
            centres=self.centres.astype(np.float32),
            within=self.within.astype(np.float32),
            quantiles=self.quantiles.astype(np.float32),
        )


def load_density(model: Model) -> TrainingDensity | None:
    """Density beside a model's weights; ``None`` for models without one."""
    file = Path(model.path) / DENSITY_FILE
    if not model.is_local or not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        genes = bytes(stored["genes"]).decode().split("\n")
        return TrainingDensity(
            space=GeneSpace(genes=tuple(genes), vectors=stored["vectors"].astype(np.float32)),
            centres=stored["centres"].astype(np.float64),
            within=stored["within"].astype(np.float64),
            quantiles=stored["quantiles"].astype(np.float64),
        )


def share_unlike(unseen: NDArray[np.float64]) -> float:
    """Share of cells whose unseen score is above :data:`MAX_UNSEEN`; 0 without cells that have genes."""
    known = unseen[~np.isnan(unseen)]
    return float(np.mean(known > MAX_UNSEEN)) if len(known) else 0.0


def unlike_training(unseen: NDArray[np.float64], name: str) -> str:
    """Text of a warning if most cells are unlike those that a model was trained on, else empty."""
    share = share_unlike(unseen)
    if share <= MAX_SHARE_UNLIKE:
        return ""
    return (
        f"{share:.0%} of the cells are unlike those that {name} was trained on: their types may be none of its labels. "
        "Train it on cells like these, or transfer labels from a reference (cell2sen transfer)"
    )
