"""Responses: what is drawn are the numbers of the prediction, of the cells and of the table."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cells import cells, fake

import cell2sen as c2s
from cell2sen.pl.responses import DOWN, NEITHER, UP


@pytest.fixture
def predicted() -> anndata.AnnData:
    return c2s.tl.perturb(cells(), "IFN-beta", n_genes=9, model=fake(), progress=False)


def test_top_changes_are_the_extremes_of_the_mean(predicted: anndata.AnnData) -> None:
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


def test_what_is_no_prediction() -> None:
    for plot in (c2s.pl.top_changes, c2s.pl.volcano):
        with pytest.raises(KeyError, match="no layer 'delta'"):
            plot(cells())
    empty = cells()[:0].copy()
    empty.layers["delta"] = empty.X.copy()
    with pytest.raises(ValueError, match="there are no predicted cells"):
        c2s.pl.top_changes(empty)


@pytest.mark.parametrize("control", ["auto", "ctrl", ["ctrl"]])
def test_measured_change_is_that_of_the_means(control: object) -> None:
    adata = cells(9)
    adata.obs["condition"] = ["ctrl", "IFN-beta", "other"] * 3
    counts = adata.X.toarray().astype(np.float64)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    change = c2s.pl.measured_change(adata, "condition", "IFN-beta", control=control)
    assert list(change.index) == list(adata.var_names)
    np.testing.assert_allclose(change, values[1::3].mean(axis=0) - values[0::3].mean(axis=0), atol=1e-6)


def test_measured_change_needs_both_sides() -> None:
    adata = cells()
    adata.obs["condition"] = ["IFN-beta", "IL-6"] * 3
    with pytest.raises(ValueError, match=r"no cell of obs\['condition'\] is a control; name controls"):
        c2s.pl.measured_change(adata, "condition", "IFN-beta")
    with pytest.raises(ValueError, match=r"no cell has 'x' in obs\['condition'\]; available: \['IFN-beta', 'IL-6'\]"):
        c2s.pl.measured_change(adata, "condition", "x")


def test_response_has_predicted_against_measured(predicted: anndata.AnnData) -> None:
    generator = np.random.default_rng(0)
    measured = pd.Series(generator.normal(size=predicted.n_vars), index=predicted.var_names)[::-1]
    measured.iloc[0] = np.nan
    axes = c2s.pl.response(predicted, measured, n=3)
    (points,) = axes.collections
    offsets = np.asarray(points.get_offsets())
    expected = pd.DataFrame({"x": measured.iloc[1:], "y": c2s.pl.mean_change(predicted)}).dropna()
    np.testing.assert_allclose(sorted(map(tuple, offsets)), sorted(map(tuple, expected.to_numpy())), rtol=1e-6)
    r = np.corrcoef(expected["x"], expected["y"])[0, 1]
    assert axes.get_title() == f"r = {r:.2f}, {len(expected)} genes"
    assert len(axes.texts) <= 3
    assert axes.get_xlim() == axes.get_ylim()


def test_response_beside_real_cells(predicted: anndata.AnnData) -> None:
    real = cells(8, seed=1)
    real.obs["condition"] = ["control", "IFN-beta"] * 4
    axes = c2s.pl.response(predicted, real, column="condition")
    measured = c2s.pl.measured_change(real, "condition", "IFN-beta")
    drawn = np.asarray(axes.collections[0].get_offsets())[:, 0]
    np.testing.assert_allclose(np.sort(drawn), np.sort(measured[predicted.var_names]), atol=1e-6)
    with pytest.raises(ValueError, match="name the obs column with the perturbation"):
        c2s.pl.response(predicted, real)
    with pytest.raises(ValueError, match="0 genes have a predicted and a measured change"):
        c2s.pl.response(predicted, pd.Series([1.0], index=["x"]))


def test_a_response_of_no_change_has_no_correlation(predicted: anndata.AnnData) -> None:
    axes = c2s.pl.response(predicted, pd.Series(0.0, index=predicted.var_names))
    assert axes.get_title().startswith("no correlation: no change")


def colours(axes: object) -> list[tuple[str, int]]:
    import matplotlib as mpl

    shown = axes.collections  # type: ignore[attr-defined]
    return [(mpl.colors.to_hex(points.get_facecolors()[0]).upper(), len(points.get_offsets())) for points in shown]


@pytest.mark.parametrize(
    "columns", [("names", "logfoldchanges", "pvals_adj"), ("gene", "log2FoldChange", "padj"), (None, "lfc", "fdr")]
)
def test_volcano_of_a_table(columns: tuple[str | None, str, str]) -> None:
    name, change, p_value = columns
    genes = ["up", "down", "small", "weak", "zero", "missing"]
    table = pd.DataFrame({change: [2.0, -3, 0.5, 4, 1.5, np.nan], p_value: [1e-9, 1e-3, 1e-9, 0.5, 0.0, 1e-3]})
    if name is None:
        table.index = genes
    else:
        table[name] = genes
    axes = c2s.pl.volcano(table)
    assert [number for _, number in colours(axes)] == [2, 1, 2]
    assert [colour for colour, _ in colours(axes)] == [NEITHER.upper(), DOWN.upper(), UP.upper()]
    assert axes.get_title() == "2 genes up, 1 down, of 5"
    heights = np.concatenate([np.asarray(points.get_offsets())[:, 1] for points in axes.collections])
    assert np.isfinite(heights).all()
    assert heights.max() == pytest.approx(9)  # p = 0 is at the upper end
    assert {text.get_text() for text in axes.texts} <= {"up", "down", "zero"}


def test_volcano_of_a_prediction_has_no_p_values() -> None:
    delta = np.array([[1.0, 0.2, 0.0], [3.0, -0.2, 0.0]], dtype=np.float32)
    predicted = anndata.AnnData(sp.csr_matrix(delta), var=pd.DataFrame(index=["a", "b", "c"]))
    predicted.layers["delta"] = sp.csr_matrix(delta)
    axes = c2s.pl.volcano(predicted)
    points = np.vstack([np.asarray(each.get_offsets()) for each in axes.collections if len(each.get_offsets())])
    np.testing.assert_allclose(sorted(map(tuple, points)), [(0, 0), (0, 0), (2, 2 / np.sqrt(2))], atol=1e-6)
    assert axes.get_ylabel() == "mean / standard deviation among cells"
    with pytest.raises(ValueError, match="two cells at least"):
        c2s.pl.volcano(predicted[:1].copy())


def test_tables_without_a_change() -> None:
    with pytest.raises(KeyError, match=r"the table has no column 'change': name it \(change=\); found \['x'\]"):
        c2s.pl.volcano(pd.DataFrame({"x": [1.0]}))
    with pytest.raises(ValueError, match="none of the 1 genes has a finite change"):
        c2s.pl.volcano(pd.DataFrame({"lfc": [np.nan], "padj": [0.1]}))
