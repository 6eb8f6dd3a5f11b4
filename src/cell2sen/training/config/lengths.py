"""Genes per sentence of each task in trainings: defaults, and those of a starting model or of the user."""

from __future__ import annotations

from collections.abc import Mapping

from cell2sen.task import Task

_BY_TASK = {"annotate": 400, "identify": 400, "niche": 400, "list_gene_set": 100}
_SEVERAL_CELLS, _OTHER = 100, 200


def genes_per_sentence(tasks: Mapping[str, Task], given: Mapping[str, int]) -> dict[str, int]:
    """Genes per sentence of each task, with all of `given`.

    Tasks of single cells and of gene sets have 200 where nothing else is known, tasks of several cells 100, those of an
    obs column as many as ``annotate``.
    """
    lengths = {
        name: _BY_TASK.get(name, _OTHER if task.cells is None else _SEVERAL_CELLS) for name, task in tasks.items()
    }
    of_labels = given.get("annotate", _BY_TASK["annotate"])
    return {**lengths, **{name: of_labels for name, task in tasks.items() if task.is_of_columns}, **given}
