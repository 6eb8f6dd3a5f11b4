"""Samples of cells in space, with the answers to the spatial tasks: same neighbourhood, same niche, a further cell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.space.neighbourhoods import Neighbourhoods

#: Samples of a task: cells of one neighbourhood or not, cells of one niche or not, cells and a further one.
SpaceSamples = Literal["same_neighbourhood", "same_niche", "neighbour"]

#: Draws after which a cell has no sample because nearly all other cells are excluded.
_MAX_DRAWS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceSample:
    """Some cells around one of them, and the answer."""

    cells: NDArray[np.int64]
    """Rows, int64 (cells,); the first is the cell that the others were drawn for."""

    answer: str = ""
    """``"yes"`` or ``"no"``; empty for samples with a `target`."""

    target: int | None = None
    """Row of a further cell of the neighbourhood."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceCells:
    """Cells from which samples are drawn."""

    names: Sequence[str]
    neighbourhoods: Neighbourhoods
    usable: NDArray[np.bool_]
    """bool (cells,): cells that samples may have (those of one side of a split, with genes)."""

    sections: NDArray[Any] | None = None
    """Section of each cell, object (cells,); the cells of a sample are of one section."""

    niches: NDArray[Any] | None = None
    """Niche label of each cell, object (cells,); ``None`` where missing."""


def draw_samples(
    kind: SpaceSamples,
    cells: SpaceCells,
    *,
    n_cells: int,
    seed: int = 0,
    centres: NDArray[np.int64] | None = None,
    missing_niches: str = "the niche of the cells",
) -> list[SpaceSample]:
    """Samples around each usable cell; a yes and a no of the same size for each cell, or none of both.

    ``"same_neighbourhood"``
        Yes: a cell and cells of its neighbourhood. No: the same cell and as many cells of its section from outside.
    ``"same_niche"``
        Yes: a cell and cells of its section with the same niche label. No: the same cell and as many with other labels.
    ``"neighbour"``
        A cell, cells of its neighbourhood, and a further cell of that as the target.

    Parameters
    ----------
    n_cells
        Largest number of cells of a sample, the target excluded; smaller neighbourhoods give smaller samples.
    seed
        Seed of the draws. A cell's samples depend on the seed, on its name and on the names of the usable cells, not on
        their order.
    centres
        Rows of the cells to draw samples for, int64; by default all usable ones.

    Raises
    ------
    ValueError
        Niches are needed and missing, `n_cells` is below 2 (1 for ``"neighbour"``), or no cell has a sample.
    """
    least = 1 if kind == "neighbour" else 2
    if n_cells < least:
        raise ValueError(f"a sample needs at least {least} cells, found n_cells={n_cells}")
    if kind == "same_niche" and cells.niches is None:
        raise ValueError(f"samples of niches need {missing_niches}")
    drawn: list[SpaceSample] = []
    rows = np.flatnonzero(cells.usable) if centres is None else centres[cells.usable[centres]]
    pools = _Pools(cells)
    for cell in rows.tolist():
        generator = np.random.default_rng([seed, _hash(str(cells.names[cell]))])
        drawn += _DRAWS[kind](cells, pools, cell, n_cells, generator)
    if not drawn and centres is None:
        raise ValueError(
            "no cell has a sample: neighbourhoods are empty, or there are no cells outside of them; choose another "
            "radius or number of nearest cells"
        )
    return drawn


class _Pools:
    """Usable cells of each section, in the order of their names."""

    def __init__(self, cells: SpaceCells) -> None:
        names = np.asarray(cells.names, dtype=object).astype(str)
        rows = np.flatnonzero(cells.usable)
        rows = rows[np.argsort(names[rows], kind="stable")]
        self.sections = np.zeros(len(names), dtype=object) if cells.sections is None else cells.sections
        self.place = np.argsort(np.argsort(names, kind="stable"), kind="stable")
        members: dict[Any, list[int]] = {}
        by_niche: dict[Any, list[int]] = {}
        for row in rows.tolist():
            members.setdefault(self.sections[row], []).append(row)
            if cells.niches is not None and cells.niches[row] is not None:
                by_niche.setdefault((self.sections[row], cells.niches[row]), []).append(row)
        self.members: Mapping[Any, NDArray[np.int64]] = {key: np.array(value) for key, value in members.items()}
        self.by_niche: Mapping[Any, NDArray[np.int64]] = {key: np.array(value) for key, value in by_niche.items()}

    def by_name(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[np.argsort(self.place[rows], kind="stable")]


def _draw_from(
    pool: NDArray[np.int64], size: int, excluded: Callable[[int], bool], generator: np.random.Generator
) -> NDArray[np.int64] | None:
    """`size` different cells of a pool that are not excluded; ``None`` if they are not found."""
    found: dict[int, None] = {}
    for _ in range(_MAX_DRAWS):
        if len(found) == size:
            break
        cell = int(pool[generator.integers(len(pool))])
        if not excluded(cell):
            found[cell] = None
    return np.array(list(found), dtype=np.int64) if len(found) == size else None


def _same_neighbourhood(
    cells: SpaceCells, pools: _Pools, cell: int, n_cells: int, generator: np.random.Generator
) -> Iterator[SpaceSample]:
    around = _usable_neighbours(cells, pools, cell)
    others = generator.permutation(around)[: n_cells - 1]
    if not len(others):
        return
    # Outside: no neighbour, and no cell whose neighbour it is, also where the graph has directions.
    near = {cell, *cells.neighbourhoods.of(cell).tolist()}
    outside = _draw_from(
        pools.members[pools.sections[cell]],
        len(others),
        lambda row: row in near or cell in cells.neighbourhoods.of(row),
        generator,
    )
    if outside is not None:
        yield SpaceSample(cells=np.append(cell, others), answer="yes")
        yield SpaceSample(cells=np.append(cell, outside), answer="no")


def _same_niche(
    cells: SpaceCells, pools: _Pools, cell: int, n_cells: int, generator: np.random.Generator
) -> Iterator[SpaceSample]:
    assert cells.niches is not None
    niches, section = cells.niches, pools.sections[cell]
    if niches[cell] is None:
        return
    alike = pools.by_niche[section, niches[cell]]
    size = min(n_cells - 1, len(alike) - 1)
    if size < 1:
        return
    same = generator.permutation(alike[alike != cell])[:size]
    other = _draw_from(
        pools.members[section], size, lambda row: niches[row] is None or niches[row] == niches[cell], generator
    )
    if other is not None:
        yield SpaceSample(cells=np.append(cell, same), answer="yes")
        yield SpaceSample(cells=np.append(cell, other), answer="no")


def _neighbour(
    cells: SpaceCells, pools: _Pools, cell: int, n_cells: int, generator: np.random.Generator
) -> Iterator[SpaceSample]:
    around = generator.permutation(_usable_neighbours(cells, pools, cell))
    if len(around):
        yield SpaceSample(cells=np.append(cell, around[1:n_cells]), target=int(around[0]))


def _usable_neighbours(cells: SpaceCells, pools: _Pools, cell: int) -> NDArray[np.int64]:
    rows = cells.neighbourhoods.of(cell)
    rows = rows[cells.usable[rows]]
    return pools.by_name(rows[[pools.sections[row] == pools.sections[cell] for row in rows]] if len(rows) else rows)


_DRAWS: Mapping[SpaceSamples, Callable[..., Iterator[SpaceSample]]] = {
    "same_neighbourhood": _same_neighbourhood,
    "same_niche": _same_niche,
    "neighbour": _neighbour,
}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
