"""Numbers that are learned: bins of each obs column, the same in all files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cell2sen.inference.answers.numbers import Bins
from cell2sen.task import Task
from cell2sen.training.examples.cells import TrainingCells


def fit_bins(cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task]) -> None:
    """Set the bins of the numbers of all files, from their training cells together.

    Raises
    ------
    KeyError, ValueError
        No such column, values that are no numbers, or fewer than two different ones.
    """
    learned = [
        (part, file)
        for file in cells.values()
        for name in file.data.tasks
        for part in tasks[name].answered
        if part.answer == "number" and part.column is not None
    ]
    for column, name in {str(part.column): part.name for part, _ in learned}.items():
        files = {id(file): (part, file) for part, file in learned if part.column == column}
        values = [file.numbers(part)[~file.test] for part, file in files.values()]
        try:
            bins = Bins.fit(np.concatenate(values))
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from error
        for _, file in files.values():
            file.bins[column] = bins
