"""Columns of obs: one value, number or perturbation per cell, context of prompts, groups of cells."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import as_text, as_texts, decoded, missing_texts, some

logger = logging.getLogger(__name__)


def obs_columns(obs: pd.DataFrame, names: str | Collection[str], owner: str = "adata.obs") -> pd.DataFrame:
    """Columns of `obs` with these names, each once.

    Parameters
    ----------
    owner
        Name of `obs` in the error.

    Raises
    ------
    KeyError
        An unknown column; lists the available ones.
    """
    names = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in names:
        if name not in obs.columns:
            raise KeyError(f"{owner} has no column {name!r}; available: {list(map(str, obs.columns))}")
    return obs[names]


def obs_column(obs: pd.DataFrame, name: str, owner: str = "adata.obs") -> pd.Series[Any]:
    """One column of `obs`; see :func:`obs_columns`."""
    return obs_columns(obs, name, owner)[name]


def text_column(obs: pd.DataFrame, name: str, owner: str = "adata.obs") -> NDArray[Any]:
    """Values of one column as text, object (n,); ``None`` where missing. See :mod:`cell2sen.data.names.text`."""
    return np.array(as_texts(obs_column(obs, name, owner)), dtype=object)


def number_column(obs: pd.DataFrame, name: str, owner: str = "adata.obs") -> NDArray[np.float64]:
    """Values of one column as numbers, also where they are text or categories, float64 (n,); NaN where missing.

    Raises
    ------
    KeyError
        An unknown column; lists the available ones.
    ValueError
        Values that are no finite numbers.
    """
    texts = as_texts(obs_column(obs, name, owner))
    numbers = {text: _number(text) for text in dict.fromkeys(texts) if text is not None}
    if invalid := [text for text, number in numbers.items() if number is None]:
        raise ValueError(
            f"{owner}: the values of {name!r} must be numbers, found {some(invalid)}; as a label, its task is "
            f"'label:{name}'"
        )
    return np.array([np.nan if text is None else numbers[text] for text in texts], dtype=np.float64)


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", "x"))  # 1_000 is a number of Python alone
    except ValueError:
        return None
    return number if np.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What prompts tell of each cell besides its genes: values of columns of obs (tissue, donor, free text)."""

    names: tuple[str, ...] = ()
    """Columns, in the order of the prompt."""

    values: Sequence[tuple[str | None, ...]] = ()
    """Value of each column for each cell; ``None`` where missing, which is written as nothing."""

    given: Mapping[str, str] | None = None
    """Values that are the same for all cells, instead of columns."""

    @classmethod
    def of(cls, context: str | Sequence[str] | Mapping[str, Any] | None, obs: pd.DataFrame) -> Context:
        """Context of the cells of `obs`: one column, several, or ``{name: value}`` for all cells.

        Raises
        ------
        KeyError
            An unknown column; lists the available ones.
        """
        if isinstance(context, Mapping):
            given = {str(name): text for name, value in context.items() if (text := as_text(value)) is not None}
            names = tuple(map(str, context))
            return cls(names=names, values=[tuple(given.get(name) for name in names)] * len(obs), given=given)
        names = tuple(context_columns(context))
        return cls(names=names, values=contexts(obs, names))

    def __bool__(self) -> bool:
        return bool(self.names)

    def shared(self, rows: Iterable[int]) -> dict[str, str | None]:
        """Values that all these cells have in common; ``None`` for others."""
        different = {self.values[row] for row in rows}
        return {
            name: next(iter(found)) if len(found := {values[number] for values in different}) == 1 else None
            for number, name in enumerate(self.names)
        }

    def counts(self) -> dict[str, int]:
        """Number of cells with a value, for each column."""
        return {
            name: sum(values[number] is not None for values in self.values) for number, name in enumerate(self.names)
        }


def context_columns(context: str | Sequence[str] | Mapping[str, Any] | None) -> list[str]:
    """Columns of obs that a context names: none for ``{name: value}``."""
    if context is None or isinstance(context, Mapping):
        return []
    return list(dict.fromkeys([context] if isinstance(context, str) else map(str, context)))


def cell_names(obs: pd.DataFrame) -> NDArray[Any]:
    """Names of the cells, object (n,); bytes are decoded, the text is not changed."""
    index = obs.index
    if index.inferred_type == "bytes":
        return np.array([decoded(name) for name in index], dtype=object)
    return np.asarray(index.astype(str), dtype=object)


def warn_of_missing(obs: pd.DataFrame, name: str, owner: str, consequence: str) -> None:
    """Log how many cells have no value in a column, and those of which it was written as text."""
    values = obs_column(obs, name, owner)
    n_missing = sum(value is None for value in as_texts(values))
    if not n_missing:
        return
    spelled = ", ".join(f"{text!r}: {count}" for text, count in missing_texts(values).items())
    logger.warning(
        "%s: %d of %d cells have no value in %r%s: %s",
        owner,
        n_missing,
        len(values),
        name,
        f" (written as {spelled})" if spelled else "",
        consequence,
    )


def clean_perturbations(values: Collection[Any], n: int) -> tuple[str | None, ...]:
    """One perturbation per cell; missing values become ``None``, also where they are text ("", "nan", "NA", …).

    Raises
    ------
    ValueError
        Not one value per cell.
    """
    if isinstance(values, str):
        raise ValueError(f"perturbations must be a list with one entry per cell, found the text {values!r}")
    if len(values) != n:
        raise ValueError(f"perturbations must have one entry per cell: {n} cells, found {len(values)} entries")
    return tuple(as_texts(values))


def perturbations_of_cells(obs: pd.DataFrame, column: str | None) -> tuple[str | None, ...]:
    """Perturbation of each cell from an obs column; ``None`` for all cells if `column` is ``None``."""
    if column is None:
        return (None,) * len(obs)
    values = obs_column(obs, column)
    if spelled := missing_texts(values):
        logger.warning(
            "obs[%r]: %s were read as no perturbation",
            column,
            ", ".join(f"{count} cells with {text!r}" for text, count in spelled.items()),
        )
    return tuple(as_texts(values))


def contexts(obs: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str | None, ...]]:
    """Values of each cell in `columns` (cell type, donor, batch), as text; ``None`` where missing."""
    texts = [as_texts(obs_column(obs, name)) for name in columns]
    return list(zip(*texts, strict=True)) if texts else [()] * len(obs)


def group_cells(*values: Iterable[Any]) -> dict[tuple[Any, ...], NDArray[np.int64]]:
    """Groups of cells with the same values: ``{(value, …): int64 row numbers}``, in the order of their first cells.

    Parameters
    ----------
    *values
        One sequence per variable, (cells,). Cells with a ``None`` (or NaN) are in no group.
    """
    columns = [np.fromiter(column, dtype=object) for column in values]
    code: Any = 0
    for column in columns:
        codes, names = pd.factorize(column)
        code = np.where((code < 0) | (codes < 0), -1, code * len(names) + codes)
    rows = np.flatnonzero(np.atleast_1d(code) >= 0)
    if not columns or not len(rows):
        return {}
    _, first, group, sizes = np.unique(code[rows], return_index=True, return_inverse=True, return_counts=True)
    members = np.split(rows[np.argsort(group, kind="stable")], np.cumsum(sizes)[:-1])
    return {tuple(column[rows[first[at]]] for column in columns): members[at] for at in np.argsort(first)}
