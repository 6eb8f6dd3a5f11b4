"""Cells of pages: a map, labels, a contrast, a score; and the end of a page's job."""

from __future__ import annotations

import time

import anndata
import numpy as np
from cells import cells

from cell2sen.app.page import Page


def page_cells(n: int = 60) -> anndata.AnnData:
    adata = cells(n)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(n, 2))
    adata.obs["cell_type"] = np.array(["B", "T", "NK"], dtype=object)[np.arange(n) % 3]
    adata.obs["condition"] = np.where(np.arange(n) % 2, "IFN-beta", "control")
    adata.obs["score"] = np.arange(n, dtype=np.float64)
    return adata


def wait(page: Page, number: int, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not page.jobs.get(number).is_over:
        assert time.monotonic() < until, page.jobs.get(number).status()
        time.sleep(0.01)
