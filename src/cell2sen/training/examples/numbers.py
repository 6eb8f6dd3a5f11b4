"""Numbers that are learned: bins of each obs column, the same in all files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cell2sen.inference.answers.numbers import Bins
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells


def fit_bins(cells: Mapping[str, TrainingCells], tasks: Iterable[Task]) -> None:
    """Set the bins of the number tasks of all files, from their training cells together.

    Raises
    ------
    KeyError, ValueError
        No such column, values that are no numbers, or fewer than two different ones.
    """
    for task in tasks:
        if task.answer != "number" or task.column is None:
            continue
        files = [file for file in cells.values() if task.name in file.data.tasks]
        values = [file.numbers(task)[~file.test] for file in files]
        try:
            bins = Bins.fit(np.concatenate(values))
        except ValueError as error:
            raise ValueError(f"task {task.name!r}: {error}") from error
        for file in files:
            file.bins[task.column] = bins
