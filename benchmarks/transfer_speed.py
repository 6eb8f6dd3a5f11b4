"""Time of label transfer between two sets of cells that are drawn from one file, by step.

    python benchmarks/transfer_speed.py cells.h5ad cell_type --cells 10000 --genes 2000

Cells are drawn with replacement, and their counts drawn again around nine tenths of them: none is another's copy.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import torch

import cell2sen as c2s
from cell2sen.inference.transfer import labels, sides
from cell2sen.tl.labels import transfer


def drawn(adata: anndata.AnnData, n: int, rng: np.random.Generator, name: str, label: str) -> anndata.AnnData:
    rows = rng.integers(0, adata.n_obs, n)
    counts = adata.X[rows].copy()
    counts.data = rng.poisson(counts.data * 0.9 + 0.05).astype(np.float32)
    counts.eliminate_zeros()
    cells = anndata.AnnData(counts, obs=adata.obs.iloc[rows][[label]].copy(), var=adata.var.copy())
    cells.obs_names = [f"{name}{number}" for number in range(n)]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help=".h5ad with counts in X")
    parser.add_argument("label", help="obs column with cell types")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=2000, help="the most variable ones")
    parser.add_argument("--model", default="nano")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("cell2sen").setLevel(logging.ERROR)
    adata = anndata.read_h5ad(args.file)
    adata.X = adata.X.tocsr()
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    variance = np.asarray(adata.X.multiply(adata.X).mean(axis=0)).ravel() - mean**2
    adata = adata[:, np.sort(np.argsort(-variance)[: args.genes])].copy()
    rng = np.random.default_rng(0)
    query, reference = (drawn(adata, args.cells, rng, name, args.label) for name in ("query", "reference"))
    seconds: dict[str, float] = {}

    def timed(module, name: str, step: str) -> None:
        function = getattr(module, name)

        def run(*arguments, **options):
            started = time.perf_counter()
            result = function(*arguments, **options)
            seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - started
            return result

        setattr(module, name, run)

    timed(sides, "embed_cells", "embedding")
    timed(labels, "_compared", "choice of the classifier")
    timed(transfer, "leiden_clusters", "clusters")
    genes, threads = np.diff(query.X.indptr).mean(), torch.get_num_threads()
    print(f"{genes:.0f} genes in a cell, {threads} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    started = time.perf_counter()
    c2s.tl.transfer(query, reference, args.label, model=args.model, progress=False)
    print(f"whole: {time.perf_counter() - started:.0f} s", {step: round(value, 1) for step, value in seconds.items()})


if __name__ == "__main__":
    main()
