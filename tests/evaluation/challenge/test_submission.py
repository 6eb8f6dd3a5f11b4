"""Submissions: order of genes, numbers of cells, and broken rules."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cell2sen.evaluation.challenge.submission import problems, submission


def predicted() -> ad.AnnData:
    obs = pd.DataFrame({"perturbation": ["A"] * 3 + ["B"] * 2}, index=["c3", "c1", "c2", "d1", "d2"])
    return ad.AnnData(
        np.arange(1, 16, dtype="float32").reshape(5, 3), obs=obs, var=pd.DataFrame(index=["G1", "G2", "G3"])
    )


def test_genes_and_cells_of_the_challenge() -> None:
    found = submission(predicted(), ["G3", "G9", "G1"], {"A": 2, "B": 1})
    np.testing.assert_array_equal(found.X.toarray(), [[6, 0, 4], [9, 0, 7], [12, 0, 10]])
    assert list(found.obs["target"]) == ["A", "A", "B"]
    assert problems(found, ["G3", "G9", "G1"], {"A": 2, "B": 1}) == []


def test_broken_rules_are_named() -> None:
    with pytest.raises(ValueError, match="needs 4 cells, found 3"):
        submission(predicted(), ["G1"], {"A": 4})
    wrong = submission(predicted(), ["G1", "G2"], {"A": 1, "B": 1})
    wrong.X = wrong.X * 0.5
    assert "no counts" in problems(wrong, ["G1", "G2"], {"A": 1, "B": 1})[0]
    assert len(problems(wrong, ["G2", "G1"], {"A": 2}, control="B")) == 4
