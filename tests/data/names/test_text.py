"""Text of values: one rule for missing values, white space, Unicode and whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cell2sen.data.names.text import as_text, as_texts, list_of_names, missing_texts, some, tidy

MISSING = [None, np.nan, pd.NA, pd.NaT, "", "  ", "nan", "NaN", "NA", "N/A", "None", "<NA>", "null", b"NA"]


@pytest.mark.parametrize("value", MISSING)
def test_missing_values_have_no_text(value: Any) -> None:
    assert as_text(value) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"IFN-beta", "IFN-beta"),
        (np.bytes_(b"IFN-beta\x00\x00"), "IFN-beta"),
        ("Zellen gr\u00fc\u00dfen".encode("latin-1"), "Zellen gr\u00fc\u00dfen"),
        ("B cell ", "B cell"),
        ("B\u00a0 cell", "B cell"),
        ("B\tcell\n", "B cell"),
        ("\ufeffB cell\u200b", "B cell"),
        ("IFN\u2011beta", "IFN-beta"),
        ("re\u0301gulateur", "r\u00e9gulateur"),
        ('\u03b1/\u03b2 "T"; cell', '\u03b1/\u03b2 "T"; cell'),
        (1.0, "1"),
        (np.float32(7), "7"),
        ("1.0", "1"),
        ("12.00", "12"),
        (1e16, "10000000000000000"),
        (-0.0, "0"),
        (0.5, "0.5"),
        ("0.10", "0.10"),
        ("v1.0", "v1.0"),
        ("1.0.0", "1.0.0"),
        (3, "3"),
        (True, "True"),
        ("none", "none"),
        ("na", "na"),
        (float("inf"), "inf"),
        ("TRUE", "True"),
        ("FALSE", "False"),
        (pd.Timestamp("2020-01-31"), "2020-01-31"),
        ("2020-01-31 00:00:00", "2020-01-31"),
        (pd.Timestamp("2020-01-31 12:30"), "2020-01-31 12:30:00"),
        ("B\u200e cell\u202c", "B cell"),
    ],
)
def test_text_of_values(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, pd.Index, pd.Categorical])
def test_columns_of_any_kind(kind: Any) -> None:
    assert as_texts(kind(["a ", "nan", "b", "a"])) == ["a", None, "b", "a"]


def test_categories_with_codes_without_value_and_mixed_types() -> None:
    assert as_texts(pd.Series([1.0, None, 2.0], dtype="category")) == ["1", None, "2"]
    assert as_texts(pd.Series([1, True, 1.0, "1.0"], dtype=object)) == ["1", "True", "1", "1"]
    assert as_texts(pd.array([1, None], dtype="Int64")) == ["1", None]
    assert as_texts(np.array([b"a", b"NA"], dtype="S2")) == ["a", None]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_are_the_same_text_in_any_size(dtype: str) -> None:
    column = pd.Series([0.1, 10.0, np.nan, 2.5], dtype=dtype)
    assert as_texts(column) == ["0.1", "10", None, "2.5"]
    if dtype != "float16":  # pandas has no categories of it
        assert as_texts(column.astype("category")) == ["0.1", "10", None, "2.5"]
    assert as_texts(column.to_numpy()) == ["0.1", "10", None, "2.5"]


def test_truth_values_and_dates_are_the_same_after_csv(tmp_path: Path) -> None:
    table = pd.DataFrame({"truth": [True, False], "day": pd.to_datetime(["2020-01-31", "2021-02-01"])})
    table.to_csv(tmp_path / "a.csv", index=False)
    again = pd.read_csv(tmp_path / "a.csv", dtype=str)
    for name in table:
        assert as_texts(table[name]) == as_texts(table[name].astype("category")) == as_texts(again[name])


def test_missing_text_is_counted_by_spelling() -> None:
    values = ["NA", "NA", "T", "nan", None, np.nan, " "]
    assert missing_texts(values) == {"NA": 2, "nan": 1, "": 1}
    assert missing_texts(pd.Series(values, dtype=object)) == {"NA": 2, "nan": 1, "": 1}
    assert missing_texts(pd.Series(values).astype("category")) == {"NA": 2, "nan": 1, "": 1}
    assert missing_texts(pd.Series([1.0, np.nan])) == {}


def test_one_text_is_split_at_semicolons_and_a_list_is_not() -> None:
    assert list_of_names("T cell; B cell;") == ["T cell", "B cell"]
    assert list_of_names(["T; cell", 3]) == ["T; cell", 3]


def test_some_names() -> None:
    assert some(["a", "b"]) == "'a', 'b'"
    assert some(list("abc"), 2) == "'a', 'b' and 1 more"
    assert tidy(" a  b ") == "a b"
