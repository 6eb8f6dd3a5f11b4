"""Cells of a few types with genes of their own, for transfers of labels."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from cells import GENES

TYPES = ("B cell", "NK cell", "T cell")


def typed(n: int, *, seed: int, types: Sequence[str] = TYPES, genes: Sequence[str] = GENES) -> anndata.AnnData:
    """Counts of `n` cells of types that differ in most genes; the types are the same for each seed."""
    fixed = np.random.default_rng(5)
    profiles = {name: fixed.gamma(0.3, 6.0, size=len(GENES)) for name in (*TYPES, "platelet")}
    generator = np.random.default_rng(seed)
    labels = [types[number] for number in generator.integers(0, len(types), n)]
    counts = generator.poisson(np.array([profiles[label] for label in labels]) + 0.2).astype(np.float32)
    columns = [GENES.index(gene) for gene in genes]
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(labels), "donor": [f"d{row % 4}" for row in range(n)]},
        index=[f"s{seed}-{row}-{'ACGT'[row % 4]}" for row in range(n)],
    )
    adata = anndata.AnnData(sp.csr_matrix(counts[:, columns]), obs=obs, var=pd.DataFrame(index=list(genes)))
    adata.uns["organism"] = "Homo sapiens"
    return adata
