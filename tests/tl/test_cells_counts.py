"""Counts as output of perturb and generate."""

from __future__ import annotations

import numpy as np
import pytest
from anndata_objects import QUIET
from cells import GENES, cells, fake

import cell2sen as c2s


def test_counts_of_perturbed_cells_keep_the_measured_sums() -> None:
    adata, model = cells(), fake()
    predicted = c2s.tl.perturb(adata, "IFN-beta", output="counts", model=model, **QUIET)
    values = predicted.X.toarray()
    assert (values == np.rint(values)).all()
    expression = c2s.tl.perturb(adata, "IFN-beta", model=model, **QUIET)
    np.testing.assert_array_equal(predicted.layers["delta"].toarray(), expression.layers["delta"].toarray())
    measured = adata[predicted.obs_names, predicted.var_names].X
    np.testing.assert_array_equal(values.sum(1), np.asarray(measured.sum(1)).ravel())
    alone = c2s.tl.perturb(adata[2:3].copy(), "IFN-beta", output="counts", model=model, **QUIET)
    np.testing.assert_array_equal(alone.X.toarray()[0], values[2])


def test_counts_of_drawn_cells_come_from_measured_ones() -> None:
    adata = cells()  # six, fewer than are drawn
    drawn = c2s.tl.generate("B cell", n=9, genes=adata, output="counts", model=fake(), **QUIET)
    behind = adata[drawn.obs["measured_cell"].to_list(), drawn.var_names].X
    np.testing.assert_array_equal(drawn.X.toarray().sum(1), np.asarray(behind.sum(1)).ravel())
    with pytest.raises(ValueError, match="needs measured cells in genes="):
        c2s.tl.generate("B cell", n=3, genes=GENES, output="counts", model=fake(), **QUIET)
