"""tl.transfer: what is written, votes, stored embeddings, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import fake
from typed_cells import TYPES, typed

import cell2sen as c2s

KEY = "transferred_cell_type"
QUICK: dict[str, Any] = {"progress": False, "classifier": "logistic", "features": "embedding"}


def test_results(tmp_path: Path) -> None:
    query, reference = typed(40, seed=1), typed(90, seed=2)
    query.obs["group"] = pd.Categorical([None if row == 3 else str(row % 4) for row in range(40)])
    before = query.copy()
    c2s.tl.transfer(query, reference, "cell_type", cluster="group", model=fake(), progress=False)
    table = c2s.tl.probabilities(query)
    assert table.columns.tolist() == list(TYPES)
    np.testing.assert_array_equal(query.obs[f"{KEY}_score"], table.max(axis=1))
    assert query.obs[KEY].astype(str).tolist() == table.idxmax(axis=1).tolist()
    for group in "0123":
        cells = query.obs[query.obs["group"] == group]
        (top,) = set(cells[f"{KEY}_majority_voting"].astype(str))
        assert top in cells[KEY].astype(str).mode().tolist()
        np.testing.assert_allclose(cells[f"{KEY}_majority_share"], np.mean(cells[KEY].astype(str) == top))
    assert query.obs[f"{KEY}_majority_voting"].iloc[3] == query.obs[KEY].iloc[3]
    record = query.uns["cell2sen"]["transfer"]
    assert record["clusters_of"] == "group"
    assert record["clusters"].index.tolist() == list("0123")
    pd.testing.assert_frame_equal(query.obs[before.obs.columns], before.obs)
    assert (query.X != before.X).nnz == 0
    query.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(c2s.tl.probabilities(read, KEY), table)
    assert read.uns["cell2sen"]["transfer"]["clusters"]["types"].isin(["one", "several"]).all()
    assert read.uns["cell2sen"]["transfer"]["held_out"]["accuracy"] > 0.8


def test_copy_key_and_threshold() -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    result = c2s.tl.transfer(
        query, reference, "cell_type", key_added="x", threshold=1.0, majority_voting=False, copy=True, model=fake(),
        **QUICK,
    )  # fmt: skip
    assert list(query.obs) == ["cell_type", "donor"]
    assert result is not None
    assert set(result.obs["x"]) == {"unknown"}
    assert "x_cluster" not in result.obs
    with pytest.raises(ValueError, match="threshold must"):
        c2s.tl.transfer(query, reference, "cell_type", threshold=2.0)


@pytest.mark.filterwarnings("ignore")
def test_clusters_by_leiden_do_not_depend_on_the_order() -> None:
    pytest.importorskip("igraph")
    query, reference = typed(60, seed=1), typed(90, seed=2)
    c2s.tl.transfer(query, reference, "cell_type", model=fake(), **QUICK)
    order = np.random.default_rng(0).permutation(60)
    other = typed(60, seed=1)[order].copy()
    c2s.tl.transfer(other, reference, "cell_type", model=fake(), **QUICK)
    column = f"{KEY}_majority_voting"
    assert other.obs[column].astype(str).tolist() == query.obs[column].astype(str).iloc[order].tolist()
    assert other.obs[f"{KEY}_cluster"].notna().all()


def test_embeddings_of_a_file_are_kept_beside_it(tmp_path: Path) -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "reference.h5ad"
    reference.write_h5ad(file)
    content = file.read_bytes()
    tables = []
    for given, cache in ((file, None), (str(file), True), (file, False), (reference, None)):
        adata = query.copy()
        c2s.tl.transfer(adata, given, "cell_type", cache=cache, majority_voting=False, model=fake(), **QUICK)
        tables.append(c2s.tl.probabilities(adata))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    stored = [path for path in file.parent.iterdir() if path != file]
    assert len(stored) == 1
    assert stored[0].name.startswith("reference.h5ad.")
    assert file.read_bytes() == content
    (tmp_path / "cache").mkdir()
    c2s.tl.transfer(
        query, reference, "cell_type", cache=tmp_path / "cache", majority_voting=False, model=fake(), **QUICK
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_vectors_of_another_layer(tmp_path: Path) -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    vectors = []
    for layer in (-1, 1, 1):
        c2s.tl.transfer(
            query, reference, "cell_type", hidden_layer=layer, cache=tmp_path, majority_voting=False, model=fake(),
            **QUICK,
        )  # fmt: skip
        assert query.uns["cell2sen"]["transfer"]["hidden_layer"] == layer
        vectors.append(query.obsm["X_cell2sen_shared"])
    c2s.tl.embed(query, hidden_layer=1, model=fake(), progress=False)
    np.testing.assert_array_equal(vectors[1], query.obsm["X_cell2sen"])
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])
    assert len(list(tmp_path.iterdir())) == 2


def test_errors_come_before_the_model(tmp_path: Path) -> None:
    query = typed(20, seed=1)
    with pytest.raises(FileNotFoundError):
        c2s.tl.transfer(query, tmp_path / "none.h5ad", "cell_type", model=fake(), **QUICK)
    with pytest.raises(KeyError, match="has no column 'cluster'"):
        c2s.tl.transfer(query, typed(20, seed=2), "cell_type", cluster="cluster", model=fake(), **QUICK)
    with pytest.raises(TypeError, match="expected an AnnData"):
        c2s.tl.transfer("query.h5ad", typed(20, seed=2), "cell_type")  # type: ignore[arg-type]


def test_ids_of_the_cell_ontology() -> None:
    query, reference = typed(20, seed=1), typed(90, seed=2)
    reference.obs["cell_type_ontology_term_id"] = [
        "CL:0000788" if label == "B cell" else None for label in reference.obs["cell_type"]
    ]
    c2s.tl.transfer(query, reference, "cell_type", majority_voting=False, model=fake(), **QUICK)
    ids = {"B cell": "CL:0000788", "NK cell": "CL:0000623", "T cell": "CL:0000084"}
    assert query.obs[f"{KEY}_ontology_term_id"].tolist() == [ids[label] for label in query.obs[KEY]]


def test_ids_of_a_column() -> None:
    adata = typed(6, seed=1)
    adata.obs["type"] = ["T cells", "cluster 3", None, "CD14+ Mono", "T cells", "NK"]
    assert c2s.tl.ontology_ids(adata, "type") == {
        "CD14+ Mono": "CL:0001054",
        "NK": "CL:0000623",
        "T cells": "CL:0000084",
    }
    ids = adata.obs["type_ontology_term_id"].astype(object)
    assert ids.where(ids.notna(), None).tolist() == ["CL:0000084", None, None, "CL:0001054", "CL:0000084", "CL:0000623"]
    with pytest.raises(KeyError, match="has no column 'none'"):
        c2s.tl.ontology_ids(adata, "none")
