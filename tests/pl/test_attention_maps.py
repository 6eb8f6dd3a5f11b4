from __future__ import annotations

import numpy as np
import pytest
from cells import cells, fake

import cell2sen as c2s


def test_attention_of_a_cell_whose_name_is_no_key_of_a_file() -> None:
    adata = cells()
    adata.obs_names = ["plate 1/A", "b", "c", "d", "e", "f"]
    c2s.tl.embed(adata, model=fake(), attention_for=["plate 1/A"], progress=False)
    axes = c2s.pl.attention(adata, "plate 1/A", n=5, head=1)
    (stored,) = adata.uns["cell2sen"]["attention"].values()
    np.testing.assert_allclose(np.ma.getdata(axes.images[0].get_array()), stored["map"][1, :5, :5], rtol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(stored["genes"][:5])
    mean = c2s.pl.attention(adata, "plate 1/A").images[0].get_array()
    assert mean is not None
    with pytest.raises(ValueError, match="no head 2; available: 0 to 1"):
        c2s.pl.attention(adata, "plate 1/A", head=2)
    with pytest.raises(ValueError, match="n must be at least 1, found 0"):
        c2s.pl.attention(adata, "plate 1/A", n=0)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_maps_of_one_value_are_drawn(value: float) -> None:
    adata = cells()
    attention = {"c0": {"genes": np.array(["A", "B"], dtype=object), "map": np.full((1, 2, 2), value)}}
    adata.uns["cell2sen"] = {"attention": attention}
    axes = c2s.pl.attention(adata, "c0")
    axes.figure.canvas.draw()
    assert np.ma.getmaskarray(axes.images[0].get_array()).all() == (value == 0)


def test_a_cell_without_a_map_lists_those_with_one() -> None:
    with pytest.raises(KeyError, match=r"no attention map of cell 'c0'; available: \[\]; tl.embed"):
        c2s.pl.attention(cells(), "c0")
