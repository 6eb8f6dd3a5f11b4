"""Mangled names: what R and spreadsheets do to symbols is undone where one gene fits, and nowhere else."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest
from genes import frame

from cell2sen.data.genes.mangled import genes_of_date, repaired_for, spreadsheet_date, variants
from cell2sen.data.genes.symbols import resolve_genes


def make_names(name: str) -> str:
    """R's ``make.names`` for one name."""
    name = re.sub(r"[^A-Za-z0-9._]", ".", name)
    return name if re.match(r"[A-Za-z]|\.(?!\d)", name) else "X" + name


@pytest.mark.parametrize(
    "name", ["HLA-DRA", "MT-CO1", "NKX2-5", "HLA-DQA1", "7SK", "H2-K1", "mt-Co1", "0610005C13Rik", "ERVK3-1", "HLA-A"]
)
def test_names_of_r_come_back(name: str) -> None:
    changed = make_names(name)
    assert changed != name
    assert name in variants(changed)
    gene_map = resolve_genes(frame([changed, "CD4"]))
    assert gene_map.symbols == (name, "CD4")
    assert gene_map.account["mangled_repaired"] == 1
    assert gene_map.account["examples"]["mangled_repaired"] == [f"{changed} → {name}"]


@pytest.mark.parametrize(
    "name", ["AC007325.4", "AL627309.1", "XIST", "X1", "RP11-34P13.7", "Gm1992", "CD4.1", "novel.gene"]
)
def test_other_names_stay(name: str) -> None:
    gene_map = resolve_genes(frame([name, "CD4"]))
    assert gene_map.symbols == (name, "CD4")
    assert gene_map.account["mangled_repaired"] == 0


def test_a_gene_that_is_there_under_its_own_name_is_not_overwritten() -> None:
    assert resolve_genes(frame(["HLA.DRA", "HLA-DRA"])).symbols == ("HLA.DRA", "HLA-DRA")


def test_clones_come_back_by_the_vocabulary_of_a_model() -> None:
    vocabulary = {"RP11-34P13.7", "HLA-DRA", "A-B.C", "A.B-C"}

    def known(symbols):
        return np.array([symbol in vocabulary for symbol in symbols], dtype=bool)

    names = ["RP11.34P13.7", "HLA.DRA", "A.B.C", "CD4"]
    assert repaired_for(names, known, frozenset(names)) == {"RP11.34P13.7": "RP11-34P13.7", "HLA.DRA": "HLA-DRA"}
    assert repaired_for(names, known, frozenset([*names, "HLA-DRA"])) == {"RP11.34P13.7": "RP11-34P13.7"}


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("1-Mar", (3, 1)), ("Mar-01", (3, 1)), ("01-Mar", (3, 1)), ("2-Sep", (9, 2)), ("sep-07", (9, 7)),
        ("2021-03-01", (3, 1)), ("2021-03-01 00:00:00", (3, 1)), ("9/7/2021", (9, 7)), ("7-Sep-21", (9, 7)),
        ("2-SEP", (9, 2)), ("CD4", None), ("MARCH1", None), ("1-Mai", None), ("MAR7", None), ("32-Sep", None),
        ("13/45/2021", None), ("T-CD4", None),
    ],
)  # fmt: skip
def test_dates(name: str, date: tuple[int, int] | None) -> None:
    assert spreadsheet_date(name) == date


@pytest.mark.parametrize(
    "form",
    ["{d:%d}-{d:%b}", "{d:%b} {d.day}", "{d:%B} {d.day}", "{d:%d}. Sep", "{d:%d.%m.%Y}", "X{d.day}.Sep",
     "X2021.09.{d:%d}", "{d.month}/{d.day}/2021", "{d:%d/%m/%Y}", "{n}", "{d} 00:00:00", "{d.day}-SEP",
     "{d.day}. Sept"],
)  # fmt: skip
def test_dates_of_spreadsheets_of_many_countries(form: str) -> None:
    dates = [datetime.date(2021, 9, day) for day in (7, 2, 15)]
    names = [form.format(d=date, n=(date - datetime.date(1899, 12, 30)).days) for date in dates]
    genes = [f"GENE{row}" for row in range(40)]
    symbols = resolve_genes(frame([*names, *genes])).symbols
    assert symbols == ("SEPTIN7", "SEPTIN2", "SELENOF", *genes)


def test_dates_in_an_order_that_is_not_clear_stay() -> None:
    gene_map = resolve_genes(frame(["3/9/2021", "9/3/2021", "CD4"]))  # American or British: both are dates of genes
    assert gene_map.symbols == ("3/9/2021", "9/3/2021", "CD4")
    assert gene_map.account["mangled_unclear"] == 2


def test_numbers_are_identifiers_where_some_are_no_dates() -> None:
    genes = [f"GENE{row}" for row in range(40)]
    assert resolve_genes(frame(["44446", "915", *genes])).symbols == tuple(genes)


def test_dashes_that_became_underscores() -> None:
    assert resolve_genes(frame(["HLA_DRA", "MT_CO1", "NKX2_5", "5S_rRNA", "Y_RNA"])).symbols == (
        "HLA-DRA", "MT-CO1", "NKX2-5", "5S_rRNA", "Y_RNA",
    )  # fmt: skip


def test_every_date_has_the_genes_that_a_spreadsheet_changes() -> None:
    assert genes_of_date(3, 1) == ("MARCHF1", "MTARC1")
    assert genes_of_date(3, 8) == ("MARCHF8",)
    assert genes_of_date(9, 2) == ("SEPTIN2",)
    assert genes_of_date(9, 15) == ("SELENOF",)
    assert genes_of_date(12, 1) == ("DELEC1",)
    assert genes_of_date(1, 1) == genes_of_date(9, 13) == ()


def test_dates_come_back_where_one_gene_fits(caplog: pytest.LogCaptureFixture) -> None:
    names = ["CD4", "2-Sep", "2021-09-07", "2021-09-09 00:00:00", "Mar-08", "1-Mar", "GAPDH", "ACTB"]
    gene_map = resolve_genes(frame(names))
    assert gene_map.by_column == ("CD4", "SEPTIN2", "SEPTIN7", "SEPTIN9", "MARCHF8", "1-Mar", "GAPDH", "ACTB")
    assert (gene_map.account["mangled_repaired"], gene_map.account["mangled_unclear"]) == (4, 1)
    assert "look changed by a spreadsheet, such as ['1-Mar']" in caplog.text


@pytest.mark.parametrize("other", ["MTARC1", "MARC1"])
def test_the_other_gene_of_a_date_settles_it(other: str) -> None:
    assert resolve_genes(frame(["1-Mar", other, "CD4"])).symbols == ("MARCHF1", other, "CD4")


def test_dates_of_mouse_and_two_rows_of_one_date() -> None:
    assert resolve_genes(frame(["2-Sep", "Cd4", "Lyz2", "Actb", "Gapdh"])).symbols[0] == "Septin2"
    gene_map = resolve_genes(frame(["2-Sep", "02-Sep", "CD4"]))
    assert gene_map.symbols == ("2-Sep", "02-Sep", "CD4")
    assert gene_map.account["mangled_unclear"] == 2


def test_numbers_of_riken_clones_are_reported() -> None:
    assert resolve_genes(frame(["2.31E+13", "Cd4"])).account["mangled_unclear"] == 1
