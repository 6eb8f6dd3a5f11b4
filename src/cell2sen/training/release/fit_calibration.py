"""Calibration of label probabilities: a temperature fitted on held-out cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from cell2sen.data.splits import barcode
from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.inference.annotate import MIN_TRAINING_CELLS, label_probabilities
from cell2sen.inference.session import load_model, start
from cell2sen.model import resolve
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.directory import update_metadata

logger = logging.getLogger(__name__)

#: Maximum number of cells that the temperature is fitted on, the same for each file.
MAX_CALIBRATION_CELLS = 700


def calibrates(name: str) -> bool:
    """Whether a held-out cell is in the half for calibration; scores are computed on the other half.

    The half depends on the barcode, so that a cell in two files is in one half only.
    """
    return hashlib.blake2b(barcode(name).encode()).digest()[0] % 2 == 0


def fit_temperature(log_likelihoods: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Temperature from 0.1 to 20 that minimises the negative log-likelihood of true labels (Guo et al., ICML 2017).

    Parameters
    ----------
    log_likelihoods
        float64 (cells, labels), nats.
    truth
        Column of the true label, int64 (n,).
    """

    def loss(log_temperature: float) -> float:
        probability = softmax(log_likelihoods / float(np.exp(log_temperature)), axis=1)[np.arange(len(truth)), truth]
        return float(-np.mean(np.log(np.maximum(probability, 1e-300))))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(20.0)), method="bounded").x))


def calibrate(folder: Path, cells: Sequence[TrainingCells], *, progress: bool = False) -> dict[str, Any]:
    """Fit the temperature of the task ``annotate`` and write it into the model's metadata.

    It is fitted on the calibration half of the held-out cells, over the labels with at least
    :data:`cell2sen.inference.annotate.MIN_TRAINING_CELLS` training cells. Without such cells nothing is written, and
    probabilities stay marked as not calibrated.

    Returns
    -------
    ``temperature``, ``n_cells``, ``accuracy`` and expected calibration errors (``ece_before``, ``ece_after``); empty
    without cells.
    """
    model = resolve(folder)
    known: dict[str, int] = model.metadata.get("labels") or {}
    labels = [label for label, count in known.items() if count >= MIN_TRAINING_CELLS]
    if rare := sorted(set(known) - set(labels)):
        logger.warning(
            "labels with fewer than %d training cells are not among the default labels: %s",
            MIN_TRAINING_CELLS,
            ", ".join(rare),
        )
    if "annotate" not in model.metadata.get("templates", {}) or len(labels) < 2:
        return {}
    backend = load_model({"model": model, "progress": progress})
    scores, truth = [], []
    for file in cells:
        rows = _rows(file, labels, MAX_CALIBRATION_CELLS // len(cells))
        if not len(rows):
            continue
        sentences = file.sentences(0, Augmentation(), 0)[rows]
        choices = label_probabilities(start(sentences, "annotate", {"model": backend}), labels)
        scores.append(np.log(np.maximum(choices.probabilities, 1e-300)))
        assert file.label is not None
        truth.append(np.array([labels.index(str(label)) for label in file.label[rows]]))
    if not scores:
        return {}
    result = _fitted(np.concatenate(scores), np.concatenate(truth))
    logger.info(
        "temperature %.3f on %d held-out cells: calibration error %.3f → %.3f",
        *(result[key] for key in ("temperature", "n_cells", "ece_before", "ece_after")),
    )
    update_metadata(folder, {"calibration": {"annotate": result}})
    return result


def _fitted(log_likelihoods: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, Any]:
    temperature = fit_temperature(log_likelihoods, truth)
    before, after = softmax(log_likelihoods, axis=1), softmax(log_likelihoods / temperature, axis=1)
    correct = log_likelihoods.argmax(axis=1) == truth
    return {
        "temperature": temperature,
        "n_cells": len(truth),
        "accuracy": float(correct.mean()),
        "ece_before": calibration_error(correct, before.max(axis=1)),
        "ece_after": calibration_error(correct, after.max(axis=1)),
    }


def _rows(cells: TrainingCells, labels: Sequence[str], limit: int) -> NDArray[np.int64]:
    """First cells of the calibration half that have one of the labels, and genes."""
    if cells.label is None:
        return np.array([], dtype=np.int64)
    names, has_genes = cells.names, np.diff(cells.matrix.indptr) > 0
    usable = [
        row
        for row in np.flatnonzero(cells.test)
        if cells.label[row] in labels and calibrates(names[row]) and has_genes[row]
    ]
    return np.asarray(usable[:limit], dtype=np.int64)
