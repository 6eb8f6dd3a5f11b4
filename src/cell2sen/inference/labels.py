"""Labels in the user's words → the labels that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.labels import normalise_label


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
