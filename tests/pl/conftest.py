"""Axes without windows; every plot leaves matplotlib's settings as they were."""

from __future__ import annotations

from collections.abc import Iterator

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from cells import cells

mpl.use("Agg")

import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _settings_are_kept() -> Iterator[None]:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend


@pytest.fixture
def placed() -> anndata.AnnData:
    """Six cells with places and types."""
    adata = cells()
    adata.obsm["X_umap"] = np.random.default_rng(0).random((6, 2))
    adata.obs["type"] = pd.Categorical(["B", "B", "T", "unknown", "T", "B"], categories=["B", "T", "unknown", "unused"])
    return adata
