"""Offered labels that fit no cell: cells for which a model prefers a label of its own that was not offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.names.labels import normalise_label
from cell2sen.data.names.text import some
from cell2sen.inference.annotate import (
    MIN_TRAINING_CELLS,
    ClosedSet,
    kind_of,
    probabilities_of,
    same_labels,
    trained_labels,
)
from cell2sen.inference.session import Session
from cell2sen.inference.trained import trained_names

#: Trained label → its other spellings and broader names.
Spellings = Mapping[str, Sequence[str]]

#: Cells that are read once more, with all labels of the model, where a warning is all that is wanted.
N_SAMPLED = 64

#: Probability that none fits above which a cell is of another type.
MAX_PROBABILITY = 0.5

#: Share of such cells above which a warning is given.
MAX_SHARE_OF_NONE = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class NoneOfThese:
    """Probability that none of the offered labels fits, of some cells."""

    probability: NDArray[np.float64]
    """float64 (cells,): of the labels of the model that were not offered, among these and the offered ones."""

    preferred: tuple[str, ...]
    """The most probable of the labels that were not offered, of each cell."""

    def warning(self, offered: Sequence[str], name: str) -> str:
        """Text of a warning if more than :data:`MAX_SHARE_OF_NONE` of the cells are of other labels, else empty."""
        known = ~np.isnan(self.probability)
        other = np.nan_to_num(self.probability) > MAX_PROBABILITY
        share = other.sum() / known.sum() if known.any() else 0.0
        if share <= MAX_SHARE_OF_NONE:
            return ""
        counts = Counter(label for label, is_other in zip(self.preferred, other, strict=True) if is_other)
        labels = [label for label, _ in counts.most_common(3)]
        return (
            f"for {share:.0%} of the cells none of the offered labels fits: among all labels that {name} was trained "
            f"on, {some(labels)} {'is' if len(labels) == 1 else 'are'} more probable than {some(list(offered))}, so "
            "the probabilities of these mean nothing there"
        )


def other_labels(offered: Sequence[str], trained: Mapping[str, int], spellings: Spellings) -> tuple[str, ...]:
    """Trained labels that mean something else than each of the offered ones.

    Not among them are labels with less than three training cells, other spellings and broader names of an offered
    label, what an offered label is a broader name of, and labels whose words are all in an offered one ("B cell", where
    "naive B cell" is offered).

    Parameters
    ----------
    trained
        Trained label → its number of training cells.
    spellings
        Trained label → its other spellings and broader names.
    """
    words = [set(normalise_label(label).split()) for label in offered]
    return tuple(
        label
        for label, count in trained.items()
        if count >= MIN_TRAINING_CELLS
        and not same_labels(label, offered, tuple(trained), spellings)
        and not any(set(normalise_label(label).split()) <= of_label for of_label in words)
    )


def none_of_these(
    session: Session, offered: Sequence[str], rows: NDArray[np.int64] | None = None
) -> NoneOfThese | None:
    """Probability that none of the offered labels fits, of a session's cells.

    Each of the cells is read once more, and all labels of the model are scored: the cost of an annotation of them with
    all labels.

    Parameters
    ----------
    offered
        Labels to choose from.
    rows
        Numbers of the cells, int64 (n,); by default all that have genes.

    Returns
    -------
    ``None`` for models that have no other labels, and for tasks other than the label of a single cell.
    """
    if session.task.answer != "label" or session.task.reads_samples or session.task.parts:
        return None
    task, model = session.task, session.model
    trained = trained_names(model, kind_of(task))
    spellings: Spellings = {} if task.column else model.metadata.get("spellings") or {}
    others = other_labels(offered, trained, spellings)
    if not others:
        return None
    groups = trained_labels(offered, tuple(trained), spellings)
    every = ClosedSet(task=task, labels=(*offered, *others), groups=(*groups, *((label,) for label in others)))
    rows = np.flatnonzero(session.sentences.n_genes > 0) if rows is None else rows
    found = probabilities_of(session, [every], list(rows[:, None]))[0].probabilities[rows]
    of_others = found[:, len(offered) :]
    return NoneOfThese(
        probability=of_others.sum(axis=1),
        preferred=tuple(others[number] for number in of_others.argmax(axis=1)),
    )


def sampled_rows(session: Session) -> NDArray[np.int64]:
    """At most :data:`N_SAMPLED` cells with genes, evenly spread over the file, int64 (n,)."""
    rows = np.flatnonzero(session.sentences.n_genes > 0)
    return rows if len(rows) <= N_SAMPLED else rows[np.linspace(0, len(rows) - 1, N_SAMPLED).astype(np.int64)]
