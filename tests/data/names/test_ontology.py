"""Cell Ontology against a walk over the bundled table."""

from __future__ import annotations

import csv
import gzip

import pytest

from cell2sen.data.names.labels import normalise_label
from cell2sen.data.names.ontology import SPELLINGS, TABLE, cell_ontology, ids_of

ONTOLOGY = cell_ontology()
NAMES = {name: term for term, name in ONTOLOGY.names.items()}


def walk(term: str) -> set[str]:
    """All parents, by a search of the table's rows."""
    with gzip.open(TABLE, "rt", encoding="utf-8") as stream:
        parents = {row["id"]: row["parents"].split("|") for row in csv.DictReader(stream)}
    found, todo = set(), [term]
    while todo:
        here = todo.pop()
        if here and here not in found:
            found.add(here)
            todo += parents[here]
    return found


def test_the_table_is_small_and_complete() -> None:
    assert TABLE.stat().st_size < 300_000
    assert len(ONTOLOGY.names) == 3324
    assert all(parent in ONTOLOGY.names for parents in ONTOLOGY.parents.values() for parent in parents)


@pytest.mark.parametrize("name", ["T cell", "classical monocyte", "type B pancreatic cell", "cell"])
def test_terms_above(name: str) -> None:
    assert ONTOLOGY.above(NAMES[name]) == walk(NAMES[name])


def test_terms_below() -> None:
    assert ONTOLOGY.below[NAMES["T cell"]] == sum(NAMES["T cell"] in ONTOLOGY.above(term) for term in ONTOLOGY.names)
    assert ONTOLOGY.below[NAMES["cell"]] > ONTOLOGY.below[NAMES["lymphocyte"]] > ONTOLOGY.below[NAMES["B cell"]]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CL:0000084", "T cell"),
        ("CL_0000236", "B cell"),
        ("T cells", "T cell"),
        ("CD4 T", "CD4-positive, alpha-beta T cell"),
        ("CD4+ T cells", "CD4-positive, alpha-beta T cell"),
        ("Naive CD4 T", "naive thymus-derived CD4-positive, alpha-beta T cell"),
        ("CD14+ Monocytes", "CD14-positive monocyte"),
        ("CD14+ Mono", "CD14-positive monocyte"),
        ("FCGR3A+ Mono", "CD14-low, CD16-positive monocyte"),
        ("NK cells", "natural killer cell"),
        ("DC", "dendritic cell"),
        ("Platelet", "platelet"),
        ("Megakaryocytes", "megakaryocyte"),
        ("B", "B cell"),
        ("beta", "type B pancreatic cell"),
        ("endothelial", "endothelial cell"),
        ("natural killer cell", "natural killer cell"),
    ],
)
def test_ids_of_labels(label: str, name: str) -> None:
    term = ONTOLOGY.id_of(label)
    assert term is not None
    assert ONTOLOGY.names[term] == name


@pytest.mark.parametrize("label", ["cluster 3", "CL:9999999", "", "S1_Excitatory_L23", "42"])
def test_labels_without_id(label: str) -> None:
    assert ONTOLOGY.id_of(label) is None


def test_each_name_is_found() -> None:
    wrong = [name for term, name in ONTOLOGY.names.items() if ONTOLOGY.id_of(name) != term]
    assert not wrong


def test_spellings_are_normalised_and_name_terms() -> None:
    assert all(normalise_label(label) == label for label in SPELLINGS)
    assert set(SPELLINGS.values()) <= set(NAMES)


@pytest.mark.parametrize(
    ("first", "second", "parent"),
    [
        ("CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "mature alpha-beta T cell"),
        ("CD4-positive, alpha-beta T cell", "naive T cell", "mature T cell"),
        ("naive thymus-derived CD4-positive, alpha-beta T cell", "naive T cell", "naive T cell"),
        ("B cell", "T cell", "lymphocyte"),
        ("B cell", "B cell", "B cell"),
    ],
)
def test_common_parents(first: str, second: str, parent: str) -> None:
    assert ONTOLOGY.names[ONTOLOGY.common_parent(NAMES[first], NAMES[second])] == parent
    assert ONTOLOGY.common_parent(NAMES[second], NAMES[first]) == NAMES[parent]
    assert ONTOLOGY.generality(NAMES[first], NAMES[second]) == ONTOLOGY.below[NAMES[parent]]


def test_unknown_terms() -> None:
    with pytest.raises(KeyError, match="has no term"):
        ONTOLOGY.above("CL:9")


def test_ids_of_several_labels() -> None:
    assert ids_of(["T cells", None, "cluster 3", "T cells"]) == {"T cells": NAMES["T cell"]}
