"""Sentences as text: the genes of cells and groups, in their order, on the colours of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from cells import cells, fake
from matplotlib.backends.backend_agg import FigureCanvasAgg

import cell2sen as c2s
from cell2sen.sentences.writing import from_anndata


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ln_cp10k(adata: anndata.AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def test_a_cell_is_the_sentence_that_models_read() -> None:
    adata = cells()
    axes = c2s.pl.sentence(adata, "c1", n=7)
    (expected,) = from_anndata(adata[["c1"]].copy(), c2s.Recipe()).gene_names(7)
    assert words(axes)[:8] == ["c1", *expected]


def test_colours_are_differences_to_the_other_cells() -> None:
    adata = cells()
    axes = c2s.pl.sentence(adata, "c1", n=7)
    values = ln_cp10k(adata)
    genes = words(axes)[1:8]
    rows = [adata.var_names.get_loc(gene) for gene in genes]
    difference = values[1, rows] - np.delete(values, 1, axis=0)[:, rows].mean(axis=0)
    end = np.abs(difference).max()
    expected = mpl.colormaps["RdBu_r"]((difference + end) / (2 * end))
    np.testing.assert_allclose([patch.get_facecolor() for patch in axes.patches], expected, atol=0.01)


def test_groups_are_in_the_order_of_their_means() -> None:
    adata = cells(8)
    axes = c2s.pl.sentence(adata, groupby="donor", groups="d1", n=5, color="expression")
    mean = ln_cp10k(adata)[1::2].mean(axis=0)
    assert words(axes)[:6] == ["d1 (4)", *adata.var_names[np.argsort(-mean, kind="stable")[:5]]]
    both = c2s.pl.sentence(adata, groupby="donor", n=5)
    assert [text for text in words(both) if text.startswith("d")] == ["d0 (4)", "d1 (4)"]


def test_attention_is_what_other_genes_give() -> None:
    adata = cells()
    c2s.tl.embed(adata, model=fake(), attention_for=["c2"], progress=False)
    axes = c2s.pl.sentence(adata, "c2", color="attention", n=6)
    (stored,) = adata.uns["cell2sen"]["attention"].values()
    weights = stored["map"].mean(axis=0)
    received = (weights.sum(axis=0) - np.diag(weights)) / (len(weights) - 1)
    by_gene = dict(zip(stored["genes"], received, strict=True))
    values = np.array([by_gene[gene] for gene in words(axes)[1:7]])
    expected = mpl.colormaps["Blues"](values / values.max())
    np.testing.assert_allclose([patch.get_facecolor() for patch in axes.patches], expected, atol=0.01)
    with pytest.raises(KeyError, match="no attention map of cell 'c1'"):
        c2s.pl.sentence(adata, "c1", color="attention")


@pytest.mark.parametrize("dpi", [60, 100])
def test_words_are_within_the_axes_and_do_not_overlap(
    tmp_path: Path, dpi: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mpl.rcParams, "figure.dpi", dpi)
    adata = cells(4)
    axes = c2s.pl.sentence(adata, list(adata.obs_names), n=30, save=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000
    canvas = FigureCanvasAgg(axes.figure)  # the file was drawn by another renderer, in points
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    frame = axes.get_window_extent()
    assert all(frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 3 for box in boxes)
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_one_cell_without_colours_and_given_axes() -> None:
    figure = plt.figure(figsize=(4, 3))
    axes = figure.add_subplot()
    adata = cells(1)
    assert c2s.pl.sentence(adata, "c0", color=None, n=3, ax=axes, title="mine") is axes
    assert axes.get_title(loc="left") == "mine"
    assert not axes.patches
    assert c2s.pl.sentence(adata, "c0", n=3).patches  # a difference to nothing is the value


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"either cells= \(names of cells\) or groupby="),
        ({"cells": "c0", "groupby": "donor"}, ValueError, "either cells="),
        ({"cells": "x"}, KeyError, r"no cell 'x'; the first cells are \['c0', 'c1', 'c2'\]"),
        ({"cells": []}, ValueError, "empty list"),
        ({"groupby": "x"}, KeyError, "no column 'x'"),
        ({"groupby": "donor", "groups": ["d7"]}, KeyError, r"no cell has 'd7' in obs\['donor'\]"),
        ({"groupby": "donor", "color": "attention"}, ValueError, "attention maps are of single cells"),
        ({"cells": "c0", "color": "red"}, ValueError, "no color 'red'; available: 'difference'"),
        ({"cells": "c0", "n": 0}, ValueError, "n must be at least 1"),
    ],
)
def test_mistakes(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        c2s.pl.sentence(cells(), **arguments)


def test_too_many_sentences_are_refused() -> None:
    adata = cells(40)
    with pytest.raises(ValueError, match="40 sentences are more than 30"):
        c2s.pl.sentence(adata, list(adata.obs_names))
