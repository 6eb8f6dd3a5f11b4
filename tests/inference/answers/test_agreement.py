from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from cell2sen.inference.answers.agreement import agreement

TRAINED = ("CD14+ monocyte", "CD4 T cell", "CD8 T cell", "B cell")
SPELLINGS = {"CD14+ monocyte": ["CD14+ Mono"], "CD4 T cell": ["T cell"], "CD8 T cell": ["T cell"]}


def series(name: str, values: list[object]) -> pd.Series:
    return pd.Series(values, name=name, dtype=object)


def test_names_that_mean_the_same_count_as_one() -> None:
    given = series("type", ["CD14+ Mono"] * 4 + ["T cells"] * 3 + ["B cell", "Platelet", "Platelet", None, "doublet"])
    predicted = series(
        "label",
        ["CD14+ monocyte"] * 3 + ["B cell", "CD4 T cell", "CD8 T cell", "B cell", "unknown", "B cell", "B cell"]
        + ["B cell", "B cell"],
    )  # fmt: skip
    result = agreement(given, predicted, TRAINED, TRAINED, SPELLINGS)
    assert (result.n_compared, result.n_same, result.n_without) == (7, 5, 3)
    assert result.share == 5 / 7
    assert result.table.index.tolist() == ["CD14+ Mono", "T cells", "Platelet"]
    assert result.table["same"].tolist()[:2] == [0.75, 2 / 3]
    assert math.isnan(result.table["same"].iloc[2])
    assert result.table.loc["CD14+ Mono", "predicted"] == "CD14+ monocyte"
    lines = result.text.splitlines()
    assert lines[0].startswith("71.4% of 7 cells have the label of obs['type']")
    assert lines[1] == "not among the labels to choose from, and not counted: 'Platelet'"
    assert lines[2] == "3 cells without one of the two labels are not counted"
    assert lines[3].split() == ["CD14+", "Mono", "4", "75%", "CD14+", "monocyte"]
    assert str(result) == result.text
    page = result._repr_html_()
    assert page.startswith("<p>71.4% of 7 cells have the label of obs[&#x27;type&#x27;]")
    assert page.count("<tr") == 1 + len(result.table)
    assert json.loads(json.dumps(result.to_dict()))["labels"]["Platelet"]["same"] is None


def test_labels_with_other_names_alone_have_no_share() -> None:
    result = agreement(series("x", ["a", "b"]), series("y", ["B cell"] * 2), TRAINED, TRAINED, {})
    assert math.isnan(result.share)
    assert result.to_dict()["share"] is None
    assert "not counted: 'a', 'b'" in result.text
    assert "% of" not in result.text


def test_no_given_label_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no cell has a label in obs\['x'\]"):
        agreement(series("x", [None, "unknown"]), series("y", ["B cell"] * 2), TRAINED, TRAINED, {})


def test_many_labels_are_cut() -> None:
    names = [f"type {number}" for number in range(40)]
    result = agreement(series("x", names), series("y", names), names, names, {})
    assert result.share == 1
    assert result.text.splitlines()[-1] == "  … and 15 more"
