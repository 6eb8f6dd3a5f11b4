"""Barcodes and hashes of cell names."""

from __future__ import annotations

import hashlib

import pytest

from cell2sen.data.splits import barcode, sha256_of_names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AAACATACAACCAC-1_ctrl", "AAACATACAACCAC"),
        ("lane2_AAACATACAACCAC-1", "AAACATACAACCAC"),
        ("cell_1", "cell_1"),
        ("AAACATACAACCAC", "AAACATACAACCAC"),
        ("h_1_1_bc0165", "h_1_1_bc0165"),
        ("CATTAGGACAs", "CATTAGGACAs"),
    ],
)
def test_barcode(name: str, expected: str) -> None:
    assert barcode(name) == expected


def test_hash_is_of_the_sorted_names() -> None:
    assert sha256_of_names(["b", "a"]) == hashlib.sha256(b"a\nb").hexdigest() == sha256_of_names(["a", "b"])
