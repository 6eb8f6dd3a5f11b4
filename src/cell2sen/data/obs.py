"""Columns of obs: one value or perturbation per cell, groups of cells."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import as_texts, decoded, missing_texts

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
        One sequence per variable, (cells,). Cells with a ``None`` are in no group.
    """
    rows: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(zip(*values, strict=True)):
        if None not in key:
            rows.setdefault(key, []).append(row)
    return {key: np.array(members, dtype=np.int64) for key, members in rows.items()}
