"""Time of a screen: genes deleted, or moved to the front, in cells of a file.

``python benchmarks/screen.py --data-dir FOLDER [--genes 100 --cells 200 --max-genes 200 --threads 1]``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata
import numpy as np
import torch

import cell2sen as c2s

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--data-dir", type=Path, required=True)
arguments.add_argument("--file", default="pbmc3k_2638x13714.h5ad")
arguments.add_argument("--genes", type=int, default=100, help="a random part of the 1,000 commonest genes")
arguments.add_argument("--cells", type=int, default=200)
arguments.add_argument("--max-genes", type=int, default=None)
arguments.add_argument("--threads", type=int, default=1)
arguments.add_argument("--edit", choices=["delete", "overexpress"], default="delete")
options = arguments.parse_args()

torch.set_num_threads(options.threads)
adata = anndata.read_h5ad(options.data_dir / options.file)
cells_with = np.asarray((adata.X > 0).sum(axis=0)).ravel()
commonest = np.argsort(-cells_with, kind="stable")[:1000]
from cell2sen.inference.session import model_of  # noqa: E402

known = set(model_of({}).metadata["genes"])
names = [str(adata.var_names[gene]) for gene in commonest if str(adata.var_names[gene]) in known]
chosen = np.random.default_rng(0).permutation(names)[: options.genes].tolist()
length = {} if options.max_genes is None else {"max_genes": options.max_genes}
started = time.perf_counter()
table = c2s.tl.screen(
    adata, direction=("CD4 T cells", "CD14+ Monocytes"), groupby="cell_type", n_cells=options.cells, n_null=0,
    progress=False, **{options.edit: chosen}, **length,
) if {"CD4 T cells", "CD14+ Monocytes"} <= set(adata.obs["cell_type"]) else c2s.tl.screen(
    adata, gene_set=["LYZ", "S100A8", "S100A9"], n_cells=options.cells, n_null=0, progress=False,
    **{options.edit: chosen}, **length,
)  # fmt: skip
seconds = time.perf_counter() - started
read = int(table["n_changed"].sum())
print(
    f"{options.edit}: {len(table)} genes x {options.cells} cells, at most {options.max_genes or 600} genes: "
    f"{read} edited sentences in {seconds:.0f} s with {options.threads} threads"
)
