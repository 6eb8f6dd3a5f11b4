"""What is drawn is what the AnnData contains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from cells import GENES, cells

import cell2sen as c2s
from cell2sen.pl.palette import GREY, LIGHT_GREY, MAX_SHOWN, OKABE_ITO


def colour_of(axes: Any, place: np.ndarray) -> str:
    """Colour of the point at a place."""
    points = axes.collections[-1]
    row = np.flatnonzero((np.asarray(points.get_offsets()) == place).all(axis=1))[0]
    return mpl.colors.to_hex(points.get_facecolors()[row]).upper()


def entries(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_cell_has_the_colour_of_its_type(placed: anndata.AnnData) -> None:
    axes = c2s.pl.embedding(placed, "type")
    assert entries(axes) == ["B (3)", "T (2)", "unknown (1)"]
    expected = {"B": OKABE_ITO[0], "T": OKABE_ITO[1], "unknown": GREY}
    for place, name in zip(placed.obsm["X_umap"], placed.obs["type"], strict=True):
        assert colour_of(axes, place) == expected[name]
    assert axes.get_xlabel() == "UMAP 1"
    assert "type_colors" not in placed.uns


def test_panels_share_a_palette(placed: anndata.AnnData) -> None:
    placed.obs["other"] = ["t", "NK", "B", "B", "NK", None]
    first, second = c2s.pl.embedding(placed, ["type", "other"])
    places = placed.obsm["X_umap"]
    assert colour_of(second, places[2]) == colour_of(first, places[0])  # B
    assert colour_of(second, places[0]) == colour_of(first, places[2])  # "t" is "T"
    assert colour_of(second, places[1]) not in {colour_of(first, place) for place in places}
    assert colour_of(second, places[5]) == LIGHT_GREY
    assert entries(second) == ["B (2)", "NK (2)", "t (1)", "no value (1)"]


def test_panels_without_a_common_name_have_the_best_colours_each(placed: anndata.AnnData) -> None:
    placed.obs["phase"] = ["G1", "S", "G1", "S", "G1", "S"]
    _, phase = c2s.pl.embedding(placed, ["type", "phase"])
    assert colour_of(phase, placed.obsm["X_umap"][0]) == OKABE_ITO[0]


def test_palettes_of_the_user_and_of_scanpy(placed: anndata.AnnData) -> None:
    place = placed.obsm["X_umap"][0]
    placed.obs["type"] = placed.obs["type"].cat.remove_unused_categories()
    placed.uns["type_colors"] = ["#112233", "#445566", "#778899"]
    assert colour_of(c2s.pl.embedding(placed, "type"), place) == "#112233"
    assert colour_of(c2s.pl.embedding(placed, "type", palette={"B": "red"}), place) == "#FF0000"
    assert colour_of(c2s.pl.embedding(placed, "type", palette=["lime", "blue"]), place) == "#00FF00"
    placed.uns["type_colors"] = ["#112233"]  # of another version of the column
    assert colour_of(c2s.pl.embedding(placed, "type"), place) == OKABE_ITO[0]


def test_chosen_groups_alone_have_colours(placed: anndata.AnnData) -> None:
    axes = c2s.pl.embedding(placed, "type", groups="T")
    assert entries(axes) == ["T (2)", "2 others (4)"]
    assert colour_of(axes, placed.obsm["X_umap"][0]) == LIGHT_GREY
    with pytest.raises(ValueError, match=r"no cell of 'type' is 'X'; available: \['B', 'T', 'unknown'\]"):
        c2s.pl.embedding(placed, "type", groups=["X"])


def test_numbers_have_a_colour_bar_and_missing_ones_are_grey(placed: anndata.AnnData) -> None:
    placed.obs["score"] = [0.5, np.nan, 0.1, np.inf, 0.9, 0.2]
    axes = c2s.pl.embedding(placed, "score", title="certainty")
    assert axes.get_legend() is None
    assert axes.get_title() == "certainty"
    grey, known = axes.collections
    assert len(grey.get_offsets()) == 2
    assert known.get_array().tolist() == [0.1, 0.2, 0.5, 0.9]  # the highest are in front
    assert [text.get_text() for text in axes.texts] == ["no value: 2 cells, grey"]
    assert len(axes.child_axes) == 1
    placed.obs["nothing"] = np.nan
    assert not c2s.pl.embedding(placed, "nothing").child_axes


@pytest.mark.parametrize(
    ("options", "factor"), [({}, 3), ({"use_raw": False}, 1), ({"layer": "doubled"}, 2), ({"use_raw": True}, 3)]
)
def test_genes_come_from_where_scanpy_takes_them(placed: anndata.AnnData, options: dict[str, Any], factor: int) -> None:
    values = placed[:, GENES[1]].X.toarray().ravel() * factor
    placed.layers["doubled"] = placed.X * 2
    placed.raw = anndata.AnnData(placed.X * 3, obs=placed.obs, var=placed.var)
    axes = c2s.pl.embedding(placed, GENES[1], **options)
    np.testing.assert_allclose(np.sort(values), axes.collections[-1].get_array())


def test_symbols_of_a_column_name_genes(placed: anndata.AnnData) -> None:
    values = placed[:, GENES[1]].X.toarray().ravel()
    placed.var["symbol"] = placed.var_names.to_numpy()
    placed.var_names = [f"ENSG{number:011d}" for number in range(placed.n_vars)]
    axes = c2s.pl.embedding(placed, GENES[1])
    np.testing.assert_allclose(np.sort(values), axes.collections[-1].get_array())


def test_a_thousand_categories_show_the_most_frequent() -> None:
    adata = cells(1100, genes=GENES[:3])
    adata.obsm["X_umap"] = np.random.default_rng(0).random((1100, 2))
    adata.obs["clone"] = [f"clone {min(number, 1003)}" for number in range(1100)]
    axes = c2s.pl.embedding(adata, "clone")
    names = entries(axes)
    assert len(names) == MAX_SHOWN + 1
    assert "clone 1003 (97)" in names
    assert names[-1] == f"{1004 - MAX_SHOWN:,} others ({1100 - 97 - MAX_SHOWN + 1:,})"


@pytest.mark.parametrize("n", [3, 20, 45, 60])
def test_legends_are_inside_the_figure(n: int) -> None:
    adata = cells(120, genes=GENES[:3])
    adata.obsm["X_umap"] = np.random.default_rng(0).random((120, 2))
    adata.obs["type"] = [f"a rather long name of a cell type {number % n}" for number in range(120)]
    axes = c2s.pl.embedding(adata, "type")
    axes.figure.canvas.draw()
    box, figure = axes.get_legend().get_window_extent(), axes.figure.bbox
    assert box.x1 <= figure.x1 + 2
    assert figure.y0 <= box.y0
    assert box.y1 <= figure.y1 + 2
    assert axes.get_window_extent().width > 250  # cells have room, too


def test_names_on_data_do_not_overlap(placed: anndata.AnnData) -> None:
    placed.obsm["X_umap"] = np.ones((6, 2))
    placed.obs["name"] = [f"type {number}" for number in range(6)]
    axes = c2s.pl.embedding(placed, "name", legend_loc="on data")
    boxes = [text.get_window_extent().shrunk(1, 0.98) for text in axes.texts]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    assert axes.get_legend() is None
    assert c2s.pl.embedding(placed, "name", legend_loc=None).get_legend() is None


def test_cells_without_places_are_not_drawn(placed: anndata.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    placed.obsm["X_umap"][2] = np.nan
    caplog.set_level(logging.WARNING, "cell2sen")
    c2s.pl.embedding(placed, "type")
    assert "1 of 6 cells have no coordinates in obsm['X_umap'] and are not drawn" in caplog.text


@pytest.mark.parametrize(
    ("color", "options", "error", "message"),
    [
        ("typ", {}, KeyError, r"'typ' is no obs column and no gene; columns: \['donor', 'type'\]"),
        (GENES[0].lower(), {}, KeyError, f"did you mean {GENES[0]!r}"),
        ("type", {"basis": "tsne"}, KeyError, r"no 'tsne'; available: \['X_umap'\]"),
        (GENES[0], {"layer": "x"}, KeyError, r"adata.layers has no 'x'; available: \[\]"),
        (GENES[0], {"use_raw": True}, ValueError, "the object has no raw"),
        ([], {}, ValueError, "color= is an empty list"),
        (["type", None], {"title": ["one"]}, ValueError, "one for each of the 2 panels, found 1"),
        (["type", None], {"ax": []}, ValueError, "2 panels need a list of 2 axes"),
    ],
)
def test_mistakes(placed: anndata.AnnData, color: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        c2s.pl.embedding(placed, color, **options)


def test_empty_objects_and_embeddings_without_a_map(placed: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match=r"no cell has coordinates in obsm\['X_umap'\] \(0 cells\)"):
        c2s.pl.embedding(placed[:0].copy(), "type")
    placed.obsm["X_cell2sen"] = np.ones((6, 4))
    del placed.obsm["X_umap"]
    with pytest.raises(KeyError, match=r"sc\.pp\.neighbors\(adata, use_rep="):
        c2s.pl.embedding(placed, "type")
    placed.obsm["X_one"] = np.ones((6, 1))
    with pytest.raises(ValueError, match="two columns at least"):
        c2s.pl.embedding(placed, "type", basis="one")


def test_given_axes_and_saving(placed: anndata.AnnData, tmp_path: Path) -> None:
    figure, axes = plt.subplots(1, 2)
    assert c2s.pl.embedding(placed, "type", ax=axes[0]) is axes[0]
    both = c2s.pl.embedding(placed, ["type", GENES[0]], ax=axes, save=tmp_path / "a.png")
    assert both == list(axes)
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert figure.number in plt.get_fignums()  # of the user: not closed


def test_tissues_have_the_second_axis_down_and_one_scale() -> None:
    adata = cells()
    adata.obsm["spatial"] = np.array([[0, 0], [10, 0], [0, 1], [5, 5], [5, 1], [2, 2]], dtype=float)
    adata.obs["slide"] = ["1", "1", "1", "2", "2", "2"]
    adata.obs["niche"] = list("abcabc")
    axes = c2s.pl.spatial(adata, "niche", section=("slide", "2"))
    assert len(axes.collections[0].get_offsets()) == 3
    assert axes.yaxis_inverted()
    assert axes.get_aspect() == 1.0
    first, second = c2s.pl.spatial(adata, ["niche", "slide"])
    assert first.yaxis_inverted()
    assert second.yaxis_inverted()
    with pytest.raises(ValueError, match=r"no cell has '3' in obs\['slide'\]; available: \['1', '2'\]"):
        c2s.pl.spatial(adata, "niche", section=("slide", "3"))
    with pytest.raises(KeyError, match="no column 'no'"):
        c2s.pl.spatial(adata, "niche", section=("no", "3"))


def test_many_points_are_a_picture_in_vector_files() -> None:
    adata = anndata.AnnData(np.zeros((20_001, 1), dtype=np.float32))
    adata.obsm["X_umap"] = np.random.default_rng(0).random((20_001, 2))
    adata.obs["type"] = pd.Categorical(["a"] * 20_001)
    assert c2s.pl.embedding(adata, "type").collections[0].get_rasterized()
