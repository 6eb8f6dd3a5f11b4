"""Symbol table: names of any year lead to the gene and back; doubtful ones lead nowhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from cell2sen.data.genes.symbol_table import (
    HUMAN,
    MOUSE,
    TABLE,
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


def vocabulary(names: Iterable[str]):
    listed = frozenset(names)
    return lambda symbols: np.array([symbol in listed for symbol in symbols], dtype=bool)


def test_the_table_is_small_and_states_its_sources() -> None:
    assert TABLE.stat().st_size < 1_000_000
    assert table_year().isdigit()
    assert len(table_year()) == 4


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_both_directions_of_time(old: str, new: str) -> None:
    assert renamed([new, "CD4"], vocabulary([old, "CD4"]), [HUMAN]).names == {new: old}
    assert renamed([old, "CD4"], vocabulary([new, "CD4"]), [HUMAN]).names == {old: new}
    assert renamed([old, "CD4"], vocabulary([old, "CD4"]), [HUMAN]).names == {}


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
    taken = [(gene, other) for gene, others in table.names.items() for other in others if table.genes[other] != gene]
    assert taken == []
    assert all(table.genes[gene] == gene for gene in table.names)


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
