"""Samples: the cells of one donor, tissue or batch, split into samples of a few cells."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def split_into_samples(
    groups: Sequence[Hashable | None], names: Sequence[str], *, n_cells: int, min_cells: int, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Random samples of about `n_cells` cells, each of one group.

    Every cell of a group is in exactly one sample. The samples of a group have equal numbers of cells (plus or minus
    one), at most `n_cells` unless that would leave fewer than `min_cells` in one. They depend on the seed and on the
    names of the group's cells only, not on their order or on other groups.

    Parameters
    ----------
    groups
        Group of each cell, such as ``(donor, tissue)``; ``None``: in no sample.
    names
        Unique names of the cells.
    n_cells
        Target number of cells in a sample.
    min_cells
        Minimum number of cells in a sample; smaller groups get none.

    Returns
    -------
    Rows of each sample, int64 (cells,), in random order; samples in the order of their groups' first cells.

    Raises
    ------
    ValueError
        `n_cells` is below `min_cells`, cell names are not unique, or no group has `min_cells` cells.
    """
    samples: list[NDArray[np.int64]] = []
    rows_of_group = _rows_of_groups(groups, names, n_cells, min_cells)
    for group, rows in rows_of_group.items():
        n_samples = min(-(-len(rows) // n_cells), len(rows) // min_cells)
        if n_samples:
            samples += np.array_split(_shuffled(group, rows, names, seed), n_samples)
    if not samples:
        raise ValueError(_too_small(rows_of_group, min_cells))
    return samples


def draw_samples(
    groups: Sequence[Hashable | None],
    names: Sequence[str],
    *,
    n_cells: int,
    min_cells: int,
    n_samples: int | None = None,
    seed: int = 0,
) -> list[NDArray[np.int64]]:
    """Random samples of exactly `n_cells` cells, each of one group; no cell is in two.

    A group's last cells, or a small group, are a smaller sample if they are at least `min_cells`. The samples depend on
    the seed and on the names of the group's cells only, not on their order or on other groups, and the first samples of
    a group do not depend on their number.

    Parameters
    ----------
    groups
        Group of each cell, such as ``(cluster,)``; ``None``: in no sample.
    names
        Unique names of the cells.
    n_samples
        Maximum number of samples of each group; ``None``: as many as there are cells for.

    Returns
    -------
    Rows of each sample, int64 (cells,), in random order; samples in the order of their groups' first cells.

    Raises
    ------
    ValueError
        `n_cells` is below `min_cells`, cell names are not unique, or no group has `min_cells` cells.
    """
    samples: list[NDArray[np.int64]] = []
    rows_of_group = _rows_of_groups(groups, names, n_cells, min_cells)
    for group, rows in rows_of_group.items():
        shuffled = _shuffled(group, rows, names, seed)
        parts = [shuffled[first : first + n_cells] for first in range(0, len(shuffled), n_cells)]
        samples += [part for part in parts[:n_samples] if len(part) >= min_cells]
    if not samples:
        raise ValueError(_too_small(rows_of_group, min_cells))
    return samples


def _rows_of_groups(
    groups: Sequence[Hashable | None], names: Sequence[str], n_cells: int, min_cells: int
) -> dict[Hashable, list[int]]:
    if n_cells < min_cells:
        raise ValueError(f"a sample needs at least {min_cells} cells, found n_cells={n_cells}")
    if len(set(names)) < len(names):
        raise ValueError("samples are drawn by cell name, so names must be unique: call adata.obs_names_make_unique()")
    rows_of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            rows_of_group.setdefault(group, []).append(row)
    return rows_of_group


def _shuffled(group: Hashable, rows: Sequence[int], names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The rows of a group in an order that depends on seed and names alone."""
    by_name = np.array(sorted(rows, key=lambda row: names[row]), dtype=np.int64)
    return np.random.default_rng([seed, _seed_of(group)]).permutation(by_name)


def _too_small(rows_of_group: Mapping[Hashable, Sequence[int]], min_cells: int) -> str:
    largest = max(map(len, rows_of_group.values()), default=0)
    return (
        f"no group has the {min_cells} cells of a sample; the largest of {len(rows_of_group)} has {largest}: "
        "choose obs columns with larger groups"
    )


def _seed_of(group: Hashable) -> int:
    """Seed from the name of a group."""
    return int.from_bytes(hashlib.blake2b(repr(group).encode(), digest_size=8).digest())
