"""tl.supporting_genes: groups, cells and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import LABELS, cells, fake

import cell2sen as c2s

QUICK: dict[str, Any] = {"progress": False, "n_genes": 4}


def test_groups_are_means_of_their_cells() -> None:
    adata = cells()
    table = c2s.tl.supporting_genes(adata, "donor", LABELS, label="B cell", model=fake(), **QUICK)
    alone = c2s.tl.supporting_genes(
        adata, labels=LABELS, cells=list(adata.obs_names), label="B cell", model=fake(), **QUICK
    )
    assert table["group"].unique().tolist() == ["d0", "d1"]
    for donor, rows in table.groupby("group"):
        of_donor = alone[alone["group"].isin(adata.obs_names[adata.obs["donor"] == donor])]
        expected = of_donor.groupby("gene")["support"].sum() / 3
        np.testing.assert_allclose(rows["support"], expected[rows["gene"]])
        assert rows["support"].is_monotonic_decreasing
        assert set(rows["n_cells"]) == {3}
    assert adata.uns == {"organism": "Homo sapiens"}


def test_label_of_a_cell_is_its_most_likely_one() -> None:
    adata = cells()
    table = c2s.tl.supporting_genes(adata, labels=LABELS, cells=["c2", 4], model=fake(), **QUICK)
    c2s.tl.annotate(adata, LABELS, model=fake(), progress=False)
    assert table.groupby("group")["label"].first().to_dict() == adata.obs["cell2sen_cell_type"][["c2", "c4"]].to_dict()
    assert table.groupby("group").size().tolist() == [4, 4]


def test_missing_groups_and_numbers_of_cells() -> None:
    adata = cells()
    adata.obs["cluster"] = [None, "1", "1", "1", "1", "2"]
    table = c2s.tl.supporting_genes(adata, "cluster", LABELS, n_cells=2, model=fake(), **QUICK)
    assert table.groupby("group")["n_cells"].first().to_dict() == {"1": 2, "2": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either groupby="),
        ({"groupby": "donor", "cells": ["c1"]}, "either groupby="),
        ({"groupby": "donor", "label": "alpha"}, "label must be one of"),
        ({"groupby": "donor", "n_cells": 0}, "at least 1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        c2s.tl.supporting_genes(cells(), labels=LABELS, model=fake(), progress=False, **arguments)
    with pytest.raises(KeyError, match="has no column"):
        c2s.tl.supporting_genes(cells(), "cluster", LABELS, model=fake(), progress=False)
