"""Predicted and real cells, matched by name, and the columns with predictions of a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.splits import are_counted
from cell2sen.evaluation.inputs import UNS, Cells
from cell2sen.evaluation.settings import as_list


def predicted_columns(predicted: Cells, columns: str | Sequence[str] | None, labels: Sequence[str]) -> list[str]:
    """The obs columns with predictions of several labels, see :func:`predicted_column`.

    Raises
    ------
    ValueError
        Not as many columns as labels, one column for two of them, or as for :func:`predicted_column`.
    """
    given: Sequence[str | None] = [None] * len(labels) if columns is None else as_list(columns)
    if len(given) != len(labels):
        raise ValueError(f"predicted_label must name a column for each of the labels {list(labels)}, found {given}")
    found = [predicted_column(predicted, column, label) for column, label in zip(given, labels, strict=True)]
    if len(set(found)) < len(found):
        raise ValueError(
            f"the labels {list(labels)} need a column of predictions each, found {found}: name them with "
            "predicted_label="
        )
    return found


def predicted_column(predicted: Cells, column: str | None, label: str) -> str:
    """The obs column with predictions of a label: as passed, as recorded by this package, or its default.

    Raises
    ------
    ValueError
        This package recorded several columns, none of which is of `label`.
    """
    record = dict(predicted.uns.get(UNS, {}).get("annotate", {}))
    results: Mapping[str, Any] = record.get("results", {})
    of_label = [key for key, result in results.items() if label in (result.get("column"), key)]
    if column is None and results and not of_label:
        raise ValueError(
            f"predictions of {label!r} are not among {list(results)}: name the column with predicted_label="
        )
    return str(column or next(iter(of_label), None) or record.get("key") or "cell2sen_cell_type")


def is_number(predicted: Cells, columns: str | Sequence[str] | None, label: str) -> bool:
    """Whether this package recorded that the predictions of a label are numbers."""
    column = None if columns is None else as_list(columns)[0]
    record = dict(predicted.uns.get(UNS, {}).get("annotate", {}))
    records = record.get("results") or {str(record.get("key")): record}
    keys = [
        key for key, result in records.items() if column == key or (column is None and label == result.get("column"))
    ]
    return any("interval" in records[key] for key in keys)


def common_cells(predicted: Cells, real: Cells) -> tuple[NDArray[np.int64], list[str]]:
    """(predicted row, real row) of the cells that both sides have, matched by name, and notes on the others."""
    row_of = {name: row for row, name in enumerate(real.names)}
    shared = [row for row in predicted.by_name(np.arange(len(predicted))) if predicted.names[row] in row_of]
    pairs = np.array([(row, row_of[predicted.names[row]]) for row in shared], dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        raise ValueError(
            f"no cell is in both files: predicted has {list(predicted.names[:3])}, real has {list(real.names[:3])}; "
            "labels are compared cell by cell, by name"
        )
    notes = []
    if lost := max(0, len(real) - len(pairs)):
        notes.append(f"{lost} of {len(real)} real cells have no prediction and are not scored")
    if are_counted(real.names.tolist()) and not _look_like_the_same(predicted, real, pairs):
        notes.append(
            f"cells are matched by their names, which only count them ({real.names[0]}, …), and those of the same name "
            "express other genes: the files have other cells, or in another order. Give the cells names of their own"
        )
    return pairs, notes


def _look_like_the_same(predicted: Cells, real: Cells, pairs: NDArray[np.int64]) -> bool:
    """Whether most of some matched cells express the same genes; true if the files have other genes."""
    readers = predicted.expression.reader, real.expression.reader
    if not readers[0].var.index.equals(readers[1].var.index):
        return True
    some = pairs[:: max(1, len(pairs) // 50)]
    expressed = [reader.read(some[:, side]).toarray() != 0 for side, reader in enumerate(readers)]
    return bool((expressed[0] == expressed[1]).all(axis=1).mean() > 0.5)
