"""Scores of a new model on held-out cells, beside simple baselines, for its card."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.backend import SENTENCE_END, Sampling
from cell2sen.evaluation import evaluate as evaluation
from cell2sen.evaluation.inputs import UNS
from cell2sen.inference.answers.columns import annotate_cells
from cell2sen.inference.responses.perturb import predict_response
from cell2sen.inference.session import load_model, start
from cell2sen.model import resolve
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_calibration import calibrates

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Task, or beginning of the name of a task of an obs column → metrics on the card.
METRICS = {
    "annotate": ("accuracy", "macro_f1", "expected_calibration_error"),
    "perturb": ("pearson_delta", "kendall_tau", "gene_overlap_100"),
    "label": ("accuracy", "balanced_accuracy", "expected_calibration_error"),
    "number": ("mean_absolute_error", "spearman_of_numbers", "interval_coverage"),
    "joint": ("accuracy",),
}

#: Maximum number of training cells for baselines, and number of bootstrap samples: a card must take less time than a
#: training.
MAX_TRAINING_CELLS, RESAMPLES = 500, 50

#: Sampling of predicted sentences, for models without expected responses.
SAMPLING = Sampling(max_new_tokens=2048, stop=SENTENCE_END)


def scores(folder: Path, cells: Sequence[TrainingCells], limit: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Scores of each file, task and metric: of the model with an interval, of the best baseline, and of the ceiling.

    Parameters
    ----------
    folder
        Directory of the model.
    limit
        Maximum number of held-out cells of each file and task; 0 for none. Labels are scored on the half that was not
        used for calibration.
    """
    model = resolve(folder)
    backend: Any = None
    found: list[dict[str, Any]] = []
    for file in cells:
        for task in [task for task in file.data.tasks if task.partition(":")[0] in METRICS]:
            rows = _sampled_rows(file, task, limit, seed)
            if not len(rows):
                continue
            backend = backend or load_model({"model": model, "progress": False})
            try:
                evaluated = (
                    {task: _response(file, rows, backend)}
                    if task == "perturb"
                    else _annotations(file, rows, backend, task)
                )
            except (ValueError, KeyError) as error:  # such as too few cells of a group
                logger.warning("the model card has no scores of task %r on %s: %s", task, file.data.file, error)
                continue
            for name, result in evaluated.items():
                found += entries(result, file.data.file, name)
    return found


def as_markdown(scores: Sequence[Mapping[str, Any]]) -> str:
    """Scores as a Markdown table for the model card."""
    if not scores:
        return "No held-out cells were scored."
    lines = ["| file | task | score | model (95 % interval) | best simple baseline | ceiling |", "|" + " --- |" * 6]
    for entry in scores:
        interval = f" ({_number(entry['low'])} to {_number(entry['high'])})" if entry["low"] is not None else ""
        name = entry["best_baseline"]
        baseline = f"{name} {_number(entry['best_baseline_value'])}" if name else "–"
        scored = f"{entry['n_cells']} {entry.get('unit', 'cells')}"
        lines.append(
            f"| {entry['file']}, {scored} | {entry['task']} | {entry['metric']} | "
            f"{_number(entry['model'])}{interval} | {baseline} | {_number(entry['ceiling'])} |"
        )
    return "\n".join(lines)


def _sampled_rows(cells: TrainingCells, task: str, limit: int, seed: int) -> NDArray[np.int64]:
    """Random held-out cells with genes: labelled cells outside the calibration half, or controls."""
    usable = cells.test & (np.diff(cells.matrix.indptr) > 0)
    if task != "perturb":
        known = [pd.notna(_truth(cells, part)) for part in tasks.load(task).answered]
        usable &= np.all(known, axis=0) & ~np.array([calibrates(name) for name in cells.names], dtype=bool)
    else:
        usable &= np.asarray(cells.perturbation == cells.data.control, dtype=bool)
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:limit])


def _truth(cells: TrainingCells, task: Task) -> NDArray[Any]:
    """True label or number of each cell, (cells,); missing values as ``None`` or NaN."""
    if task.answer == "number":
        return cells.numbers(task)
    if task.column is not None:
        return cells.answers(task)
    return np.full(len(cells.names), None, dtype=object) if cells.label is None else cells.label


def _annotations(
    cells: TrainingCells, rows: NDArray[np.int64], backend: Any, name: str
) -> dict[str, evaluation.Evaluation]:
    """Evaluation of predicted labels or numbers, by the name of the task, of a joint answer also of each column."""
    task = tasks.load(name)
    adata = cells.anndata(rows)
    options: Any = {"model": backend, "progress": False, "scale": "log1p", "context": cells.context_of(task)}
    session = start(adata, task, options)
    found = annotate_cells(session, [session.task])
    truth = {part.name: _truth(cells, part) for part in task.answered}
    known = np.all([pd.notna(values) for values in truth.values()], axis=0)
    learned = _baseline_rows(~cells.test & known)
    train = cells.anndata(learned)
    for number, part in enumerate(found):
        values = truth[part.task.name]
        adata.obs[f"truth {number}"], train.obs[f"truth {number}"] = values[rows], values[learned]
        for column, predicted in part.obs().items():
            adata.obs[f"predicted {number}{column.removeprefix(part.key)}"] = predicted
    adata.uns[UNS] = {"annotate": session.provenance()}
    named = {
        f"{name}, {part.task.column}" if task.parts else name: (part.task.name, [number])
        for number, part in enumerate(found)
    }
    if task.parts and all(part.bins is None for part in found):
        named[name] = name, list(range(len(found)))
    return {key: _annotation(adata, train, kind, numbers) for key, (kind, numbers) in named.items()}


def _annotation(adata: AnnData, train: AnnData, task: str, numbers: Sequence[int]) -> evaluation.Evaluation:
    """Evaluation of the columns ``predicted N`` by ``truth N``; of several as one label."""
    kind = task.partition(":")[0]
    return evaluation.evaluate(
        adata,
        adata,
        task="number" if kind == "number" else "annotate",
        label=[f"truth {number}" for number in numbers],
        predicted_label=[f"predicted {number}" for number in numbers],
        train=train,
        metrics=METRICS[kind],
        scale="log1p",
        real_scale="log1p",
        leaks="report",
        resamples=RESAMPLES,
    )


def _response(cells: TrainingCells, rows: NDArray[np.int64], backend: Any) -> evaluation.Evaluation:
    """Evaluation of responses to the most frequent held-out perturbation, in contexts with such cells and controls."""
    assert cells.perturbation is not None
    held_out = [value for value in cells.perturbation[cells.test] if value not in (None, cells.data.control)]
    if not held_out:
        raise ValueError("no perturbed cell is held out")
    name = max(sorted(set(held_out)), key=held_out.count)
    context = cells.contexts()
    treated = np.asarray(cells.perturbation == name, dtype=bool)
    with_treated = {context[cell] for cell in np.flatnonzero(cells.test & treated)}
    rows = np.array([row for row in rows if context[row] in with_treated], dtype=np.int64)
    predicted = _predicted(_adata(cells, rows, truth=cells.perturbation), name, backend, cells.prompt_context.names)
    both = treated | np.asarray(cells.perturbation == cells.data.control, dtype=bool)
    real = _adata(cells, np.flatnonzero(cells.test & both), truth=cells.perturbation)
    train = _adata(cells, _baseline_rows(~cells.test & both), truth=cells.perturbation)
    return evaluation.evaluate(
        predicted,
        real,
        task="perturb",
        perturbation="truth",
        predicted_perturbation="perturbation",
        control=cells.data.control,
        context=cells.data.context,
        train=train,
        metrics=METRICS["perturb"],
        scale="log1p",
        real_scale="log1p",
        leaks="report",
        resamples=RESAMPLES,
    )


def _predicted(control: AnnData, perturbation: str, backend: Any, context: Sequence[str]) -> AnnData:
    """Predicted cells, as :func:`cell2sen.tl.perturb` returns them."""
    from anndata import AnnData

    options: Any = {"model": backend, "progress": False, "scale": "log1p", "context": list(context)}
    session = start(control, "perturb", options)
    response = predict_response(session, (perturbation,) * control.n_obs, sampling=SAMPLING)
    obs = control.obs.iloc[response.rows].copy()
    obs["perturbation"] = pd.Categorical(response.perturbations)
    obs["sentence"] = [" ".join(answer.genes) for answer in response.answers]
    var = pd.DataFrame(index=pd.Index(session.sentences.symbols, dtype=object))
    layers = {"control": response.control, "delta": (response.predicted - response.control).tocsr()}
    predicted = AnnData(X=response.predicted, obs=obs, var=var, layers=layers)
    predicted.uns[UNS] = {"perturb": session.provenance()}
    return predicted


def _baseline_rows(usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Random training cells for the baselines."""
    return np.sort(np.random.default_rng(0).permutation(np.flatnonzero(usable))[:MAX_TRAINING_CELLS])


def _adata(cells: TrainingCells, rows: NDArray[np.int64], truth: NDArray[Any]) -> AnnData:
    adata = cells.anndata(rows)
    adata.obs["truth"] = pd.Categorical(truth[rows])
    return adata


def entries(evaluated: evaluation.Evaluation, file: str, task: str) -> list[dict[str, Any]]:
    """Scores of an evaluation as plain values, those that have a value."""
    n_cells = int(evaluated.scores["n_predicted"].max())
    return [
        {
            "file": file,
            "task": task,
            "metric": str(row["metric"]),
            "n_cells": n_cells,
            "model": _finite(row["prediction"]),
            "low": _finite(row["low"]),
            "high": _finite(row["high"]),
            "best_baseline": str(row["best_baseline"] or "") if isinstance(row["best_baseline"], str) else "",
            "best_baseline_value": _finite(row["best_baseline_value"]),
            "ceiling": _finite(row["ceiling"]),
        }
        for row in evaluated.table.reset_index().to_dict("records")
        if _finite(row["prediction"]) is not None
    ]


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
