"""Annotations: labels or numbers of obs columns, one task or several on prompts that are read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.inference.annotate import ClosedSet, LabelProbabilities, check_labels, closed_set, probabilities_of
from cell2sen.inference.answers.joint import joint_probabilities
from cell2sen.inference.answers.numbers import LEVEL, Bins
from cell2sen.inference.samples.labels import label_cells
from cell2sen.inference.session import Session
from cell2sen.model import Model
from cell2sen.task import Task

#: Kinds of answers that are chosen from a closed set.
CHOSEN = ("label", "labels", "number", "joint")


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotation:
    """Probabilities of the answers of one task, and what is written into AnnData."""

    task: Task
    key: str
    """Key of the results in ``obs`` and ``obsm``."""

    probabilities: LabelProbabilities
    bins: Bins | None = None
    """Of numbers; ``None`` for labels."""

    def obs(self, threshold: float = 0.0, abstain: str = "unknown") -> dict[str, Any]:
        """Columns of obs: label and its probability; or expected number and the ends of its interval (NaN: no genes).

        Parameters
        ----------
        threshold, abstain
            Of labels, see :meth:`cell2sen.inference.annotate.LabelProbabilities.pick`.
        """
        if self.bins is not None:
            low, high = self.bins.interval(self.probabilities.probabilities).T
            expected = self.bins.expected(self.probabilities.probabilities)
            return {self.key: expected, f"{self.key}_low": low, f"{self.key}_high": high}
        return picked_labels(self.key, self.probabilities, threshold, abstain)[0]

    def table(self, index: pd.Index[Any]) -> pd.DataFrame:
        """Probabilities, a column per answer; ``/`` in its name is ``%2F``, since keys of HDF5 cannot have it."""
        return label_table(self.probabilities, index)

    def record(self, threshold: float) -> dict[str, Any]:
        """Settings of this answer, as plain values for ``adata.uns``."""
        chosen = self.probabilities
        return {
            "labels": np.array(chosen.labels, dtype=object),
            "temperature": chosen.temperature,
            "calibrated": chosen.calibrated,
            "key": self.key,
            "column": self.task.column or str(self.task.target),
            **({"threshold": threshold} if self.bins is None else {"interval": LEVEL}),
        }


def picked_labels(
    key: str, probabilities: LabelProbabilities, threshold: float, abstain: str
) -> tuple[dict[str, Any], list[str], NDArray[np.float64]]:
    """Columns of obs with the label of each cell and its probability; the labels as a list, and the probabilities.

    Parameters
    ----------
    key
        Name of the column of labels; that of the probabilities ends in ``_score``.
    threshold, abstain
        See :meth:`cell2sen.inference.annotate.LabelProbabilities.pick`.
    """
    picked, scores = probabilities.pick(threshold, abstain)
    used = set(picked)
    categories = [label for label in dict.fromkeys((*probabilities.labels, abstain)) if label in used]
    return {key: pd.Categorical(picked, categories=categories), f"{key}_score": scores}, picked, scores


def label_table(probabilities: LabelProbabilities, index: pd.Index[Any]) -> pd.DataFrame:
    """Probabilities, a column per label; ``/`` in its name is ``%2F``, since keys of HDF5 cannot have it."""
    columns = [label.replace("/", "%2F") for label in probabilities.labels]
    return pd.DataFrame(probabilities.probabilities, index=index, columns=columns)


def tasks_to_annotate(task: str | Task | Sequence[str | Task] | None, model: Model) -> list[Task]:
    """Tasks of an annotation.

    Parameters
    ----------
    task
        One or several. The name of an obs column is enough for a task that the model was trained on. ``None``: the cell
        type, or else all columns that the model was trained on; of a model that was fine-tuned from another, what its
        own training had.

    Raises
    ------
    ValueError
        No such task, one twice, or one whose answers are not chosen from a closed set.
    """
    trained = model.metadata.get("templates") or {}
    if task is None:
        last = _tasks_of_last_training(model) & set(trained) or set(trained)
        columns = _trained_on_columns([name for name in trained if name in last])
        task = "annotate" if "annotate" in last or not columns else columns
    given = [task] if isinstance(task, str | Task) else list(task)
    chosen = [tasks.load(_trained_name(name, trained, model) if isinstance(name, str) else name) for name in given]
    if not chosen:
        raise ValueError("task must name at least one task, found none")
    if wrong := [each.name for each in chosen if each.answer not in CHOSEN]:
        raise ValueError(f"task must have a label or a number as its answer, found {wrong}")
    names = [each.name for each in chosen]
    targets = [part.target for each in chosen for part in each.answered]
    if len(set(targets)) < len(targets):
        raise ValueError(f"tasks must be of different columns, found {names}")
    return chosen


def annotate_cells(
    session: Session,
    chosen: Sequence[Task],
    labels: Any = None,
    *,
    key: str | None = None,
    samples: Sequence[NDArray[np.int64]] | None = None,
    distinct: bool = False,
    exact: bool = False,
) -> list[Annotation]:
    """Answers of all tasks for all cells.

    Parameters
    ----------
    chosen
        Tasks, from :func:`tasks_to_annotate`.
    labels
        Labels or numbers to choose from; for several columns ``{task or column: labels}``. Default: those that the
        model was trained on.
    key
        Key of the results of a single column. Default: ``"cell2sen_"`` and the target of its task.
    samples
        As for :func:`cell2sen.inference.annotate.label_probabilities`.
    distinct
        For a task with a label of each cell of a sample: see :func:`cell2sen.inference.samples.labels.label_cells`.
    exact
        As for :func:`cell2sen.inference.annotate.probabilities_of`.

    Raises
    ------
    ValueError
        Labels or a key that belong to no single task, a task with a label of each cell of a sample beside others, or as
        for :func:`cell2sen.inference.annotate.label_probabilities`.
    """
    of_cells = [task.name for task in chosen if task.answer == "labels"]
    if of_cells and len(chosen) > 1:
        raise ValueError(f"{of_cells[0]!r} has a label for each cell of a sample: pass it alone, without other tasks")
    if distinct and not of_cells:
        raise ValueError(
            f"distinct is for tasks with a label for each cell of a sample, not for {[task.name for task in chosen]}"
        )
    sessions = [session.with_task(task) for task in chosen]
    parts = [part for each in sessions for part in each.task.answered]
    if len(parts) > 1 and (key is not None or not isinstance(labels, Mapping | None)):
        names = [part.name for part in parts]
        raise ValueError(f"{names} are several columns: pass labels= as {{column: labels}}, and no key_added=")
    menus = {} if labels is None else dict(labels) if isinstance(labels, Mapping) else {parts[0].name: labels}
    sets, bins = [], []
    for part in parts:
        known = {name for name in (part.name, part.column, part.target) if name}
        menu = next((menus.pop(name) for name in list(menus) if name in known), None)
        answers, numbers = _closed_set(part, session.model, menu)
        sets.append(answers)
        bins.append(numbers)
    if menus:
        raise ValueError(f"labels= names {sorted(menus)}, which are none of the tasks {[part.name for part in parts]}")
    keys = [key or f"cell2sen_{part.target}" for part in parts]
    _check_keys(keys)
    if of_cells and samples is not None:
        results = [label_cells(sessions[0], sets[0], samples, distinct=distinct)]
    else:
        results = _probabilities(sessions, sets, samples, exact)
    return [
        Annotation(task=part, key=name, probabilities=result, bins=numbers)
        for part, name, result, numbers in zip(parts, keys, results, bins, strict=True)
    ]


def _check_keys(keys: Sequence[str]) -> None:
    """Raise a ValueError if results of one column would overwrite those of another: ``x`` and ``x_score``."""
    for key in keys:
        if clash := [other for other in keys if other.removeprefix(key) in ("_score", "_low", "_high", "_sample")]:
            raise ValueError(
                f"the results of two tasks would be in the same columns of obs, {key!r} with {clash[0]!r}: annotate "
                "them one after the other, with key_added="
            )


def _probabilities(
    sessions: Sequence[Session],
    sets: Sequence[ClosedSet],
    samples: Sequence[NDArray[np.int64]] | None,
    exact: bool,
) -> list[LabelProbabilities]:
    """Probabilities of each of `sets`: joint answers task by task, all others together."""
    places = np.split(np.arange(len(sets)), np.cumsum([len(each.task.answered) for each in sessions])[:-1])
    results: dict[int, LabelProbabilities] = {}
    alone = [int(own[0]) for each, own in zip(sessions, places, strict=True) if not each.task.parts]
    if alone:
        first = next(each for each in sessions if not each.task.parts)
        found = probabilities_of(first, [sets[place] for place in alone], samples, exact=exact)
        results |= zip(alone, found, strict=True)
    for each, own in zip(sessions, places, strict=True):
        if each.task.parts:
            results |= zip(own.tolist(), joint_probabilities(each, [sets[place] for place in own]), strict=True)
    return [results[place] for place in range(len(sets))]


def trained_bins(model: Model, column: str) -> Bins:
    """Numbers of an obs column that a model was trained on.

    Raises
    ------
    ValueError
        It was trained on none.
    """
    record = model.metadata.get("number_columns", {}).get(column)
    if record is None:
        raise ValueError(
            f"{model.name} was not trained on numbers of {column!r}: pass those to choose from as labels=[...]"
        )
    return Bins.from_record(record)


def _closed_set(task: Task, model: Model, menu: Any) -> tuple[ClosedSet, Bins | None]:
    if task.answer != "number":
        return closed_set(task, model, None if menu is None else check_labels(menu)), None
    bins = trained_bins(model, str(task.column)) if menu is None else Bins.of(_as_list(menu))
    return ClosedSet(task=task, labels=bins.answers, groups=tuple((name,) for name in bins.answers)), bins


def _as_list(menu: Any) -> list[Any]:
    return [part for part in menu.split(";") if part.strip()] if isinstance(menu, str) else list(menu)


def _trained_name(task: str, trained: Mapping[str, Any], model: Model) -> str:
    """Name of the trained task of a column; `task` itself if it is none.

    Raises
    ------
    ValueError
        The model answers the column together with others only.
    """
    names = (task, *(f"{kind}:{task}" for kind in tasks.COLUMN_TASKS))
    if found := [name for name in names if name in trained]:
        return found[0]
    joint = [name for name in trained if name.partition(":")[0] == tasks.JOINT]
    if within := [name for name in joint if task in [part.column for part in tasks.load(name).parts]]:
        raise ValueError(f"{model.name} was trained to answer {task!r} together with others: pass task={within[0]!r}")
    return task


def _tasks_of_last_training(model: Model) -> set[str]:
    """Tasks of the training that made the model, without those of the model that it began with."""
    return {name for file in model.training_data.get("files") or () for name in file.get("tasks") or ()}


def _trained_on_columns(trained: Sequence[str]) -> list[str]:
    """Trained tasks of obs columns, each column once: joint answers where all of their columns are in none else."""
    names = [name for name in trained if tasks.is_of_columns(name)]
    chosen: list[str] = []
    answered: set[str | None] = set()
    for name in sorted(names, key=lambda name: name.partition(":")[0] == tasks.JOINT):
        columns = {part.column for part in tasks.load(name).answered}
        if not columns & answered:
            chosen.append(name)
            answered |= columns
    return sorted(chosen, key=names.index)
