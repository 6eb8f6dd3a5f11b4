"""Small AnnData objects over the genes of the tiny tokenizers, and models for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny

from cell2sen.backends.fake import FakeBackend
from cell2sen.model import EMBEDDED, KNOWN, Model

needs_weights = pytest.mark.skipif(
    not (Path(KNOWN[EMBEDDED].path) / "model.safetensors").is_file(), reason="the embedded weights are not here"
)

#: Human symbols, all of which the tiny tokenizers can write.
GENES = [gene for gene in tiny.GENES if gene.isascii() and gene.isupper()]
LABELS = ["B cell", "CD4 T cell", "NK cell"]
METADATA: dict[str, Any] = {
    "labels": {"B cell": 20, "CD4 T cell": 30, "NK cell": 12, "platelet": 2},
    "perturbations": {"IFN-beta": 40},
    "organisms": ["Homo sapiens"],
    "fit": {"slope": -0.8, "intercept": 2.5, "r_squared": 0.9},
}


def cells(n: int = 6, *, seed: int = 0, genes: list[str] | None = None) -> anndata.AnnData:
    """Counts of `n` different human cells, CSR float32."""
    genes = GENES if genes is None else genes
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(0.6, 3.0, size=(n, len(genes)))).astype(np.float32)
    obs = pd.DataFrame(
        {"donor": pd.Categorical([f"d{row % 2}" for row in range(n)])}, index=[f"c{row}" for row in range(n)]
    )
    adata = anndata.AnnData(X=sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))
    adata.uns["organism"] = "Homo sapiens"
    return adata


def fake(**metadata: Any) -> FakeBackend:
    """A loaded backend without weights; `metadata` changes :data:`METADATA`, ``None`` removes a key."""
    merged = {key: value for key, value in {**METADATA, **metadata}.items() if value is not None}
    return FakeBackend(Model(name="fake", path="fake", dtype="float32", metadata=merged))


def checkpoint(directory: Path, **metadata: Any) -> Path:
    """A tiny random model on disk, with metadata as `cell2sen train` writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    tiny.save(directory)
    written = {**METADATA, "dtype": "float32", "recipe": {"max_genes": 30}, **metadata}
    (directory / "cell2sen.json").write_text(json.dumps(written))
    return directory


def log_normalised(adata: anndata.AnnData) -> np.ndarray:
    """ln(1 + CP10k) by scanpy, (cells, genes)."""
    import scanpy as sc

    copy = adata.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    return copy.X.toarray()
