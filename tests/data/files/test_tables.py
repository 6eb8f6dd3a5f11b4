"""Tables of text, as people and programs write them."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from containers import BARCODES, GENES, assert_same, counts

from cell2sen.data.files import tables
from cell2sen.data.files.formats import recognise
from cell2sen.data.files.opening import open_anndata
from cell2sen.data.files.tables import open_table


def table() -> pd.DataFrame:
    return counts().to_df()


def without_corner(text: str) -> str:
    """The text as R's write.table writes it: no name of the first column."""
    return text[text.index(" ") + 1 :] if text.startswith('""') else text[1:]


WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    "csv": lambda frame: frame.to_csv(),
    "tsv": lambda frame: frame.to_csv(sep="\t"),
    "semicolons": lambda frame: frame.to_csv(sep=";", decimal=","),
    "r": lambda frame: without_corner(frame.to_csv(sep="\t")),
    "r_quoted": lambda frame: without_corner(frame.to_csv(sep=" ", quoting=2)),
    "windows": lambda frame: frame.to_csv(lineterminator="\r\n"),
    "mark": lambda frame: "\ufeff" + frame.to_csv(),
    "comments": lambda frame: "# made, by hand\n#version 2\n" + frame.to_csv(),
    "whole_numbers": lambda frame: frame.astype(int).to_csv(),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("turned", [False, True])
def test_genes_on_either_side_in_every_dialect(writer: str, turned: bool, tmp_path: Path) -> None:
    text = WRITERS[writer](table().T if turned else table())
    (tmp_path / "x").write_text(text, encoding="utf-8", newline="")
    with open_anndata(tmp_path / "x") as adata:
        assert_same(adata, counts())


@pytest.mark.parametrize("turned", [False, True])
def test_fractions_and_missing_values(turned: bool, tmp_path: Path) -> None:
    frame = table() + 0.25
    frame.iloc[1, 2] = np.nan
    for writer in ("csv", "semicolons"):
        (tmp_path / "x").write_text(WRITERS[writer](frame.T if turned else frame))
        np.testing.assert_array_equal(open_table(tmp_path / "x").X.toarray(), frame.to_numpy())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_tables_and_other_encodings(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(pack(table().to_csv().encode()))
    assert_same(open_table(tmp_path / "x.csv"), counts())
    (tmp_path / "x.csv").write_bytes(table().to_csv(sep="\t").encode("utf-16"))
    assert_same(open_table(tmp_path / "x.csv"), counts())


def test_columns_of_text_annotate_the_rows(tmp_path: Path) -> None:
    frame = table()
    frame.insert(0, "kind", ["T", "B", "T", "B", None])
    frame.to_csv(tmp_path / "cells.csv")
    adata = open_table(tmp_path / "cells.csv")
    assert_same(adata, counts())
    assert adata.obs["kind"].tolist()[:4] == ["T", "B", "T", "B"]
    genes = table().T
    genes.insert(0, "symbol", [name.lower() for name in GENES])
    genes.to_csv(tmp_path / "genes.csv")
    adata = open_table(tmp_path / "genes.csv")
    assert_same(adata, counts())
    assert adata.var["symbol"].tolist()[0] == "cd3d"


def test_columns_of_featurecounts_are_no_cells(tmp_path: Path) -> None:
    genes = table().T
    for place, name in enumerate(("Chr", "Start", "End", "Strand", "Length")):
        genes.insert(place, name, "1;1" if name in ("Chr", "Strand") else 1000)
    genes.index.name = "Geneid"
    (tmp_path / "x.txt").write_text("# Program:featureCounts v2.0\n" + genes.to_csv(sep="\t"))
    adata = open_table(tmp_path / "x.txt")
    assert_same(adata, counts())
    assert adata.var["Strand"].tolist()[0] == "1;1"
    assert adata.var["Length"].tolist()[0] == 1000


def test_numbers_that_describe_cells_are_no_genes(tmp_path: Path) -> None:
    frame = table().reset_index(drop=True)
    frame.insert(0, "fov", 3)
    frame.insert(1, "cell_ID", [11, 12, 13, 14, 15])
    frame["nCount_RNA"] = 9.5
    frame.to_csv(tmp_path / "x.csv", index=False)
    adata = open_table(tmp_path / "x.csv")
    assert list(adata.var_names) == GENES
    np.testing.assert_array_equal(adata.X.toarray(), counts().X.toarray())
    assert adata.obs.to_dict("list") == {"fov": [3] * 5, "cell_ID": [11, 12, 13, 14, 15], "nCount_RNA": [9.5] * 5}


def test_numbers_as_names_of_cells(tmp_path: Path) -> None:
    table().reset_index(drop=True).to_csv(tmp_path / "x.csv")
    adata = open_table(tmp_path / "x.csv")
    assert adata.obs_names.tolist() == ["0", "1", "2", "3", "4"]
    assert list(adata.var_names) == GENES


def test_many_rows_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table().T.to_csv(tmp_path / "x.csv")
    monkeypatch.setattr(tables, "_VALUES", 14)
    assert_same(open_table(tmp_path / "x.csv"), counts())


def test_a_row_of_many_thousand_names(tmp_path: Path) -> None:
    names = [f"ENSG{number:011}" for number in range(20_000)]
    pd.DataFrame(np.eye(3, 20_000, dtype=int), index=["a-1", "b-1", "c-1"], columns=names).to_csv(tmp_path / "x.csv.gz")
    assert recognise(tmp_path / "x.csv.gz") == "table"
    assert open_table(tmp_path / "x.csv.gz").shape == (3, 20_000)


@pytest.mark.parametrize("wrong", ['"1,000"', "x", "< 1"])
def test_columns_of_numbers_with_other_values_are_not_lost(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"gene,c1,c2\nACTB,{wrong},2\nRPL3,3,4\nB2M,5,6\n")
    with pytest.raises(ValueError, match=r"column 'c1' of .*x.csv has numbers, and values that are none"):
        open_table(tmp_path / "x.csv")


def test_a_delimiter_at_the_end_of_each_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("gene,c1,c2\nACTB,1,2,\nRPL3,3,4,\n")
    with open_anndata(tmp_path / "x.csv") as adata:
        assert adata.var_names.tolist() == ["ACTB", "RPL3"]
        assert adata.X.toarray().tolist() == [[1, 3], [2, 4]]


def test_tables_that_are_no_expression(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\nx,y\n")
    with pytest.raises(ValueError, match="without a column of numbers"):
        open_table(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("name,one,two\nalpha,1,2\nbeta,3,4\n")
    with pytest.raises(ValueError, match="write 'gene' or 'cell' as the name of its first column"):
        open_table(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("gene,one,two\nalpha,1,2\nbeta,3,4\n")
    assert open_table(tmp_path / "x.csv").var_names.tolist() == ["alpha", "beta"]
    assert len(BARCODES) == counts().n_obs


def test_a_table_of_genes_is_no_expression(tmp_path: Path) -> None:
    (tmp_path / "genes.csv").write_text(
        "ensembl_id,symbol,version,length\nENSG00000290825,CD3D,2,1396\nENSG1,LYZ,6,632\n"
    )
    with pytest.raises(ValueError, match=r"describes genes \(version, length\) and has no expression"):
        open_table(tmp_path / "genes.csv")
