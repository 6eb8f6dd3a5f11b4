"""Columns of obs and groups of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cell2sen.data.obs import (
    Context,
    cell_names,
    clean_perturbations,
    contexts,
    group_cells,
    number_column,
    obs_column,
    obs_columns,
    perturbations_of_cells,
    text_column,
    warn_of_missing,
)

OBS = pd.DataFrame(
    {"kind": pd.Categorical(["T", "B", "T"]), "drug": [" a ", None, ""], "batch": [1, 2, 1]}, index=["x", "y", "z"]
)


def test_columns_come_once_and_unknown_ones_list_the_available() -> None:
    assert list(obs_columns(OBS, ["batch", "kind", "batch"]).columns) == ["batch", "kind"]
    assert list(obs_columns(OBS, "kind").columns) == ["kind"]
    assert obs_columns(OBS, ()).shape == (3, 0)
    assert obs_column(OBS, "batch").tolist() == [1, 2, 1]
    with pytest.raises(KeyError, match=r"adata.obs has no column 'x'; available: \['kind', 'drug', 'batch'\]"):
        obs_columns(OBS, ["kind", "x"])
    with pytest.raises(KeyError, match="obs of the real cells has no column 'x'"):
        obs_column(OBS, "x", "obs of the real cells")


def test_missing_values_are_none() -> None:
    missing = [None, np.nan, pd.NA, pd.NaT, "", " "]
    assert clean_perturbations([*missing, " a ", 7], 8) == (*[None] * 6, "a", "7")
    assert perturbations_of_cells(OBS, "drug") == ("a", None, None)
    assert perturbations_of_cells(OBS, "kind") == ("T", "B", "T")
    assert perturbations_of_cells(OBS, None) == (None,) * 3
    with pytest.raises(KeyError, match="no column 'x'"):
        perturbations_of_cells(OBS, "x")


def test_perturbations_are_one_per_cell() -> None:
    with pytest.raises(ValueError, match="3 cells, found 2"):
        clean_perturbations(["a", "b"], 3)
    with pytest.raises(ValueError, match="list with one entry per cell, found the text 'abc'"):
        clean_perturbations("abc", 3)


def test_contexts_are_text() -> None:
    assert contexts(OBS, ("kind", "batch")) == [("T", "1"), ("B", "2"), ("T", "1")]
    assert contexts(OBS, ()) == [()] * 3
    assert contexts(OBS, ("drug", "batch")) == [("a", "1"), (None, "2"), (None, "1")]


def test_bytes_and_whole_floats_are_text() -> None:
    obs = pd.DataFrame({"drug": [b"IFN", b"NA"], "cluster": [1.0, np.nan]}, index=[b"x", b"y"])
    assert perturbations_of_cells(obs, "drug") == ("IFN", None)
    assert text_column(obs, "cluster").tolist() == ["1", None]
    assert cell_names(obs).tolist() == ["x", "y"]
    assert cell_names(OBS).tolist() == ["x", "y", "z"]
    assert cell_names(pd.DataFrame(index=[0, 1])).tolist() == ["0", "1"]


def test_missing_values_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    obs = pd.DataFrame({"label": ["T", "NA", "NA", None], "whole": list("abcd")})
    warn_of_missing(obs, "label", "obs of cells.h5ad", "no label is learned from them")
    assert "obs of cells.h5ad: 3 of 4 cells have no value in 'label' (written as 'NA': 2): no label" in caplog.text
    caplog.clear()
    warn_of_missing(obs, "whole", "obs of cells.h5ad", "")
    assert not caplog.text
    perturbations_of_cells(obs, "label")
    assert "2 cells with 'NA' were read as no perturbation" in caplog.text


def test_cells_with_a_missing_value_are_in_no_group() -> None:
    groups = group_cells(["b", "a", None, "b", "a"], [1, 1, 1, 1, 2])
    assert {key: rows.tolist() for key, rows in groups.items()} == {("b", 1): [0, 3], ("a", 1): [1], ("a", 2): [4]}
    assert list(groups) == [("b", 1), ("a", 1), ("a", 2)]
    assert group_cells([]) == {}


def test_numbers_from_any_kind_of_column() -> None:
    obs = pd.DataFrame({"a": pd.Categorical(["1.50", "NA", "-2"]), "b": np.array([0.1, np.nan, 3], np.float32)})
    np.testing.assert_array_equal(number_column(obs, "a"), [1.5, np.nan, -2])
    np.testing.assert_array_equal(number_column(obs, "b"), [0.1, np.nan, 3], "float32 keeps its short decimals")
    for text in ("12 years", "inf", "1,5", "1_000", "1,000"):
        with pytest.raises(ValueError, match=r"must be numbers, found .* its task is 'label:c'"):
            number_column(pd.DataFrame({"c": ["1", text]}), "c")


def test_context_of_cells() -> None:
    obs = pd.DataFrame({"tissue": ["lung", "NA", "lung"], "age": [30.0, 41.0, np.nan], "x": 1})
    context = Context.of(["tissue", "age"], obs)
    assert context.shared([0]) == {"tissue": "lung", "age": "30"}
    assert context.shared([0, 2]) == {"tissue": "lung", "age": None}
    assert context.counts() == {"tissue": 2, "age": 2}
    assert not Context.of(None, obs)
    assert not Context.of([], obs)
    assert Context.of({"sex": "male", "batch": "nan"}, obs).shared([2]) == {"sex": "male", "batch": None}
