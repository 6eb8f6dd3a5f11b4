"""Joint answers: labels or numbers of several obs columns in one text, each chosen after those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen.inference.annotate import ClosedSet, LabelProbabilities, choose_in_turn, temperature_of
from cell2sen.inference.session import Session
from cell2sen.tasks import written_in_joint


def joint_probabilities(session: Session, sets: Sequence[ClosedSet]) -> list[LabelProbabilities]:
    """Probabilities of the answers of each column, conditional on the most probable answers of the columns before it.

    Parameters
    ----------
    session
        Cells, with a task that has :attr:`~cell2sen.task.Task.parts`.
    sets
        Answers to choose from, in the order of :attr:`~cell2sen.task.Task.answered`.

    Raises
    ------
    ValueError
        Two labels of a column that are written alike in a joint answer.
    """
    menus = [in_joint_answer(each) for each in sets]
    rows: NDArray[np.int64] = np.flatnonzero(session.sentences.n_genes > 0)
    prompts = session.prompts(rows, length=session.length)
    _, scores = choose_in_turn(
        session.backend, prompts, session.task.openings(), [(menu.written, menu.places) for menu in menus]
    )
    results = []
    for menu, logs in zip(menus, scores, strict=True):
        temperature, calibrated = temperature_of(session.model, session.task, menu.task)
        probabilities = np.full((len(session.sentences), len(menu.labels)), np.nan)
        probabilities[rows] = softmax(logs / temperature, axis=1)
        results.append(
            LabelProbabilities(
                labels=menu.labels, probabilities=probabilities, temperature=temperature, calibrated=calibrated
            )
        )
    return results


def in_joint_answer(menu: ClosedSet) -> ClosedSet:
    """The closed set with its answers as they are written in a joint one.

    Raises
    ------
    ValueError
        Two of them are written alike.
    """
    groups = tuple(tuple(dict.fromkeys(map(written_in_joint, names))) for names in menu.groups)
    written = [name for names in groups for name in names]
    if alike := sorted({name for name in written if written.count(name) > 1}):
        raise ValueError(
            f"{menu.task.name!r}: labels that differ in a semicolon only, such as {alike[0]!r}, are the same in a "
            "joint answer: rename one, or learn the column alone"
        )
    return replace(menu, groups=groups)
