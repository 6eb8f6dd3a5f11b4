from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import fake

from cell2sen.app.frames import Answer
from cell2sen.app.page import Page


def test_the_given_object_stays_and_others_keep_their_labels(
    page: Page, adata: anndata.AnnData, finish: Callable[..., Answer]
) -> None:
    before = adata.copy()
    finish(page, "annotate", range(10))
    finish(page, "annotate", range(30, 40))
    column = page.results.shown.obs["cell2sen_cell_type"]
    assert column.notna().to_numpy().nonzero()[0].tolist() == [*range(10), *range(30, 40)]
    table = page.results.shown.obsm["cell2sen_cell_type_probabilities"]
    np.testing.assert_allclose(table.iloc[[0, 35]].sum(axis=1), 1)
    assert table.iloc[20].isna().all()
    finish(page, "annotate", [50], labels="a; b")  # other labels: nothing is mixed
    column = page.results.shown.obs["cell2sen_cell_type"]
    assert column.notna().to_numpy().nonzero()[0].tolist() == [50]
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm)
    assert "cell2sen" not in adata.uns


@pytest.mark.parametrize("from_file", [True, False])
def test_download_is_the_file_with_results(
    tmp_path: Path, adata: anndata.AnnData, from_file: bool, finish: Callable[..., Answer]
) -> None:
    file, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    adata.layers["other"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.write_h5ad(file)
    content = file.read_bytes()
    page = Page(adata, source=file if from_file else None, model=fake())
    finish(page, "annotate", range(10))
    page.ask("groups", {}, {"a": np.arange(3), "b": np.arange(2, 5)})
    page.results.save(out)
    found = anndata.read_h5ad(out)
    assert found.obs["cell2sen_group"].astype(object).fillna("").tolist()[:6] == ["A", "A", "A and B", "B", "B", ""]
    assert found.obs["cell2sen_cell_type"].notna().sum() == 10
    assert found.obsm["cell2sen_cell_type_probabilities"].shape == (60, 3)
    assert found.uns["cell2sen"]["annotate"]["model"]["name"] == "fake"
    np.testing.assert_array_equal(found.layers["other"].toarray(), adata.X.toarray())
    np.testing.assert_array_equal(found.raw.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(found.obsm["X_umap"], adata.obsm["X_umap"])
    assert file.read_bytes() == content
    if from_file:
        file.write_bytes(content + b" ")
        with pytest.raises(ValueError, match="has changed"):
            page.ask("groups")
    page.close()


def test_pictures_have_the_asked_format(page: Page) -> None:
    pytest.importorskip("matplotlib")
    for source, colour in (("label", "cell_type"), ("gene", "CD3D"), ("none", None)):
        png = page.ask("figure", {"map": "X_umap", "kind": source, "colour": colour})[1]["picture"].tobytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
    svg = page.ask("figure", {"map": "X_umap", "kind": "label", "colour": "cell_type", "format": "svg"})[1]["picture"]
    assert b"<svg" in svg.tobytes()
