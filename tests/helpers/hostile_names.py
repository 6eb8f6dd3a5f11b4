"""Cells whose perturbation and cell type have names with markup in them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

GENES = [f"GENE{number}" for number in range(60)]
EVIL = "<script>alert('x')</script>"


def cells(seed: int, drugs: tuple[str, ...]) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = [(drug, kind) for drug in drugs for kind in ("B", "T & <NK>") for _ in range(24)]
    base = {kind: np.random.default_rng(len(kind)).gamma(1, 2, 60) + 0.2 for kind in ("B", "T & <NK>")}
    effect = {
        "control": 1.0,
        "alpha": np.where(np.arange(60) < 20, 4.0, 1.0),
        EVIL: np.where(np.arange(60) > 40, 5.0, 1.0),
    }
    rows = [rng.poisson(base[kind] * effect[drug]) for drug, kind in obs]
    names = [f"s{seed}c{number}" for number in range(len(obs))]
    table = pd.DataFrame(obs, columns=["drug", "cell_type"], index=names)
    return ad.AnnData(sp.csr_matrix(np.array(rows, dtype=np.float32)), obs=table, var=pd.DataFrame(index=GENES))
