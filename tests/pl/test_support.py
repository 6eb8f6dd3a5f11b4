"""Bars of supporting genes."""

from __future__ import annotations

import pandas as pd
import pytest

import cell2sen as c2s


def test_supporting_genes() -> None:
    rows = [
        ("0", "T cell", "CD3D", 0.5, 9, 9), ("0", "T cell", "IL7R", 0.2, 9, 9), ("0", "T cell", "LYZ", -0.1, 9, 9),
        ("B cell", "B cell", "MS4A1", 0.9, 9, 9),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["group", "label", "gene", "support", "n_with_gene", "n_cells"])
    axes = c2s.pl.supporting_genes(table, n=1, show=False)
    assert [axis.get_title() for axis in axes] == ["0: T cell", "B cell"]
    assert [[text.get_text() for text in axis.get_yticklabels()] for axis in axes] == [["CD3D", "LYZ"], ["MS4A1"]]
    assert [patch.get_width() for patch in axes[0].patches] == [0.5, -0.1]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    with pytest.raises(ValueError, match="2 panels need a list of 2 axes"):
        c2s.pl.supporting_genes(table, ax=axes[:1])
    with pytest.raises(ValueError, match="has no rows"):
        c2s.pl.supporting_genes(table.iloc[:0])
