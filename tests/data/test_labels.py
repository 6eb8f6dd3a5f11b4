"""Spellings of one label are equal; different cell types stay apart."""

from __future__ import annotations

import pytest

from cell2sen.data.labels import normalise_label, trim_label


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
