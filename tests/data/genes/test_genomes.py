"""Genomes: names in front of genes are taken off, and tell the organism of genes and of mixed cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from genes import frame

from cell2sen.data.expression import Expression
from cell2sen.data.genes.genomes import organisms_of_ids, without_genomes
from cell2sen.data.genes.symbols import resolve_genes
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.writing import from_anndata

HUMAN = ("CD3D", "HLA-DRA", "7SK", "RP11-34P13.7", "5S_rRNA", "NKX2-5")
MOUSE = ("Cd3d", "H2-K1", "0610007P14Rik", "mt-Co1")
PREFIXES = [
    "GRCh38_", "GRCh38___", "GRCh38______", "GRCh38---", "GRCh38-", "hg19_", "hg38-", "GRCh38-2020-A_",
    "GRCh38_premrna_", "GRCh38-1.2.0_premrna_", "hg19-3.0.0_", "GRCh38-3.0.0___", "grch38_", "hg19.",
    "CHM13v2.0_", "GRCh38 ",
]  # fmt: skip


@pytest.mark.parametrize("name", ["Rn4.5s", "RN5-8S1", "RN7SK", "CE10", "MM", "HS3ST1", "Mus81"])
def test_names_of_genes_have_no_genome(name: str) -> None:
    assert without_genomes((name, "CD4", "ACTB")).prefixes == {}


@pytest.mark.parametrize("suffix", ["_GRCh38", "-hg38", ".hg19"])
def test_genomes_behind_names(suffix: str) -> None:
    found = without_genomes(tuple(name + suffix for name in HUMAN))
    assert (found.names, found.prefixes) == (HUMAN, {suffix: len(HUMAN)})
    assert found.organisms == ("Homo sapiens",) * len(HUMAN)


@pytest.mark.parametrize("prefix", ["rna_", "gene-", "gene_", "gene:", "GENE_", "sct_"])
def test_words_in_front_of_all_names(prefix: str) -> None:
    found = without_genomes(tuple(prefix + name for name in HUMAN))
    assert (found.names, set(found.organisms or ())) == (HUMAN, {None})
    numbered = ("gene_1", "gene_2", "gene_17")
    assert without_genomes(numbered).names == numbered


@pytest.mark.parametrize("prefix", PREFIXES)
def test_human_prefixes(prefix: str) -> None:
    found = without_genomes(tuple(prefix + name for name in HUMAN))
    assert found.names == HUMAN
    assert found.organisms == ("Homo sapiens",) * len(HUMAN)
    assert found.prefixes == {prefix: len(HUMAN)}


@pytest.mark.parametrize("prefix", ["mm10_", "mm10___", "mm10---", "GRCm38_", "GRCm39-2024-A___", "mm10_premrna____"])
def test_mouse_prefixes(prefix: str) -> None:
    found = without_genomes(tuple(prefix + name for name in MOUSE))
    assert (found.names, found.organisms) == (MOUSE, ("Mus musculus",) * len(MOUSE))


@pytest.mark.parametrize("prefix", ["human_", "HUMAN-", "hs_", "mouse_", "rna_", "rna:", "9606_", "taxon10090:"])
def test_words_count_in_front_of_nearly_all_names_only(prefix: str) -> None:
    assert without_genomes(tuple(prefix + name for name in HUMAN)).names == HUMAN
    few = (*HUMAN, *(prefix + name for name in HUMAN[:2]))
    assert without_genomes(few).names == few


@pytest.mark.parametrize("names", [HUMAN, MOUSE, ("MM1", "HS3ST1", "HUMAN1", "RNA5S1", "MMP-9", "HSP90", "mm")])
def test_names_without_genomes(names: tuple[str, ...]) -> None:
    found = without_genomes(names)
    assert (found.names, found.organisms, found.prefixes) == (names, None, {})


def test_transgenes_and_identifiers_beside_the_genome() -> None:
    found = without_genomes(("GRCh38_CD3D", "GFP", None, "GRCh38_ENSG00000167286"))
    assert found.names == ("CD3D", "GFP", None, "ENSG00000167286")
    assert found.organisms == ("Homo sapiens", None, None, "Homo sapiens")


def test_account_and_organism() -> None:
    var = frame(["mm10___CD3D", "mm10___LYZ2", "mm10___ACTB"])
    gene_map = resolve_genes(var)
    assert gene_map.symbols == ("CD3D", "LYZ2", "ACTB")
    assert (gene_map.account["prefixes_removed"], gene_map.account["examples"]["prefixes_removed"]) == (3, ["mm10___"])
    adata = anndata.AnnData(np.ones((2, 3), dtype=np.float32), var=var)
    assert Expression.open(adata).organism() == ("Mus musculus",) * 2  # upper case alone would mean human
    assert Expression.open(adata).organism("human") == ("Homo sapiens",) * 2


def test_a_column_of_symbols_has_genomes_too() -> None:
    var = frame(["GRCh38_ENSG00000167286", "GRCh38_ENSG00000090382"], gene_symbols=["GRCh38_CD3D", "GRCh38_LYZ"])
    assert resolve_genes(var).symbols == ("CD3D", "LYZ")


@pytest.mark.parametrize("ids", [False, True])
def test_cells_of_a_mixture_have_the_genes_of_their_own_organism(ids: bool) -> None:
    human, mouse = ["CD3D", "LYZ", "GAPDH"], ["Cd3d", "Lyz2", "Gapdh"]
    names = [f"GRCh38_{name}" for name in human] + [f"mm10___{name}" for name in mouse]
    symbols = [*human, *mouse]
    if ids:
        names = [f"ENSG{i:011}" for i in range(3)] + [f"ENSMUSG{i:011}" for i in range(3)]
    counts = np.array([[9, 5, 30, 1, 0, 2], [1, 0, 1, 20, 8, 3]], dtype=np.float32)
    adata = anndata.AnnData(sp.csr_matrix(counts), var=pd.DataFrame({"symbol": symbols}, index=names))
    sentences = from_anndata(adata)
    assert sentences.organism == ("Homo sapiens", "Mus musculus")
    assert sentences.gene_names() == [["GAPDH", "CD3D", "LYZ"], ["Cd3d", "Lyz2", "Gapdh"]]
    expected = np.log1p(counts * [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]] / [[44], [31]] * 1e4)
    np.testing.assert_allclose(Expression.open(adata).ln_cp10k().toarray(), expected, rtol=1e-6)


def test_a_column_of_genomes_tells_the_organism_of_plain_names() -> None:
    var = pd.DataFrame({"genome": ["GRCh38"] * 3 + ["mm10"] * 3}, index=["CD3D", "LYZ", "ACTB", "Cd3d", "Lyz2", "Actb"])
    counts = np.array([[9, 5, 30, 1, 0, 2], [1, 0, 1, 20, 8, 3]], dtype=np.float32)
    sentences = from_anndata(anndata.AnnData(sp.csr_matrix(counts), var=var), Recipe(case="upper"))
    assert sentences.organism == ("Homo sapiens", "Mus musculus")
    assert sentences.gene_names() == [["ACTB", "CD3D", "LYZ"], ["CD3D", "LYZ2", "ACTB"]]
    mouse = frame(["CD3D", "LYZ2", "ACTB"], genome=["mm10-2020-A"] * 3)  # in upper case, which alone would mean human
    assert Expression.open(anndata.AnnData(counts[:, :3], var=mouse)).organism() == ("Mus musculus",) * 2
    unknown = frame(["CD3D", "LYZ", "ACTB"], genome=["custom", "", None])
    assert Expression.open(anndata.AnnData(counts[:, :3], var=unknown)).organism() == ("Homo sapiens",) * 2


def test_identifiers_of_one_organism_are_no_mixture() -> None:
    assert organisms_of_ids([f"ENSG{i:011}" for i in range(30)] + ["ENSMUSG00000000001"]) is None
    assert organisms_of_ids(["CD4", None]) is None
