"""evaluate(): inputs, leak check, metrics, scores, settings in one call."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cell2sen.data.scale.units import ScaleName
from cell2sen.evaluation import leakage, matching, metrics
from cell2sen.evaluation.inputs import Cells, Sides, group_name, read_sides
from cell2sen.evaluation.leakage import Check
from cell2sen.evaluation.metrics import Metric
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.scoring import bootstrap, cells, figure_data, labels, tables
from cell2sen.evaluation.scoring.baselines.method import Method, methods
from cell2sen.evaluation.scoring.groups import (
    Groups,
    label_groups,
    notes_on,
    perturbation_groups,
    share_of_true_change,
)
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.settings import (
    TASKS,
    Case,
    Columns,
    Leakage,
    Sampling,
    Settings,
    Task,
    Values,
    as_list,
)
from cell2sen.evaluation.tasks import integration, numbers, texts
from cell2sen.evaluation.tasks.gene_sets import COLUMNS, evaluate_gene_sets
from cell2sen.evaluation.tasks.space import methods_of_labels

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Evaluation", "evaluate"]

logger = logging.getLogger(__name__)

#: Levels of the metrics of each task, in the order of the table.
LEVELS: Mapping[Task, tuple[str, ...]] = {
    "perturb": ("change", "disjoint_change", "profile", "cells", "neighbours", "sentences"),
    "generate": ("profile", "change", "disjoint_change", "cells", "neighbours", "sentences"),
    "annotate": ("written_labels", "labels", "confidence", "text"),
    "text": ("text", "free_text", "named_genes"),
    "integrate": ("pairs",),
    "name_gene_set": ("set_names", "text"),
    "list_gene_set": ("set_genes",),
    "number": ("numbers", "intervals"),
}

#: Packages whose versions are recorded.
_PACKAGES = ("cell2sen", "numpy", "scipy", "pandas", "anndata", "scikit-learn", "torchmetrics", "transformers")

#: Real cells that the embedding is fitted to, at most.
_MAX_FITTED_CELLS = 5000


def evaluate(
    predicted: AnnData | str | Path,
    real: AnnData | str | Path,
    *,
    task: Task | None = None,
    perturbation: str = "perturbation",
    predicted_perturbation: str | None = None,
    control: str | Sequence[str | None] | None = "control",
    context: str | Sequence[str] = (),
    label: str | Sequence[str] = "cell_type",
    predicted_label: str | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    train: AnnData | str | Path | None = None,
    train_names: Any = None,
    split: Mapping[str, Any] | str | Path | None = None,
    controls: Literal["shared", "split"] = "shared",
    embedding: str = "pca",
    components: int = 50,
    encoder: Any = None,
    ontology: bool = False,
    metrics: Sequence[str] | None = None,
    layer: str | None = None,
    real_layer: str | None = None,
    scale: ScaleName = "auto",
    real_scale: ScaleName = "auto",
    symbols: str | None = None,
    case: Case = "auto",
    leaks: Literal["raise", "report"] = "raise",
    resamples: int = 100,
    max_cells: int = 500,
    min_cells: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Scores of predicted cells against real ones, beside baselines and ceilings, with a leak check.

    Parameters
    ----------
    predicted
        From a function of :mod:`cell2sen.tl` (perturb, annotate, generate, caption, interpret, ask) or another tool:
        AnnData, or the path of an ``.h5ad`` or ``.zarr`` file, with counts or log-normalised values in ``X``, gene
        symbols, and the columns named below.
    real
        The truth; for perturbations with the control cells, in the same object.
    task
        ``"perturb"``, ``"generate"``, ``"annotate"`` (labels of any obs column), ``"number"`` or ``"text"``. Default:
        as recorded in predictions of this package, else inferred from the columns. ``"integrate"``: FOSCTTM of bulk or
        pseudobulk profiles (`predicted`) among the single cells that share their values of `context` (`real`), both
        with embeddings in ``obsm[embedding]`` (default ``"X_cell2sen"``). ``"name_gene_set"``, ``"list_gene_set"``:
        `predicted` is a table of :func:`cell2sen.tl.name_gene_sets` or :func:`cell2sen.tl.list_gene_sets` or its CSV
        file, `real` and `train` are GMT files or ``{name: genes}``.
    perturbation
        ``obs`` column of `real` with the perturbation of each cell; its value is `control` in control cells.
    predicted_perturbation
        The same column of `predicted`. Default: ``"perturbation"`` in predictions of :func:`cell2sen.tl.perturb`, else
        the name in `real`. Cells with the value `control` are left out. ``A+B`` and ``B+A`` are the same perturbation.
    control
        Value or values of `perturbation` in control cells. ``None`` (or "", NaN, "nan", …): the cells without a value.
    context
        ``obs`` columns that perturbed and control cells must share (cell type, donor), in both files. A group is a
        perturbation in a context. For labels: the unit of the bootstrap over groups (donor).
    label
        ``obs`` column (or columns) with the true label, for ``"annotate"`` and ``"generate"``; with the true number.
        Several for ``"annotate"``: an answer is right where all of them are, as of a task ``joint:…``.
        For ``"text"`` the references: an answer is compared with the nearest of several.
    predicted_label
        Column of predicted labels, numbers or texts, one for each of `label`. Default: as this package writes them.
    rename
        Name in the prediction → name in the real cells, for perturbations and labels.
    train
        Cells that the model was trained on, for the baselines that learn. Without them, these learn from the other
        groups of the real cells, or are missing.
    train_names
        Names of the training cells (list, text or JSON file, ``.h5ad``), for the leak check. Default: those of `train`.
    split
        ``cell2sen.json`` of the model, or its ``split``, for the leak check: its hash proves that the real cells are
        the held-out ones. Default: as recorded in the prediction.
    controls
        Control cells that changes are measured from. ``"shared"``: all controls of the context, for truth and
        prediction alike, as in most papers and in cell-eval; the noise of few controls is then in both changes and
        inflates their correlation. ``"split"``: different halves of them, both ways, averaged, as always in
        ``pearson_delta_disjoint``.
    embedding
        Space in which sets of cells are compared: principal components of expression (``"pca"``) or of a key of
        ``obsm`` that both sides have, fitted to the real cells.
    components
        Maximum number of these components.
    encoder
        Text encoder (directory or hub id) for the BERTScore of labels or texts.
    ontology
        Compare labels in the Cell Ontology, too: ``ontology_accuracy`` (right at a common parent) and ``ontology_f1``.
    metrics
        Names of the metrics to compute. Default: all that fit the task.
    layer, scale
        Layer of the predicted values (default ``X``; ``"raw"`` for ``adata.raw``), and their scale: ``"counts"``,
        ``"cp10k"``, ``"log1p"`` (ln(1 + CP10k)), ``"ln"``, ``"log2"``, … (:data:`cell2sen.data.scale.units.NAMED`), or
        ``"auto"`` to recognise it.
    real_layer, real_scale
        The same for the real and the training cells.
    symbols
        ``var`` column with gene symbols. Default: the index; if it has identifiers, a column that is recognised.
    case
        ``"upper"`` ignores the case of symbols, ``"keep"`` does not. ``"auto"``: as recorded in the prediction, else
        ``"keep"``.
    leaks
        ``"raise"``: a leak raises. ``"report"``: the scores are returned and marked.
    resamples
        Bootstrap samples of cells; 0 for none.
    max_cells, min_cells
        Cells per group and method in distances between sets of cells: at most, and at least. All methods have the same
        number.
    seed
        Seed of all random draws.
    progress
        Whether to show a progress bar over groups.

    Returns
    -------
    Evaluation

    Raises
    ------
    LeakError
        A leak check failed: copied controls, controls among the truth, a prediction made from the truth, or test cells
        among the training cells.
    KeyError, ValueError
        No such column, no control cells, no common gene or group, NaN; the message contains the remedy.
    """
    settings = Settings(
        task=task,
        metrics=metrics,
        encoder=encoder,
        ontology=ontology,
        progress=progress,
        columns=Columns(
            perturbation=perturbation,
            predicted_perturbation=predicted_perturbation,
            control=control,
            context=context,
            label=label,
            predicted_label=predicted_label,
            rename=rename,
        ),
        values=Values(
            layer=layer, real_layer=real_layer, scale=scale, real_scale=real_scale, symbols=symbols, case=case
        ),
        leakage=Leakage(train_names=train_names, split=split, leaks=leaks),
        sampling=Sampling(
            controls=controls,
            embedding=embedding,
            components=components,
            resamples=resamples,
            max_cells=max_cells,
            min_cells=min_cells,
            seed=seed,
        ),
    )
    if task is not None and task in COLUMNS:
        chosen = choose_metrics(task, settings)
        return _noted(evaluate_gene_sets(predicted, real, train, task, chosen, settings, _versions()))
    sides = read_sides(predicted, real, train, settings.values)
    task = task_of(sides.predicted, settings)
    chosen = choose_metrics(task, settings)
    if task in ("annotate", "text"):
        return _noted(_labels(task, sides, chosen, settings))
    if task == "number":
        return _noted(_numbers(sides, chosen, settings))
    if task == "integrate":
        return _noted(_profiles(sides, chosen, settings))
    return _noted(_cells("perturb" if task == "perturb" else "generate", sides, chosen, settings))


def _noted(evaluation: Evaluation) -> Evaluation:
    """The evaluation, after a warning for each of its notes."""
    for note in evaluation.notes:
        logger.warning("%s", note)
    return evaluation


def task_of(predicted: Cells, settings: Settings) -> Task:
    """Task of an evaluation: that of the settings, else as recorded in the prediction, else inferred from its columns.

    Raises
    ------
    ValueError
        The task cannot be inferred.
    """
    columns = settings.columns
    if settings.task is not None:
        return settings.task
    label = as_list(columns.label)[0]
    if predicted.verb == "annotate" and matching.is_number(predicted, columns.predicted_label, label):
        return "number"
    if predicted.verb is not None:
        return predicted.verb
    if columns.predicted_label is not None:
        return "annotate"
    column = columns.predicted_perturbation or columns.perturbation
    if column in predicted.obs:
        return "perturb"
    raise ValueError(
        f"the task cannot be inferred, as obs of the predicted cells has no column {column!r}: pass task= (one of "
        f"{list(TASKS)}), or name the column with predicted_perturbation= or predicted_label=. Columns of obs: "
        f"{list(map(str, predicted.obs.columns))}"
    )


def choose_metrics(task: Task, settings: Settings) -> list[Metric]:
    """Metrics of an evaluation: those of the settings, else all that fit the task and are not on request.

    Raises
    ------
    KeyError, ValueError
        A metric does not exist, or does not fit the task.
    """
    known = [metrics.get(name) for name in metrics.names()]
    fitting = [
        metric for level in LEVELS[task] for metric in known if metric.level == level and metric.shown != "never"
    ]
    if settings.metrics is None:
        shown = {"groups", "table"} | ({"encoder"} if settings.encoder is not None else set())
        shown |= {"ontology"} if settings.ontology else set()
        return [metric for metric in fitting if metric.shown in shown]
    chosen = [metrics.get(name) for name in settings.metrics]
    if wrong := [metric.name for metric in chosen if metric not in fitting]:
        raise ValueError(
            f"metrics {wrong} do not fit task {task!r}; available: {sorted(metric.name for metric in fitting)}"
        )
    return chosen


def _cells(task: Literal["perturb", "generate"], sides: Sides, chosen: list[Metric], settings: Settings) -> Evaluation:
    n_genes = len(sides.real.columns)
    sides.align(settings.values.case)
    groups = perturbation_groups(sides, settings) if task == "perturb" else label_groups(sides, settings)
    if task == "perturb":
        sides.account["share_of_true_change"] = share_of_true_change(groups, n_genes)
    checks = leakage.check_cells(groups, sides, settings.leakage)
    if settings.leakage.leaks == "raise":
        leakage.raise_on(checks)
    job = cells.Job(
        groups=groups,
        embedding=_embedding(groups) if {metric.level for metric in chosen} & {"cells", "neighbours"} else None,
        methods=[method for method in methods(task) if method.run.available(groups)],
        metrics=chosen,
        genes=sides.genes,
        vocabulary=sides.predicted.vocabulary,
    )
    results = cells.score(job, settings.progress)
    if results.sizes and task == "perturb":
        checks.append(leakage.hardly_moves(float(np.nanmean(list(results.sizes.values())))))
    unit = _unit(groups)
    overall = tables.over_groups(results.scores, chosen, job.methods, unit, settings.sampling.seed)
    figures = {
        "changes": results.changes,
        "map": results.map,
        "sentences": figure_data.example_sentences(groups, job.genes, job.vocabulary),
    }
    return Evaluation(
        task=task,
        scores=tables.long_table(results.scores, overall, chosen, job.methods),
        table=tables.table(overall, chosen, job.methods),
        checks=tuple(checks),
        settings=_record(task, sides, job.methods, settings) | _record_of_groups(job, results.sizes, unit),
        notes=tuple(notes_on(groups, sides.account.get("share_of_true_change"))),
        details=figures,
    )


def _labels(task: Literal["annotate", "text"], sides: Sides, chosen: list[Metric], settings: Settings) -> Evaluation:
    of_texts = task == "text"
    answers, notes = (texts.pair_texts if of_texts else labels.pair_labels)(sides, settings)
    rows = np.concatenate(answers.cells_of) if of_texts else answers.real.rows
    checks: list[Check] = [leakage.check_training_cells(rows, sides, settings.leakage)]
    if settings.leakage.leaks == "raise":
        leakage.raise_on(checks)
    scored = methods(task) if of_texts else methods_of_labels(answers)
    scores = labels.score(answers, chosen, scored)
    overall = tables.over_groups(scores, chosen, scored, "", settings.sampling.seed)
    details: dict[str, Any] = {"texts": texts.shown_texts(answers)} if of_texts else _details_of_labels(answers)
    return Evaluation(
        task=task,
        scores=tables.long_table(scores, overall, chosen, scored),
        table=tables.table(overall, chosen, scored),
        checks=tuple(checks),
        settings=_record(task, sides, scored, settings)
        | {
            "cells": len(answers),
            "true_labels": sorted({str(label) for label in answers.truth}),
            "predicted_labels": sorted({str(label) for label in answers.answer}),
            "unit_of_group_intervals": _unit_of_cells(answers.units, settings),
        },
        notes=tuple(notes),
        details=details,
    )


def _details_of_labels(answers: labels.Answers) -> dict[str, Any]:
    counts, classes = labels.confusion_table(answers)
    return {
        "calibration": labels.calibration(answers),
        "confusion": {"labels": classes, "counts": counts.tolist()},
    }


def _profiles(sides: Sides, chosen: list[Metric], settings: Settings) -> Evaluation:
    sampling = settings.sampling
    if sampling.embedding == "pca":  # the default of other tasks
        settings = replace(settings, sampling=replace(sampling, embedding=integration.EMBEDDING))
    pairs, notes = integration.pair(sides, settings)
    scored = methods("integrate")
    scores = integration.score(pairs, chosen, scored)
    overall = tables.over_groups(scores, chosen, scored, "", settings.sampling.seed)
    return Evaluation(
        task="integrate",
        scores=tables.long_table(scores, overall, chosen, scored),
        table=tables.table(overall, chosen, scored),
        checks=(),
        settings=_record("integrate", sides, scored, settings)
        | {
            "groups": [group_name(key) for key in pairs.keys],
            "unit_of_group_intervals": "profile",
            "cells_per_profile": integration.CELLS_PER_PROFILE,
            "model": integration.model_of(sides.predicted) or "not recorded",
            "embedding": {"key": settings.sampling.embedding},
        },
        notes=tuple(notes),
    )


def _numbers(sides: Sides, chosen: list[Metric], settings: Settings) -> Evaluation:
    answers, notes = numbers.pair_numbers(sides, settings)
    checks: list[Check] = [leakage.check_training_cells(answers.real.rows, sides, settings.leakage)]
    if settings.leakage.leaks == "raise":
        leakage.raise_on(checks)
    scored = methods("number")
    scores = numbers.score(answers, chosen, scored)
    overall = tables.over_groups(scores, chosen, scored, "", settings.sampling.seed)
    return Evaluation(
        task="number",
        scores=tables.long_table(scores, overall, chosen, scored),
        table=tables.table(overall, chosen, scored),
        checks=tuple(checks),
        settings=_record("number", sides, scored, settings)
        | {"cells": len(answers), "unit_of_group_intervals": _unit_of_cells(answers.units, settings)},
        notes=tuple(notes),
    )


def _unit_of_cells(units: Any, settings: Settings) -> str:
    """Unit of the intervals over groups of cells with a label or number."""
    return "none (context= names one)" if units is None else as_list(settings.columns.context)[0]


def _unit(groups: Groups) -> str:
    """Unit of the intervals over groups: label; or perturbation if there are at least three of them, else context."""
    if not groups.with_controls:
        return "label"
    return "perturbation" if len({key[0] for key in groups.keys}) >= bootstrap.MIN_UNITS else "context"


def _embedding(groups: Groups) -> Embedding:
    """The embedding of the settings, fitted to real cells of all groups and controls."""
    sampling, predicted, real = groups.sampling, groups.predicted.cells, groups.real
    if sampling.embedding != "pca" and sampling.embedding not in predicted.obsm:
        raise KeyError(
            f"obsm of the predicted cells has no {sampling.embedding!r}; available: "
            f"{['pca', *map(str, predicted.obsm)]}"
        )
    candidates = real.cells.by_name(np.concatenate([real.grouped, *real.controls.values()]))
    rows = groups.generator("embedding").permutation(candidates)[:_MAX_FITTED_CELLS]
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} real cells are too few for an embedding: at least 3 are needed")
    return Embedding.fit(sampling.embedding, real.cells, rows, min(sampling.components, len(rows) - 1))


def _record(task: Task, sides: Sides, scored: Sequence[Method], settings: Settings) -> dict[str, Any]:
    """Inputs, genes, model, arguments, versions and methods, as plain values."""
    return {
        "task": task,
        "files": sides.files,
        "n_predicted": len(sides.predicted),
        "n_real": len(sides.real),
        "scale": {"predicted": str(sides.predicted.scale), "real": str(sides.real.scale)},
        "genes": sides.account,
        "model": dict(sides.predicted.record(task).get("model", {})) or "not recorded",
        "arguments": settings.record(),
        "versions": _versions(),
        "methods": {method.name: method.summary for method in scored},
    }


def _record_of_groups(job: cells.Job, sizes: Mapping[str, float], unit: str) -> dict[str, Any]:
    groups = job.groups
    contexts = {groups.context(key) for key in groups.keys}
    record: dict[str, Any] = {
        "groups": [group_name(key) for key in groups.keys],
        "unit_of_group_intervals": unit,
        "controls": {
            group_name(context) or "all": len(rows)
            for context, rows in groups.real.controls.items()
            if context in contexts
        },
        "controls_used": groups.sampling.controls if groups.with_controls else "all real cells",
        "baselines_learn_from": "train" if groups.train is not None else "the other groups of the real cells",
        "embedding": {} if job.embedding is None else job.embedding.record(),
    }
    if sizes:
        record["size_of_predicted_change"] = {name: round(size, 4) for name, size in sizes.items()}
    return record


def _versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that scores depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
