from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import cell2sen as c2s
from cell2sen.pl.palette import LIGHT_GREY


@pytest.fixture
def scores() -> pd.DataFrame:
    return pd.DataFrame(
        {"iLISI": [0.2, 0.9, np.nan], "Distance": [3.0, 1.0, 120.0], "Total": [0.5, 0.4, 0.8]},
        index=["PCA", "Harmony", "cell2sen"],
    )


def texts(axes: Any) -> dict[tuple[float, float], Any]:
    return {text.get_position(): text for text in axes.texts}


def test_metrics_are_shown_as_they_are_and_the_best_are_bold(scores: pd.DataFrame) -> None:
    axes = c2s.pl.metrics(scores, lower_is_better=["Distance"], title="mine")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cell2sen", "PCA", "Harmony"]  # by Total
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["iLISI", "Distance ↓", "Total"]
    shown = texts(axes)
    assert {place: text.get_text() for place, text in shown.items()} == {
        (0, 0): "–", (0, 1): "0.20", (0, 2): "0.90", (1, 0): "120", (1, 1): "3.00", (1, 2): "1.00",
        (2, 0): "0.80", (2, 1): "0.50", (2, 2): "0.40",
    }  # fmt: skip
    assert {place for place, text in shown.items() if text.get_weight() == "bold"} == {(0, 2), (1, 2), (2, 0)}
    assert axes.get_title() == "mine"


def test_tables_of_scib_metrics_have_a_row_of_kinds(scores: pd.DataFrame) -> None:
    table = scores.astype(object)
    table.loc["Metric Type"] = ["Batch correction", "Bio conservation", "Aggregate score"]
    assert len(c2s.pl.metrics(table).get_yticklabels()) == 3
    by = c2s.pl.metrics(table, sort_by="iLISI", totals=[])
    assert [tick.get_text() for tick in by.get_yticklabels()] == ["Harmony", "PCA", "cell2sen"]


def test_one_method_and_no_method(scores: pd.DataFrame) -> None:
    axes = c2s.pl.metrics(scores[:1])
    assert all(text.get_weight() == "normal" for text in axes.texts)
    with pytest.raises(ValueError, match=r"no scores: 0 rows, columns \['iLISI'"):
        c2s.pl.metrics(scores[:0])
    with pytest.raises(KeyError, match=r"no column of numbers 'x'; available: \['iLISI', 'Distance', 'Total'\]"):
        c2s.pl.metrics(scores, sort_by="x")


@pytest.fixture
def ranked() -> pd.DataFrame:
    score = np.random.default_rng(0).normal(size=60)
    score[5] = np.nan
    return pd.DataFrame({"score": score, "low": score - 1, "high": score + 1}, index=[f"G{n}" for n in range(60)])


def test_screen_is_in_the_order_of_the_scores(ranked: pd.DataFrame) -> None:
    axes = c2s.pl.screen(ranked, "score", low="low", high="high", highlight=["G30"], n=3)
    points = np.asarray(axes.collections[1].get_offsets())
    expected = ranked["score"].dropna().sort_values(ascending=False)
    np.testing.assert_allclose(points, np.column_stack([np.arange(1, 60), expected]))
    names = {text.get_text() for text in axes.texts}
    assert names >= {expected.index[0], expected.index[-1], "G30"}
    assert axes.get_title() == "59 perturbations; 1 without a score left out"
    (marked,) = np.asarray(axes.collections[2].get_offsets())
    assert marked[1] == ranked.loc["G30", "score"]


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_short_screens(ranked: pd.DataFrame, n_rows: int) -> None:
    axes = c2s.pl.screen(ranked[:n_rows].reset_index(names="gene"), "score", name="gene")
    names = [text.get_text() for text in axes.texts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"score": "x"}, KeyError, "no column 'x'; available"),
        ({"score": "score", "low": "low"}, ValueError, "both low= and high="),
        ({"score": "score", "highlight": ["x"]}, KeyError, r"no row is named 'x'; the first are \['G0'"),
    ],
)
def test_mistakes_in_screens(
    ranked: pd.DataFrame, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        c2s.pl.screen(ranked, **options)
    with pytest.raises(ValueError, match=r"column 'score' has no finite score \(1 rows\)"):
        c2s.pl.screen(ranked[5:6], "score")


def test_composition_has_the_shares_of_each_group() -> None:
    obs = pd.DataFrame({"niche": ["a"] * 4 + ["b"] * 2 + [None], "cell_type": ["B", "B", "T", "NK", "T", "T", "B"]})
    axes = c2s.pl.composition(obs, "niche")
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["T", "B", "NK"]
    np.testing.assert_allclose(widths, [[0.25, 1], [0.5, 0], [0.25, 0]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a (4)", "b (2)"]
    with pytest.raises(KeyError, match="no column 'x'"):
        c2s.pl.composition(obs, "x")


def test_composition_of_a_thousand_types() -> None:
    import matplotlib as mpl

    generator = np.random.default_rng(0)
    obs = pd.DataFrame({"niche": ["a"] * 3000, "cell_type": [f"t{n}" for n in generator.integers(0, 1000, 3000)]})
    axes = c2s.pl.composition(obs, "niche")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(names) == 40
    assert names[0].endswith(" others")
    assert mpl.colors.to_hex(axes.containers[0][0].get_facecolor()).upper() == LIGHT_GREY


def test_screens_of_the_tool_are_drawn_as_they_are() -> None:
    table = pd.DataFrame(
        {
            "context": ["A", "A", "B", "B"], "rank": [1, 2, 1, 2], "item": ["x", "y", "y", "x"],
            "effect": [-2.0, -1.0, -4.0, 3.0], "low": [-3.0, -2, -5, 2], "high": [-1.0, 0, -3, 4],
            "fdr": [0.01, 1, 1, 1],
        }
    )  # fmt: skip
    axes = c2s.pl.screen(table, context="A")
    assert axes.collections[1].get_offsets()[:, 1].tolist() == [-2, -1]
    assert c2s.pl.screen(table).collections[1].get_offsets()[:, 1].tolist() == [-4, 3]
    with pytest.raises(KeyError, match="no context 'C'"):
        c2s.pl.screen(table, context="C")
