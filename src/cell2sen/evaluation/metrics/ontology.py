"""Metrics of cell types in the Cell Ontology: accuracy at a common parent, F1 of all terms above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.names.ontology import MAX_BELOW, Ontology, cell_ontology
from cell2sen.evaluation.metrics import MeanOver, metric
from cell2sen.evaluation.metrics.labels import Labels, paired

NO_ID = "no label has an id in the Cell Ontology"


def right_at_common_parent(truth: Labels, answer: Labels) -> NDArray[np.float64]:
    """1 for each answer to which no other true type is nearer than that of its cell, else 0, float64 (cells,).

    See :func:`ontology_accuracy`.
    """
    truth, answer = paired(truth, answer)
    ontology = cell_ontology()
    menu = sorted({str(label) for label in truth})
    near = {label: _nearest(ontology, label, menu) for label in {str(label) for label in answer}}
    return np.array([str(t) in near[str(a)] for t, a in zip(truth, answer, strict=True)], dtype=np.float64)


def f1_of_terms(truth: Labels, answer: Labels) -> NDArray[np.float64]:
    """F1 of the terms above each answer and above the truth, float64 (cells,); see :func:`ontology_f1`."""
    truth, answer = paired(truth, answer)
    ontology = cell_ontology()
    ids = {label: ontology.id_of(label) for label in {str(label) for label in (*truth, *answer)}}
    values = []
    for true, given in zip(map(str, truth), map(str, answer), strict=True):
        first, second = ids[true], ids[given]
        if first is None or second is None:
            values.append(float(true == given))
            continue
        above, others = ontology.above(first), ontology.above(second)
        values.append(2 * len(above & others) / (len(above) + len(others)))
    return np.array(values, dtype=np.float64)


@metric(
    level="labels", perfect=1.0, range=(0.0, 1.0), undefined=NO_ID, resampling=MeanOver(right_at_common_parent),
    shown="ontology",
)  # fmt: skip
def ontology_accuracy(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Share of cells whose label is right at a common parent in the Cell Ontology.

    For two sets of labels of different detail. An answer is right if it is the same term as the truth, or if no other
    label among the true ones has a more specific parent in common with it: "CD4 T cell" is right for "naive CD4 T cell"
    and "memory CD4 T cell", wrong for "CD8 T cell" beside them. A parent with more than 200 terms below it, such as
    "lymphocyte", says too little: then no label is right. Labels without an id are right if they are equal in
    normalised spelling. The rule is ours; the terms are those of the Cell Ontology (Diehl et al. 2016).
    """
    return float(np.mean(right_at_common_parent(truth, answer)))


@metric(
    level="labels", perfect=1.0, range=(0.0, 1.0), undefined=NO_ID, resampling=MeanOver(f1_of_terms), shown="ontology"
)
def ontology_f1(truth: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of the answer's terms in the Cell Ontology, with all terms above it, against those of the truth.

    2·|A ∩ T| / (|A| + |T|), where A and T are the terms above answer and truth, themselves included: hierarchical F1
    (Kiritchenko et al. 2005), mean over cells. Labels without an id count as 1 if their normalised spelling is equal,
    else as 0.
    """
    return float(np.mean(f1_of_terms(truth, answer)))


def _nearest(ontology: Ontology, answer: str, menu: Sequence[str]) -> set[str]:
    """True labels that are equal to an answer, or else have the most specific parent in common with it."""
    term = ontology.id_of(answer)
    if answer in menu or term is None:
        same_term = {label for label in menu if term is not None and ontology.id_of(label) == term}
        return {answer, *same_term}
    ids = {label: ontology.id_of(label) for label in menu}
    width = {label: ontology.generality(term, other) for label, other in ids.items() if other is not None}
    least = min(width.values(), default=MAX_BELOW + 1)
    return {label for label, value in width.items() if value == least <= MAX_BELOW}
