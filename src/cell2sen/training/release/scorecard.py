"""Scores of a new model on cells that it was not trained on, beside simple baselines, for its card."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen import tl
from cell2sen.evaluation import evaluate as evaluation
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training.cells import Cells, contexts
from cell2sen.training.release.fit_calibration import calibrates

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Task → what is measured. The first column of a table is for reading, the others for judging.
METRICS = {
    "annotate": ("accuracy", "macro_f1", "expected_calibration_error"),
    "perturb": ("pearson_delta", "kendall_tau", "gene_overlap_100"),
}

#: Training cells that baselines learn from at most, and bootstrap samples: a card must not take longer than a training.
TRAINING_CELLS, RESAMPLES = 500, 50


def scores(folder: Path, cells: Sequence[Cells], most: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """One entry for each file, task and metric: the model, its interval, the best baseline, and the ceiling.

    Parameters
    ----------
    folder
        Directory of the model.
    most
        Held-out cells of each file and task that are asked about, at most; 0 for none. Labels are scored on cells that
        did not calibrate them.
    """
    model = resolve(folder)
    backend: Any = None
    found: list[dict[str, Any]] = []
    for one in cells:
        for task in one.data.tasks:
            rows = _asked(one, task, most, seed)
            if not len(rows):
                continue
            backend = backend or load_model({"model": model, "progress": False})
            try:
                judged = _annotated(one, rows, backend) if task == "annotate" else _perturbed(one, rows, backend)
            except (ValueError, KeyError) as error:  # too few cells of a group, say: a card without this score
                logger.warning("the model card has no scores of task %r on %s: %s", task, one.data.file, error)
                continue
            found += _entries(judged, one.data.file, task)
    return found


def as_markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """A table for the model card."""
    if not found:
        return "Nothing was measured on held-out cells."
    lines = ["| file | task | score | model (95 % interval) | best simple baseline | ceiling |", "|" + " --- |" * 6]
    for one in found:
        interval = f" ({_number(one['low'])} to {_number(one['high'])})" if one["low"] is not None else ""
        baseline = f"{one['best_baseline']} {_number(one['best_baseline_value'])}" if one["best_baseline"] else "–"
        lines.append(
            f"| {one['file']}, {one['n_cells']} cells | {one['task']} | {one['metric']} | "
            f"{_number(one['model'])}{interval} | {baseline} | {_number(one['ceiling'])} |"
        )
    return "\n".join(lines)


def _asked(cells: Cells, task: str, most: int, seed: int) -> NDArray[np.int64]:
    """Held-out cells that the model is asked about."""
    chosen = cells.test & (np.diff(cells.matrix.indptr) > 0)
    if task == "annotate" and cells.label is not None:
        chosen = chosen & np.array([label is not None for label in cells.label], dtype=bool)
        chosen = chosen & ~np.array([calibrates(name) for name in cells.names], dtype=bool)
    elif task == "perturb" and cells.perturbation is not None:
        chosen = chosen & np.asarray(cells.perturbation == cells.data.control, dtype=bool)
    else:
        return np.array([], dtype=np.int64)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(chosen))[:most]
    return np.sort(rows)


def _annotated(cells: Cells, rows: NDArray[np.int64], backend: Any) -> evaluation.Evaluation:
    assert cells.label is not None
    asked = _adata(cells, rows, truth=cells.label)
    tl.annotate(asked, model=backend, progress=False)
    labelled = np.flatnonzero(~cells.test & np.array([label is not None for label in cells.label], dtype=bool))
    train = _adata(cells, _some(labelled), truth=cells.label)
    return evaluation.evaluate(
        asked, asked, task="annotate", label="truth", train=train, metrics=METRICS["annotate"], leaks="report",
        resamples=RESAMPLES,
    )  # fmt: skip


def _perturbed(cells: Cells, rows: NDArray[np.int64], backend: Any) -> evaluation.Evaluation:
    """The commonest perturbation that was held out, in every context that has controls and such cells."""
    assert cells.perturbation is not None
    perturbed = [value for value in cells.perturbation[cells.test] if value not in (None, cells.data.control)]
    if not perturbed:
        raise ValueError("no perturbed cell is held out")
    name = max(sorted(set(perturbed)), key=perturbed.count)
    where = contexts(cells)
    of_kind = np.asarray(cells.perturbation == name, dtype=bool)
    moved = {where[cell] for cell in np.flatnonzero(cells.test & of_kind)}
    rows = np.array([row for row in rows if where[row] in moved], dtype=np.int64)
    predicted = tl.perturb(_adata(cells, rows, truth=cells.perturbation), name, model=backend, progress=False)
    wanted = of_kind | np.asarray(cells.perturbation == cells.data.control, dtype=bool)
    real = _adata(cells, np.flatnonzero(cells.test & wanted), truth=cells.perturbation)
    train = _adata(cells, _some(np.flatnonzero(~cells.test & wanted)), truth=cells.perturbation)
    return evaluation.evaluate(
        predicted, real, task="perturb", perturbation="truth", predicted_perturbation="perturbation",
        control=cells.data.control, context=cells.data.context, train=train, metrics=METRICS["perturb"],
        leaks="report", resamples=RESAMPLES,
    )  # fmt: skip


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(0).permutation(rows)[:TRAINING_CELLS])


def _adata(cells: Cells, rows: NDArray[np.int64], truth: NDArray[Any]) -> AnnData:
    adata = cells.anndata(rows)
    adata.obs["truth"] = pd.Categorical(truth[rows])
    return adata


def _entries(judged: evaluation.Evaluation, file: str, task: str) -> list[dict[str, Any]]:
    def plain(value: Any) -> float | None:
        return float(value) if value is not None and np.isfinite(value) else None

    table = judged.table.reset_index().to_dict("records")
    n_cells = int(judged.scores["n_predicted"].max())
    return [
        {
            "file": file, "task": task, "metric": str(row["metric"]), "n_cells": n_cells,
            "model": plain(row["prediction"]), "low": plain(row["low"]), "high": plain(row["high"]),
            "best_baseline": str(row["best_baseline"] or "") if isinstance(row["best_baseline"], str) else "",
            "best_baseline_value": plain(row["best_baseline_value"]), "ceiling": plain(row["ceiling"]),
        }
        for row in table
        if plain(row["prediction"]) is not None
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
