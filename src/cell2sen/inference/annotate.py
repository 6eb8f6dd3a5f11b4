"""Annotation: probabilities over a closed set of labels; label names and their spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen.data.labels import normalise_label
from cell2sen.inference.session import Session, warn_unknown
from cell2sen.model import Model

#: Training cells that a label needs to be among the default labels: nothing is learned from one or two.
MIN_TRAINING_CELLS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """Probabilities over a closed set of labels."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    """float64 (n, labels), rows sum to 1; NaN for cells without genes."""

    temperature: float
    """What the log-likelihoods were divided by, fitted on held-out training cells; 1 if the model has none."""

    calibrated: bool

    def pick(self, threshold: float = 0.0, abstain: str = "unknown") -> tuple[list[str], NDArray[np.float64]]:
        """The most likely label and its probability; `abstain` below `threshold` and for cells without genes."""
        scores = np.where(np.isnan(self.probabilities).all(axis=1), 0.0, np.nan_to_num(self.probabilities).max(axis=1))
        best = np.nan_to_num(self.probabilities).argmax(axis=1)
        picked = [
            self.labels[label] if score >= threshold and score > 0 else abstain
            for label, score in zip(best, scores, strict=True)
        ]
        return picked, scores


def choose(session: Session, labels: Sequence[str] | None = None) -> Choices:
    """The probability of each label for each cell: its likelihood as the answer, normalised over the labels.

    The likelihood is that of the whole answer, closing full stop included, so that a label that begins another one ("B
    cell", "B cell precursor") does not get the longer one's share. A label in other words than the model's is scored by
    those of the model, and a broader one by all that it stands for (:func:`members`).

    Raises
    ------
    ValueError
        No labels, or the same label twice.
    """
    kind = "perturbations" if session.task.target == "perturbation" else "labels"
    labels = check_labels(known_labels(session.model, kind) if labels is None else labels)
    metadata = session.model.metadata
    trained, spellings = tuple(metadata.get(kind) or ()), metadata.get("spellings") or {}
    meant = members(labels, trained, spellings)
    warn_unknown(kind, [name for names in meant for name in names], session.model, kind)
    scored = list(dict.fromkeys(name for names in meant for name in names))
    sentences, task = session.sentences, session.task
    assert task.target is not None
    rows = np.flatnonzero(sentences.n_genes > 0)
    lists = sentences.gene_lists(session.length)
    prompts = [
        task.prompt(genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row])) for row in rows
    ]
    filled: list[dict[str, Any]] = [{task.target: name} for name in scored]
    answers = [task.complete(**slots) for slots in filled]
    calibration = metadata.get("calibration", {}).get(task.name, {})
    temperature = float(calibration.get("temperature", 1.0))
    probabilities = np.full((len(sentences), len(labels)), np.nan)
    scores = pool(session.backend.score(prompts, answers), [[scored.index(name) for name in names] for names in meant])
    probabilities[rows] = softmax(scores / temperature, axis=1)
    return Choices(labels=labels, probabilities=probabilities, temperature=temperature, calibrated=bool(calibration))


def check_labels(labels: Sequence[Any]) -> tuple[str, ...]:
    """The labels without surrounding whitespace.

    Raises
    ------
    ValueError
        Not at least two different ones, or no text among them.
    """
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of cell types, found the text {labels!r}: pass [{labels!r}, ...]")
    listed = list(labels)
    if strange := [label for label in listed if not isinstance(label, str) or not label.strip()]:
        raise ValueError(f"labels must be names of cell types, found {strange[:5]}")
    names = tuple(label.strip() for label in listed)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"labels must differ, found {repeated[:5]} more than once in {len(names)} labels")
    if len(names) < 2:
        raise ValueError(f"labels must be at least two, to choose from, found {list(names)}")
    return names


def known_labels(model: Model, kind: str = "labels") -> tuple[str, ...]:
    """Labels (or perturbations) the model was trained on, those of at least :data:`MIN_TRAINING_CELLS` cells.

    Raises
    ------
    ValueError
        The model does not say; labels have to be given.
    """
    counts: Mapping[str, int] = model.metadata.get(kind) or {}
    found = tuple(label for label, count in counts.items() if count >= MIN_TRAINING_CELLS)
    if not found:
        raise ValueError(f"{model.name} brings no list of {kind}: pass the names to choose from as labels=[...]")
    return found


def members(
    labels: Sequence[str], trained: Sequence[str], spellings: Mapping[str, Sequence[str]]
) -> list[tuple[str, ...]]:
    """For each given label the trained labels that it stands for; itself where it stands for none.

    ``"CD14+ Mono"`` stands for ``"CD14+ monocyte"``, ``"T cell"`` for ``"CD4 T cell"`` and ``"CD8 T cell"``. Where two
    given labels could stand for the same trained one, the narrower takes it, so that ``"CD8 T cell"`` beside
    ``"T cell"`` keeps its cells. A model learns one name for a label; a spelling that it never saw would be scored by
    chance.

    Parameters
    ----------
    labels
        The closed set, in the user's words.
    trained
        Labels that the model knows by name.
    spellings
        Trained label → its other spellings and broader names.

    Raises
    ------
    ValueError
        Two labels mean the same.
    """
    meant = [_candidates(label, trained, spellings) for label in labels]
    for number, one in enumerate(meant):
        if one and (same := [labels[other] for other in range(number) if set(meant[other]) == set(one)]):
            raise ValueError(f"{same[0]!r} and {labels[number]!r} mean the same to this model, {one}: keep one of them")
    owner: dict[str, int] = {}
    for number in sorted(range(len(labels)), key=lambda number: (len(meant[number]), number)):
        for name in meant[number]:
            owner.setdefault(name, number)
    owned = [tuple(name for name in meant[number] if owner[name] == number) for number in range(len(labels))]
    return [names or (label,) for names, label in zip(owned, labels, strict=True)]


def pool(scores: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Log-likelihood of each group: log of the sum of its members' likelihoods, float64 (n, groups)."""
    return np.stack([np.logaddexp.reduce(scores[:, list(group)], axis=1) for group in groups], axis=1)


def _candidates(label: str, trained: Sequence[str], spellings: Mapping[str, Sequence[str]]) -> list[str]:
    wanted = normalise_label(label)
    exact = [label] if label in trained else [name for name in trained if normalise_label(name) == wanted]
    spelled = [name for name in trained if any(normalise_label(other) == wanted for other in spellings.get(name, ()))]
    return list(dict.fromkeys([*exact, *spelled]))
