"""Vocabulary: genes under the names of a model, and the share of counts that they have."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cells import cells, fake

import cell2sen as c2s
from cell2sen.data.expression import Expression, var_of
from cell2sen.data.vocabulary import coverage, match
from cell2sen.sentences.writing import from_anndata

QUIET = {"progress": False}


def vocabulary(*names: str):
    return lambda symbols: np.array([symbol in names for symbol in symbols], dtype=bool)


def test_own_other_and_mangled_names() -> None:
    known = vocabulary("CD4", "GNB2L1", "RP11-34P13.7", "HLA-DRA")
    matched = match(["CD4", "RACK1", "RP11.34P13.7", "nonsense", "TAZ"], known, ["Homo sapiens"])
    assert matched.names == ("CD4", "GNB2L1", "RP11-34P13.7", None, None)
    assert matched.is_known.tolist() == [True, True, True, False, False]
    account = matched.account
    assert account["examples_renamed_for_model"] == ["RACK1 → GNB2L1"]
    assert account["examples_repaired_for_model"] == ["RP11.34P13.7 → RP11-34P13.7"]
    assert account["examples_ambiguous_for_model"] == ["TAZ"]
    assert (account["n_unknown_to_model"], account["examples_unknown_to_model"]) == (2, ["nonsense", "TAZ"])
    assert account["symbol_table"].isdigit()


def test_nothing_to_rename() -> None:
    assert match(["CD4"], vocabulary("CD4")).account == {"n_unknown_to_model": 0}


def test_a_repaired_gene_is_not_renamed_into_twice() -> None:
    known = vocabulary("HLA-DRA")
    assert match(["HLA.DRA", "HLA-DRA1"], known).names[0] == "HLA-DRA"


@pytest.mark.parametrize("seed", range(3))
def test_coverage_is_the_mean_share_of_each_cell(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.gamma(0.3, 2.0, (20, 30)) * (generator.random((20, 30)) < 0.5)
    values[3] = 0
    is_known = generator.random(30) < 0.6
    rows = values[values.sum(axis=1) > 0]
    shares = rows / rows.sum(axis=1, keepdims=True)
    measured = coverage(sp.csr_matrix(values), is_known)
    assert measured.share == pytest.approx(shares[:, is_known].sum(axis=1).mean())
    expected = [column for column in np.argsort(-shares.mean(axis=0)) if not is_known[column]]
    assert [column for column, _ in measured.strong] == [c for c in expected if shares[:, c].mean() >= 0.002]


def test_coverage_of_nothing() -> None:
    assert coverage(sp.csr_matrix((3, 2)), np.array([True, False])).share == 1


@pytest.mark.parametrize("log", [False, True])
def test_share_of_counts_and_strong_genes(log: bool, caplog: pytest.LogCaptureFixture) -> None:
    counts = np.array([[60, 30, 10], [50, 30, 20]], dtype=np.float32)
    values = np.log1p(counts * 100) if log else counts
    adata = anndata.AnnData(sp.csr_matrix(values), var=pd.DataFrame(index=["UNHEARD", "CD4", "LYZ"]))
    with caplog.at_level(logging.WARNING), Expression.open(adata) as expression:
        account = expression.known_to(vocabulary("CD4", "LYZ")).account
    assert account["share_of_counts_known"] == pytest.approx(0.45, abs=1e-3)
    assert account["strong_genes_unknown_to_model"] == ["UNHEARD (55.0%)"]
    assert "45 % of the expressed counts" in caplog.text
    assert "UNHEARD" in caplog.text


def test_genes_of_another_year_have_the_sentences_of_the_models_year() -> None:
    adata = cells(genes=[*cells().var_names[:-3], "RACK1", "H3-3B", "ATP5F1E"])
    old = adata.copy()
    old.var_names = [*adata.var_names[:-3], "GNB2L1", "H3F3B", "ATP5E"]
    known = vocabulary(*old.var_names)
    found, expected = from_anndata(adata, known=known), from_anndata(old, known=known)
    assert found.gene_names() == expected.gene_names()
    assert found.account["n_renamed_for_model"] == 3
    reverse = from_anndata(old, known=vocabulary(*adata.var_names))
    assert reverse.symbols == list(adata.var_names)


def mouse_like() -> anndata.AnnData:
    """Genes under identifiers, with symbols of today in a column, one of them twice, and an antibody."""
    adata = cells()
    n = adata.n_vars
    symbols = [*adata.var_names[: n - 4], "RACK1", adata.var_names[0], "CD4", "UNHEARD"]
    adata.var = pd.DataFrame(
        {
            "symbol": symbols,
            "feature_types": ["Gene Expression"] * (n - 2) + ["Antibody Capture", "Gene Expression"],
            "score": np.arange(n, dtype=float),
        },
        index=[f"ENSG{i:011}" for i in range(n)],
    )
    return adata


def test_the_inputs_names_are_the_index_of_a_prediction() -> None:
    adata = mouse_like()
    genes = [*cells().var_names, "GNB2L1"]
    predicted = c2s.tl.perturb(adata, "IFN-beta", model=fake(genes=genes), **QUIET)
    assert predicted.var_names.isin(adata.var_names).all()
    expected = adata.var.loc[predicted.var_names]
    pd.testing.assert_series_equal(predicted.var["score"], expected["score"])
    assert [name.replace("GNB2L1", "RACK1") for name in predicted.var["symbol"]] == list(expected["symbol"])
    assert list(predicted.var["symbol_before"]) == list(expected["symbol"])
    assert set(adata.var_names) - set(predicted.var_names) == set(adata.var_names[-3:])
    account = predicted.uns["cell2sen"]["perturb"]["genes"]
    assert account["examples_unknown_to_model"] == ["UNHEARD"]
    (unheard,) = adata.var_names[adata.var["symbol"].str.upper() == "UNHEARD"]
    assert list(account["unknown_to_model"]) == [unheard]  # the input's name
    assert account["not_genes"] == 1
    sentence = predicted.obs["sentence"].iloc[0].split()
    assert set(sentence) <= set(predicted.var["symbol"])


def test_mouse_names_keep_their_case() -> None:
    adata = cells()
    adata.var_names = [name.capitalize() for name in adata.var_names]
    adata.uns["organism"] = "Mus musculus"
    predicted = c2s.tl.perturb(adata, "IFN-beta", model=fake(), case="upper", **QUIET)
    assert list(predicted.var_names) == list(adata.var_names)
    assert list(predicted.var["symbol"]) == [name.upper() for name in adata.var_names]
    drawn = c2s.tl.generate("B cell", n=2, genes=adata, model=fake(), case="upper", **QUIET)
    assert list(drawn.var_names) == list(adata.var_names)


def test_annotation_of_symbols() -> None:
    var = var_of(pd.DataFrame({"symbol": ["a", "b"]}, index=["x", "x"]), ["A", "b"])
    assert var.index.tolist() == ["x", "x-1"]
    assert var["symbol"].tolist() == ["A", "b"]
    assert var["symbol_before"].tolist() == ["a", "b"]
    assert "symbol_before" not in var_of(pd.DataFrame(index=["A"]), ["A"])
