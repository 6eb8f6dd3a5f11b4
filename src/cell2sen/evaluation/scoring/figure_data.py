"""Data of the report's figures: changes of top genes, cells for a map, sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import group_name
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.groups import Groups, Key
from cell2sen.evaluation.scoring.resampling import Group

#: Genes of a panel, cells of the map, groups with a sentence, words of a sentence, and highest genes of a real group.
_MAX_GENES, _MAX_MAP, _MAX_SENTENCES, _MAX_WORDS, _N_TOP = 50, 3000, 6, 60, 200


def top_changes(
    group: Group, true: NDArray[np.float64], order: NDArray[np.int64], genes: Sequence[str]
) -> tuple[dict[str, Any], float]:
    """True and predicted change from all controls of the first 50 genes of `order`, and the ratio of their sizes.

    Returns
    -------
    ``genes``, ``true`` and ``predicted``; the norm of the predicted change over that of the true one, over all genes.
    """
    predicted = _predicted_change(group.groups, group.key)
    size = float(np.linalg.norm(true))
    chosen = order[:_MAX_GENES]
    top = {
        "genes": [genes[at] for at in chosen],
        "true": [float(value) for value in true[chosen]],
        "predicted": [float(value) for value in predicted[chosen]],
    }
    return top, float(np.linalg.norm(predicted)) / size if size else math.nan


def _predicted_change(groups: Groups, key: Key) -> NDArray[np.float64]:
    """Mean change of all predicted cells of a group from all controls, float64 (genes,)."""
    cells, rows = groups.predicted.cells, groups.predicted.groups[key]
    if groups.with_controls and "delta" in cells.layers:
        return cells.mean(rows, "delta")
    return cells.mean(rows) - groups.control_mean(groups.real, groups.context(key))


def cells_of_map(group: Group) -> dict[str, NDArray[Any]]:
    """Some real, predicted and control cells of a group for the map: ``coordinates``, ``kind``, ``group``."""
    cells: dict[str, NDArray[Any]] = {}
    if group.embedding is None:
        return cells
    groups, name = group.groups, group_name(group.key)
    most = max(5, _MAX_MAP // (3 * max(1, len(groups.keys))))
    sides = [("real", groups.real.cells, group.real_rows), ("predicted", groups.predicted.cells, group.predicted_rows)]
    if groups.with_controls and group.context in groups.real.controls:
        sides.append(("control", groups.real.cells, groups.real.controls[group.context]))
    for kind, side, rows in sides:
        some = groups.generator("map", kind, group.key).permutation(rows)[:most]
        try:
            coordinates = group.coordinates(side, some).astype(np.float32)
        except (KeyError, Missing):
            continue
        new = {
            "coordinates": coordinates,
            "kind": np.full(len(some), kind, object),
            "group": np.full(len(some), name, object),
        }
        cells = {column: np.concatenate([cells[column], new[column]]) if cells else new[column] for column in new}
    return cells


def example_sentences(groups: Groups, genes: Sequence[str], vocabulary: Collection[str]) -> list[dict[str, Any]]:
    """First words of one predicted sentence of the first groups, with their kinds.

    A word is ``"unknown"``, ``"repeated"``, ``"top"`` (one of the highest genes of the real group) or ``"gene"``.
    """
    cells = groups.predicted.cells
    if "sentence" not in cells.obs:
        return []
    examples = []
    for key in groups.keys[:_MAX_SENTENCES]:
        row = int(groups.predicted.groups[key][0])
        words = str(cells.obs["sentence"].iloc[row]).split()
        mean = np.asarray(groups.real.cells.rows(groups.real.groups[key]).mean(axis=0)).ravel()
        top = {genes[at] for at in np.argsort(-mean, kind="stable")[:_N_TOP]}
        seen: set[str] = set()
        marked = []
        for word in words[:_MAX_WORDS]:
            kind = "repeated" if word in seen else "top" if word in top else "gene"
            marked.append((word, kind if word in vocabulary else "unknown"))
            seen.add(word)
        examples.append(
            {"group": group_name(key), "cell": str(cells.names[row]), "words": marked, "n_words": len(words)}
        )
    return examples
