from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from cell2sen.pl.palette import GREY, OKABE_ITO, categories, category_colours, is_categorical, text_colour

#: Linear RGB → what a reader without L or M cones sees, linear RGB (Viénot, Brettel & Mollon 1999).
BLIND = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def linear(colour: str) -> np.ndarray:
    parts = np.array(mpl.colors.to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB (D65)."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ colour
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.0))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", sorted(BLIND))
def test_eight_colours_differ_for_colour_blind_readers(kind: str) -> None:
    seen = [lab(np.clip(np.array(BLIND[kind]) @ linear(colour), 0, 1)) for colour in OKABE_ITO]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 9


@pytest.mark.parametrize("n", [1, 8, 9, 20, 25, 40, 102])
def test_each_category_has_its_own_colour(n: int) -> None:
    colours = category_colours([f"type {number}" for number in range(n)])
    assert len(set(colours.values())) == n
    assert list(colours.values())[:8] == list(OKABE_ITO[:n])


def test_names_that_mean_the_same_share_a_colour() -> None:
    colours = category_colours(["B cell", "T cell", "B cells", "b-cell", "unknown", "Unassigned"])
    assert colours["B cell"] == colours["B cells"] == colours["b-cell"] == OKABE_ITO[0]
    assert colours["T cell"] == OKABE_ITO[1]
    assert colours["unknown"] == colours["Unassigned"] == GREY


def test_given_colours_are_kept_and_not_used_again() -> None:
    colours = category_colours(["a", "b", "c"], {"b": OKABE_ITO[0]})
    assert colours["b"] == OKABE_ITO[0]
    assert len(set(colours.values())) == 3
    listed = category_colours(["a", "unknown", "b"], ["red", "#00ff00"])
    assert listed == {"a": "#FF0000", "unknown": GREY, "b": "#00FF00"}
    with pytest.raises(ValueError, match="the palette has 1 colours for 2 categories"):
        category_colours(["a", "b"], ["red"])
    with pytest.raises(ValueError, match="'reddd' in the palette is no colour"):
        category_colours(["a"], {"a": "reddd"})


def test_categories_are_in_the_order_of_the_column_or_natural() -> None:
    column = pd.Series(pd.Categorical(["b", None, "a"], categories=["b", "x", "a"]))
    assert categories(column).cat.categories.tolist() == ["b", "a"]
    texts = pd.Series(["10", "9", "b 2", "b 10", None, True], dtype=object)
    assert categories(texts).cat.categories.tolist() == ["9", "10", "b 2", "b 10", "True"]
    assert categories(texts).isna().tolist() == [False, False, False, False, True, False]
    assert categories(pd.Series([], dtype=object)).cat.categories.tolist() == []


def test_numbers_are_no_categories_but_truth_values_are() -> None:
    kinds = [[1, 2], [0.5, np.nan], ["a", None], [True, False]]
    assert [is_categorical(pd.Series(values)) for values in kinds] == [False, False, True, True]
    assert is_categorical(pd.Series([1, 2]).astype("category"))


def test_text_is_readable() -> None:
    """Contrast of at least 4.5 : 1 on any grey (WCAG 2, level AA)."""
    for shade in np.linspace(0, 1, 101):
        light, dark = sorted([linear(str(shade))[0] + 0.05, linear(text_colour(str(shade)))[0] + 0.05], reverse=True)
        assert light / dark >= 4.5
