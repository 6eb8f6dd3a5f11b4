"""Cells of a screen: which are screened, in which contexts, of which donors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import as_texts, some
from cell2sen.data.obs import obs_column
from cell2sen.inference.responses.control_cells import AUTO, controls_of_cells
from cell2sen.inference.session import Session
from cell2sen.inference.transfer.support import sample_of

#: Context of screens without a column of contexts.
ALL_CELLS = "all cells"


@dataclass(frozen=True, kw_only=True)
class CellSettings:
    """Which cells are screened."""

    perturbation_column: str | None = None
    control: str | Sequence[str | None] | None = AUTO
    context: str | None = None
    contexts: tuple[str, ...] = ()
    donor: str | None = None
    n_cells: int = 200
    min_cells: int = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Columns of obs that a screen reads, and whether each cell can be screened."""

    names: Sequence[str]
    usable: NDArray[np.bool_]
    """bool (n,): has genes and a context."""

    context: NDArray[np.object_]
    """Context of each cell, object (n,)."""

    donor: NDArray[np.object_] | None
    perturbation: NDArray[np.object_] | None
    is_control: NDArray[np.bool_] | None
    """``None`` if the file has no controls beside other cells."""

    settings: CellSettings

    def sampled(self, usable: NDArray[np.bool_], limit: int | None) -> NDArray[np.int64]:
        """At most `limit` usable cells of each context by a hash of their names, int64 (m,), ascending.

        Contexts with fewer than ``min_cells`` cells are left out.
        """
        rows: list[int] = []
        for name in self.contexts(usable):
            members = np.flatnonzero(usable & (self.context == name)).tolist()
            rows += members if limit is None else sample_of(self.names, members, limit)
        return np.array(sorted(rows), dtype=np.int64)

    def contexts(self, usable: NDArray[np.bool_]) -> list[str]:
        """Contexts with enough usable cells, in alphabetical order.

        Raises
        ------
        ValueError
            There are none.
        """
        counts = pd.Series(self.context[usable]).value_counts()
        names = sorted(str(name) for name, count in counts.items() if count >= self.settings.min_cells)
        if not names:
            raise ValueError(
                f"no context has {self.settings.min_cells} cells to screen (found {int(usable.sum())} cells in all); "
                "lower min_cells=, or pass other cells"
            )
        return names

    def donors_of(self, rows: NDArray[np.int64]) -> list[str] | None:
        """Donor of each of these cells."""
        return None if self.donor is None else [str(name) for name in self.donor[rows]]


def cells_of(session: Session, obs: pd.DataFrame, settings: CellSettings, *, measured: bool) -> Cells:
    """Cells of a dataset for a screen.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        No such context; measured groups without a column, or without controls.
    """
    usable = session.sentences.n_genes > 0
    context = np.full(len(obs), ALL_CELLS, dtype=object)
    if settings.context is not None:
        context = np.array(as_texts(obs_column(obs, settings.context)), dtype=object)
        available = sorted({value for value in context if value is not None})
        if unknown := [name for name in settings.contexts if name not in available]:
            raise ValueError(f"obs[{settings.context!r}] has no {unknown[0]!r}; available: {some(available, 20)}")
        usable = usable & np.array([value in (settings.contexts or available) for value in context])
    elif settings.contexts:
        raise ValueError("name the obs column of the contexts: context=")
    donor = None
    if settings.donor is not None:
        donor = np.array(as_texts(obs_column(obs, settings.donor)), dtype=object)
        usable = usable & np.array([value is not None for value in donor])
    column = settings.perturbation_column
    if measured and column is None:
        raise ValueError("measured groups need the obs column with the perturbation of each cell: perturbation_column=")
    values = None if column is None else np.array(as_texts(obs_column(obs, column)), dtype=object)
    trained: Mapping[str, int] = session.model.metadata.get("perturbations") or {}
    controls = controls_of_cells(obs, column, settings.control, trained)
    if measured and controls is None:
        raise ValueError("measured groups are compared with controls: name them, control=")
    return Cells(
        names=[str(name) for name in session.sentences.names],
        usable=usable,
        context=context,
        donor=donor,
        perturbation=values,
        is_control=None if controls is None else np.asarray(controls, dtype=bool),
        settings=settings,
    )
