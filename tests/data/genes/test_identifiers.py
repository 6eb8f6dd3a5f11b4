"""Kinds of gene names."""

from __future__ import annotations

import pandas as pd
import pytest
from genes import ISG15, STAT1

from cell2sen.data.genes.identifiers import looks_like


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["ISG15", "ENSA", "ENSAP1"], "symbols"),
        ([ISG15, STAT1 + ".4"], "ensembl"),
        (["ENSMUSG00000024798", "ENSRNOG00000000001", "ENSDARG00000103202"], "ensembl"),
        ([6772, 9636], "entrez"),
        (["6772", "9636.0", None], "entrez"),
        ([ISG15, "STAT1"], "mixed"),
        (["STAT1"] * 9 + [ISG15], "symbols"),
        (["STAT1"] * 8 + [ISG15] * 2, "mixed"),
        ([ISG15] * 9 + ["STAT1"], "ensembl"),
        ([ISG15] * 8 + ["STAT1"] * 2, "mixed"),
    ],
)
def test_looks_like(names, kind):
    assert looks_like(names) == kind
    assert looks_like(pd.Index(names)) == kind


def test_looks_like_nothing():
    with pytest.raises(ValueError, match="no gene names"):
        looks_like([None, ""])
