"""Columns of obs: one value or perturbation per cell, groups of cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


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


def stripped(values: Collection[Any]) -> list[str | None]:
    """Each value as text without surrounding white space; ``None`` for missing values and blank text."""
    return [None if pd.isna(value) or not str(value).strip() else str(value).strip() for value in values]


def clean_perturbations(values: Collection[Any], n: int) -> tuple[str | None, ...]:
    """One perturbation per cell; ``None``, NaN and blank strings become ``None``.

    Raises
    ------
    ValueError
        Not one value per cell.
    """
    if isinstance(values, str):
        raise ValueError(f"perturbations must be a list with one entry per cell, found the text {values!r}")
    if len(values) != n:
        raise ValueError(f"perturbations must have one entry per cell: {n} cells, found {len(values)} entries")
    return tuple(stripped(values))


def perturbations_of_cells(obs: pd.DataFrame, column: str | None) -> tuple[str | None, ...]:
    """Perturbation of each cell from an obs column; ``None`` for all cells if `column` is ``None``."""
    return (None,) * len(obs) if column is None else tuple(stripped(obs_column(obs, column)))


def contexts(obs: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Values of each cell in `columns` (cell type, donor, batch), as text."""
    return [tuple(row) for row in obs_columns(obs, columns).astype(str).to_numpy()]


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
