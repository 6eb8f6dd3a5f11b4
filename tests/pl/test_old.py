"""Plots: what is drawn is what the AnnData contains."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from cells import cells, fake

import cell2sen as c2s

mpl.use("Agg")

import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_embedding_has_every_cell_in_the_colour_of_its_type() -> None:
    adata = cells()
    adata.obsm["X_umap"] = np.random.default_rng(0).random((6, 2))
    adata.obs["type"] = pd.Categorical(["B", "B", "T", "unknown", "T", "B"], categories=["B", "T", "unknown", "unused"])
    axes = c2s.pl.embedding(adata, "type")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["B (3)", "T (2)", "unknown (1)"]
    drawn = np.vstack([np.asarray(points.get_offsets()) for points in axes.collections])
    np.testing.assert_allclose(drawn, adata.obsm["X_umap"][[0, 1, 5, 2, 4, 3]])
    colours = [mpl.colors.to_hex(points.get_facecolor()[0]) for points in axes.collections]
    assert len(set(colours)) == 3
    assert colours[2] == "#c8c8c8"


def test_embedding_of_numbers_has_a_colour_bar() -> None:
    adata = cells()
    adata.obsm["X_pca"] = np.random.default_rng(0).random((6, 5))
    adata.obs["score"] = np.linspace(0, 1, 6)
    axes = c2s.pl.embedding(adata, "score", basis="X_pca", title="certainty")
    assert axes.get_legend() is None
    assert axes.get_title() == "certainty"
    assert len(axes.figure.axes) == 2


def test_missing_keys_list_the_available_ones() -> None:
    adata = cells()
    with pytest.raises(KeyError, match=r"no column 'type'; available: \['donor'\]"):
        c2s.pl.embedding(adata, "type")
    with pytest.raises(KeyError, match=r"no 'X_umap'; available: \[\]"):
        c2s.pl.embedding(adata, "donor")
    with pytest.raises(KeyError, match="no layer 'delta'"):
        c2s.pl.top_changes(adata)
    with pytest.raises(KeyError, match="no attention map of cell 'c0'"):
        c2s.pl.attention(adata, "c0")


def test_top_changes_are_the_extremes_of_the_mean() -> None:
    predicted = c2s.tl.perturb(cells(), "IFN-beta", n_genes=9, model=fake(), progress=False)
    axes = c2s.pl.top_changes(predicted, n=4)
    mean = pd.Series(predicted.layers["delta"].toarray().mean(axis=0), index=predicted.var_names)
    pd.testing.assert_series_equal(c2s.pl.mean_change(predicted), mean, check_exact=False, check_names=False)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([*mean.nsmallest(4), *mean.nlargest(4).iloc[::-1]])
    assert len(axes.get_yticklabels()) == 8
    predicted.layers["delta"] = predicted.layers["delta"].toarray()
    np.testing.assert_allclose(c2s.pl.mean_change(predicted), mean, rtol=1e-5, atol=1e-7)


def test_few_genes_are_drawn_once() -> None:
    predicted = c2s.tl.perturb(cells(genes=["CD4", "CD8A", "LYZ"]), "IFN-beta", model=fake(), progress=False)
    axes = c2s.pl.top_changes(predicted)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(labels) == ["CD4", "CD8A", "LYZ"]


def test_attention_of_a_cell_whose_name_is_no_key_of_a_file() -> None:
    adata = cells()
    adata.obs_names = ["plate 1/A", "b", "c", "d", "e", "f"]
    c2s.tl.embed(adata, model=fake(), attention_for=["plate 1/A"], progress=False)
    axes = c2s.pl.attention(adata, "plate 1/A", n=5, head=1)
    (stored,) = adata.uns["cell2sen"]["attention"].values()
    np.testing.assert_array_equal(np.ma.getdata(axes.images[0].get_array()), stored["map"][1, :5, :5])
    assert [label.get_text() for label in axes.get_xticklabels()] == list(stored["genes"][:5])
    mean = c2s.pl.attention(adata, "plate 1/A").images[0].get_array()
    assert mean is not None
    with pytest.raises(ValueError, match="no head 2; available: 0 to 1"):
        c2s.pl.attention(adata, "plate 1/A", head=2)
