"""Samples in obs, and records in uns."""

from __future__ import annotations

import numpy as np
from cells import cells

from cell2sen.tl.results import record, sample_names


def test_names_of_samples_and_records() -> None:
    adata = cells(5)
    names = sample_names(adata, [np.array([3, 1]), np.array([0])])
    assert names[[3, 1, 0]].tolist() == ["c3", "c3", "c0"]
    assert names.isna().tolist() == [False, False, True, False, True]
    record(adata, "one", {"a": 1})
    record(adata, "two", {"b": 2})
    assert adata.uns["cell2sen"] == {"one": {"a": 1}, "two": {"b": 2}}
