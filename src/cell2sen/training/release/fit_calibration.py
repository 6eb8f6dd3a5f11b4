"""Calibration of probabilities of labels and numbers: a temperature per task, fitted on held-out cells."""

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

from cell2sen import tasks
from cell2sen.data.splits import barcode
from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.inference.annotate import MIN_TRAINING_CELLS, kind_of
from cell2sen.inference.answers.columns import annotate_cells, trained_bins
from cell2sen.inference.session import load_model, start, trained_names
from cell2sen.model import Model, resolve
from cell2sen.task import Task
from cell2sen.tasks import COLUMN_TASKS
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.directory import update_metadata

logger = logging.getLogger(__name__)

#: Maximum number of cells that the temperature is fitted on, the same for each file.
MAX_CALIBRATION_CELLS = 700

#: Shares of the held-out cells at which the probability of the most probable label is stored.
CERTAINTY_STEPS = np.linspace(0, 1, 21)


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
    """Fit the temperatures of the task ``annotate`` and of tasks of obs columns, and write them into the metadata.

    Each is fitted on the calibration half of the held-out cells, over the labels with at least
    :data:`cell2sen.inference.annotate.MIN_TRAINING_CELLS` training cells, or over all bins of numbers. Without such
    cells nothing is written, and probabilities stay marked as not calibrated.

    Returns
    -------
    Task → ``temperature``, ``n_cells``, ``accuracy``, expected calibration errors (``ece_before``, ``ece_after``) and
    ``certainty``: quantiles of the probability of the most probable label.
    """
    model = resolve(folder)
    named = dict.fromkeys(name for file in cells for name in file.data.tasks if name.partition(":")[0] in COLUMN_TASKS)
    results: dict[str, Any] = {}
    backend: Any = None
    for name in ["annotate", *named]:
        answers = _answers(model, name)
        if name not in model.metadata.get("templates", {}) or len(answers) < 2:
            continue
        backend = backend or load_model({"model": model, "progress": progress})
        if result := _calibrated(backend, name, answers, cells):
            results[name] = result
            logger.info(
                "%s: temperature %.3f on %d held-out cells: calibration error %.3f → %.3f",
                name,
                *(result[key] for key in ("temperature", "n_cells", "ece_before", "ece_after")),
            )
    if results:
        update_metadata(folder, {"calibration": results})
    return results


def _answers(model: Model, name: str) -> list[str]:
    """Numbers, or labels with enough training cells; a warning names the others."""
    task = tasks.load(name)
    if task.answer == "number":
        return list(trained_bins(model, str(task.column)).answers)
    known = trained_names(model, kind_of(task))
    labels = [label for label, count in known.items() if count >= MIN_TRAINING_CELLS]
    if rare := sorted(set(known) - set(labels)):
        logger.warning(
            "labels with fewer than %d training cells are not among the default labels: %s",
            MIN_TRAINING_CELLS,
            ", ".join(rare),
        )
    return labels


def _calibrated(backend: Any, name: str, answers: Sequence[str], cells: Sequence[TrainingCells]) -> dict[str, Any]:
    """Result of one task; empty without held-out cells that have one of the answers."""
    task = tasks.load(name)
    scores, truth = [], []
    for file in cells:
        values = _truth(file, task)
        rows = _rows(file, values, answers, MAX_CALIBRATION_CELLS // len(cells))
        if values is None or not len(rows):
            continue
        sentences = file.sentences(0, Augmentation(), 0)[rows]
        session = start(sentences, task, {"model": backend, "context": file.context_of(task)})
        [found] = annotate_cells(session, [session.task], list(answers) if task.answer == "label" else None)
        scores.append(np.log(np.maximum(found.probabilities.probabilities, 1e-300)))
        truth.append(np.array([answers.index(str(value)) for value in values[rows]]))
    return _fitted(np.concatenate(scores), np.concatenate(truth)) if scores else {}


def _truth(cells: TrainingCells, task: Task) -> NDArray[Any] | None:
    """Written answer of each cell, object (cells,); ``None`` for a file without them."""
    if task.column is None:
        return cells.label
    return cells.answers(task) if task.name in cells.data.tasks else None


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
        "certainty": [round(float(value), 6) for value in np.quantile(after.max(axis=1), CERTAINTY_STEPS)],
    }


def _rows(cells: TrainingCells, truth: NDArray[Any] | None, answers: Sequence[str], limit: int) -> NDArray[np.int64]:
    """First cells of the calibration half that have one of the answers, and genes."""
    if truth is None:
        return np.array([], dtype=np.int64)
    names, has_genes = cells.names, np.diff(cells.matrix.indptr) > 0
    usable = [
        row for row in np.flatnonzero(cells.test) if truth[row] in answers and calibrates(names[row]) and has_genes[row]
    ]
    return np.asarray(usable[:limit], dtype=np.int64)
