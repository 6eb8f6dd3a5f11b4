"""GeneReader: the values of a reader, with empty columns for what is no gene of the cell's organism."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from genes import frame

from cell2sen.data.gene_reader import genes_of
from cell2sen.data.genes.symbols import resolve_genes
from cell2sen.data.reader import open_reader

N = 30
NAMES = ["CD4", "AB_CD4", "LYZ", "HTO_1", "GAPDH"]
IS_GENE = np.array([True, False, True, False, True])


def counts(n_genes: int) -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (N, n_genes)).astype(np.float32)


@pytest.mark.parametrize("storage", ["csr", "csc", "dense", "h5ad", "h5ad csc", "zarr"])
def test_all_ways_to_read(storage: str, tmp_path) -> None:
    values = counts(5)
    matrix = {"csc": sp.csc_matrix, "dense": np.asarray}.get(storage.removeprefix("h5ad "), sp.csr_matrix)(values)
    data = anndata.AnnData(matrix, pd.DataFrame(index=[f"c{i}" for i in range(N)]), frame(NAMES))
    if storage.startswith("h5ad"):
        data.write_h5ad(tmp_path / "cells.h5ad")
    if storage == "zarr":
        data.write_zarr(tmp_path / "cells.zarr")
    path = {"h5ad": tmp_path / "cells.h5ad", "zarr": tmp_path / "cells.zarr"}.get(storage.split()[0], data)
    expected = values * IS_GENE
    with open_reader(path) as opened:
        reader = genes_of(opened, resolve_genes(opened.var))
        for shared in (False, True):
            blocks = [block.toarray() for _, block in reader.blocks(7, shared=shared)]
            np.testing.assert_array_equal(np.vstack(blocks), expected)
        np.testing.assert_array_equal(reader.read(np.array([4, 2])).toarray(), expected[[4, 2]])
        np.testing.assert_array_equal(reader.sample(100).toarray(), expected)
        np.testing.assert_array_equal(reader[[5, 1]].read(np.array([1, 0])).toarray(), expected[[1, 5]])
    np.testing.assert_array_equal(values, counts(5))


def test_a_reader_of_genes_is_the_reader_itself() -> None:
    data = anndata.AnnData(counts(2), var=frame(["CD4", "LYZ"]))
    reader = open_reader(data)
    assert genes_of(reader, resolve_genes(reader.var)) is reader


def test_cells_of_a_mixture() -> None:
    names = [*(f"GRCh38_H{i}" for i in range(4)), *(f"mm10_M{i}" for i in range(4)), "GFP"]
    values = counts(9)
    values[::2, :4] *= 9
    values[1::2, 4:8] *= 9
    values[3, 0] = np.nan
    data = anndata.AnnData(sp.csr_matrix(values), var=frame(names))
    opened = open_reader(data)
    reader = genes_of(opened, resolve_genes(opened.var))
    human = np.nansum(values[:, :4], axis=1) >= values[:, 4:8].sum(axis=1)
    assert reader.organism_of_cells == tuple(np.where(human, "Homo sapiens", "Mus musculus"))
    expected = values.copy()
    expected[human, 4:8] = 0
    expected[~human, :4] = 0
    np.testing.assert_array_equal(reader.read(np.arange(N)).toarray(), expected)
