"""Organism of each cell."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from genes import ISG15

from cell2sen.data.genes.organism import guess_organism, organism_of_cells, scientific_name

HUMAN, MOUSE = ["CD4", "LYZ", "GNLY"], ["Cd4", "Lyz2", "Gnly"]


def obs(**columns):
    return pd.DataFrame(columns, index=["a", "b"])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("human", "Homo sapiens"), ("Homo_sapiens", "Homo sapiens"), (" NCBITaxon:9606 ", "Homo sapiens"),
        (9606, "Homo sapiens"), ("Mouse", "Mus musculus"), ("NCBITaxon:10090", "Mus musculus"),
        ("Danio rerio", "Danio rerio"),
    ],
)  # fmt: skip
def test_scientific_name(text, name):
    assert scientific_name(text) == name


@pytest.mark.parametrize("key", ["organism", "species", "organism_ontology_term_id"])
def test_obs_goes_before_uns(key):
    mixed = obs(**{key: pd.Categorical(["human", "mouse"])})
    assert organism_of_cells(mixed, {"organism": "Danio rerio"}, None, MOUSE) == ("Homo sapiens", "Mus musculus")


def test_case_of_the_column_does_not_matter():
    assert organism_of_cells(obs(Species=["human", "mouse"]), {}, None, MOUSE) == ("Homo sapiens", "Mus musculus")
    two_columns = obs(Organism=["Danio rerio"] * 2, organism=["human", "mouse"])
    assert organism_of_cells(two_columns, {}, None, MOUSE) == ("Homo sapiens", "Mus musculus")


@pytest.mark.parametrize("value", ["mouse", np.str_("mouse"), ["mouse"], np.array(["mouse", "Mouse"][:1])])
@pytest.mark.parametrize("key", ["organism", "species", "organism_ontology_term_id"])
def test_uns(key, value):
    assert organism_of_cells(obs(), {key: value}, None, HUMAN) == ("Mus musculus",) * 2


def test_several_organisms_in_uns_are_ignored():
    assert organism_of_cells(obs(), {"organism": ["human", "mouse"]}, None, HUMAN) == ("Homo sapiens",) * 2


def test_given_goes_first():
    human = obs(organism=["human", "human"])
    assert organism_of_cells(human, {}, "mouse", HUMAN) == ("Mus musculus",) * 2
    assert organism_of_cells(human, {}, pd.Series(["mouse", "human"]), HUMAN) == ("Mus musculus", "Homo sapiens")


@pytest.mark.parametrize(
    ("given", "message"),
    [(["human"], "2 cells, found 1"), (["human", None], "missing"), (["human", np.nan], "missing")],
)
def test_given_for_other_cells(given, message):
    with pytest.raises(ValueError, match=message):
        organism_of_cells(obs(), {}, given, HUMAN)


def test_gene_names_are_the_last_source(caplog):
    assert organism_of_cells(obs(), {}, None, MOUSE) == ("Mus musculus",) * 2
    assert organism_of_cells(obs(), {}, None, HUMAN) == ("Homo sapiens",) * 2
    assert organism_of_cells(obs(), {}, None, ["ENSMUSG00000000001", "ENSMUSG00000000003"]) == ("Mus musculus",) * 2
    assert not caplog.records
    assert organism_of_cells(obs(), {}, None, ["CD4", "Lyz2"]) == ("Homo sapiens",) * 2
    assert "taken as Homo sapiens" in caplog.text


@pytest.mark.parametrize("missing", [None, np.nan, "", " "])
def test_cells_without_an_organism(missing, caplog):
    caplog.set_level(logging.WARNING)
    assert organism_of_cells(obs(organism=["human", missing]), {}, None, MOUSE) == ("Homo sapiens", "Mus musculus")
    assert "missing in 1 of 2 cells" in caplog.text
    assert organism_of_cells(obs(organism=[missing, missing]), {"species": "mouse"}, None, HUMAN)[0] == "Mus musculus"


def test_the_organism_is_not_kept_for_the_next_dataset():
    assert organism_of_cells(obs(organism=["mouse"] * 2), {}, None, HUMAN)[0] == "Mus musculus"
    assert organism_of_cells(obs(), {}, None, HUMAN)[0] == "Homo sapiens"


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        ([ISG15, "Actb", "Xist"], "Homo sapiens"),
        (["ENSMUSG00000024798.3"], "Mus musculus"),
        (["ENSRNOG00000000001"], None),
        ([ISG15, "ENSMUSG00000024798"], None),
        (["ISG15", "C1orf112", "STAT1", "HLA-DRA", "MX1"], "Homo sapiens"),
        (["Isg15", "mt-Nd1", "Stat1", "H2-Aa", "0610007P14Rik", "Mx1"], None),  # 4 of 6 capitalised
        (["Isg15", "mt-Nd1", "Stat1", "H2-Aa", "Mx1"], "Mus musculus"),
        (["ISG15", "Stat1"], None),
        (["1", "2"], None),
        ([], None),
    ],
)
def test_guess_organism(names, organism):
    assert guess_organism(names) == organism


def test_two_species_in_one_file(shared_data):
    adata = anndata.read_h5ad(shared_data / "pancreas_human_mouse_328x12474.h5ad")
    organisms = pd.Series(organism_of_cells(adata.obs, adata.uns, None, list(adata.var_names)))
    assert set(organisms) == {"Homo sapiens", "Mus musculus"}


@pytest.mark.parametrize("missing", ["NA", "nan", None, " ", b"None"])
def test_missing_values_that_are_text(missing, caplog):
    assert organism_of_cells(obs(organism=[b"mouse", missing]), {}, None, MOUSE) == ("Mus musculus",) * 2
    assert "obs['organism'] is missing in 1 of 2 cells, taken as Mus musculus" in caplog.text
    assert organism_of_cells(obs(organism=[missing] * 2), {"organism": b"mouse"}, None, HUMAN) == ("Mus musculus",) * 2
    with pytest.raises(ValueError, match="organism has missing values"):
        organism_of_cells(obs(), {}, ["human", missing], HUMAN)


def test_numbers_of_a_taxonomy_with_a_missing_value():
    assert organism_of_cells(obs(organism=[10090.0, 9606.0]), {}, None, MOUSE) == ("Mus musculus", "Homo sapiens")
