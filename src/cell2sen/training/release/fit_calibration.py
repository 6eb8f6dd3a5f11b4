"""Calibration of probabilities of labels and numbers: a temperature per task, fitted on held-out cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from cell2sen import tasks
from cell2sen.data.splits import barcode
from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.inference.annotate import (
    MIN_TRAINING_CELLS,
    TEMPERATURE_LIMITS,
    calibration_key,
    kind_of,
)
from cell2sen.inference.answers.columns import annotate_cells, trained_bins
from cell2sen.inference.session import load_model, start
from cell2sen.inference.trained import trained_names
from cell2sen.model import Model, resolve
from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.directory import update_metadata

logger = logging.getLogger(__name__)

#: Maximum number of cells that the temperature is fitted on, the same for each file.
MAX_CALIBRATION_CELLS = 700

#: Held-out cells that show that a model has one answer only.
MIN_CELLS_OF_CONSTANT = 10

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

    return float(
        np.exp(
            minimize_scalar(
                loss, bounds=(np.log(TEMPERATURE_LIMITS[0]), np.log(TEMPERATURE_LIMITS[1])), method="bounded"
            ).x
        )
    )


def calibrate(folder: Path, cells: Sequence[TrainingCells], *, progress: bool = False) -> dict[str, Any]:
    """Fit the temperatures of the task ``annotate`` and of tasks of obs columns, and write them into the metadata.

    Each is fitted on the calibration half of the held-out cells, over the labels with at least
    :data:`cell2sen.inference.annotate.MIN_TRAINING_CELLS` training cells, or over all bins of numbers. Without such
    cells nothing is written, and probabilities stay marked as not calibrated. Each column of a joint answer has its own
    temperature; its probabilities are conditional on the predicted parts before it, as in use.

    Returns
    -------
    Task, or part of one (:func:`cell2sen.inference.annotate.calibration_key`) → ``temperature``, ``n_cells``,
    ``accuracy``, expected calibration errors (``ece_before``, ``ece_after``), ``certainty``: quantiles of the
    probability of the most probable label, and ``only_answer``, if it is the same for all cells, whose labels differ.
    """
    model = resolve(folder)
    named = dict.fromkeys(name for file in cells for name in file.data.tasks if tasks.is_of_columns(name))
    results: dict[str, Any] = {}
    backend: Any = None
    of_types = ["annotate"] if any(file.label is not None for file in cells) else []
    for name in [*of_types, *named]:
        answers = [_answers(model, part) for part in tasks.load(name).answered]
        if name not in model.metadata.get("templates", {}) or min(map(len, answers)) < 2:
            continue
        backend = backend or load_model({"model": model, "progress": progress})
        for key, result in _calibrated(backend, name, answers, cells).items():
            results[key] = result
            logger.info(
                "%s: temperature %.3f on %d held-out cells: calibration error %.3f → %.3f",
                key,
                *(result[value] for value in ("temperature", "n_cells", "ece_before", "ece_after")),
            )
    if results:
        update_metadata(folder, {"calibration": results})
    return results


def _answers(model: Model, task: Task) -> list[str]:
    """Numbers, or labels with enough training cells; a warning names the others."""
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


def _calibrated(
    backend: Any, name: str, answers: Sequence[Sequence[str]], cells: Sequence[TrainingCells]
) -> dict[str, dict[str, Any]]:
    """Results of one task, by key; empty without held-out cells that have one of the answers to each of its parts."""
    task = tasks.load(name)
    scores: dict[str, list[NDArray[np.float64]]] = {}
    truth: dict[str, list[NDArray[np.int64]]] = {}
    menus_of: dict[str, list[str]] = {}
    for file in cells:
        values = _truth(file, task)
        rows = _rows(file, values, answers, MAX_CALIBRATION_CELLS // len(cells))
        if not len(rows):
            continue
        sentences = file.sentences(0, Augmentation(), 0)[rows]
        session = start(sentences, task, {"model": backend, "context": file.context_of(task)})
        menus = {
            part.name: list(menu) for part, menu in zip(task.answered, answers, strict=True) if part.answer == "label"
        }
        annotations = annotate_cells(session, [session.task], menus, exact=True)
        found = {result.task.name: result for result in annotations}
        for part, menu, column in zip(task.answered, answers, values, strict=True):
            key = calibration_key(task, part)
            menus_of[key] = list(menu)
            likelihoods = np.log(np.maximum(found[part.name].probabilities.probabilities, 1e-300))
            scores.setdefault(key, []).append(likelihoods)
            truth.setdefault(key, []).append(np.array([menu.index(str(value)) for value in column[rows]]))
    return {key: _fitted(np.concatenate(scores[key]), np.concatenate(truth[key]), menus_of[key]) for key in scores}


def _truth(cells: TrainingCells, task: Task) -> list[NDArray[Any]]:
    """Answer of each cell to each part of a task, object (cells,); empty for a file without them."""
    if not task.is_of_columns:
        return [] if cells.label is None else [cells.label]
    return [cells.answers(part) for part in task.answered] if task.name in cells.data.tasks else []


def _fitted(log_likelihoods: NDArray[np.float64], truth: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    temperature = fit_temperature(log_likelihoods, truth)
    before, after = softmax(log_likelihoods, axis=1), softmax(log_likelihoods / temperature, axis=1)
    answers = log_likelihoods.argmax(axis=1)
    correct = answers == truth
    is_constant = len(np.unique(answers)) == 1 < len(np.unique(truth)) and len(truth) >= MIN_CELLS_OF_CONSTANT
    return {
        "temperature": temperature,
        "n_cells": len(truth),
        "accuracy": float(correct.mean()),
        "ece_before": calibration_error(correct, before.max(axis=1)),
        "ece_after": calibration_error(correct, after.max(axis=1)),
        "certainty": [round(float(value), 6) for value in np.quantile(after.max(axis=1), CERTAINTY_STEPS)],
        **({"only_answer": str(names[int(answers[0])])} if is_constant else {}),
    }


def log_only_answers(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Log an error for each task with the same answer for all held-out cells, whose labels differ."""
    for key, result in results.items():
        if "only_answer" in result:
            logger.error(
                "%s: the model answers %r for all %d held-out cells, whose labels differ. It is written, but has not "
                "learned to tell cells apart: train longer (--epochs), with another learning rate, or on more cells",
                key,
                result["only_answer"],
                result["n_cells"],
            )


def _rows(
    cells: TrainingCells, truth: Sequence[NDArray[Any]], answers: Sequence[Sequence[str]], limit: int
) -> NDArray[np.int64]:
    """First cells of the calibration half that have one of the answers to each part, and genes."""
    if not truth:
        return np.array([], dtype=np.int64)
    names, has_genes = cells.names, np.diff(cells.matrix.indptr) > 0
    usable = [
        row
        for row in np.flatnonzero(cells.test)
        if has_genes[row]
        and calibrates(names[row])
        and all(column[row] in menu for column, menu in zip(truth, answers, strict=True))
    ]
    return np.asarray(usable[:limit], dtype=np.int64)
