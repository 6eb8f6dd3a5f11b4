"""Spellings of one label are equal; different cell types stay apart."""

from __future__ import annotations

import pytest

from cell2sen.data.names.labels import normalise_label, trim_label, twins, without_type


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CD14+ Monocytes.", "cd14+ monocyte"),
        ("CD4 T cells", "cd4 t cell"),
        ("CD4 T-cell", "cd4 t cell"),
        ("activated_stellate", "activated stellate"),
        ("CD4+/CD25-", "cd4+/cd25-"),
        ("mast", "mast"),
        ("DCs", "dcs"),  # too short to distinguish a plural from a name
        ("Cell class", "cell class"),
    ],
)
def test_normalised_labels(text: str, expected: str) -> None:
    assert normalise_label(text) == expected


def test_synonyms_apply_to_any_spelling():
    assert normalise_label("CD14+ Mono.", {"cd14+ mono": "Monocytes"}) == "monocyte"
    assert normalise_label("CD14 Mono", {"cd14+ mono": "Monocytes"}) == "cd14 mono"


def test_trimming_keeps_case_and_plural():
    assert trim_label(" B cells, human ") == "B cells"
    assert trim_label("T cell, mouse") == "T cell"
    assert trim_label("T cell.") == "T cell"


def test_spellings_of_one_label_are_twins() -> None:
    names = ["B cell", "T cell", "B Cell", "B-cells", "CD25+", "CD25-", "10 \u00b5M", "10 \u03bcM"]
    assert twins(names) == [["B cell", "B Cell", "B-cells"], ["10 \u00b5M", "10 \u03bcM"]]
    assert twins(["alpha", "beta", "alpha"]) == []
    assert twins(["IL-2", "IL2", "drug_10uM", "drug 10 uM"]) == [["IL-2", "IL2"], ["drug_10uM", "drug 10 uM"]]
    assert twins(["1", "11", "1.1", "1_10", "110", "CD4+ T", "CD4- T", "CD4 T", "drug 1.0", "drug 10"]) == []


def test_labels_of_cells_without_a_type() -> None:
    assert without_type(["T cell", "Unknown", "unassigned", "Doublets", "Low-quality cells"]) == [
        "Unknown", "unassigned", "Doublets",
    ]  # fmt: skip
    assert without_type(["na", "N.A.", "?", "-", "Missing", "NA T cell", "nature"]) == [
        "na",
        "N.A.",
        "?",
        "-",
        "Missing",
    ]
