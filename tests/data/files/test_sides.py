"""Sides of a table: genes or cells, by their names."""

from __future__ import annotations

import pytest
from containers import BARCODES, GENES

from cell2sen.data.files.sides import genes_are_rows

ENSEMBL = [f"ENSG{number:011d}.3" for number in range(20)]
MOUSE = ["Cd3d", "Actb", "mt-Co1", "Rpl13", "Sox2", "Xist"]


@pytest.mark.parametrize("genes", [GENES, ENSEMBL, MOUSE, ["SOX2", "PAX6", "NES", "DCX"]])
@pytest.mark.parametrize(
    "cells", [BARCODES, ["1", "2", "3"], ["GSM101", "GSM102"], ["cell_1", "cell_2"], ["s1_ACGTACGTACGTAA-1"]]
)
def test_genes_are_found_on_either_side(genes: list[str], cells: list[str]) -> None:
    assert genes_are_rows(genes, cells) is True
    assert genes_are_rows(cells, genes) is False


def test_the_header_decides_between_names_of_no_kind() -> None:
    first, second = ["alpha", "beta"], ["one", "two"]
    assert genes_are_rows(first, second) is None
    for corner in ("gene", "Gene_Symbol", "Geneid", "feature", "ENSEMBL"):
        assert genes_are_rows(first, second, corner) is True
    for corner in ("cell", "Barcode", "sample_id"):
        assert genes_are_rows(first, second, corner) is False


def test_names_are_stronger_than_the_header() -> None:
    assert genes_are_rows(BARCODES, GENES, "gene") is False
