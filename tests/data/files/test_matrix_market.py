"""Folders of Matrix Market files, as several programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from containers import BARCODES, GENES, assert_same, counts, write_mtx
from scipy.io import mmwrite

from cell2sen.data.files.matrix_market import open_mtx


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefix", ["", "GSM1234_sample_"])
def test_folders_of_cellranger(packed: bool, prefix: str, tmp_path: Path) -> None:
    write_mtx(tmp_path, counts(), packed=packed, prefix=prefix)
    adata = open_mtx(tmp_path)
    assert_same(adata, counts())
    assert adata.var["gene_ids"].tolist()[1] == "ENSG00000000001"
    if packed:
        assert set(adata.var["feature_types"]) == {"Gene Expression"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_other_encodings_and_other_files_beside(encoding: str, tmp_path: Path) -> None:
    write_mtx(tmp_path, counts(), packed=False)
    for name in ("genes.tsv", "barcodes.tsv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text, encoding=encoding)
    (tmp_path / "notes.txt").write_bytes(b"caf\xe9\n" * 12)
    (tmp_path / "other.csv").write_bytes(b"\x00\x01\x02")
    assert_same(open_mtx(tmp_path), counts())


def test_several_samples_in_a_folder(tmp_path: Path) -> None:
    write_mtx(tmp_path, counts(), prefix="GSM1_")
    write_mtx(tmp_path, counts()[:3].copy(), prefix="GSM2_")
    with pytest.raises(ValueError, match=r"2 matrices; pass one of .*GSM1_matrix.mtx.gz, .*GSM2_matrix.mtx.gz"):
        open_mtx(tmp_path)
    assert_same(open_mtx(tmp_path / "GSM1_matrix.mtx.gz"), counts())
    assert_same(open_mtx(tmp_path / "GSM2_matrix.mtx.gz"), counts()[:3].copy())


def write(folder: Path, matrix: object, **tables: list[str]) -> None:
    """Files by name, with two underscores for a point."""
    name = next(iter(tables))
    mmwrite(folder / name.replace("__", "."), matrix)
    for other, lines in list(tables.items())[1:]:
        (folder / other.replace("__", ".")).write_text("\n".join(lines) + "\n")


def test_kallisto_writes_cells_in_rows(tmp_path: Path) -> None:
    ids = [f"ENSG{number:011d}" for number in range(len(GENES))]
    write(
        tmp_path,
        counts().X,
        cells_x_genes__mtx=[],
        cells_x_genes__barcodes__txt=BARCODES,
        cells_x_genes__genes__txt=ids,
        cells_x_genes__genes__names__txt=GENES,
    )
    adata = open_mtx(tmp_path)
    assert list(adata.obs_names) == BARCODES
    assert list(adata.var_names) in (ids, GENES)
    np.testing.assert_array_equal(adata.X.toarray(), counts().X.toarray())


def test_alevin_names_tables_after_rows_and_columns(tmp_path: Path) -> None:
    write(tmp_path, counts().X, quants_mat__mtx=[], quants_mat_rows__txt=BARCODES, quants_mat_cols__txt=GENES)
    assert_same(open_mtx(tmp_path), counts())


def test_expression_atlas_has_genes_in_rows(tmp_path: Path) -> None:
    pairs = [f"{name}\t{name}" for name in GENES]
    write(tmp_path, counts().X.T, e__mtx=[], e__mtx_rows=pairs, e__mtx_cols=BARCODES)
    assert_same(open_mtx(tmp_path), counts())


def test_parse_has_headers_and_columns_of_cells(tmp_path: Path) -> None:
    genes = ["gene_id,gene_name,genome", *(f"ENSG{n:011d},{name},hg38" for n, name in enumerate(GENES))]
    cells = ["bc_wells,sample", *(f"{barcode},s{n}" for n, barcode in enumerate(BARCODES))]
    write(tmp_path, counts().X, count_matrix__mtx=[], all_genes__csv=genes, cell_metadata__csv=cells)
    adata = open_mtx(tmp_path)
    assert_same(adata, counts())
    assert adata.obs["sample"].tolist() == ["s0", "s1", "s2", "s3", "s4"]
    assert adata.var["genome"].tolist() == ["hg38"] * len(GENES)


def test_as_many_cells_as_genes(tmp_path: Path) -> None:
    """Genes are in the rows, as everywhere but at kallisto."""
    square = counts()[:, :5].copy()
    write_mtx(tmp_path, square)
    assert_same(open_mtx(tmp_path), square)


def test_an_empty_symbol_is_its_identifier(tmp_path: Path) -> None:
    rows = [f"ENSG{n:011d}\t{name if n else ''}\tGene Expression" for n, name in enumerate(GENES)]
    write(tmp_path, sp.csr_matrix(counts().X.T), matrix__mtx=[], features__tsv=rows, barcodes__tsv=BARCODES)
    assert open_mtx(tmp_path).var_names.tolist() == ["ENSG00000000000", *GENES[1:]]


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, counts().X.T, matrix__mtx=[], features__tsv=GENES[:3], barcodes__tsv=BARCODES)
    with pytest.raises(
        ValueError, match=r"12 rows and 5 columns.*no two tables.*there are \['barcodes.tsv', 'features"
    ):
        open_mtx(tmp_path)
