"""Symbol table: names of any year lead to the gene and back; doubtful ones lead nowhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from cell2sen.data.genes.symbol_table import (
    HUMAN,
    MOUSE,
    TABLE,
    approved,
    renamed,
    share_known,
    symbol_table,
    table_year,
    tables_for,
)

#: Old symbol → today's.
RENAMED = {
    "GNB2L1": "RACK1", "H3F3B": "H3-3B", "H2AFZ": "H2AZ1", "ATP5E": "ATP5F1E", "ATP5G2": "ATP5MC2", "SELK": "SELENOK",
    "TCEB2": "ELOB", "GLTSCR2": "NOP53", "IL8": "CXCL8", "SEPT9": "SEPTIN9", "SEPT2": "SEPTIN2", "MARCH1": "MARCHF1",
    "MARC1": "MTARC1", "FYB": "FYB1",
}  # fmt: skip


#: The same of mouse; today's symbol may have come in two steps.
RENAMED_OF_MOUSE = {
    "Gnb2l1": "Rack1", "Sepp1": "Selenop", "Fam46a": "Tent5a", "H2afz": "H2az1", "Atp5a1": "Atp5f1a", "Ctgf": "Ccn2",
    "Tmem173": "Sting1", "Ptrf": "Cavin1", "Gpr56": "Adgrg1", "Fyb": "Fyb1", "Wbp5": "Tceal9", "Sfpi1": "Spi1",
    "Usmg5": "Atp5mk", "Hist1h1c": "H1f2", "D17Wsu104e": "Mydgf", "Ngfrap1": "Bex3", "Gyk": "Gk", "Emr1": "Adgre1",
    "March1": "Marchf1",
}  # fmt: skip


def vocabulary(names: Iterable[str]):
    listed = frozenset(names)
    return lambda symbols: np.array([symbol in listed for symbol in symbols], dtype=bool)


def test_the_table_is_small_and_states_its_sources() -> None:
    assert TABLE.stat().st_size < 1_000_000
    assert table_year().isdigit()
    assert len(table_year()) == 4


@pytest.mark.parametrize(
    ("organism", "old", "new"),
    [(HUMAN, *names) for names in RENAMED.items()] + [(MOUSE, *names) for names in RENAMED_OF_MOUSE.items()],
)
def test_both_directions_of_time(organism: str, old: str, new: str) -> None:
    assert renamed([new, "A"], vocabulary([old, "A"]), [organism]).names == {new: old}
    assert renamed([old, "A"], vocabulary([new, "A"]), [organism]).names == {old: new}
    assert renamed([old, "A"], vocabulary([old, "A"]), [organism]).names == {}
    upper = renamed([new.upper(), "A"], vocabulary([old.upper(), "A"]), [organism], upper=True)
    assert upper.names == {new.upper(): old.upper()}


def test_approved_symbols() -> None:
    assert approved([*RENAMED, "CD4", "NOGENE"], [HUMAN]) == (*RENAMED.values(), "CD4", "NOGENE")
    assert approved([*RENAMED_OF_MOUSE], [MOUSE]) == tuple(RENAMED_OF_MOUSE.values())
    both = ("GNB2L1", "RACK1")  # two columns stay two
    assert approved(both, [HUMAN]) == both
    assert approved(("GNB2L1", "GNB2-RS1"), [HUMAN]) == ("GNB2L1", "GNB2-RS1")  # two names of one gene
    assert approved(["GNB2L1"], ["Mus musculus"], upper=True) == ("RACK1",)


@pytest.mark.parametrize("name", ["Stra13", "A2m", "Mac1"])
def test_names_that_two_mouse_genes_had_lead_to_no_other_gene(name: str) -> None:
    table = symbol_table(MOUSE)
    assert table.genes.get(name) in (None, name)  # Stra13 was Cenpx, and a synonym of Bhlhe40


def test_two_old_names_lead_to_each_other() -> None:
    names = symbol_table(HUMAN).all_names("GNB2L1")
    assert names[0] == "RACK1"
    assert renamed(["GNB2-RS1"], vocabulary(["GNB2L1"]), [HUMAN]).names == {"GNB2-RS1": "GNB2L1"}


def test_a_file_with_both_names_has_two_columns() -> None:
    assert renamed(["RACK1", "GNB2L1"], vocabulary(["GNB2L1"])).names == {}
    both_old = renamed(["RACK1", "GNB2-RS1"], vocabulary(["GNB2L1"]), [HUMAN])
    assert both_old.names == {"RACK1": "GNB2L1"}  # the approved one
    assert both_old.ambiguous == ("GNB2-RS1",)


def test_an_old_name_of_two_genes_leads_nowhere() -> None:
    table = symbol_table(HUMAN)
    assert table.genes["TAZ"] is None  # TAFAZZIN and WWTR1
    assert table.all_names("TAZ") == ()
    found = renamed(["TAZ"], vocabulary(["TAFAZZIN", "WWTR1"]), [HUMAN])
    assert (found.names, found.ambiguous) == ({}, ("TAZ",))
    assert renamed(["TAFAZZIN"], vocabulary(["TAZ"]), [HUMAN]).names == {}


def test_a_name_that_another_gene_has_today_is_todays_gene() -> None:
    table = symbol_table(HUMAN)
    taken = [(gene, name) for gene in table.others for name in table.all_names(gene) if table.genes[name] != gene]
    assert taken == []
    assert all(table.genes[gene] == gene for gene in table.others)


def test_two_names_in_the_vocabulary() -> None:
    found = renamed(["GNB2-RS1"], vocabulary(["RACK1", "GNB2L1"]), [HUMAN])
    assert found.names == {"GNB2-RS1": "RACK1"}
    found = renamed(["RACK1"], vocabulary(["GNB2-RS1", "GNB2L1"]), [HUMAN])
    assert (found.names, found.ambiguous) == ({}, ("RACK1",))


def test_no_symbol_is_written_twice_after_renaming() -> None:
    table = symbol_table(HUMAN, upper=True)
    generator = np.random.default_rng(0)
    everything = np.array(sorted(table.genes), dtype=object)
    for _ in range(5):
        symbols = list(dict.fromkeys(generator.choice(everything, 3000)))
        known = vocabulary(generator.choice(everything, 20_000))
        found = renamed(symbols, known, [HUMAN], upper=True).names
        after = [found.get(symbol, symbol) for symbol in symbols]
        assert len(set(after)) == len(after)
        assert all(known([name])[0] and not known([symbol])[0] for symbol, name in found.items())
        assert all(table.genes[symbol] == table.genes[name] for symbol, name in found.items())


def test_mouse_symbols_and_case() -> None:
    assert renamed(["Rack1"], vocabulary(["Gnb2l1"]), [MOUSE]).names == {"Rack1": "Gnb2l1"}
    assert renamed(["Sept2"], vocabulary(["Septin2"]), [MOUSE]).names == {"Sept2": "Septin2"}
    assert renamed(["RACK1"], vocabulary(["GNB2L1"]), [MOUSE], upper=True).names == {"RACK1": "GNB2L1"}
    assert renamed(["Rack1"], vocabulary(["GNB2L1"]), [MOUSE]).names == {}


def test_tables_of_organisms() -> None:
    assert tables_for([MOUSE]) == (symbol_table(MOUSE),)
    assert tables_for(["Sus scrofa"]) == tables_for() == (symbol_table(HUMAN), symbol_table(MOUSE))


def test_share_known() -> None:
    assert share_known(["CD4", "Cd4", "GNB2L1", "nonsense"]) == 0.75
    assert share_known([]) == 0
    assert share_known(["AAACCTGAGAAACCAT-1"] * 1000) == 0
