"""Probabilities of labels that mean what they say: a temperature fitted on held-out cells."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from cell2sen.data.splits import barcode
from cell2sen.inference.annotate import MIN_TRAINING_CELLS, label_probabilities
from cell2sen.inference.session import load_model, start
from cell2sen.model import METADATA_FILE, resolve
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.training.cells import Augmentation, Cells

logger = logging.getLogger(__name__)

#: Cells that are scored at most, spread evenly over the files.
MOST_CELLS = 700


def calibrates(name: str) -> bool:
    """Whether a held-out cell belongs to the half that calibrates; the other half is for scores.

    By the barcode, so that a cell that occurs in two files is on one side only.
    """
    return hashlib.blake2b(barcode(name).encode()).digest()[0] % 2 == 0


def fit_temperature(log_likelihoods: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log-likelihood of the true labels (Guo et al., ICML 2017).

    Parameters
    ----------
    log_likelihoods
        float64 (n, labels), nats.
    truth
        int64 (n,), column of the true label.
    """

    def loss(log_temperature: float) -> float:
        probability = softmax(log_likelihoods / float(np.exp(log_temperature)), axis=1)[np.arange(len(truth)), truth]
        return float(-np.mean(np.log(np.maximum(probability, 1e-300))))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(20.0)), method="bounded").x))


def expected_calibration_error(probability: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean difference between confidence and accuracy over `bins` equal-width bins, weighted by their cells."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[which == b].mean() - right[which == b].mean()) * np.mean(which == b) for b in np.unique(which)
    ]
    return float(np.sum(gaps))


def calibrate(folder: Path, cells: Sequence[Cells], *, progress: bool = False) -> dict[str, Any]:
    """Fit the temperature of the task ``annotate`` and write it into the model's metadata.

    Uses the calibrating half of the held-out cells that have a label, over all labels that the model knows. Without
    such cells nothing is written, and the model's probabilities stay marked as not calibrated.
    """
    model = resolve(folder)
    known: dict[str, int] = model.metadata.get("labels") or {}
    labels = [label for label, count in known.items() if count >= MIN_TRAINING_CELLS]
    if rare := sorted(set(known) - set(labels)):
        logger.warning("labels of fewer than %d training cells are not offered where none are named: %s",
                       MIN_TRAINING_CELLS, ", ".join(rare))  # fmt: skip
    if "annotate" not in model.metadata.get("templates", {}) or len(labels) < 2:
        return {}
    backend = load_model({"model": model, "progress": progress})
    scores, truth = [], []
    for one in cells:
        rows = _rows(one, labels, MOST_CELLS // len(cells))
        if not len(rows):
            continue
        choices = label_probabilities(start(_sentences(one, rows), "annotate", {"model": backend}), labels)
        scores.append(np.log(np.maximum(choices.probabilities, 1e-300)))
        assert one.label is not None
        truth.append(np.array([labels.index(str(label)) for label in one.label[rows]]))
    if not scores:
        return {}
    likelihoods, right = np.concatenate(scores), np.concatenate(truth)
    temperature = fit_temperature(likelihoods, right)
    before, after = softmax(likelihoods, axis=1), softmax(likelihoods / temperature, axis=1)
    hit = likelihoods.argmax(axis=1) == right
    result = {
        "temperature": temperature, "n_cells": len(right), "accuracy": float(hit.mean()),
        "ece_before": expected_calibration_error(before.max(axis=1), hit),
        "ece_after": expected_calibration_error(after.max(axis=1), hit),
    }  # fmt: skip
    logger.info("temperature %.3f on %d held-out cells: calibration error %.3f → %.3f", temperature, len(right),
                result["ece_before"], result["ece_after"])  # fmt: skip
    file = folder / METADATA_FILE
    metadata = json.loads(file.read_text(encoding="utf-8"))
    metadata["calibration"] = {"annotate": result}
    file.write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
    return result


def _rows(cells: Cells, labels: Sequence[str], most: int) -> NDArray[np.int64]:
    if cells.label is None:
        return np.array([], dtype=np.int64)
    usable = [
        row
        for row in np.flatnonzero(cells.test)
        if cells.label[row] in labels and calibrates(cells.names[row]) and cells.matrix[[row]].nnz
    ]
    return np.asarray(usable[:most], dtype=np.int64)


def _sentences(cells: Cells, rows: NDArray[np.int64]) -> Sentences:
    """The cells as they were drawn for training, without thinning."""
    drawn = cells.sentences(0, Augmentation(), 0)
    place = {symbol: number for number, symbol in enumerate(cells.symbols)}
    names: NDArray[Any] = np.asarray(cells.names, dtype=object)[rows]
    return Sentences(
        genes=pa.array([[place[gene] for gene in drawn[row]] for row in rows], type=pa.list_(pa.int32())),
        vocabulary=pa.array(cells.symbols, type=pa.string()), names=names,
        organism=tuple(cells.organism[rows]), perturbations=(None,) * len(rows), obs=pd.DataFrame(index=names),
        recipe=Recipe(), fit=None,
    )  # fmt: skip
