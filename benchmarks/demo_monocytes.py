"""Monocytes of the demonstration's cells: markers and labels beside those of a logistic regression from PBMC 3k.

    python benchmarks/demo_monocytes.py DATA_DIR

The cells are PBMC 68k of scanpy (765 genes); its labels come from sorted bulk samples. Values are mean ln(1 + CP10k).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.linear_model import LogisticRegression

import cell2sen as c2s

MARKERS = ["FCGR3A", "LYZ", "S100A8"]
LABELS = ["CD4 T cell", "CD8 T cell", "B cell", "NK cell", "CD14+ monocyte", "FCGR3A+ monocyte", "dendritic cell"]


def main() -> None:
    cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    reference = ad.read_h5ad(Path(sys.argv[1]) / "pbmc3k_2638x13714.h5ad")
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    genes = cells.var_names.intersection(reference.var_names)
    types = reference.obs["cell_type"].astype(str).to_numpy()
    regression = LogisticRegression(C=0.1, max_iter=3000).fit(reference[:, genes].X.toarray(), types)
    c2s.tl.annotate(cells, LABELS, progress=False)
    named = (cells.obs["bulk_labels"] == "CD14+ Monocyte").to_numpy()
    groups = {
        "demo, CD14+ Monocyte": cells[named],
        "PBMC 3k, CD14+ Mono": reference[types == "CD14+ Mono"],
        "PBMC 3k, FCGR3A+ Mono": reference[types == "FCGR3A+ Mono"],
    }
    for name, group in groups.items():
        means = np.asarray(group[:, MARKERS].X.mean(axis=0), dtype=float).ravel()
        print(json.dumps({"cells": name, "n": group.n_obs} | dict(zip(MARKERS, means.round(2).tolist(), strict=True))))
    by_model = cells.obs["cell2sen_cell_type"][named].astype(str).value_counts().to_dict()
    by_regression = regression.predict(cells[named][:, genes].X.toarray())
    print(json.dumps({"labels by": "model"} | by_model))
    print(
        json.dumps({"labels by": "regression"} | {str(k): int((by_regression == k).sum()) for k in set(by_regression)})
    )


if __name__ == "__main__":
    main()
