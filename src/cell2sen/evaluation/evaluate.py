"""Evaluation: every score beside baselines, a ceiling, intervals and a leak check."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cell2sen.data.output import complete
from cell2sen.evaluation import comparison
from cell2sen.evaluation import leakage as leaks
from cell2sen.evaluation.inputs import Case, ScaleName, label
from cell2sen.evaluation.leakage import Check
from cell2sen.evaluation.metrics.metrics import METRICS, Metric, get
from cell2sen.evaluation.scoring import baselines, bootstrap
from cell2sen.evaluation.scoring import cells as populations
from cell2sen.evaluation.scoring import labels as labels_of_cells
from cell2sen.evaluation.scoring import tables as score_tables
from cell2sen.evaluation.scoring.arms import ARMS

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

Task = Literal["perturb", "generate", "annotate"]

_LEVELS: dict[str, tuple[str, ...]] = {
    "perturb": ("change", "profile", "cells", "sentences"),
    "generate": ("profile", "change", "cells", "sentences"),
    "annotate": ("labels", "confidence", "text"),
}
#: Metrics that are computed only if they are asked for by name (or through encoder=).
_ON_REQUEST = ("bertscore", "biobert_score", "foscttm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was found, and all that is needed to repeat it."""

    task: Task
    scores: pd.DataFrame
    """One row per metric, arm and group; ``group`` is ``"all"`` for the score over all groups. Columns: metric, arm,
    group, value, low, high (95 % over cells), low_groups, high_groups (95 % over perturbations, contexts or units),
    n_groups, n_predicted, n_real, reason (why there is no value).
    """

    table: pd.DataFrame
    """One row per metric: prediction with intervals, best baseline, verdict, ceiling, all baselines, perfect value."""

    checks: tuple[Check, ...]
    """The leak check."""

    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    """What a reader must know: groups that were not predicted, genes that were not compared."""

    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the report draws: changes of top genes, calibration, cells for a map, sentences."""

    @property
    def leaked(self) -> bool:
        """Whether a leak check failed: the scores must then not be used."""
        return any(one.status == "failed" for one in self.checks)

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything but the drawn cells as JSON (missing values as null); also written to `path`."""
        content = {
            "task": self.task,
            "leaked": self.leaked,
            "checks": [asdict(one) for one in self.checks],
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "table": _records(self.table.reset_index()),
            "scores": _records(self.scores),
        }
        text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
        if path is not None:
            with complete(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        return text

    def to_csv(self, path: str | Path) -> None:
        """Write :attr:`scores`, one row per metric, arm and group."""
        with complete(path) as temporary:
            self.scores.to_csv(temporary, index=False)

    def report(self, path: str | Path, *, layout: Literal["auto", "umap", "pca"] = "auto") -> Path:
        """Write one self-contained HTML page; see :func:`cell2sen.evaluation.report.page.write`."""
        from cell2sen.evaluation.report import page as report

        return report.write(self, path, layout=layout)

    def __str__(self) -> str:
        shown = self.table[
            [
                name
                for name in ("prediction", "low", "high", "best_baseline", "best_baseline_value", "verdict", "ceiling")
                if name in self.table
            ]
        ]
        failed = [f"LEAK: {one.name}: {one.detail}\n" for one in self.checks if one.status == "failed"]
        return "".join(failed) + shown.to_string(float_format=lambda value: f"{value:.3f}")


def evaluate(
    predicted: AnnData | str | Path,
    real: AnnData | str | Path,
    *,
    task: Task | None = None,
    perturbation: str = "perturbation",
    predicted_perturbation: str | None = None,
    control: str | Sequence[str] = "control",
    context: str | Sequence[str] = (),
    label: str | Sequence[str] = "cell_type",
    predicted_label: str | None = None,
    rename: Mapping[str, str] | None = None,
    train: AnnData | str | Path | None = None,
    train_names: Any = None,
    split: Mapping[str, Any] | str | Path | None = None,
    controls: Literal["shared", "split"] = "shared",
    embedding: str = "pca",
    components: int = 50,
    encoder: Any = None,
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
    """Score predicted cells against real ones, and try to refute the score.

    Parameters
    ----------
    predicted
        From :func:`cell2sen.tl.perturb`, :func:`cell2sen.tl.annotate`, :func:`cell2sen.tl.generate` or another tool:
        counts or log-normalised values in ``X``, gene symbols, and the columns named below.
    real
        The truth; for perturbations with the control cells, in the same file.
    task
        ``"perturb"``, ``"generate"`` or ``"annotate"``; known by itself for predictions of this package.
    perturbation
        ``obs`` column of `real` that tells perturbed cells from controls.
    predicted_perturbation
        The same in `predicted`, where it is called otherwise (``"perturbation"`` for those of this package). Cells
        with the value `control` in it are left out.
    control
        Value or values of `perturbation` in control cells. What was used is recorded.
    context
        ``obs`` columns that perturbed and control cells must share (cell type, donor), in both files. A group is a
        perturbation in a context. For labels: the unit of the bootstrap (donor).
    label
        ``obs`` column (or columns) with the true label, for ``"annotate"`` and ``"generate"``.
    predicted_label
        Column of predicted labels. Default: what :func:`cell2sen.tl.annotate` wrote.
    rename
        Name in the prediction → name in the real cells, for perturbations and labels.
    train
        Cells that the model was trained on, for the baselines that learn. Without them, the other groups of the real
        cells.
    train_names
        Their names (list, text or JSON file, ``.h5ad``), for the leak check. Default: those of `train`.
    split
        ``cell2sen.json`` of the model, or its ``split``: proves that the real cells are the held-out ones.
    controls
        Which controls a change is measured from. ``"shared"``: all controls of the context, for truth and prediction
        alike, as in most papers and in cell-eval; the noise of few controls is then in both and correlates.
        ``"split"``: from different halves, both ways, averaged; ``pearson_delta_disjoint`` always is.
    embedding
        Where sets of cells are compared: ``"pca"`` of the real cells, or a key of ``obsm`` on both sides.
    components
        Principal components of the embedding at most.
    encoder
        Text encoder (directory or hub id) for the BERTScore of labels or texts.
    metrics
        Names, to compute these only. Default: all that fit the task.
    layer, real_layer, scale, real_scale, symbols, case
        Where the values are, what they are (``"counts"``, ``"cp10k"``, ``"log1p"``), the ``var`` column with symbols,
        and whether case matters in them.
    leaks
        ``"raise"``: a leak raises. ``"report"``: the scores are given, and marked.
    resamples
        Bootstrap samples of cells; 0 for none.
    max_cells, min_cells
        Cells per group and arm in distances between sets of cells: at most, and at least. All arms have the same
        number.
    seed
        Of halves, samples and bootstrap.

    Returns
    -------
    Evaluation

    Raises
    ------
    LeakError
        The prediction is a copied control, test cells were trained on, or truth and controls are mixed up.
    KeyError, ValueError
        No such column, no control cells, no common gene or group, NaN; each with what to do.
    """
    asked = dict(locals())
    given = comparison.read_sides(predicted, real, train, asked)
    task = comparison.task_of(given.predicted, task, asked)
    chosen = _metrics(task, metrics, encoder)
    if resamples < 0 or max_cells < 2 or min_cells < 2:
        raise ValueError(
            f"resamples must be at least 0, max_cells and min_cells at least 2: found {resamples}, {max_cells}, "
            f"{min_cells}"
        )
    if task == "annotate":
        return _labels(given, chosen, asked)
    return _populations(task, given, chosen, asked)


def _populations(
    task: Literal["perturb", "generate"], given: comparison.Sides, chosen: list[Metric], asked: dict[str, Any]
) -> Evaluation:
    arms, notes = comparison.arms_of(task, given, asked)
    checks = comparison.check_populations(arms, given, asked)
    if asked["leaks"] == "raise":
        leaks.raise_on(checks)
    if any(one.level == "cells" for one in chosen):
        comparison.set_embedding(arms, asked)
    found = populations.score(arms, chosen, given.genes, given.predicted_vocabulary, asked["progress"])
    if found.sizes and task == "perturb":
        checks.append(leaks.hardly_moves(float(np.nanmean(list(found.sizes.values())))))
    unit = _unit(arms)
    scores = score_tables.assemble(found.scores, chosen, list(arms.names), unit, asked["seed"])
    settings = comparison.settings(task, given, asked) | {
        "arms": {name: ARMS[name] for name in arms.names},
        "groups": [label(key) for key in arms.keys],
        "unit_of_group_intervals": "context" if unit == "context" else "perturbation" if task == "perturb" else "label",
        "controls": {
            label(context) or "all": len(rows)
            for context, rows in arms.controls.items()
            if context in {arms.context(key) for key in arms.keys}
        },
        "controls_used": asked["controls"] if task == "perturb" else "all real cells",
        "baselines_learn_from": "train" if arms.train is not None else "the other groups of the real cells",
        "embedding": comparison.describe_embedding(arms),
    }
    if "size" not in settings and found.sizes:
        settings["size_of_predicted_change"] = {name: round(size, 4) for name, size in found.sizes.items()}
    details = {"changes": found.changes, "map": found.map, "sentences": comparison.example_sentences(arms, given)}
    return _finish(task, scores, chosen, arms.names, checks, settings, notes, details)


def _labels(given: comparison.Sides, chosen: list[Metric], asked: dict[str, Any]) -> Evaluation:
    answers, notes = comparison.answers_of(given, asked)
    checks = comparison.check_labels(answers, given, asked)
    if asked["leaks"] == "raise":
        leaks.raise_on(checks)
    scores = score_tables.assemble(
        labels_of_cells.score(answers, chosen), chosen, list(labels_of_cells.ARMS), "", asked["seed"]
    )
    settings = comparison.settings("annotate", given, asked) | {
        "arms": dict(labels_of_cells.ARMS),
        "cells": len(answers.truth),
        "true_labels": sorted({str(one) for one in answers.truth}),
        "predicted_labels": sorted({str(one) for one in answers.answer}),
        "unit_of_group_intervals": comparison.columns(asked["context"])[0]
        if answers.units is not None
        else "none (context= names one)",
    }
    counts, names = labels_of_cells.confusion_table(answers)
    details = {
        "calibration": labels_of_cells.calibration(answers),
        "confusion": {"labels": names, "counts": counts.tolist()},
    }
    return _finish("annotate", scores, chosen, tuple(labels_of_cells.ARMS), checks, settings, notes, details)


def _metrics(task: str, names: Sequence[str] | None, encoder: Any) -> list[Metric]:

    fitting = [one for level in _LEVELS[task] for one in METRICS.values() if one.level == level]
    if names is None:
        wanted = [one for one in fitting if one.name not in _ON_REQUEST]
        return wanted + ([get("bertscore")] if task == "annotate" and encoder is not None else [])
    chosen = [get(name) for name in names]
    if wrong := [one.name for one in chosen if one not in fitting or one.name == "foscttm"]:
        raise ValueError(
            f"metrics {wrong} do not fit task {task!r}; available: "
            f"{sorted(one.name for one in fitting if one.name != 'foscttm')}"
        )
    return chosen


def _unit(arms: baselines.Arms) -> str:
    """Perturbations where there are at least three, else contexts; for generated cells the first label column."""
    if arms.task == "generate":
        return "group"
    return "perturbation" if len({key[0] for key in arms.keys}) >= bootstrap.FEWEST_UNITS else "context"


def _finish(
    task: Task,
    assembled: dict[str, Any],
    chosen: list[Metric],
    arms: Sequence[str],
    checks: list[Check],
    settings: dict[str, Any],
    notes: list[str],
    details: dict[str, Any],
) -> Evaluation:
    for note in notes:
        logger.warning("%s", note)
    return Evaluation(
        task=task,
        scores=assembled["scores"],
        table=score_tables.table(assembled, chosen, arms),
        checks=tuple(checks),
        settings=settings,
        notes=tuple(notes),
        details=details,
    )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
