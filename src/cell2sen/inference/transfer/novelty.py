"""Distance to a reference, and the score of cells whose type the reference may not have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cell2sen.inference.transfer.classifiers import nearest
from cell2sen.model import Model

#: Neighbour whose distance is measured.
K = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Distances of cells to a reference, compared with those of reference cells to the others."""

    features: NDArray[np.float64]
    """float64 (n, d): reference cells."""

    codes: NDArray[np.int64]
    """int64 (n,): their labels."""

    held_out: NDArray[np.float64]
    """float64 (n,): distance of each reference cell to the 10th nearest one outside of its fold."""

    @classmethod
    def of(cls, features: NDArray[np.float64], codes: NDArray[np.int64], folds: NDArray[np.int64]) -> Novelty:
        """Distances of the cells of a reference, each to the cells of other folds."""
        held_out = np.zeros(len(features))
        for fold in np.unique(folds):
            inside = folds == fold
            held_out[inside] = distance(features[~inside], features[inside])
        return cls(features=features, codes=codes, held_out=held_out)

    def score(self, distances: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Unseen-type score of cells, float64 (n,), from 0 to 1.

        Share of the reference cells of the predicted label that were nearer to the rest of the reference when they were
        held out. One minus this is the p-value of conformal prediction (Vovk et al. 2005) for a cell of that label: of
        reference cells, 1 % have a score above 0.99.

        Parameters
        ----------
        distances
            Distance of each cell to its 10th neighbour in the reference, float64 (n,).
        labels
            Predicted label of each cell, int64 (n,).
        """
        scores = np.full(len(distances), np.nan)
        for label in np.unique(labels):
            of_label = np.sort(self.held_out[self.codes == label])
            cells = labels == label
            scores[cells] = np.searchsorted(of_label, distances[cells], side="left") / max(len(of_label), 1)
        return scores


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
