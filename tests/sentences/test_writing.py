"""from_anndata: sentences and rank fit equal their definitions, whatever the order, storage and scale of the cells."""

from __future__ import annotations

import logging
import tracemalloc

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import cell2sen.sentences
from cell2sen.data import reader
from cell2sen.data.scale.units import BASES, Scale
from cell2sen.sentences import writing as module
from cell2sen.sentences.ranking import Recipe, hash_order
from cell2sen.sentences.writing import from_anndata

N, GENES = 40, 30


def slow_sentences(adata, max_genes=None, seed=0):
    place_of = dict(zip(adata.var_names, hash_order(list(adata.var_names), seed), strict=True))
    cells = []
    for row in adata.to_df().to_dict("records"):
        expressed = [(-value, place_of[gene], gene) for gene, value in row.items() if value > 0]
        cells.append([gene for *_, gene in sorted(expressed)][:max_genes])
    return cells


def normalised(adata, base=None, total=1e4):
    changed = adata.copy()
    matrix = changed.X.astype(np.float64)
    matrix.data *= np.repeat(total / np.asarray(matrix.sum(axis=1)).ravel(), np.diff(matrix.indptr))
    if base:
        matrix.data = np.log1p(matrix.data) / np.log(BASES[base])
    changed.X = matrix
    return changed


def same(first, second, rtol=1e-9):
    assert first.gene_names() == second.gene_names()
    assert first.names.tolist() == second.names.tolist()
    np.testing.assert_allclose(
        *([fit.slope, fit.intercept, fit.r_squared] for fit in (first.fit, second.fit)), rtol=rtol
    )


@pytest.mark.parametrize(("max_genes", "seed"), [(None, 0), (5, 0), (1, 7), (1000, 1)])
def test_sentences_equal_their_definition(adata, max_genes, seed):
    sentences = from_anndata(adata, Recipe(max_genes=max_genes, seed=seed))
    expected = slow_sentences(adata, max_genes, seed)
    assert sentences.gene_names() == expected
    assert sentences.gene_names(3) == [genes[:3] for genes in expected]
    assert list(map(list, sentences.gene_lists(3))) == sentences.gene_names(3)
    assert sentences.texts().to_pylist() == [" ".join(genes) for genes in expected]
    assert sentences.n_genes.tolist() == list(map(len, expected))
    assert sentences.symbols == list(adata.var_names)
    assert sentences.genes.type == pa.list_(pa.int32())
    assert len(sentences) == N


def test_the_fit_does_not_depend_on_max_genes(adata):
    assert from_anndata(adata, Recipe(max_genes=2)).fit == from_anndata(adata).fit


def test_the_fit_equals_its_definition(adata):
    dense = adata.X.toarray().astype(float)
    expression = np.log10(1 + dense / dense.sum(axis=1, keepdims=True) * 1e4)
    y = [-np.sort(-row[row > 0]) for row in expression]
    x = np.concatenate([np.log10(1 + np.arange(len(cell))) for cell in y])
    y = np.concatenate(y)
    slope, intercept = np.polyfit(x, y, 1)
    r_squared = 1 - np.sum((y - intercept - slope * x) ** 2) / np.sum((y - y.mean()) ** 2)
    fit = from_anndata(adata).fit
    np.testing.assert_allclose([fit.slope, fit.intercept, fit.r_squared], [slope, intercept, r_squared])


@pytest.mark.parametrize("base", [None, "e", "2", "10"])
@pytest.mark.parametrize("total", [1e4, 1e6, 37.0])
def test_normalised_input_is_not_normalised_again(adata, base, total):
    """Normalised twice, a slope of -1.21 becomes -0.47."""
    same(from_anndata(normalised(adata, base, total)), from_anndata(adata), rtol=1e-6)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_nothing_depends_on_order_blocks_or_storage(data):
    """Ties in column order would change 99 % of the positions when var is reordered."""
    adata = anndata.AnnData(
        sp.csr_matrix(np.random.default_rng(0).integers(0, 3, size=(9, 12)).astype(np.float32)),
        obs=pd.DataFrame(index=[f"c{row}" for row in range(9)]),
        var=pd.DataFrame(index=[f"GENE{gene}" for gene in range(12)]),
    )
    rows = data.draw(st.permutations(range(9)))
    columns = data.draw(st.permutations(range(12)))
    storage = data.draw(st.sampled_from([sp.csr_matrix, sp.csc_matrix, np.asarray]))
    recipe = Recipe(ties=data.draw(st.sampled_from(["hash", "random", "alphabetical"])), max_genes=8)
    expected = from_anndata(adata, recipe)
    moved = adata[rows, columns].copy()
    moved.X = storage(moved.X.toarray()).astype(data.draw(st.sampled_from([np.float32, np.float64, np.int16])))
    same(from_anndata(moved, recipe, block_rows=data.draw(st.integers(1, 10))), expected[np.array(rows)])


@pytest.mark.parametrize("kind", ["backed", "h5ad", "zarr"])
def test_files_give_the_same_as_memory(adata, kind, tmp_path):
    adata.raw = adata
    adata.layers["double"] = adata.X * 2
    adata.X = adata.X.tocsc()
    path = tmp_path / ("x.zarr" if kind == "zarr" else "x.h5ad")
    adata.write_zarr(path) if kind == "zarr" else adata.write_h5ad(path)
    data = anndata.read_h5ad(path, backed="r") if kind == "backed" else path
    for arguments in ({}, {"layer": "double"}, {"use_raw": True}):
        same(from_anndata(data, **arguments), from_anndata(adata, **arguments))
    if kind == "backed":
        same(from_anndata(data[5:9]), from_anndata(adata[5:9]))
        data.file.close()


def test_the_input_is_not_modified(adata):
    adata.X.data[0] = np.nan
    before = adata.copy()
    from_anndata(adata, Recipe(case="upper"), perturbation_column="drug", obs_columns=["kind"])
    np.testing.assert_array_equal(adata.X.data, before.X.data)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)


@pytest.mark.slow
def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_VALUES", 2**14)
    n, genes = 3000, 400
    values = sp.csr_matrix(np.random.default_rng(0).integers(0, 3, size=(n, genes)).astype(np.float32))
    adata = anndata.AnnData(values, obs=pd.DataFrame(index=[str(row) for row in range(n)]))
    adata.var_names = [f"GENE{gene}" for gene in range(genes)]
    adata.write_h5ad(tmp_path / "x.h5ad")
    size = values.data.nbytes + values.indices.nbytes
    del adata, values
    from_anndata(tmp_path / "x.h5ad", Recipe(max_genes=5))  # imports
    tracemalloc.start()
    from_anndata(tmp_path / "x.h5ad", Recipe(max_genes=5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 2, f"{peak / 1e6:.1f} of {size / 1e6:.1f} MB"


def test_case_collisions_are_merged_and_counted(adata):
    """Actb and ACTB become one column, and later genes keep their symbols."""
    adata = adata[:, :4].copy()
    adata.X = sp.csr_matrix(np.tile(np.array([[1, 5, 0, 3]], dtype=np.float32), (N, 1)))
    adata.var_names = ["Actb", "ACTB", "Cd4", "Lyz2"]
    kept = from_anndata(adata)
    assert kept.gene_names()[0] == ["ACTB", "Lyz2", "Actb"]
    upper = from_anndata(adata, Recipe(case="upper"))
    assert upper.gene_names()[0] == ["ACTB", "LYZ2"]
    assert upper.symbols == ["ACTB", "CD4", "LYZ2"]
    assert (upper.account["case_collisions"], kept.account["case_collisions"]) == (1, 0)


def test_genes_that_the_model_cannot_write_are_dropped_before_ranking(adata):
    known = [gene for gene in adata.var_names if not gene.endswith("3")]
    sentences = from_anndata(adata, Recipe(max_genes=4), known=lambda symbols: np.isin(symbols, known))
    assert sentences.gene_names() == slow_sentences(adata[:, known], 4)
    assert sentences.symbols == known
    assert sentences.account["n_unknown_to_model"] == 3
    assert sentences.account["examples_unknown_to_model"] == ["GENE3", "GENE13", "GENE23"]
    with pytest.raises(ValueError, match=r"the model can write none of the 30 genes.*GENE0.*symbols="):
        from_anndata(adata, known=lambda symbols: np.zeros(len(symbols), dtype=bool))


def test_dropped_genes_still_count_in_the_total_of_a_cell(adata):
    keep = adata.var_names[:20]
    expected = np.log10(1 + adata[:, keep].X.toarray() / np.asarray(adata.X.sum(axis=1)) * 1e4)
    fit = from_anndata(adata, known=lambda symbols: np.isin(symbols, keep)).fit
    y = [-np.sort(-row[row > 0]) for row in expected]
    x = np.concatenate([np.log10(1 + np.arange(len(cell))) for cell in y])
    np.testing.assert_allclose([fit.slope, fit.intercept], np.polyfit(x, np.concatenate(y), 1), rtol=1e-6)


def test_account_survives_h5ad(adata, tmp_path):
    adata.var_names = [*adata.var_names[:-3], "ENSG00000000001", "", "two words"]
    adata.var["feature_name"] = "x"
    sentences = from_anndata(adata, known=lambda symbols: np.array(symbols) != "GENE3")
    adata.uns["cell2sen"] = {"genes": dict(sentences.account), "recipe": sentences.recipe.provenance()}
    adata.write_h5ad(tmp_path / "x.h5ad")
    read = anndata.read_h5ad(tmp_path / "x.h5ad").uns["cell2sen"]
    assert read["genes"]["n_unknown_to_model"] == 1
    assert list(read["genes"]["examples_unknown_to_model"]) == ["GENE3"]
    assert read["recipe"] == {"max_genes": 0, "ties": "hash", "case": "keep", "seed": 0}
    assert set(read["genes"]) == set(sentences.account)


def test_nan_is_not_expressed_and_counted(adata, caplog):
    holes = adata.copy()
    holes.X.data[::7] = np.nan
    n = int(np.isnan(holes.X.data).sum())
    filled = adata.copy()
    filled.X.data[::7] = 0
    sentences = from_anndata(holes)
    assert f"{n} missing values (NaN) in X" in caplog.text
    assert sentences.account["n_missing_values"] == n
    same(sentences, from_anndata(filled))


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "not be negative.*z-scores.*there is layer='counts'"), (np.inf, "infinite"), (-np.inf, "negative")],
)
def test_values_that_cannot_be_ranked(adata, value, message):
    adata.layers["counts"] = adata.X.copy()
    adata.X.data[-1] = value
    with pytest.raises(ValueError, match=message):
        from_anndata(adata)
    from_anndata(adata, layer="counts")


def test_one_bad_value_outside_the_sample_is_found(adata):
    many = anndata.concat([adata] * 50, index_unique="-")
    many.X.data[many.X.indptr[600]] = -1  # between the runs of the sample
    with pytest.raises(ValueError, match="negative"):
        from_anndata(many)


def test_cells_without_genes(adata, caplog):
    adata.X = sp.csr_matrix(sp.diags([0.0] + [1.0] * (N - 1)) @ adata.X)
    sentences = from_anndata(adata)
    assert sentences.n_genes[0] == 0
    assert sentences.texts()[0].as_py() == ""
    assert sentences.account["n_cells_without_genes"] == 1
    assert "1 of 40 cells have no expressed gene" in caplog.text
    assert "'cell 0'" in caplog.text
    same(sentences[1:], from_anndata(adata[1:]))
    empty = adata.copy()
    empty.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    empty.layers["counts"] = adata.X
    with pytest.raises(ValueError, match=r"none of the 40 cells has an expressed gene.*layer='counts'"):
        from_anndata(empty)


def test_all_zero_genes_stay_in_the_vocabulary(adata):
    adata.X = sp.csr_matrix(adata.X @ sp.diags([0.0] + [1.0] * (GENES - 1)))
    sentences = from_anndata(adata)
    assert "GENE0" in sentences.symbols
    assert not any("GENE0" in genes for genes in sentences.gene_names())


def test_empty_object():
    with pytest.raises(ValueError, match="is empty: 0 cells and 2 genes"):
        from_anndata(anndata.AnnData(np.zeros((0, 2), dtype=np.float32)))


def test_unknown_columns_list_the_available_ones(adata):
    for arguments in ({"perturbation_column": "pert"}, {"obs_columns": ["pert"]}, {"obs_columns": "pert"}):
        with pytest.raises(KeyError, match=r"no column 'pert'; available: \['kind', 'score', 'batch', 'drug'\]"):
            from_anndata(adata, **arguments)


def test_lists_of_the_wrong_length(adata):
    with pytest.raises(ValueError, match="40 cells, found 2"):
        from_anndata(adata, organism=["human", "mouse"])


def test_missing_perturbations_are_none(adata, tmp_path):
    """``None`` in memory is NaN after a round trip through a file."""
    expected = (None, None, "IFN-beta", None) * (N // 4)
    assert from_anndata(adata, perturbation_column="drug").perturbations == expected
    for values in ([None, "a"], ["a", None], pd.Categorical(["a", None]), np.array([None, "a"], dtype=object)):
        file = anndata.AnnData(adata.X[:2], obs=pd.DataFrame({"drug": values}, index=["x", "y"]))
        file.var_names = adata.var_names
        file.write_h5ad(tmp_path / "x.h5ad")
        for data in (file, tmp_path / "x.h5ad", anndata.read_h5ad(tmp_path / "x.h5ad")):
            sentences = from_anndata(data, perturbation_column="drug")
            assert sorted(sentences.perturbations, key=str) == [None, "a"]
            assert sentences.to_dataset()["perturbations"][:] == list(sentences.perturbations)


def test_uncertain_scale_gives_one_warning(adata, caplog):
    caplog.set_level(logging.WARNING, logger="cell2sen")
    adata.X.data *= np.random.default_rng(0).uniform(0.5, 1, size=adata.X.nnz)
    assert not from_anndata(adata).scale.certain
    assert len(caplog.records) == 1
    assert "the scale of X is not certain; the values are taken for: counts with decimals, assumed" in caplog.text
    assert "If it is another one, pass scale= or --scale (counts, cp10k, " in caplog.text


def test_clear_input_gives_no_warning(adata, caplog):
    caplog.set_level(logging.WARNING, logger="cell2sen")
    assert from_anndata(adata).scale == Scale(kind="counts")
    assert not caplog.records


def test_names_need_not_be_unique(adata):
    adata.obs_names = ["a"] * N
    adata.var_names = [*adata.var_names[:-1], "GENE0"]
    sentences = from_anndata(adata, Recipe(ties="random"))
    assert sentences.names.tolist() == ["a"] * N
    assert len(sentences.symbols) == GENES - 1
    assert all(len(set(genes)) == len(genes) for genes in sentences.gene_names())


def test_organism_is_that_of_the_present_dataset(adata):
    adata.uns["organism"] = "mouse"
    assert set(from_anndata(adata).organism) == {"Mus musculus"}
    del adata.uns["organism"]
    assert set(from_anndata(adata).organism) == {"Homo sapiens"}
    adata.obs["species"] = ["human", "mouse"] * (N // 2)
    assert from_anndata(adata).organism == ("Homo sapiens", "Mus musculus") * (N // 2)


@pytest.mark.slow
def test_real_counts(shared_data):
    path = shared_data / "kang_ifnb_2000x9015.h5ad"
    sentences = from_anndata(path, Recipe(max_genes=200), perturbation_column="condition")
    real = anndata.read_h5ad(path)
    assert sentences.gene_names()[:20] == slow_sentences(real[:20], 200)
    assert set(sentences.perturbations) == set(real.obs["condition"])
    assert -0.8 < sentences.fit.slope < -0.6
    assert sentences.fit.r_squared > 0.8
    log = normalised(real, "e")
    log.X = log.X.astype(np.float32)
    subset = log[:, ::2].copy()
    same(from_anndata(log, Recipe(max_genes=200)), sentences, rtol=1e-4)
    assert from_anndata(subset).scale == Scale(kind="log", base="e", total=1e4, certain=False)


def test_real_ensembl_ids(shared_data):
    sentences = from_anndata(shared_data / "mouse_brain_merfish_1000x1122.h5ad")
    assert set(sentences.organism) == {"Mus musculus"}
    assert not any(symbol.startswith("ENSMUSG") for symbol in sentences.symbols)


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_neither_threads_nor_parts_change_a_sentence(adata, cores, monkeypatch):
    many = anndata.concat([adata] * 9, index_unique="-")
    many.obs_names = [f"cell {row}" for row in range(many.n_obs)]
    expected = from_anndata(many, Recipe(ties="random", max_genes=20))
    monkeypatch.setattr("cell2sen.sentences.threads.n_threads", lambda: cores)
    same_bits = from_anndata(many, Recipe(ties="random", max_genes=20))
    assert same_bits.fit == expected.fit
    monkeypatch.setattr(module, "_PART_VALUES", 100)
    for sentences in (same_bits, from_anndata(many, Recipe(ties="random", max_genes=20))):
        same(sentences, expected)


def test_an_error_in_a_thread_is_raised(adata, monkeypatch):
    monkeypatch.setattr(module, "_PART_VALUES", 100)
    many = anndata.concat([adata] * 50, index_unique="-")
    many.X.data[many.X.indptr[600]] = -1
    with pytest.raises(ValueError, match="must not be negative"):
        from_anndata(many)


def test_the_function_is_a_name_of_its_folder():
    assert cell2sen.sentences.from_anndata is from_anndata
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cell2sen.sentences.nothing  # noqa: B018
