from __future__ import annotations

import anndata
import numpy as np
import pytest
from cells import log_normalised

from cell2sen.app.jobs.measured import Contrast, contrast_of, measured_change, untreated
from cell2sen.app.page_cells import PageCells

CONTRAST = Contrast(column="condition", control="control", treated="IFN-beta", label="cell_type")


def test_measured_change_compares_the_same_label_only(adata: anndata.AnnData) -> None:
    cells = PageCells(adata)
    rows = np.array([0, 6, 12, 2, 8])  # three B, two NK
    columns = np.arange(len(cells.expression.symbols))
    columns[4] = -1
    found = measured_change(cells, adata.obs, rows, CONTRAST, columns)
    values, types, treated = (
        log_normalised(adata),
        adata.obs["cell_type"].to_numpy(),
        adata.obs["condition"] == "IFN-beta",
    )
    expected = sum(
        share * (values[(types == name) & treated].mean(axis=0) - values[(types == name) & ~treated].mean(axis=0))
        for name, share in (("B", 0.6), ("NK", 0.4))
    )
    keep = columns >= 0
    assert found.change is not None
    np.testing.assert_allclose(found.change[keep], expected[keep], atol=1e-5)
    assert np.isnan(found.change[4])
    assert [(group["label"], group["n_control"], group["n_treated"]) for group in found.groups] == [
        ("B", 10, 10),
        ("NK", 10, 10),
    ]
    shown = found.values(expected)
    assert shown["correlation"] == pytest.approx(1)
    assert shown["few"] == ["B", "NK"]  # fewer than 20 cells of each


def test_labels_without_treated_cells_have_no_measured_change(adata: anndata.AnnData) -> None:
    adata.obs.loc[adata.obs["cell_type"] == "B", "condition"] = "control"
    cells = PageCells(adata)
    found = measured_change(cells, adata.obs, np.array([0, 3]), CONTRAST, np.arange(50))
    assert found.change is None
    assert found.groups[0]["n_treated"] == 0
    assert found.values(np.zeros(50))["correlation"] is None


def test_controls_are_found_and_chosen(adata: anndata.AnnData) -> None:
    found = contrast_of(adata.obs, ["IFN-beta"])
    assert (found["column"], found["control"]) == ("condition", "control")
    assert found["columns"]["condition"] == ["IFN-beta", "control"]
    assert contrast_of(adata.obs[["donor", "score"]], [])["column"] is None
    rows = np.arange(6)
    assert untreated(adata.obs, rows, CONTRAST).tolist() == [0, 2, 4]
    assert untreated(adata.obs, rows, None).tolist() == rows.tolist()
    assert Contrast.of({"column": "", "control": "x"}) is None
    assert Contrast.of({"column": "condition", "control": "control"}) == Contrast(column="condition", control="control")
