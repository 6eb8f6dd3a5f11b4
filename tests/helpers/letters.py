"""Sentences whose genes are single letters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences

GENES = ("A", "B", "C", "D", "E")


def sentences_of(*cells: str) -> Sentences:
    """A cell for each word, the letters in descending expression; "" is a cell without genes."""
    names = np.array([f"cell {number}" for number in range(len(cells))], dtype=object)
    ids = [[GENES.index(gene) for gene in cell] for cell in cells]
    return Sentences(
        genes=pa.array(ids, type=pa.list_(pa.int32())),
        vocabulary=pa.array(GENES),
        names=names,
        organism=("Homo sapiens",) * len(cells),
        perturbations=(None,) * len(cells),
        obs=pd.DataFrame(index=names),
        recipe=Recipe(),
        fit=None,
    )
