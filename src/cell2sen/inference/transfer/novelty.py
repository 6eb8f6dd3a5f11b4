"""Distance to a reference, and the score of cells whose type the reference may not have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from cell2sen.inference.transfer.classifiers import nearest
from cell2sen.model import Model

#: Neighbour whose distance is measured.
K = 10


#: Share of the mean variance that is added to each dimension of a covariance, so that it can be inverted.
_SHRINKAGE = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """One normal distribution per label with a common covariance, and one of all cells."""

    centres: NDArray[np.float64]
    """float64 (labels, d)."""

    within: NDArray[np.float64]
    """float64 (d, d): whitens the cells of a label."""

    centre: NDArray[np.float64]
    total: NDArray[np.float64]
    """float64 (d, d): whitens all cells."""

    @classmethod
    def of(cls, features: NDArray[np.float64], codes: NDArray[np.int64]) -> Gaussians:
        """Distributions of labelled cells."""
        used, place = np.unique(codes, return_inverse=True)
        centres = np.stack([features[codes == code].mean(axis=0) for code in used])
        centre = features.mean(axis=0)
        within, total = _whitening(features - centres[place]), _whitening(features - centre)
        return cls(centres=centres, within=within, centre=centre, total=total)

    def relative_distance(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared Mahalanobis distance to the nearest label, minus that to all cells, float64 (n,) (Ren et al. 2021).

        What is unusual for every cell, such as another technology, is in both and cancels in part.
        """
        to_labels = [np.sum(((features - centre) @ self.within) ** 2, axis=1) for centre in self.centres]
        to_all = np.sum(((features - self.centre) @ self.total) ** 2, axis=1)
        return np.asarray(np.min(to_labels, axis=0) - to_all)


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Relative distances of cells to a reference, compared with those of its own cells when they are held out."""

    folds: dict[int, Gaussians]
    """Fold → distributions of the cells of the other folds; -1: of all cells."""

    mean: float
    deviation: float
    """Mean and standard deviation of the relative distances of held-out reference cells."""

    @classmethod
    def of(cls, features: NDArray[np.float64], codes: NDArray[np.int64], folds: NDArray[np.int64]) -> Novelty:
        """Distributions of a reference, float64 (n, d), with and without each fold."""
        held_out = np.zeros(len(features))
        fitted = {-1: Gaussians.of(features, codes)}
        for fold in np.unique(folds).tolist():
            inside = folds == fold
            fitted[fold] = Gaussians.of(features[~inside], codes[~inside])
            held_out[inside] = fitted[fold].relative_distance(features[inside])
        return cls(folds=fitted, mean=float(held_out.mean()), deviation=float(held_out.std()) or 1.0)

    def score(self, features: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Unseen-type score of cells, float64 (n,), from 0 to 1.

        Φ((d − mean) / deviation), where d is the relative distance, and mean and deviation are those of held-out
        reference cells: about the share of the reference cells that are nearer, without ties far outside.

        Parameters
        ----------
        folds
            Fold of the same cell in the reference, int64 (n,), which is left out; -1 for cells that are not in it.
        """
        relative = np.zeros(len(features))
        for fold in np.unique(folds).tolist():
            cells = folds == fold
            relative[cells] = self.folds[fold].relative_distance(features[cells])
        return np.asarray(ndtr((relative - self.mean) / self.deviation))


def _whitening(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix W with deviations @ W of covariance about 1, float64 (d, d)."""
    covariance = deviations.T @ deviations / len(deviations)
    n_dimensions = len(covariance)
    variance = float(np.trace(covariance)) / n_dimensions or 1.0
    covariance[np.diag_indices(n_dimensions)] += _SHRINKAGE * variance
    return np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)))


def distance(reference: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance to the 10th nearest reference cell, or the last of fewer, float64 (n,)."""
    return nearest(reference, features, K)[1][:, -1]


def unseen_of_model(model: Model, task: str, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unseen score of annotated cells, float64 (n,): share of the model's held-out cells that were more certain.

    Certainty is the calibrated probability of the most probable label. A weaker score than that of a transfer, since
    no cells are compared. NaN for cells without genes.

    Parameters
    ----------
    probabilities
        Calibrated, float64 (n, labels).

    Raises
    ------
    ValueError
        The model's metadata have no quantiles of the certainty of its held-out cells.
    """
    quantiles = model.metadata.get("calibration", {}).get(task, {}).get("certainty")
    if quantiles is None:
        raise ValueError(
            f"{model.name} has no record of how certain it was of held-out cells, which unseen= needs: train it again "
            "with this version, or use tl.transfer with a reference (cell2sen transfer), which measures distances"
        )
    certainty = probabilities.max(axis=1)
    return np.asarray(1 - np.interp(certainty, quantiles, np.linspace(0, 1, len(quantiles))))
