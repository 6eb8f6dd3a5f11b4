"""Expression: one opening, one gene map and one scale; values equal their definitions in any storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2sen.data import expression as module
from cell2sen.data import reader
from cell2sen.data.expression import Expression
from cell2sen.data.scale.units import COUNTS, Scale

N = 50
NAMES = ["CD4", "B2M", "LYZ", "CD4", "ENSG00000000001", "ACTB"]
SYMBOLS = ("CD4", "B2M", "LYZ", "ACTB")


@pytest.fixture
def adata() -> anndata.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, size=(N, len(NAMES))).astype(np.float32)
    adata = anndata.AnnData(
        sp.csr_matrix(counts), obs=pd.DataFrame({"kind": ["T", "B"] * (N // 2)}, index=[f"c{row}" for row in range(N)])
    )
    adata.var_names = NAMES
    adata.uns["organism"] = "human"
    return adata


def store(adata: anndata.AnnData, kind: str, folder: Path) -> Any:
    """The object in the storage `kind`: in memory, backed or in a file."""
    if kind in ("csr", "csc", "dense"):
        adata.X = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](adata.X.toarray())
        return adata
    if kind == "zarr":
        adata.write_zarr(folder / "x.zarr")
        return folder / "x.zarr"
    if kind == "h5ad-csc":
        adata.X = adata.X.tocsc()
    if kind == "h5ad-dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "x.h5ad")
    return anndata.read_h5ad(folder / "x.h5ad", backed="r") if kind == "backed" else folder / "x.h5ad"


KINDS = ["csr", "csc", "dense", "backed", "h5ad", "h5ad-csc", "h5ad-dense", "zarr"]


def slow_ln_cp10k(counts: np.ndarray) -> np.ndarray:
    """ln(1 + CP10k) over SYMBOLS, by definition."""
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    return np.stack([values[:, [name == symbol for name in NAMES]].max(axis=1) for symbol in SYMBOLS], axis=1)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("kind", KINDS)
def test_values_equal_their_definition(adata: anndata.AnnData, kind: str, tmp_path: Path) -> None:
    counts = adata.X.toarray()
    with Expression.open(store(adata, kind, tmp_path)) as expression:
        assert expression.symbols == SYMBOLS
        assert expression.scale == COUNTS
        assert (len(expression), list(expression.names[:2])) == (N, ["c0", "c1"])
        assert expression.obs["kind"].tolist() == ["T", "B"] * (N // 2)
        assert expression.organism() == ("Homo sapiens",) * N
        assert expression.organism("mouse") == ("Mus musculus",) * N
        blocks = list(expression.blocks(16))
        assert [block.first for block in blocks] == [0, 16, 32, 48]
        sums = np.concatenate([expression.row_sums(block) for block in blocks])
        np.testing.assert_array_equal(sums, counts.sum(axis=1))
        ln = expression.ln_cp10k()
        assert (ln.dtype, ln.format, ln.shape) == (np.float32, "csr", (N, len(SYMBOLS)))
        np.testing.assert_allclose(ln.toarray(), slow_ln_cp10k(counts), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_gene_map_and_scale(adata: anndata.AnnData, kind: str, tmp_path: Path) -> None:
    with Expression.open(store(adata, kind, tmp_path)) as expression:
        all_rows = expression.ln_cp10k().toarray()
        for rows in (slice(3, 20), slice(None, None, 7), np.array([9, 2, 3, 4, 40]), np.arange(N) % 3 == 1):
            part = expression[rows]
            assert part.names.tolist() == expression.names[rows].tolist()
            assert part.scale is expression.scale
            assert part.gene_map is expression.gene_map
            np.testing.assert_array_equal(part.ln_cp10k().toarray(), all_rows[rows])
            half = part[2:5]
            np.testing.assert_array_equal(half.ln_cp10k().toarray(), all_rows[rows][2:5])
            assert [block.values.shape[0] for block in part.blocks(2)][:2] == [2, 2]
        for rows in ([], [1, 1]):
            with pytest.raises(ValueError, match="at least one row and none twice"):
                expression[rows]


def test_log_values_are_normalised_back(adata: anndata.AnnData) -> None:
    counts = adata.X.toarray().astype(np.float64)
    expected = slow_ln_cp10k(counts)
    for base, name in ((np.e, "e"), (2.0, "2")):
        adata.X = (np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4) / np.log(base)).astype(np.float32)
        expression = Expression.open(adata)
        assert expression.scale == Scale(kind="log", base=name, total=1e4)  # type: ignore[arg-type]
        np.testing.assert_allclose(expression.ln_cp10k().toarray(), expected, rtol=1e-5)
    as_counts = Expression.open(adata, scale=COUNTS)
    assert as_counts.scale == COUNTS


def test_known_genes(adata: anndata.AnnData) -> None:
    expression = Expression.open(adata)
    subset = expression.known_to(lambda symbols: np.array([symbol != "B2M" for symbol in symbols]))
    assert subset.symbols == ("CD4", "LYZ", "ACTB")
    assert (subset.account["n_unknown_to_model"], subset.account["examples_unknown_to_model"]) == (1, ["B2M"])
    assert "n_unknown_to_model" not in expression.account
    np.testing.assert_array_equal(subset.ln_cp10k().toarray(), expression.ln_cp10k().toarray()[:, [0, 2, 3]])
    with pytest.raises(ValueError, match=r"the model can write none of the 4 genes.*CD4.*symbols="):
        expression.known_to(lambda symbols: np.zeros(len(symbols), dtype=bool))


def test_unchanged_columns_are_not_copied(adata: anndata.AnnData) -> None:
    assert not Expression.open(adata).has_all_columns
    plain = adata[:, [0, 1, 2, 5]].copy()
    expression = Expression.open(plain)
    assert expression.has_all_columns
    assert not expression.known_to(lambda symbols: np.array(symbols) != "LYZ").has_all_columns
    assert expression.over_symbols(plain.X) is plain.X


def test_missing_values_are_zero_and_counted(adata: anndata.AnnData) -> None:
    adata.X.data[:5] = np.nan
    before = adata.X.data.copy()
    expression = Expression.open(adata)
    assert sum(block.n_missing for block in expression.blocks(7)) == 5
    assert np.isfinite(expression.ln_cp10k().data).all()
    np.testing.assert_array_equal(adata.X.data, before)


def test_cells_without_counts_are_zero(adata: anndata.AnnData) -> None:
    adata.X.data[: adata.X.indptr[1]] = 0  # stored zeros
    with np.errstate(all="raise"):
        ln = Expression.open(adata).ln_cp10k().toarray()
    assert (ln[0] == 0).all()
    assert np.isfinite(ln).all()


def test_rounding_noise_is_zero_and_counted(adata: anndata.AnnData) -> None:
    counts = adata.X.toarray().astype(np.float64)
    noise = np.where(counts == 0, np.random.default_rng(1).uniform(-1, 1, counts.shape) * 1e-16, 0)
    adata.X = counts + noise
    expression = Expression.open(adata)
    assert expression.scale == COUNTS
    assert sum(block.n_noise for block in expression.blocks(7)) == np.sum(noise != 0)
    np.testing.assert_allclose(expression.ln_cp10k().toarray(), slow_ln_cp10k(counts), rtol=1e-6)
    np.testing.assert_array_equal(adata.X, counts + noise)


def test_counts_that_are_whole_but_for_rounding_become_whole(adata: anndata.AnnData) -> None:
    counts = adata.X.toarray()
    adata.X = np.expm1(np.log1p(counts / 3)) * 3
    assert (counts != adata.X).any()
    with Expression.open(adata) as expression:
        assert expression.scale == COUNTS
        found = np.concatenate([block.all_genes.toarray() for block in expression.blocks(16)])
    np.testing.assert_array_equal(found, counts)


def test_negative_values_are_refused_in_their_matrix_only(adata: anndata.AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X.data[-1] = -1
    with pytest.raises(ValueError, match=r"not be negative.*there is layer='counts'"):
        Expression.open(adata)
    assert Expression.open(adata, layer="counts").scale == COUNTS


def test_unrankable_cells_outside_of_the_sample_are_counted() -> None:
    values = np.random.default_rng(0).poisson(2.0, size=(2000, 20)).astype(np.float32)
    values[300:310] -= 0.5
    adata = anndata.AnnData(values)
    adata.obs_names, adata.var_names = [f"c{row}" for row in range(2000)], [f"GENE{number}" for number in range(20)]
    expression = Expression.open(adata)
    with pytest.raises(
        ValueError, match=r"10 of 2,000 cells in X, for example 'c300': expression must not be negative"
    ):
        expression.ln_cp10k()


def test_a_file_is_opened_once_and_closed(
    adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "x.h5ad")
    files = []

    class Counted(h5py.File):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            files.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(h5py, "File", Counted)
    with Expression.open(tmp_path / "x.h5ad") as expression:
        expression[:10].ln_cp10k()
        expression.ln_cp10k()
        assert (len(files), bool(files[0])) == (1, True)
    assert not files[0]
    assert (len(expression), expression.symbols) == (N, SYMBOLS)  # available after closing
    with pytest.raises(KeyError, match="no column 'x'"):
        Expression.open(tmp_path / "x.h5ad", symbols="x")
    with pytest.raises(KeyError, match="no 'x'"):
        Expression.open(tmp_path / "x.h5ad", layer="x")
    assert not any(files), "a file stayed open after an error"


def test_genes_are_resolved_once(adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    resolve_genes = module.resolve_genes
    monkeypatch.setattr(
        module, "resolve_genes", lambda *given, **options: calls.append(1) or resolve_genes(*given, **options)
    )
    monkeypatch.setattr(reader, "BLOCK_ROWS", 8)
    adata.var_names = [f"{name}x" for name in NAMES]
    expression = Expression.open(adata)
    expression[3:9].ln_cp10k()
    expression.ln_cp10k()
    assert len(calls) == 1


@pytest.mark.parametrize("case", ["keep", "upper"])
@pytest.mark.parametrize("prefix", ["", "rna_"])
def test_the_organism_is_guessed_from_the_symbols_if_the_index_has_none(case: Any, prefix: str) -> None:
    symbols = ["Cd4", "B2m", "Lyz2", "Actb", "Gapdh", "Ptprc"]
    var = pd.DataFrame({"features": [prefix + name for name in symbols]}, index=[str(row) for row in range(6)])
    adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (5, 6)).astype(np.float32), var=var)
    assert Expression.open(adata, case=case).organism() == ("Mus musculus",) * 5


def test_limited_to_some_genes(adata: anndata.AnnData) -> None:
    with Expression.open(adata) as expression:
        part = expression.limited_to(["ACTB", "NOT-A-GENE", "B2M"])
        assert part.symbols == ("B2M", "ACTB")
        np.testing.assert_allclose(part.ln_cp10k().toarray(), expression.ln_cp10k().toarray()[:, [1, 3]])
