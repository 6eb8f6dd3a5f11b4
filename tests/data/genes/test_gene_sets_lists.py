"""Gene sets of files and mappings; lists in alphabetical order."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen.data.genes.gene_sets import listed_genes, name_in_text, read_gmt, read_sets, write_gmt


def test_sets_of_a_file_a_mapping_and_a_list(tmp_path: Path) -> None:
    sets = {"HALLMARK_A": ("CD4", "LYZ"), "B cells": ("MS4A1",)}
    write_gmt(tmp_path / "sets.gmt", sets, "made here")
    assert read_sets(tmp_path / "sets.gmt") == read_sets(str(tmp_path / "sets.gmt")) == read_sets(sets) == sets
    assert read_gmt(tmp_path / "sets.gmt") == sets
    assert read_sets(["LYZ", "CD4", "LYZ"]) == {"gene set": ("LYZ", "CD4")}


def test_sets_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.gmt of gene sets"):
        read_sets(tmp_path / "no.gmt")
    with pytest.raises(ValueError, match="there are no gene sets"):
        read_sets({})
    with pytest.raises(ValueError, match=r"found none in \['A'\]"):
        read_sets({"A": []})


def test_names_as_words() -> None:
    assert name_in_text("HALLMARK_TNFA_SIGNALING_VIA_NFKB") == "HALLMARK TNFA SIGNALING VIA NFKB"
    assert name_in_text(" a__b  c ") == "a b c"


def test_lists_are_alphabetical_and_long_ones_a_reproducible_part() -> None:
    genes = [f"G{number}" for number in range(50)]
    assert listed_genes(["B", "A", "B"], None, "x") == ("A", "B")
    assert listed_genes(genes, 50, "x") == tuple(sorted(genes))
    part = listed_genes(genes, 10, "x")
    assert list(part) == sorted(part)
    assert len(set(part)) == 10
    assert part == listed_genes(genes[::-1], 10, "x")
    assert len({part, listed_genes(genes, 10, "y"), listed_genes(genes, 10, "x", seed=1)}) == 3
