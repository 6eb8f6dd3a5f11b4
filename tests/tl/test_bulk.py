"""tl.pseudobulk and tl.compose; tables of bulk samples as sentences."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata_objects import QUIET, written_and_read
from cells import GENES, cells, fake

from cell2sen import tl
from cell2sen.sentences import from_anndata


def labelled(n: int = 60) -> anndata.AnnData:
    adata = cells(n)
    adata.obs["type"] = [("B", "T")[row % 2] for row in range(n)]
    return adata


def test_pseudobulk_is_a_complete_object(tmp_path: Path) -> None:
    adata = labelled()
    adata.var["kind"] = "gene"
    bulk = tl.pseudobulk(adata, ["type", "donor"])
    again = written_and_read(bulk, tmp_path)
    assert np.array_equal(again.X.toarray(), bulk.X.toarray())
    assert bulk.obs_names.tolist() == ["B | d0", "T | d1"]
    assert bulk.obs["n_cells"].tolist() == [30, 30]
    assert bulk.var["kind"].tolist() == ["gene"] * len(GENES)
    assert bulk.uns["organism"] == "Homo sapiens"
    record = bulk.uns["cell2sen"]["pseudobulk"]
    assert (record["unit"], record["n_cells"], list(record["by"])) == ("counts", 60, ["type", "donor"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(
        tl.pseudobulk(tmp_path / "cells.h5ad", "type").X.toarray(), tl.pseudobulk(adata, "type").X.toarray()
    )
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert tl.pseudobulk(backed, "type").obs["n_cells"].tolist() == [30, 30]


def table(samples: pd.DataFrame, path: Path, *, rows: str) -> Path:
    """A table of samples × genes, with the samples in its rows or columns."""
    (samples if rows == "samples" else samples.T).to_csv(
        path, sep="\t" if path.suffix == ".tsv" else ",", index_label=""
    )
    return path


@pytest.mark.parametrize("rows", ["samples", "genes"])
@pytest.mark.parametrize("unit", ["counts", "tpm", "fpkm", "log2_tpm", "ln_tpm", "log2_tpm_with_gaps"])
def test_a_bulk_table_of_any_unit_gives_the_same_sentences(tmp_path: Path, rows: str, unit: str) -> None:
    """TPM and FPKM divide by lengths of transcripts; here all are equal, so the order of genes is that of counts."""
    rng = np.random.default_rng(0)
    counts = pd.DataFrame(
        rng.permuted(np.tile(np.arange(1, len(GENES) + 1) ** 2, (14, 1)), axis=1) * 3.0,
        index=[f"sample {number}" for number in range(14)],
        columns=GENES,
    )
    counts[counts < 30] = 0
    tpm = counts.div(counts.sum(axis=1), axis=0) * 1e6
    values = {
        "counts": counts,
        "tpm": tpm.round(4),
        "fpkm": (tpm * 0.37).round(4),
        "log2_tpm": np.log2(tpm + 1).round(6),
        "ln_tpm": np.log1p(tpm).round(6),
        "log2_tpm_with_gaps": np.log2(tpm + 1).round(6).mask(counts == 0),
    }[unit]
    path = table(values, tmp_path / "bulk.tsv", rows=rows)
    sentences = from_anndata(path)
    expected = [list(row[row > 0].sort_values(ascending=False).index) for _, row in counts.iterrows()]
    assert sentences.gene_names() == expected


def test_composition_of_pure_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"B": rng.gamma(0.3, 8, len(GENES)), "T": rng.gamma(0.3, 8, len(GENES))}
    types = np.repeat(["B", "T"], 40)
    counts = np.array([rng.poisson(base[kind]) for kind in types], dtype=np.float32)
    adata = anndata.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"type": types}, index=[f"c{n}" for n in range(80)]),
        var=pd.DataFrame(index=GENES),
    )
    bulk = anndata.AnnData(
        sp.csr_matrix(np.array([base["T"] * 100, base["B"] * 100, base["B"] * 50 + base["T"] * 50]).round()),
        obs=pd.DataFrame(index=["t", "b", "both"]),
        var=pd.DataFrame(index=GENES),
    )
    result = tl.compose(bulk, adata, "type", model=fake(), n_mixtures=40, k=5, **QUIET)
    assert result["sample"].tolist() == ["t", "t", "b", "b", "both", "both"]
    assert result.groupby("sample")["share"].sum().tolist() == pytest.approx([1, 1, 1])
    top = result.loc[result.groupby("sample")["correlation"].idxmax()].set_index("sample")["population"]
    assert (top["t"], top["b"]) == ("T", "B")
    nnls = result.set_index(["sample", "population"])["share_nnls"]
    assert nnls["t", "T"] > 0.95
    assert nnls["both", "B"] == pytest.approx(0.5, abs=0.05)
    assert result.attrs["cell2sen"]["compose"]["n_mixtures"] == 40
    with pytest.raises(ValueError, match="none of the 2 groups of type has 50 cells"):
        tl.compose(bulk, adata, "type", model=fake(), min_cells=50, **QUIET)
