"""Held-out regions: blocks of space, with a margin as wide as a neighbourhood around them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.space.neighbourhoods import Neighbourhoods


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Split of cells by their coordinates."""

    held_out: NDArray[np.bool_]
    """bool (cells,): cells of held-out blocks."""

    margin: NDArray[np.bool_]
    """bool (cells,): other cells that are neighbours of a held-out cell, or have one as neighbour. They belong to
    neither side: no neighbourhood then has cells of both."""


def held_out_regions(
    coordinates: Any,
    neighbourhoods: Neighbourhoods,
    *,
    share: float,
    sections: Sequence[Any] | NDArray[Any] | None = None,
    seed: int = 0,
) -> Regions:
    """Random blocks of each section that hold about a share of its cells, and the margin around them.

    A section is divided into a grid of ⌈1/√share⌉ × ⌈1/√share⌉ equal blocks over the range of its coordinates, so that
    one block has about `share` of a rectangular section. Blocks are held out in random order while that brings the
    number of cells nearer to the share. The split depends on the coordinates and the seed, not on the order of cells.

    Parameters
    ----------
    coordinates
        float (cells, dimensions); the first two dimensions define the blocks. Cells with a missing coordinate are in
        the margin.
    sections
        Section of each cell; cells without one (``None``) are in the margin.

    Raises
    ------
    ValueError
        `share` is not between 0 and 1, or no block holds so few cells that training cells remain.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is that of the cells to hold out, from 0 to below 1, found {share}")
    points = np.asarray(coordinates, dtype=np.float64)[:, :2]
    groups = np.zeros(len(points), dtype=object) if sections is None else np.asarray(sections, dtype=object)
    usable = np.isfinite(points).all(axis=1) & np.array([group is not None for group in groups], dtype=bool)
    held_out = np.zeros(len(points), dtype=bool)
    for section in sorted(set(groups[usable].tolist()), key=str) if share else ():
        rows = np.flatnonzero(usable & (groups == section))
        held_out[rows] = _held_out_blocks(points[rows], share, [seed, zlib.crc32(str(section).encode())])
    if held_out.all() and len(held_out):
        raise ValueError("all cells are in held-out blocks: choose a smaller share")
    links = neighbourhoods.connectivities
    near = np.asarray(links @ held_out.astype(np.float64) > 0) | np.asarray(links.T @ held_out.astype(np.float64) > 0)
    return Regions(held_out=held_out, margin=~held_out & (near | ~usable))


def _held_out_blocks(points: NDArray[np.float64], share: float, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """Cells of random blocks, bool (cells,)."""
    per_side = max(2, math.ceil(1 / math.sqrt(share)))
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    places = np.minimum((points - low) / np.where(extent > 0, extent, 1.0) * per_side, per_side - 1).astype(np.int64)
    block = places @ np.array([per_side, 1])[: points.shape[1]]
    target, chosen = share * len(points), np.zeros(len(points), dtype=bool)
    for number in np.random.default_rng(seeds).permutation(per_side**2):
        cells = block == number
        after = chosen.sum() + cells.sum()
        if cells.any() and after < len(points) and abs(after - target) < abs(chosen.sum() - target):
            chosen |= cells
    return chosen
