"""Names seen before change nothing but the time."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from cell2sen.data.genes import naming
from cell2sen.data.genes import symbols as genes

IDS = [f"ENSG{number:011}" for number in range(4)]


def frame(index, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(index))


FRAMES = {
    "symbols": frame(["CD4", "LYZ", "cd4", "LYZ"]),
    "other symbols": frame(["CD4", "LYZ", "cd4", "MS4A1"]),
    "a column": frame(IDS, gene_symbol=["CD4", "LYZ", "B2M", "MS4A1"]),
    "another value": frame(IDS, gene_symbol=["CD4", "LYZ", "B2M", "CD79A"]),
    "another column": frame(IDS, symbol=["CD4", "LYZ", "B2M", "MS4A1"]),
    "categories": frame(IDS, gene_symbol=pd.Categorical(["CD4", "LYZ", "B2M", "B2M"])),
    "missing": frame(IDS, gene_symbol=["CD4", None, "B2M", np.nan]),
    "numbers": frame([1, 2, 3, 4], symbol=["CD4", "LYZ", "B2M", "MS4A1"]),
    "real numbers": frame([1.0, 2.0, 3.0, 4.0], symbol=["CD4", "LYZ", "B2M", "MS4A1"]),
    "counted": frame(["0", "1", "2", "3"], symbol=["CD4", "LYZ", "B2M", "MS4A1"]),
    "bytes": frame([b"CD4", b"LYZ", b"B2M", b"MS4A1"]),
    "lost": frame(["CD4", *IDS[1:]]),
    "two of a name": pd.DataFrame([["CD4", "x"], ["LYZ", "y"]], index=IDS[:2], columns=["symbol", "symbol"]),
}


def told(gene_map):
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(gene_map).items()}


def ask(resolve, var, caplog, **options):
    caplog.clear()
    try:
        found = told(resolve(var, **{"symbols": None, "table": None, "aliases": None, "case": "keep"} | options))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        found = repr(error)
    return found, [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_map_is_what_it_is_without_memory(caplog):
    caplog.set_level(logging.INFO)
    options = [{}, {"case": "upper"}, {"symbols": "index"}, {"symbols": "gene_symbol"}, {"table": {"CD4": "X"}}]
    order = [(name, option) for name in FRAMES for option in options]
    for seed in range(3):  # whatever was asked before
        for place in np.random.default_rng(seed).permutation(len(order)):
            name, option = order[place]
            for _ in range(2):
                found = ask(naming.resolve, FRAMES[name], caplog, **option)
                assert found == ask(genes.resolve, FRAMES[name], caplog, **option), (name, option)


def test_what_is_handed_out_may_be_changed():
    var = frame(["CD4", "LYZ", IDS[0]])
    for _ in range(2):
        found = naming.resolve(var, symbols=None, table=None, aliases=None, case="keep")
        assert found.columns.tolist() == [0, 1]
        assert found.account["examples"]["dropped"] == IDS[:1]
        found.columns[:] = 7
        found.account["examples"]["dropped"].append("x")


def test_few_are_kept():
    for number in range(30):
        naming.resolve(frame([f"A{number}"]), symbols=None, table=None, aliases=None, case="keep")
    assert len(naming._maps) == naming._KEPT


@pytest.mark.parametrize("names", [["CD4", "LYZ"], ["Cd4", "Lyz2"], [b"Cd4"], [1, 2], [None], [], np.array(["CD4"])])
def test_organism_is_what_it_is_without_memory(names):
    for _ in range(2):
        assert naming.guess_organism(names) == genes.guess_organism(names)
