"""What sentences of so many genes can say of a change: the true one, read off them, against that of expression.

    python benchmarks/sentence_ceiling.py --data-dir FOLDER [--lengths 200 400 10000]

No model takes part. Cells of Kang et al. are written as sentences, ties at random, and read back with the mean
expression of each place; then the mean change of a cell type, and the mean change of all other types as a prediction
of it, are compared with the change of its expression. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from left_out import LEAST, TYPES


def read_back(log: np.ndarray, order: np.ndarray, length: int) -> np.ndarray:
    """Cells as their first genes, each worth the mean expression of its place; float32 (cells, genes)."""
    length = min(length, log.shape[1])
    first = order[:, :length]
    values = np.take_along_axis(log, first, axis=1)
    written = values > 0
    worth = values.sum(axis=0) / np.maximum(written.sum(axis=0), 1)
    result = np.zeros_like(log)
    np.put_along_axis(result, first, np.where(written, worth, 0).astype(log.dtype), axis=1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 400, 10_000])
    asked = parser.parse_args()
    adata = ad.read_h5ad(asked.data_dir / "kang_ifnb_2000x9015.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    log = adata.X.toarray()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    treated = np.asarray(adata.obs["condition"] == "IFN-beta")
    known = [kind for kind in sorted(set(types))
             if min((treated & (types == kind)).sum(), (~treated & (types == kind)).sum()) >= LEAST]  # fmt: skip

    def changes(cells: np.ndarray) -> dict[str, np.ndarray]:
        return {
            kind: cells[treated & (types == kind)].mean(axis=0) - cells[~treated & (types == kind)].mean(axis=0)
            for kind in known
        }

    order = np.lexsort((np.random.default_rng(0).random(log.shape), -log), axis=1)
    true = changes(log)
    found: dict = {"benchmark": "sentence_ceiling", "types": {kind: {} for kind in TYPES}}
    read = {str(length): changes(read_back(log, order, length)) for length in asked.lengths}
    for name, seen in ({"expression": true} | read).items():
        for kind in TYPES:
            others = np.mean([seen[other] for other in known if other != kind], axis=0)
            found["types"][kind][name] = {
                "own_change": round(float(np.corrcoef(seen[kind], true[kind])[0, 1]), 4),
                "mean_change_of_other_types": round(float(np.corrcoef(others, true[kind])[0, 1]), 4),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
