"""Fixtures of the tests of sentences."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

N, GENES = 40, 30


@pytest.fixture
def adata() -> anndata.AnnData:
    generator = np.random.default_rng(0)
    counts = generator.poisson(generator.gamma(0.4, size=GENES) * generator.gamma(4, size=(N, 1)))
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["T", "B"] * (N // 2)),
            "score": np.linspace(0, 1, N),
            "batch": range(N),
            "drug": ["", None, "IFN-beta ", float("nan")] * (N // 4),
        },
        index=[f"cell {row}" for row in range(N)],
    )
    var = pd.DataFrame(index=[f"GENE{gene}" for gene in range(GENES)])
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
