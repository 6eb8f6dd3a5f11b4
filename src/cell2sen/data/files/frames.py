"""Annotations of files: bytes as text, and cell or gene names that a conversion left in a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

#: Column in which SeuratDisk leaves the names. anndata writes no column of this name.
NAMES_COLUMN = "_index"


def text_of(value: Any) -> Any:
    """Bytes as text (UTF-8, else Latin-1); other values as they are."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def with_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the names of its column ``_index`` instead of row numbers, and without that column."""
    if NAMES_COLUMN not in frame.columns:
        return frame
    names = frame[NAMES_COLUMN]
    rest = frame.drop(columns=NAMES_COLUMN)
    numbered = frame.index.astype(str).str.fullmatch(r"\d+").all()
    if numbered and not names.isna().any():
        rest.index = pd.Index(names.astype(str).to_numpy(dtype=object))
    return rest


def with_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with text in place of bytes, in its columns, categories and names."""
    columns = [_with_text(frame.iloc[:, place]) for place in range(frame.shape[1])]
    names = [text_of(name) for name in frame.index] if _has_bytes(frame.index) else None
    if names is None and all(column is None for column in columns):
        return frame
    frame = frame.copy(deep=False)
    for place, column in enumerate(columns):
        if column is not None:
            frame.isetitem(place, column.array)
    if names is not None:
        frame.index = pd.Index(names, dtype=object, name=frame.index.name)
    return frame


def _with_text(column: pd.Series[Any]) -> pd.Series[Any] | None:
    """The column with text in place of bytes; ``None`` if there are no bytes."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = column.cat.categories
        if not _has_bytes(categories):
            return None
        texts = np.array([text_of(category) for category in categories], dtype=object)
        codes = column.cat.codes.to_numpy()
        values = [texts[code] if code >= 0 else None for code in codes]
        return pd.Series(pd.Categorical(values, categories=pd.unique(texts)), index=column.index)
    if not _has_bytes(column):
        return None
    return pd.Series([text_of(value) for value in column], index=column.index, dtype=object)


def _has_bytes(values: Any) -> bool:
    return values.dtype.kind == "S" or (values.dtype == object and any(isinstance(value, bytes) for value in values))
