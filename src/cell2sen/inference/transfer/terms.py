"""Cell Ontology ids of labels: from a column of obs that has them, or from the labels themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from cell2sen.data.names.ontology import cell_ontology, ids_of
from cell2sen.data.names.text import as_texts

#: Ending of columns with ids, as CELLxGENE names them.
ENDING = "_ontology_term_id"


def terms_of_labels(obs: pd.DataFrame, column: str, labels: Sequence[str]) -> dict[str, str]:
    """Id of each label that has one.

    Parameters
    ----------
    obs
        With the labels in `column`. A column of the same name and ``_ontology_term_id`` behind it has their ids: the
        most frequent one of each label counts, of equally frequent ones the first. Other labels have the id of their
        name or usual spelling (:meth:`cell2sen.data.names.ontology.Ontology.id_of`).
    """
    found = ids_of(labels)
    if f"{column}{ENDING}" not in obs:
        return found
    ontology = cell_ontology()
    counts: dict[str, Counter[str]] = {}
    for label, given in zip(as_texts(obs[column]), as_texts(obs[f"{column}{ENDING}"]), strict=True):
        if label is not None and given is not None and given.startswith("CL") and (term := ontology.id_of(given)):
            counts.setdefault(label, Counter())[term] += 1
    for label in labels:
        if label in counts:
            found[label] = min(counts[label], key=lambda term: (-counts[label][term], term))
    return found
