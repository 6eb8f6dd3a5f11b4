"""Cells of a small tissue section: three stripes (niches), each with marker genes."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from cells import GENES, cells

NICHES = ("cortex", "medulla", "rim")


def section(side: int = 9, *, seed: int = 0, spread: float = 0.1) -> anndata.AnnData:
    """`side` × `side` cells near the points of a grid with distance 1; ``obs["layer"]`` is the stripe in x."""
    generator = np.random.default_rng(seed)
    adata = cells(side**2, seed=seed)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)
    stripe = np.minimum(grid[:, 0] * 3 // side, 2).astype(int)
    counts = adata.X.toarray()
    for number in range(3):
        counts[stripe == number, 5 * number : 5 * number + 5] += 30
    adata.X = type(adata.X)(counts.astype(np.float32))
    adata.obs["layer"] = pd.Categorical(np.array(NICHES)[stripe])
    adata.obsm["spatial"] = grid + generator.normal(0, spread, grid.shape)
    assert len(GENES) >= 15
    return adata


def tissue_of_donors(donors: tuple[str, ...] = ("d1", "d2"), *, seed: int = 0) -> anndata.AnnData:
    """Nine cells of each donor, on a square of its own section."""
    parts = []
    for place, donor in enumerate(donors):
        part = cells(9, seed=seed + place)
        part.obs_names = [f"{donor}-{name}" for name in part.obs_names]
        part.obs["donor"] = part.obs["section"] = donor
        part.obs["cluster"] = [f"{donor}/{cell % 2}" for cell in range(9)]
        part.obs["layer"] = ["inner" if cell < 5 else "outer" for cell in range(9)]
        part.obs["age"] = np.arange(9.0)
        part.obsm["spatial"] = np.stack(np.divmod(np.arange(9), 3), axis=1).astype(float)
        parts.append(part)
    joined = anndata.concat(parts)
    joined.uns["organism"] = "Homo sapiens"
    return joined
