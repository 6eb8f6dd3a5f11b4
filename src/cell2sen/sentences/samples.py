"""Samples: the cells of one donor, tissue or batch, split into samples of a few cells."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

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
    if n_cells < min_cells:
        raise ValueError(f"a sample needs at least {min_cells} cells, found n_cells={n_cells}")
    if len(set(names)) < len(names):
        raise ValueError("samples are drawn by cell name, so names must be unique: call adata.obs_names_make_unique()")
    rows_of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            rows_of_group.setdefault(group, []).append(row)
    samples: list[NDArray[np.int64]] = []
    for group, rows in rows_of_group.items():
        n_samples = min(-(-len(rows) // n_cells), len(rows) // min_cells)
        if n_samples:
            by_name = np.array(sorted(rows, key=lambda row: names[row]), dtype=np.int64)
            shuffled = np.random.default_rng([seed, _seed_of(group)]).permutation(by_name)
            samples += np.array_split(shuffled, n_samples)
    if not samples:
        largest = max(map(len, rows_of_group.values()), default=0)
        raise ValueError(
            f"no group has the {min_cells} cells of a sample; the largest of {len(rows_of_group)} has {largest}: "
            "choose obs columns with larger groups"
        )
    return samples


def _seed_of(group: Hashable) -> int:
    """Seed from the name of a group."""
    return int.from_bytes(hashlib.blake2b(repr(group).encode(), digest_size=8).digest())
