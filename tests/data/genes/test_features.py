"""Features: antibodies, guides, hashtags, peaks and control probes are told from genes; genes stay genes."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from genes import frame

import cell2sen as c2s
from cell2sen.data.expression import Expression
from cell2sen.data.genes.features import refuse_transposed
from cell2sen.data.genes.symbols import resolve_genes
from cell2sen.sentences.writing import from_anndata

GENES = ["CD3D", "CD4", "LYZ", "MS4A1", "GAPDH"]
OTHERS = ["P1", "P2", "P3"]


def left_out(names: list[str], **columns: object) -> list[str]:
    """Names of the rows that are no genes."""
    gene_map = resolve_genes(frame(names, **columns))
    is_gene = np.ones(len(names), dtype=bool) if gene_map.is_gene is None else gene_map.is_gene
    assert gene_map.account["not_genes"] == int((~is_gene).sum())
    return [name for name, gene in zip(names, is_gene, strict=True) if not gene]


@pytest.mark.parametrize(
    "column", ["feature_types", "feature_type", "modality", "feature_class", "Type", "FeatureTypes"]
)
@pytest.mark.parametrize(
    ("gene", "other"),
    [
        ("Gene Expression", "Antibody Capture"),
        ("gene expression", "CRISPR Guide Capture"),
        ("Gene_Expression", "Multiplexing Capture"),
        ("GEX", "ADT"),
        ("rna", "prot"),
        ("RNA", "HTO"),
        ("Gene Expression", "Peaks"),
        ("Gene Expression", "Custom"),
        ("Gene Expression", "Negative Control Probe"),
        ("Gene Expression", "Deprecated Codeword"),
        ("gene", "spike-in"),
    ],
)
def test_rows_with_another_mark_than_that_of_genes(column: str, gene: str, other: str) -> None:
    assert left_out([*GENES, *OTHERS], **{column: [gene] * 5 + [other] * 3}) == OTHERS
    values = pd.Categorical([gene] * 5 + [other] * 3)
    assert left_out([*GENES, *OTHERS], **{column: values}) == OTHERS


def test_any_other_mark_beside_that_of_genes_and_missing_marks() -> None:
    assert left_out([*GENES, *OTHERS], feature_types=["Gene Expression"] * 5 + ["Something new"] * 3) == OTHERS
    assert left_out([*GENES, *OTHERS], feature_types=["Gene Expression"] * 5 + [None] * 3) == []
    assert left_out([*GENES, *OTHERS], feature_types=[None] * 5 + ["Antibody Capture"] * 3) == OTHERS


@pytest.mark.parametrize(
    "values",
    [
        ["protein_coding", "lncRNA", "protein_coding", "TR_C_gene", "IG_V_gene"],  # biotypes, as in CELLxGENE
        ["protein", "lncRNA", "protein", "protein", "pseudogene"],
        ["a", "b", "c", "d", "e"],
        ["TF", "surface", "secreted", "TF", "enzyme"],
    ],
)
@pytest.mark.parametrize("column", ["feature_type", "type", "feature_class"])
def test_other_columns_of_the_same_name_leave_nothing_out(column: str, values: list[str]) -> None:
    assert left_out(GENES, **{column: values}) == []


@pytest.mark.parametrize("column", ["gene_name", "title"])
@pytest.mark.parametrize("names", ["GRCh38_{}", "{}"])
def test_features_whose_names_are_in_a_column_or_behind_a_genome(column: str, names: str) -> None:
    symbols = [names.format(name) for name in [*GENES, "ERCC-00002", "CD3_TotalSeqB"]]
    assert left_out(symbols) == symbols[5:]
    numbers = [str(number) for number in range(7)]
    assert left_out(numbers, **{column: symbols}) == numbers[5:]
    identifiers = [f"ENSG{number:011}" for number in range(7)]
    assert left_out(identifiers, **{column: symbols}) == identifiers[5:]


def test_spike_ins_of_cellxgene() -> None:
    assert left_out([*GENES, "ERCC-00002"], feature_biotype=["gene"] * 5 + ["spike-in"]) == ["ERCC-00002"]


@pytest.mark.parametrize(
    "name",
    [
        "ERCC-00002", "ERCC_00171", "SIRV101", "NegControlProbe_00042", "NegControlCodeword_0500", "BLANK_0006",
        "Blank-1", "antisense_PROKR2", "UnassignedCodeword_0001", "DeprecatedCodeword_0321", "NegPrb12",
        "SystemControl4", "FalseCode33", "Negative3", "AB_CD3", "ADT_CD45RA", "ADT-CD4", "adt_CD8", "prot:CD4",
        "CD19_TotalSeqB", "CD4-TotalSeqC", "CD4_TotalSeqA", "CD127_ADT", "CD3:SK7|CD3E|AHS0033|pAbO",
        "CD3-CTCATTGTAACTCCT", "IgG1_control_TotalSeqB", "HTO_1", "HTO1", "Hashtag_3", "hashtag-7", "CMO301",
        "chr1:1000-2000", "chr1-1000-2000", "chrX_1000_2000", "KI270728.1:232-9000", "1:10109-10357",
        "__no_feature", "N_unmapped", "unmapped", "sgRNA_TP53", "non-targeting_12",
        "CD4_protein", "CD8A_PROT", "CD14-prot", "anti-human_Hashtag_1", "Mouse_isotype", "NegProbe-WTX", "notarget1",
        "STAT1_sg1", "STAT1_g2", "STAT1-sg2", "sgSTAT1-2", "sgNTC_1", "NTC_1", "neg_ctrl_1", "STAT1gRNA1",
        "safe-target", "non-targeting_0001",
    ],
)  # fmt: skip
def test_names_that_no_gene_has(name: str) -> None:
    assert left_out([*GENES, name]) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "ERCC1", "ERCC6L2", "AB019441.29", "ABCB1", "ADTRP", "PROTOR1", "PROT1", "CITED2", "HTO", "NEGR1", "SGRNA1",
        "CHRM1", "CHR1-AS1", "HLA-DRA", "MT-CO1", "IGHG1", "IGKC", "TRBC2", "RP11-34P13.7", "XIST", "AC007325.4",
        "GFP", "SARS-CoV-2", "CD4-1", "NKX2-5", "7SK", "5S_rRNA", "Unassigned", "BLANK", "U3", "PTPRC", "SP-B",
    ],
)  # fmt: skip
def test_names_of_genes(name: str) -> None:
    expected = [name] if name == "HTO" else []
    assert left_out([*GENES, name]) == expected


def test_names_in_doubt_are_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert left_out([*GENES, "CD4-Ab", "CD8_ab"]) == []
    assert "2 rows of var may be no genes, such as ['CD4-Ab', 'CD8_ab']" in caplog.text
    caplog.clear()
    assert left_out(GENES) == []
    assert "may be no genes" not in caplog.text


@pytest.mark.parametrize("sign", ["-", "."])
def test_genes_get_their_names_back_from_antibodies(sign: str) -> None:
    names = ["CD4", "CD14", "CD3D", f"CD4{sign}1", "LYZ", f"CD14{sign}1", f"HLA-DRB{sign}1"]
    kinds = ["Antibody Capture"] * 2 + ["Gene Expression"] * 5
    gene_map = resolve_genes(frame(names, feature_types=kinds))
    assert gene_map.by_column == (None, None, "CD3D", "CD4", "LYZ", "CD14", f"HLA-DRB{sign}1")
    assert gene_map.account["names_restored"] == 2
    assert gene_map.account["examples"]["names_restored"][0] == f"CD4{sign}1 → CD4"


def test_a_name_that_another_gene_has_is_not_given_back() -> None:
    names = ["ERV3", "ERV3", "ERV3-1"]
    kinds = ["Antibody Capture", "Gene Expression", "Gene Expression"]
    assert resolve_genes(frame(names, feature_types=kinds)).by_column == (None, "ERV3", "ERV3-1")


def test_no_gene_at_all_is_an_error_that_names_the_column() -> None:
    with pytest.raises(ValueError, match=r"no genes: var\['feature_types'\] marks all 3 rows as Peaks"):
        resolve_genes(frame(OTHERS, feature_types=["Peaks"] * 3))
    with pytest.raises(ValueError, match="no genes: all 2 rows of var have names as peak"):
        resolve_genes(frame(["chr1:100-200", "chr1:300-400"]))


def mixed(seed: int = 0) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Genes with antibodies between them, and the genes alone."""
    generator = np.random.default_rng(seed)
    genes = [*GENES, *(f"G{i}" for i in range(40))]
    counts = generator.poisson(3.0, (8, len(genes))).astype(np.float32)
    antibodies = generator.poisson(90.0, (8, 3)).astype(np.float32)
    names = pd.DataFrame(index=[f"c{i}" for i in range(8)])
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression"] * 2 + ["Antibody Capture"] * 3 + ["Gene Expression"] * (len(genes) - 2)},
        index=[*genes[:2], "CD19_prot", "CD45", "LAG3", *genes[2:]],
    )
    matrix = np.hstack([counts[:, :2], antibodies, counts[:, 2:]])
    return anndata.AnnData(sp.csr_matrix(matrix), names, var), anndata.AnnData(
        sp.csr_matrix(counts), names, pd.DataFrame(index=genes)
    )


@pytest.mark.parametrize("scale", ["counts", "log1p"])
def test_sentences_sums_and_rank_fit_are_those_of_the_genes_alone(scale: str) -> None:
    both, genes = mixed()
    if scale == "log1p":  # normalised over genes, while the antibodies have their own centred log ratio
        sums = genes.X.sum(axis=1)
        genes.X = sp.csr_matrix(np.log1p(genes.X.toarray() / np.asarray(sums) * 1e4).astype(np.float32))
        dense = both.X.toarray()
        dense[:, np.flatnonzero(both.var["feature_types"] == "Gene Expression")] = genes.X.toarray()
        dense[:, 2:5] = np.random.default_rng(1).normal(size=(8, 3))
        both.X = sp.csr_matrix(dense)
    found, expected = from_anndata(both), from_anndata(genes)
    assert found.gene_names() == expected.gene_names()
    assert found.fit == expected.fit
    assert found.account["kinds_left_out"] == "Antibody Capture 3"
    with Expression.open(both) as one, Expression.open(genes) as other:
        np.testing.assert_array_equal(one.ln_cp10k().toarray(), other.ln_cp10k().toarray())


def test_files_and_views_leave_the_same_features_out(tmp_path) -> None:
    both, genes = mixed()
    both.write_h5ad(tmp_path / "both.h5ad")
    both.X = both.X.tocsc()
    both.write_h5ad(tmp_path / "csc.h5ad")
    expected = from_anndata(genes).gene_names()
    for data in (tmp_path / "both.h5ad", tmp_path / "csc.h5ad", both, both[:, :]):
        assert from_anndata(data).gene_names() == expected


def test_check_counts_them() -> None:
    both, _ = mixed()
    report = c2s.check(both)
    assert report.numbers["genes"]["not_genes"] == 3
    assert any("3 rows that are no genes left out (" in finding.text for finding in report.findings)


BARCODES = [f"ACGTACGTACGT{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}-1" for i in range(16)]


@pytest.mark.parametrize("genes", [GENES, [f"ENSG{i:011}" for i in range(5)], ["Cd4", "Lyz2", "Gapdh", "Actb", "Cd3e"]])
@pytest.mark.parametrize("cells", [BARCODES, [f"cell_{i}" for i in range(9)], [str(i) for i in range(9)]])
def test_a_transposed_matrix_is_an_error(genes: list[str], cells: list[str]) -> None:
    with pytest.raises(ValueError, match=r"transposed.*adata\.T"):
        refuse_transposed(cells, genes)
    refuse_transposed(genes, cells)


def test_cells_named_like_genes_beside_genes_and_small_inputs() -> None:
    refuse_transposed(GENES, GENES)
    refuse_transposed(["transcript1", "transcript2"], ["c1", "c2"])
    refuse_transposed([], [])
    with pytest.raises(ValueError, match="transposed"):
        refuse_transposed(BARCODES, ["unknown_locus_1", "unknown_locus_2"])


def test_sentences_of_a_transposed_object() -> None:
    _, genes = mixed()
    genes.var_names = [*GENES, "ACTB", "B2M", "TP53", *genes.var_names[8:]]
    only = genes[:, :8].copy()
    with pytest.raises(ValueError, match="transposed"):
        from_anndata(only.T)
