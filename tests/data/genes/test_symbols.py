"""Gene symbols: where they come from, and what is lost."""

from __future__ import annotations

import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from genes import ISG15, MX1, NO_NAME, STAT1, TABLE, frame, slow_apply

from cell2sen.data.genes import symbols as module
from cell2sen.data.genes.identifiers import looks_like
from cell2sen.data.genes.organism import guess_organism
from cell2sen.data.genes.symbols import resolve_genes

ALIASES = pd.DataFrame(
    [("ISG15", "ISG15"), ("G1P2", "ISG15"), ("IFI15", "ISG15"), ("CCR9", "CCR9"), ("CCR9", "ACKR2"),
     ("STAT91", "STAT1"), ("XYZ", "A1"), ("XYZ", "A2"), ("MXA", "MX1"), ("MX1", "MX1")],
    columns=["alias", "approved_symbol"],
)  # fmt: skip


def test_symbols_in_the_index_are_kept_as_they_are():
    # ENSA and ENSAP1 begin like an identifier, ERV3-1 ends like a name made unique, RIKEN names begin with digits
    names = ["ISG15", "ENSA", "ENSAP1", "Ensa", "ERV3-1", "0610007P14RIK", "AL627309.1", "HLA-DRA", "7SK"]
    gene_map = resolve_genes(frame(names, ensembl_id=[ISG15] * len(names), feature_name=["WRONG"] * len(names)))
    assert gene_map.symbols == tuple(names)
    assert gene_map.is_identity
    assert gene_map.account["source"] == "index"
    assert gene_map.account["dropped"] == gene_map.account["ids_mapped"] == gene_map.account["duplicate_symbols"] == 0
    assert gene_map.account["examples"] == {}


@pytest.mark.parametrize(
    "column", ["feature_name", "symbol", "gene_symbols", "Gene Name", "gene_name", "original_symbol"]
)
@pytest.mark.parametrize("version", ["", ".10"])
def test_ensembl_index_finds_the_symbol_column(column, version):
    gene_map = resolve_genes(frame([ISG15 + version, STAT1 + version], n_cells=[3, 4], **{column: ["ISG15", "STAT1"]}))
    assert gene_map.symbols == ("ISG15", "STAT1")
    assert gene_map.account["source"] == f"var[{column!r}]"


def test_a_column_is_taken_only_if_it_holds_symbols():
    var = frame([ISG15, STAT1], feature_name=[ISG15, STAT1], symbol=["ISG15", "STAT1"])
    assert resolve_genes(var).account["source"] == "var['symbol']"


def test_the_named_column_wins_over_index_and_menu():
    var = frame(["a", "b"], symbol=["C", "D"], mine=["ISG15", "STAT1"])
    assert resolve_genes(var, symbols="mine").symbols == ("ISG15", "STAT1")
    assert resolve_genes(var, symbols="index").symbols == ("a", "b")
    var.index.name = "probe"
    assert resolve_genes(var, symbols="probe").symbols == ("a", "b")


def test_unknown_column_lists_the_menu():
    with pytest.raises(KeyError, match=r"no column 'gene'; available: \['index', 'symbol', 'n_cells'\]"):
        resolve_genes(frame(["A"], symbol=["A"], n_cells=[1]), symbols="gene")


@pytest.mark.parametrize("make", [pd.CategoricalIndex, lambda names: pd.Index([n.encode() for n in names])])
def test_index_of_other_types(make):
    var = pd.DataFrame(index=make(["ISG15", "STAT1", "MX1"]))
    assert resolve_genes(var).symbols == ("ISG15", "STAT1", "MX1")


def test_categorical_column_with_missing_values():
    column = pd.Categorical(["ISG15", None, "MX1"])
    gene_map = resolve_genes(frame([ISG15, STAT1, MX1], feature_name=column))
    assert gene_map.by_column == ("ISG15", None, "MX1")
    assert gene_map.account["dropped_missing"] == 0  # its index is an identifier, and that is why it has no symbol
    assert gene_map.account["dropped_ids"] == 1
    assert gene_map.account["examples"]["dropped"] == [STAT1]


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, "", "  ", "nan", "NaN", "None", "<NA>", "NA"])
def test_missing_names_are_dropped_and_counted(nothing):
    var = frame(["p0", "p1", "p2"], symbol=pd.Series(["ISG15", nothing, "MX1"], dtype=object).to_numpy())
    gene_map = resolve_genes(var, symbols="symbol")
    assert gene_map.by_column == ("ISG15", None, "MX1")
    assert (gene_map.account["dropped"], gene_map.account["dropped_missing"]) == (1, 1)
    assert gene_map.account["examples"]["dropped_missing"] == ["p1"]


def test_mixed_index_keeps_symbols_and_looks_its_identifiers_up():
    var = frame(["CD3D", ISG15, "LYZ", STAT1 + ".3", NO_NAME, "ENSA"])
    gene_map = resolve_genes(var, gene_table=TABLE)
    assert gene_map.by_column == ("CD3D", "ISG15", "LYZ", "STAT1", None, "ENSA")
    assert (gene_map.account["ids_mapped"], gene_map.account["dropped_ids"]) == (2, 1)
    assert gene_map.account["source"] == "index (3), table dict (2)"
    assert resolve_genes(var).by_column == ("CD3D", None, "LYZ", None, None, "ENSA")
    named = var.assign(feature_name=["OTHER", "ISG15", None, None, NO_NAME, "X"])
    assert resolve_genes(named).by_column == ("CD3D", "ISG15", "LYZ", None, None, "ENSA")


@pytest.mark.parametrize(
    "column", ["GeneSymbol", "gene symbol", "Gene.Name", "SYMBOL", "hgncSymbol", "features", "Name"]
)
def test_columns_of_symbols_are_found_whatever_case_and_separators(column):
    gene_map = resolve_genes(
        pd.DataFrame({"biotype": ["lncRNA", "TEC"], column: ["ISG15", "STAT1"]}, index=[ISG15, STAT1])
    )
    assert gene_map.symbols == ("ISG15", "STAT1")
    assert gene_map.account["source"] == f"var[{column!r}]"


def test_ensembl_index_with_a_few_other_names():
    names = [f"ENSG{i:011d}" for i in range(20)] + ["GFP"]
    gene_map = resolve_genes(frame(names, symbol=[f"S{i}" for i in range(20)] + [None]))
    assert gene_map.symbols[-2:] == ("S19", "GFP")
    assert resolve_genes(frame(names, symbol=[f"S{i}" for i in range(20)] + ["EGFP"])).symbols[-1] == "EGFP"
    with pytest.raises(ValueError, match="has none"):  # a lone transgene is no sentence
        resolve_genes(frame(names))


@pytest.mark.parametrize(
    "names",
    [
        [ISG15, STAT1],
        [ISG15 + ".1", "ENSMUSG00000024798.2"],
        ["ENST00000379389"],
        ["6772", "9636"],
        ["0", "1", "2"],
        [None, ""],
    ],
)
def test_nothing_to_look_up_in_says_what_to_pass(names):
    with pytest.raises(
        ValueError, match=r"needs gene symbols.*symbols='<column.*available: \['n_cells'\].*gene_table="
    ):
        resolve_genes(frame(names, n_cells=[1] * len(names)))


def test_whole_number_index():
    with pytest.raises(ValueError, match="needs gene symbols"):
        resolve_genes(pd.DataFrame(index=[6772, 9636]))
    assert resolve_genes(pd.DataFrame({"symbol": ["A", "B"]}, index=[6772, 9636])).symbols == ("A", "B")
    assert resolve_genes(pd.DataFrame(index=[6772, 9636]), gene_table={"6772": "STAT1", "9636": "ISG15"}).symbols == (
        "STAT1",
        "ISG15",
    )
    assert resolve_genes(frame(["6772.0", "5"]), gene_table={"6772": "STAT1"}).by_column == ("STAT1", None)


def test_counted_rows_are_never_taken_for_entrez_ids():
    with pytest.raises(ValueError, match="needs gene symbols"):
        resolve_genes(frame(["0", "1", "2"]), gene_table={"0": "X", "1": "A1BG", "2": "A2M"})
    var = frame(["0", "1", "2"], gene_ids=[ISG15, STAT1, MX1])
    assert resolve_genes(var, gene_table=TABLE).symbols == ("ISG15", "STAT1", "MX1")


def test_no_genes_at_all():
    with pytest.raises(ValueError, match="no rows"):
        resolve_genes(frame([]))


def test_everything_lost_is_an_error_also_with_a_table():
    with pytest.raises(ValueError, match="has none"):
        resolve_genes(frame(["ENSMUSG00000024798"]), gene_table=TABLE)
    with pytest.raises(ValueError, match="column 'ids'"):
        resolve_genes(frame(["A"], ids=[ISG15]), symbols="ids")


def test_white_space_inside_is_no_word_of_a_sentence():
    gene_map = resolve_genes(frame(["ISG15", "some gene (of mine)", " MX1 "]))
    assert gene_map.by_column == ("ISG15", None, "MX1")
    assert gene_map.account["dropped_whitespace"] == 1


def test_names_that_hold_symbol_and_identifier():
    names = [
        "TBCE_ENSG00000284770",
        "TBCE",
        f"{ISG15}_ISG15",
        f"{STAT1}.7|STAT1",
        f"{NO_NAME}.2_PAR_Y",
        "MT_CO1",
        "A_ENSG",
    ]
    gene_map = resolve_genes(frame(names))
    assert gene_map.by_column == ("TBCE", "TBCE", "ISG15", "STAT1", None, "MT-CO1", "A_ENSG")
    assert gene_map.account["suffixes_removed"] == 3
    assert gene_map.account["duplicate_columns"] == 1
    assert looks_like(names) == "mixed"


@pytest.mark.parametrize(
    "form",
    [
        "{id}-{symbol}", "{symbol}-{id}", "{symbol}.{id}", "{id}:{symbol}", "{symbol} ({id})", "{id}\t{symbol}",
        "{id}.12_{symbol}", "{id}|{symbol}|Gene Expression", "{symbol}|915", "{symbol}__chr11", "{symbol}_chrX",
        '"{symbol}"', "'{symbol}'", "b'{symbol}'", " {symbol}\u00a0", "\ufeff{symbol}",
    ],
)  # fmt: skip
def test_symbols_beside_something_else(form: str) -> None:
    symbols = ["CD3D", "HLA-DRA", "RP11-34P13.7", "7SK"]
    names = [form.format(id=f"ENSG{row:011d}", symbol=symbol) for row, symbol in enumerate(symbols)]
    assert resolve_genes(frame(names)).symbols == tuple(symbols)


@pytest.mark.parametrize("identifier", ["HGNC:{}", "MGI:{}", "NM_{:06d}.2", "gene_{}", "AFFX_{}_at", "g{}"])
def test_identifiers_of_other_kinds_beside_a_column_of_symbols(identifier: str) -> None:
    symbols = ("CD3D", "HLA-DRA", "ACTB", "7SK")
    names = [identifier.format(row + 900) for row in range(4)]
    gene_map = resolve_genes(frame(names, symbol=list(symbols)))
    assert (gene_map.symbols, gene_map.account["source"]) == (symbols, "var['symbol']")
    assert resolve_genes(frame(names, symbol=["a", "b", "c", "d"])).symbols == tuple(names)
    assert resolve_genes(frame(list(symbols), symbol=["ACTB", "GAPDH", "B2M", "CD4"])).symbols == symbols


@pytest.mark.parametrize("name", ["?|100130426", "ENSG00000167286|ENSG00000167286", "ENSG00000167286_915"])
def test_names_without_a_symbol_beside_a_number(name: str) -> None:
    gene_map = resolve_genes(frame([name, "CD4"]))
    assert gene_map.by_column == (None, "CD4")
    assert gene_map.account["dropped_ids"] == 1


def test_aliases_only_on_request_and_only_without_doubt():
    names = ["G1P2", "IFI15", "CCR9", "STAT91", "STAT1", "XYZ", "MXA", "other"]
    assert resolve_genes(frame(names)).symbols == tuple(names)
    gene_map = resolve_genes(frame(names), aliases=ALIASES)
    assert gene_map.by_column == ("ISG15", "ISG15", "CCR9", "STAT91", "STAT1", "XYZ", "MX1", "other")
    a = gene_map.account
    assert (a["aliases_replaced"], a["aliases_kept"], a["ambiguous_aliases"], a["duplicate_columns"]) == (3, 1, 1, 1)
    assert a["examples"]["aliases_kept"] == ["STAT91"]
    assert a["examples"]["ambiguous_aliases"] == ["XYZ"]


def test_upper_case_collisions_are_merged_and_counted_never_mislabelled():
    var = frame(["Actb", "ACTB", "Xist", "Actg1", "Cd3e"])
    assert resolve_genes(var).symbols == ("Actb", "ACTB", "Xist", "Actg1", "Cd3e")
    gene_map = resolve_genes(var, case="upper")
    assert gene_map.symbols == ("ACTB", "XIST", "ACTG1", "CD3E")
    assert gene_map.by_column == ("ACTB", "ACTB", "XIST", "ACTG1", "CD3E")
    assert (gene_map.account["case_collisions"], gene_map.account["duplicate_symbols"]) == (1, 1)
    block = sp.csr_matrix(np.array([[1, 5, 0, 7, 2], [4, 0, 3, 0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(gene_map.apply(block).toarray(), [[5, 0, 7, 2], [4, 3, 0, 0]])


@pytest.mark.parametrize("wrong", [{"duplicates": "sum"}, {"case": "lower"}])
def test_rules_are_checked(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        resolve_genes(frame(["A"]), **wrong)


def test_names_of_rows_without_name():
    gene_map = resolve_genes(frame(["A", None, NO_NAME, "B"]))
    assert gene_map.account["examples"]["dropped"] == ["row 1", NO_NAME]


def test_var_is_not_modified():
    var = frame([ISG15, STAT1], symbol=["ISG15", "STAT1"])
    copy = var.copy(deep=True)
    resolve_genes(var, gene_table=TABLE, aliases=ALIASES, case="upper")
    pd.testing.assert_frame_equal(var, copy)


def test_module_is_light():
    code = "import sys, cell2sen.data.genes.symbols; print({'torch', 'pandas', 'anndata', 'scanpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "kind", "organism", "source"),
    [
        ("kang_control_12261x1287", "ensembl", "Homo sapiens", "var['symbol']"),
        ("kang_ifnb_2000x9015", "symbols", "Homo sapiens", "index"),
        ("mouse_brain_merfish_1000x1122", "symbols", "Mus musculus", "index"),
        ("mouse_lung_800x24248", "symbols", "Mus musculus", "index"),
        ("pancreas_human_mouse_328x12474", "symbols", "Homo sapiens", "index"),  # mouse genes in human symbols
        ("papalexi_thp1_20729x299", "symbols", "Homo sapiens", "index"),
        ("pbmc3k_2638x13714", "symbols", "Homo sapiens", "index"),
        ("spatial_mouse_olfactory_bulb_260x15928", "symbols", "Mus musculus", "index"),
    ],
)
def test_real_data(shared_data, file, kind, organism, source):
    adata = anndata.read_h5ad(shared_data / f"{file}.h5ad")
    assert looks_like(adata.var_names) == kind
    assert guess_organism(adata.var_names) == organism
    for case in ("keep", "upper"):
        gene_map = resolve_genes(adata.var, case=case)
        assert gene_map.account["source"] == source
        assert gene_map.account["mapped"] == adata.n_vars
        names = adata.var["symbol"] if kind == "ensembl" else adata.var_names
        names = [name.removesuffix("_ENSMUSG00000079105") for name in names]  # the MERFISH panel's C7
        if file.startswith("pancreas"):  # went through R: KRTAP16.1, NKX2.2
            names = [re.sub(r"^(KRTAP\d+|NKX\d)\.(?=\d+$)", r"\1-", name) for name in names]
        assert gene_map.by_column == tuple(name.upper() if case == "upper" else name for name in names)
        block = adata.X[:20]
        symbols, expected = slow_apply(gene_map.by_column, block.toarray())
        assert gene_map.symbols == symbols
        np.testing.assert_array_equal(gene_map.apply(block).toarray(), expected)


# --- datasets in turn


FRAMES = {
    "symbols": frame(["CD4", "LYZ", "cd4", "LYZ"]),
    "other symbols": frame(["CD4", "LYZ", "cd4", "MS4A1"]),
    "a column": frame([ISG15, STAT1], gene_symbol=["CD4", "LYZ"]),
    "another value": frame([ISG15, STAT1], gene_symbol=["CD4", "CD79A"]),
    "another column": frame([ISG15, STAT1], symbol=["CD4", "LYZ"]),
    "categories": frame([ISG15, STAT1, MX1], gene_symbol=pd.Categorical(["CD4", "LYZ", "LYZ"])),
    "missing": frame([ISG15, STAT1], gene_symbol=["CD4", np.nan]),
    "numbers": frame([1, 2], symbol=["CD4", "LYZ"]),
    "real numbers": frame([1.0, 2.0], symbol=["CD4", "LYZ"]),
    "row numbers": frame(["0", "1"], symbol=["CD4", "LYZ"]),
    "bytes": frame([b"CD4", b"LYZ"]),
    "identifiers": frame(["CD4", STAT1]),
    "one name twice": pd.DataFrame([["CD4", "x"], ["LYZ", "y"]], index=[ISG15, STAT1], columns=["symbol", "symbol"]),
}
OPTIONS = [{}, {"case": "upper"}, {"symbols": "index"}, {"symbols": "gene_symbol"}]


def outcome(name, option, caplog):
    """Map or error, and the log."""
    caplog.clear()
    try:
        gene_map = resolve_genes(FRAMES[name], **option)
    except (ValueError, KeyError) as error:
        return repr(error)
    return gene_map.by_column, gene_map.account, caplog.messages


def test_earlier_datasets_change_nothing(caplog):
    caplog.set_level("INFO")
    cases = [(name, option) for name in FRAMES for option in OPTIONS]
    expected = []
    for name, option in cases:
        module._resolve_without_tables.cache_clear()
        expected.append(outcome(name, option, caplog))
    assert len({str(result) for result in expected}) > 15
    for seed in range(3):
        for number in np.random.default_rng(seed).permutation(len(cases)):
            for _ in range(2):
                assert outcome(*cases[number], caplog) == expected[number], cases[number]


def test_a_changed_account_is_not_passed_on():
    for _ in range(2):
        gene_map = resolve_genes(frame(["CD4", "LYZ", ISG15]))
        assert gene_map.account["examples"]["dropped"] == [ISG15]
        gene_map.account["examples"]["dropped"].append("x")
        with pytest.raises(ValueError, match="read-only"):
            gene_map.columns[:] = 7


# --- columns that other programs write


@pytest.mark.parametrize(
    "column",
    ["_index", "features", "Symbol", "rownames", "external_gene_name", "Gene name", "hgnc_symbol", "V2", "anything"],
)
@pytest.mark.parametrize("index", [["0", "1", "2"], [ISG15, STAT1, MX1]])
def test_symbols_in_columns_of_any_name(column, index):
    var = pd.DataFrame({"chromosome": ["chr1", "chr2", "chr21"], column: ["ISG15", "STAT1", "MX1"]}, index=index)
    gene_map = resolve_genes(var)
    assert gene_map.symbols == ("ISG15", "STAT1", "MX1")
    assert gene_map.account["source"] == f"var[{column!r}]"


def test_text_that_is_no_symbols_is_not_taken():
    var = pd.DataFrame({"chromosome": ["chr1", "chr2"], "description": ["a gene", "b gene"]}, index=["0", "1"])
    with pytest.raises(ValueError, match="needs gene symbols"):
        resolve_genes(var)
