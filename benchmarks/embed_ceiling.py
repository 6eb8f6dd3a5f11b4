"""Embedding beside the matrix product of this machine: floating-point operations per second of both.

    python benchmarks/embed_ceiling.py cells.h5ad --cells 400

Counts the operations of a GPT-NeoX checkpoint (two per multiplication and addition): projections of every token, and
attention of all pairs of tokens or of those that a causal model reads. Gelu, norms and rotations are not counted.
The product has the shape of the widest projection. One thread, processor seconds, the lowest of three runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import anndata
import numpy as np
import torch

import cell2sen as c2s
from cell2sen.inference.session import load_model


def lowest(run, repeats: int = 3) -> float:
    """Least processor seconds of `run`."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--cells", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    adata = anndata.read_h5ad(args.file)
    adata = adata[: args.cells].copy()
    backend = load_model({"model": args.model, "progress": False})
    shape = backend.network.config
    # Tokens of a cell: its genes, of one token each. The words around them are few.
    genes = np.asarray((adata.X > 0).sum(axis=1), dtype=np.float64).ravel()
    tokens = np.minimum(genes, backend.model.metadata["lengths"]["annotate"])
    wide, inner = shape.hidden_size, shape.intermediate_size
    projections = 2 * (4 * wide * wide + 2 * wide * inner) * shape.num_hidden_layers * tokens.sum()
    pairs = 4 * wide * shape.num_hidden_layers * (tokens**2).sum()
    seconds = lowest(lambda: c2s.tl.embed(adata, model=backend, progress=False))
    left, right = torch.randn(4096, wide), torch.randn(inner, wide)
    once = lowest(lambda: [torch.nn.functional.linear(left, right) for _ in range(50)]) / 50
    product = 2 * 4096 * wide * inner / once
    print(
        json.dumps(
            {
                "cells": adata.n_obs,
                "genes_per_cell": round(float(tokens.mean()), 1),
                "seconds": round(seconds, 2),
                "matrix_product_gflops": round(product / 1e9, 1),
                "embed_gflops_causal": round((projections + pairs / 2) / seconds / 1e9, 1),
                "share_causal": round((projections + pairs / 2) / seconds / product, 2),
                "share_all_pairs": round((projections + pairs) / seconds / product, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
