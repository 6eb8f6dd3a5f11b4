"""Small AnnData files to train on: cell types, donors and a perturbation that a few steps can learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiny

TYPES = ("B cell", "T cell", "monocyte")
SYMBOLS = [gene for gene in tiny.GENES if gene.upper() == gene and gene.isascii()]


def counts(n: int, seed: int = 0) -> tuple[Any, pd.DataFrame]:
    """Counts (n, genes) with programmes for each type and for the stimulus, and obs."""
    generator = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "cell_type": generator.choice(TYPES, n),
            "donor": generator.choice(["d1", "d2", "d3", "d4"], n),
            "condition": generator.choice(["control", "IFN-beta", "IL-2"], n),
            "organism": "Homo sapiens",
        },
        index=[f"{''.join(generator.choice(list('ACGT'), 12))}-{number}" for number in range(n)],
    )
    rate = np.full((n, len(SYMBOLS)), 0.7)
    for number, name in enumerate(TYPES):
        rate[np.ix_(obs["cell_type"] == name, range(8 * number, 8 * number + 8))] = 9
    rate[np.ix_(obs["condition"] == "IFN-beta", range(24, 30))] = 14
    rate[np.ix_(obs["condition"] == "IL-2", range(30, 36))] = 14
    return sp.csr_matrix(generator.poisson(rate).astype(np.float32)), obs


def write(path: Path, n: int = 90, seed: int = 0) -> Path:
    matrix, obs = counts(n, seed)
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=SYMBOLS)).write_h5ad(path)
    return path
