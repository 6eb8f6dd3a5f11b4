"""Distance to a reference, and the score of cells whose type the reference may not have."""

from __future__ import annotations

from collections.abc import Sequence
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


#: Standard scores beyond which evidence counts no more: one kind must not decide alone.
MAX_EVIDENCE = 8.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Evidence that cells are of no type of a reference, compared with that of its own cells when they are held out.

    The evidence is a relative distance in each space of features (embedding, principal components of expression), and
    how uncertain the classifier is, if there is one. Each is a standard score among held-out reference cells; they are
    added.
    """

    folds: dict[int, list[Gaussians]]
    """Fold → distributions of the cells of the other folds, one for each space; -1: of all cells."""

    centres: NDArray[np.float64]
    widths: NDArray[np.float64]
    """float64 (kinds of evidence,): mean and standard deviation of each over held-out reference cells."""

    sum_mean: float
    sum_deviation: float
    """Mean and standard deviation of the sum."""

    @classmethod
    def of(
        cls,
        spaces: Sequence[NDArray[np.float64]],
        codes: NDArray[np.int64],
        folds: NDArray[np.int64],
        certainty: NDArray[np.float64] | None = None,
        certain: NDArray[np.int64] | None = None,
    ) -> Novelty:
        """Distributions of a reference with and without each fold.

        Parameters
        ----------
        spaces
            Features of its cells, float64 (n, d) each.
        certainty
            Probability of the most probable label of held-out cells, float64 (m,); ``None``: no classifier.
        certain
            Numbers of the cells that `certainty` is of, int64 (m,). Default: all.
        """
        held_out = np.zeros((len(codes), len(spaces)))
        fitted = {-1: [Gaussians.of(space, codes) for space in spaces]}
        for fold in np.unique(folds).tolist():
            inside = folds == fold
            fitted[fold] = [Gaussians.of(space[~inside], codes[~inside]) for space in spaces]
            held_out[inside] = _distances(fitted[fold], [space[inside] for space in spaces])
        if certainty is not None:
            held_out = held_out if certain is None else held_out[certain]
            held_out = np.column_stack([held_out, uncertainty(certainty)])
        centres, widths = held_out.mean(axis=0), held_out.std(axis=0)
        widths[widths < 1e-12] = 1.0
        total = _total(held_out, centres, widths)
        return cls(
            folds=fitted,
            centres=centres,
            widths=widths,
            sum_mean=float(total.mean()),
            sum_deviation=float(total.std()) or 1.0,
        )

    def score(
        self,
        spaces: Sequence[NDArray[np.float64]],
        folds: NDArray[np.int64],
        certainty: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Unseen-type score of cells, float64 (n,), from 0 to 1.

        Φ((e − mean) / deviation), where e is the sum of the evidence, and mean and deviation are those of held-out
        reference cells: about the share of the reference cells that are more like its types, without ties far outside.

        Parameters
        ----------
        folds
            Fold of the same cell in the reference, int64 (n,), which is left out; -1 for cells that are not in it.
        certainty
            Probability of the most probable label, float64 (n,), if the reference had it.
        """
        evidence = np.zeros((len(folds), len(spaces)))
        for fold in np.unique(folds).tolist():
            cells = folds == fold
            evidence[cells] = _distances(self.folds[fold], [space[cells] for space in spaces])
        if certainty is not None:
            evidence = np.column_stack([evidence, uncertainty(certainty)])
        total = _total(evidence, self.centres, self.widths)
        return np.asarray(ndtr((total - self.sum_mean) / self.sum_deviation))


def uncertainty(certainty: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the probability that the most probable label is wrong, at least 1e-6, float64 (n,)."""
    return np.asarray(np.log(np.maximum(1 - certainty, 1e-6)))


def _distances(fitted: Sequence[Gaussians], spaces: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.column_stack([each.relative_distance(space) for each, space in zip(fitted, spaces, strict=True)])


def _total(
    evidence: NDArray[np.float64], centres: NDArray[np.float64], widths: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of limited standard scores, float64 (n,)."""
    return np.asarray(np.clip((evidence - centres) / widths, -MAX_EVIDENCE, MAX_EVIDENCE).sum(axis=1))


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
