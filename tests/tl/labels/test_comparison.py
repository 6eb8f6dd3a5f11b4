from __future__ import annotations

import anndata
import pytest
from cells import LABELS, cells, fake

import cell2sen as c2s


@pytest.fixture
def annotated() -> anndata.AnnData:
    adata = cells(12)
    c2s.tl.annotate(adata, LABELS, model=fake(), progress=False)
    adata.obs["given"] = [*(f"{name}s" for name in adata.obs["cell2sen_cell_type"][:9]), None, "hepatocyte", "unknown"]
    return adata


def test_given_labels_are_compared_with_the_last_annotation(annotated: anndata.AnnData) -> None:
    before = list(annotated.obs)
    result = c2s.tl.compare_labels(annotated, "given", model=fake())
    assert (result.share, result.n_compared, result.n_without) == (1.0, 9, 2)
    assert list(annotated.obs) == before
    c2s.tl.annotate(annotated, LABELS, key_added="other", model=fake(), progress=False)
    assert c2s.tl.compare_labels(annotated, "given", key="other", model=fake()).n_same == 9


def test_mistakes(annotated: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match=r"no column 'x' to compare with; available: \['donor'"):
        c2s.tl.compare_labels(annotated, "x", model=fake())
    with pytest.raises(KeyError, match=r"no labels of tl.annotate under 'y'; available: \['cell2sen_cell_type'\]"):
        c2s.tl.compare_labels(annotated, "given", key="y", model=fake())
    with pytest.raises(KeyError, match=r"under None; available: \[\]"):
        c2s.tl.compare_labels(cells(), "donor", model=fake())
