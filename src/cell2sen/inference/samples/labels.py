"""Labels of each cell of samples: cell by cell, or all at once where the labels of a sample must differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen.inference.annotate import ClosedSet, LabelProbabilities, choose_labels, temperature_of
from cell2sen.inference.session import Session


def label_cells(
    session: Session, menu: ClosedSet, samples: Sequence[NDArray[np.int64]], *, distinct: bool = False
) -> LabelProbabilities:
    """Label of each cell of samples, from a closed set.

    Parameters
    ----------
    menu
        Labels to choose from (:func:`cell2sen.inference.annotate.closed_set`).
    samples
        Rows of each sample (:func:`cell2sen.inference.annotate.samples_of_cells`).
    distinct
        ``False``: the labels of a sample are chosen in the order of its cells, as in training; a cell's probabilities
        are conditional on the labels of the cells before it. ``True``: the cells of a sample get different labels,
        those with the highest product of probabilities. Each cell is put first for this, with the others behind it in
        turn, so that its probabilities depend on the genes of all cells and on no label.

    Returns
    -------
    LabelProbabilities
        With :attr:`~cell2sen.inference.annotate.LabelProbabilities.assigned` if `distinct`.

    Raises
    ------
    ValueError
        With `distinct` fewer labels than a sample has cells.
    """
    n_labels, largest = len(menu.labels), max(map(len, samples), default=0)
    if distinct and largest > n_labels:
        raise ValueError(
            f"{largest} cells of a sample cannot have different labels of {n_labels}: pass more labels, or fewer cells "
            "(n_cells)"
        )
    temperature, calibrated = temperature_of(session.model, session.task)
    scores = np.full((len(session.sentences), n_labels), np.nan)
    by_size: dict[int, list[NDArray[np.int64]]] = {}
    for sample in samples:
        by_size.setdefault(len(sample), []).append(sample)
    for size, members in by_size.items():
        # Each rotation has another cell in the first place.
        rows = [np.roll(sample, -first) for sample in members for first in range(size)] if distinct else members
        prompts = session.prompts(rows, length=session.length)
        answered = 1 if distinct else size
        _, logs = choose_labels(
            session.backend, session.task, prompts, menu.written, n_cells=answered, groups=menu.places
        )
        for cells, values in zip(rows, logs, strict=True):
            scores[cells[:answered]] = values
    return LabelProbabilities(
        labels=menu.labels,
        probabilities=softmax(scores / temperature, axis=1),
        temperature=temperature,
        calibrated=calibrated,
        assigned=_assigned(scores, samples) if distinct else None,
    )


def _assigned(scores: NDArray[np.float64], samples: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Number of each cell's label, int64 (cells,): different within a sample, with the highest sum of scores."""
    from scipy.optimize import linear_sum_assignment

    assigned = np.full(len(scores), -1, dtype=np.int64)
    for sample in samples:
        places, labels = linear_sum_assignment(scores[sample], maximize=True)
        assigned[sample[places]] = labels
    return assigned
