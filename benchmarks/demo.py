"""Labels of the demonstration's cells, beside a logistic regression from PBMC 3k: broad types, and what monocytes are.

    python benchmarks/demo.py DATA_DIR [--model nano]

The cells are PBMC 68k of scanpy (765 genes); its labels come from sorted bulk samples. Broad types are T, B and NK
cells, monocytes and dendritic cells; the 95 % intervals are over cells. Of cells called CD14+ monocytes the mean ln(1 +
CP10k) of markers and the finer labels are printed, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from embedded_model import mean_with_interval
from sklearn.linear_model import LogisticRegression

import cell2sen as c2s

MARKERS = ["FCGR3A", "LYZ", "S100A8"]

#: Labels of the model, of PBMC 3k and of the demonstration → broad type.
BROAD = {
    "CD4 T cell": "T", "CD8 T cell": "T", "naive CD4 T cell": "T", "memory CD4 T cell": "T", "B cell": "B",
    "NK cell": "NK", "CD14+ monocyte": "monocyte", "FCGR3A+ monocyte": "monocyte", "dendritic cell": "dendritic",
    "Naive CD4 T": "T", "Memory CD4 T": "T", "CD8 T": "T", "B": "B", "NK": "NK", "CD14+ Mono": "monocyte",
    "FCGR3A+ Mono": "monocyte", "DC": "dendritic", "Platelet": "platelet",
    "CD14+ Monocyte": "monocyte", "CD19+ B": "B", "CD56+ NK": "NK", "Dendritic": "dendritic",
    "CD4+/CD25 T Reg": "T", "CD4+/CD45RA+/CD25- Naive T": "T", "CD4+/CD45RO+ Memory": "T", "CD8+ Cytotoxic T": "T",
    "CD8+/CD45RA+ Naive Cytotoxic": "T",
}  # fmt: skip
OFFERED = [name for name in BROAD if name.endswith(("cell", "monocyte")) and name != "monocyte"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    reference = ad.read_h5ad(arguments.data_dir / "pbmc3k_2638x13714.h5ad")
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    genes = cells.var_names.intersection(reference.var_names)
    types = reference.obs["cell_type"].astype(str).to_numpy()
    regression = LogisticRegression(C=0.1, max_iter=3000).fit(reference[:, genes].X.toarray(), types)
    c2s.tl.annotate(cells, OFFERED, model=arguments.model, progress=False)

    given = cells.obs["bulk_labels"].astype(str)
    scored = given.isin(BROAD).to_numpy()
    truth = given.map(BROAD).to_numpy()[scored]
    labels = {
        "model": cells.obs["cell2sen_cell_type"].astype(str).to_numpy(),
        "regression": regression.predict(cells[:, genes].X.toarray()).astype(str),
    }
    for name, found in labels.items():
        right = np.array([BROAD.get(label) == kind for label, kind in zip(found[scored], truth, strict=True)], float)
        monocytes = truth == "monocyte"
        print(
            json.dumps(
                {"labels by": name, "broad types": mean_with_interval("right", right) | {"n": len(right)}}
                | {"monocytes": mean_with_interval("right", right[monocytes]) | {"n": int(monocytes.sum())}}
            )
        )

    named = (given == "CD14+ Monocyte").to_numpy()
    groups = {
        "demo, CD14+ Monocyte": cells[named],
        "PBMC 3k, CD14+ Mono": reference[types == "CD14+ Mono"],
        "PBMC 3k, FCGR3A+ Mono": reference[types == "FCGR3A+ Mono"],
    }
    for name, group in groups.items():
        means = np.asarray(group[:, MARKERS].X.mean(axis=0), dtype=float).ravel()
        print(json.dumps({"cells": name, "n": group.n_obs} | dict(zip(MARKERS, means.round(2).tolist(), strict=True))))
    for name, found in labels.items():
        counts = dict(zip(*(each.tolist() for each in np.unique(found[named], return_counts=True)), strict=True))
        print(json.dumps({"labels by": name, "CD14+ Monocyte": counts}))


if __name__ == "__main__":
    main()
