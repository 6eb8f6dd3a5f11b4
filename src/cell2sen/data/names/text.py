"""Values as text: bytes, white space, Unicode, whole numbers, and the one rule for missing values."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

#: Missing values after a round trip through text, in obs, var, tables and lists. "none" and "na" in lower case are
#: words: a control without treatment, a gene of the fly.
MISSING = frozenset(
    {"", "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "None", "null", "NULL"}
)  # fmt: skip

_INVISIBLE = re.compile("[\x00\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe0e\ufe0f\ufeff]")
_HYPHEN = re.compile("[\u2010\u2011]")
_WHOLE = re.compile(r"(-?\d+)\.0+")
_MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)[ T]00:00:00(?:\.0+)?")

#: Spellings of truth values in R and in tables → Python's.
_TRUTH = {"TRUE": "True", "FALSE": "False"}


def decoded(value: Any) -> Any:
    """The value, or the text of bytes: UTF-8, else Latin-1; zeros that pad fixed-length strings are removed."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8").rstrip("\x00")
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip("\x00")


def tidy(text: str) -> str:
    """Text with single spaces inside and none around, in Unicode NFC, without invisible characters.

    All white space counts as a space, such as a no-break space or a line break. The hyphens of word processors become
    ASCII ones.
    """
    text = " ".join(_INVISIBLE.sub("", text).split())
    return text if text.isascii() else _HYPHEN.sub("-", unicodedata.normalize("NFC", text))


def written(value: Any) -> str:
    """A value as text: bytes decoded, :func:`tidy`; "" for missing values.

    Whole numbers have no ``.0``, dates no midnight, and truth values are ``True`` and ``False``: a column is the same
    after a way through CSV or R.
    """
    value = decoded(value)
    if isinstance(value, float | np.floating):
        return (
            "" if np.isnan(value) else str(int(value)) if value == np.rint(value) and np.isfinite(value) else str(value)
        )
    if not isinstance(value, str):
        import pandas as pd

        missing = pd.isna(value)
        value = "" if isinstance(missing, bool) and missing else str(value)
    text = tidy(value)
    same = _WHOLE.fullmatch(text) or _MIDNIGHT.fullmatch(text)
    return same[1] if same else _TRUTH.get(text, text)


def as_text(value: Any) -> str | None:
    """A value as text (:func:`written`); ``None`` if it is missing, also where that was written as text."""
    text = written(value)
    return None if text in MISSING else text


def as_texts(values: Iterable[Any], convert: Callable[[Any], str | None] = as_text) -> list[str | None]:
    """Each value after `convert`, which is called once for each different value, or category of a column."""
    if hasattr(values, "cat"):  # a categorical column
        categories = [*map(convert, _elements(values.cat.categories)), convert(None)]
        return [categories[code] for code in values.cat.codes.tolist()]
    if _are_texts(values):
        import pandas as pd

        codes, names = pd.factorize(np.asarray(values, dtype=object))
        found = [convert(str(name)) for name in names]
        return [found[code] for code in codes.tolist()]
    known: dict[tuple[type, Any], str | None] = {}  # 1 and True are equal
    texts = []
    for value in _elements(values):
        try:
            text = known[type(value), value]
        except KeyError:
            text = known[type(value), value] = convert(value)
        except TypeError:  # not hashable
            text = convert(value)
        texts.append(text)
    return texts


def _are_texts(values: Iterable[Any]) -> bool:
    """Whether a column or an array holds text alone, without missing values."""
    if not hasattr(values, "dtype"):
        return False
    import pandas as pd

    return pd.api.types.infer_dtype(values, skipna=False) == "string"


def _elements(values: Iterable[Any]) -> Iterable[Any]:
    """Elements of a list, an array or a column; those of less than 64 bits keep their short decimals (0.1)."""
    if getattr(values, "dtype", None) in (np.dtype("float32"), np.dtype("float16")):
        return list(np.asarray(values))
    return values.tolist() if hasattr(values, "tolist") else values


def missing_texts(values: Iterable[Any]) -> dict[str, int]:
    """Number of each missing value that was written as text, such as ``{"NA": 3}``; blanks are ``""``."""
    column: Any = values
    if hasattr(column, "cat"):
        counts = {value: int(count) for value, count in column.value_counts().items()}
    else:
        listed = column.tolist() if hasattr(column, "tolist") else list(column)
        counts = Counter(value for value in listed if isinstance(value, str | bytes))
    found: Counter[str] = Counter()
    for value, count in ((decoded(value), count) for value, count in counts.items()):
        if isinstance(value, str) and (text := tidy(value)) in MISSING and count:
            found[text] += count
    return dict(found)


def under_names(values: Iterable[Any], names: Mapping[str, Any]) -> list[str | None]:
    """Values as text, under other names where `names` has some; a name also keeps text that means a missing value."""
    others = {written(name): as_text(other) for name, other in names.items()}

    def convert(value: Any) -> str | None:
        text = written(value)
        return others.get(text, None if text in MISSING else text)

    return as_texts(values, convert)


def list_of_names(names: str | Iterable[Any]) -> list[Any]:
    """Names of a list as they are, or of one text, separated by semicolons."""
    if isinstance(names, str):
        return [name for name in map(tidy, names.split(";")) if name]
    return list(names)


def is_list(value: Any) -> bool:
    """Whether a value is a list or array, which is no name."""
    return isinstance(value, list | tuple | set | dict | np.ndarray)


def some(names: Sequence[Any], limit: int = 5) -> str:
    """The first `limit` names in quotes, and the number of the others."""
    text = ", ".join(repr(name) for name in names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text
