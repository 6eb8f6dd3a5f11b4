"""Held-out cells: by cell or by group; cell barcodes, and hashes of cell names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.obs import obs_column


def held_out_cells(
    obs: pd.DataFrame,
    *,
    by: str,
    share: float,
    values: Collection[str] = (),
    control: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Mask of held-out cells, which training must not use, bool (cells,).

    Parameters
    ----------
    by
        ``"cell"``, or the obs column of groups that are held out as a whole.
    share
        Share of cells, or of groups, that is held out at random.
    values
        Groups to hold out instead of a random share.
    control
        bool (cells,): unperturbed cells. If given, only perturbed cells are held out by group; of the controls, those
        among a random `share` of all cells are held out.

    Raises
    ------
    KeyError
        No such obs column.
    ValueError
        No such group; lists the available ones.
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(obs), dtype=bool)
    drawn[generator.permutation(len(obs))[len(obs) - round(share * len(obs)) :]] = True
    if by == "cell":
        return drawn
    groups = obs_column(obs, by).astype(str)
    names = sorted(set(groups if control is None else groups[~control]))
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"obs[{by!r}] has no {unknown} to hold out; available: {names}")
    n_groups = max(round(share * len(names)), int(share > 0))
    held_out = np.asarray(groups.isin(values or generator.permutation(names)[:n_groups]), dtype=bool)
    return held_out if control is None else np.where(control, drawn, held_out)


def barcode(name: str) -> str:
    """Barcode of a cell: the DNA sequence in its name (``AAACATACAACCAC-1_ctrl``), else the whole name."""
    match = re.search(r"(?<![A-Za-z])[ACGT]{8,}(?![A-Za-z])", name)
    return match[0] if match else name


def sha256_of_names(names: Iterable[str]) -> str:
    """SHA-256 of the sorted names, one per line, as hex digits; stored in the metadata of trained models."""
    return hashlib.sha256("\n".join(sorted(map(str, names))).encode()).hexdigest()
