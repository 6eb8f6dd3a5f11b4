"""Correlation of expression changes that are read back from cell sentences with the true ones, without any model.

    python benchmarks/sentence_ceiling.py --data-dir FOLDER [--lengths 200 400 10000]

Cells of Kang et al. are written as sentences, ties at random, and read back with the mean expression of each position.
The change of a cell type and the mean change of all other types, as a prediction of it, are correlated with its true
change: the ceiling of predictions by sentences of that length. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from left_out import MIN_CELLS, TYPES


def read_back(log: np.ndarray, order: np.ndarray, length: int) -> np.ndarray:
    """Cells reduced to their first genes, each with the mean expression of its position; float32 (cells, genes)."""
    length = min(length, log.shape[1])
    first = order[:, :length]
    values = np.take_along_axis(log, first, axis=1)
    written = values > 0
    position_means = values.sum(axis=0) / np.maximum(written.sum(axis=0), 1)
    result = np.zeros_like(log)
    np.put_along_axis(result, first, np.where(written, position_means, 0).astype(log.dtype), axis=1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 400, 10_000])
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    log = adata.X.toarray()
    types = adata.obs["cell_type"].astype(str).to_numpy()
    treated = np.asarray(adata.obs["condition"] == "IFN-beta")
    known = [
        kind
        for kind in sorted(set(types))
        if min((treated & (types == kind)).sum(), (~treated & (types == kind)).sum()) >= MIN_CELLS
    ]

    def changes(cells: np.ndarray) -> dict[str, np.ndarray]:
        """Mean change of each cell type."""
        return {
            kind: cells[treated & (types == kind)].mean(axis=0) - cells[~treated & (types == kind)].mean(axis=0)
            for kind in known
        }

    order = np.lexsort((np.random.default_rng(0).random(log.shape), -log), axis=1)
    true = changes(log)
    result: dict = {"benchmark": "sentence_ceiling", "types": {kind: {} for kind in TYPES}}
    read = {str(length): changes(read_back(log, order, length)) for length in arguments.lengths}
    for name, change in ({"expression": true} | read).items():
        for kind in TYPES:
            others = np.mean([change[other] for other in known if other != kind], axis=0)
            result["types"][kind][name] = {
                "own_change": round(float(np.corrcoef(change[kind], true[kind])[0, 1]), 4),
                "mean_change_of_other_types": round(float(np.corrcoef(others, true[kind])[0, 1]), 4),
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
