"""Whether the network improves the response to IFN-beta of a type never seen treated, and with which share.

    python benchmarks/left_out.py --data-dir FOLDER --base BASE --keep MODELS    # a training per left-out type
    python benchmarks/in_context.py --data-dir FOLDER --arms alone --keep MODELS    # or smaller ones
    python benchmarks/model_share.py --data-dir FOLDER [--models MODELS] [--seed 0 --cells 40 --n-genes 200]

A prediction is the measured response of similar types plus a share of what the network predicts beyond its predictions
in these types (`perturbation.model_share`). For each left-out type T: the correlation of the mean change over all genes
for shares 0 to 1, with the network that was trained without the treated cells of T; the share that is best on the other
left-out types; the score of T with that share. The networks and responses of those have seen the treated cells of T: a
choice without them needs a training for each pair of types, and this one can only favour the network.
Without --models the network is the embedded one, which was trained on the treated cells of all types: an upper bound.
Prints a table and one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from left_out import TYPES, measured, predicted_change

from cell2sen.inference.responses.known_responses import load
from cell2sen.model import resolve

warnings.filterwarnings("ignore")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--types", nargs="+", default=list(TYPES), help="at least two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=40, help="controls of the left-out type; a quarter of others")
    parser.add_argument("--n-genes", type=int, default=200, help="genes of the network's sentences")
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    sc.pp.normalize_total(copy := adata.copy(), target_sum=1e4)
    sc.pp.log1p(copy)
    log, genes = copy.X.toarray().astype(np.float64), list(adata.var_names)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    treated = np.asarray(adata.obs["condition"] == "IFN-beta")
    generator = np.random.default_rng(0)
    curves: dict[str, dict[float, float]] = {}
    alone: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.types:
            model = Path(resolve("nano").path)
            if arguments.models:
                model = arguments.models / f"{kind.replace(' ', '_')}-{arguments.seed}"
            transfer = measured(arguments.data_dir, kind, Path(folder) / kind)
            stored = load(resolve(str(transfer)))
            columns, places = stored.shared_genes(genes)
            known = stored.responses["IFN-beta"].of_genes(columns)

            def own_change(of_type: str, n: int, model: Path = model) -> np.ndarray:
                rows = np.flatnonzero(~treated & (types == of_type))
                rows = np.sort(generator.permutation(rows)[:n])
                cells = adata[rows].copy()
                return predicted_change(
                    cells, genes, model, arguments.seed, measured=False, n_genes=arguments.n_genes
                ).mean(axis=0)

            own = own_change(kind, arguments.cells)
            expected = np.array([own_change(name, max(4, arguments.cells // 4)) for name in known.contexts])
            rows = np.flatnonzero(~treated & (types == kind))
            weights = known.weights(log[rows][:, places])
            base = predicted_change(adata[rows].copy(), genes, transfer, arguments.seed).mean(axis=0)
            beyond = own - weights.mean(axis=0) @ expected
            truth = log[treated & (types == kind)].mean(axis=0) - log[rows].mean(axis=0)
            curves[kind] = {share: float(np.corrcoef(base + share * beyond, truth)[0, 1]) for share in SHARES}
            alone[kind] = float(np.corrcoef(own, truth)[0, 1])
            sys.stderr.write(f"{kind}: {json.dumps(curves[kind])}, alone {alone[kind]:.4f}\n")
    table = pd.DataFrame(curves).T
    chosen = {kind: float(table.drop(index=kind).mean().idxmax()) for kind in arguments.types}
    table["network alone"], table["chosen on the others"] = pd.Series(alone), pd.Series(chosen)
    table["with it"] = [curves[kind][chosen[kind]] for kind in arguments.types]
    print(table.round(3).to_string())
    print(json.dumps({"shares": {k: {str(s): round(v, 4) for s, v in c.items()} for k, c in curves.items()},
                      "alone": {k: round(v, 4) for k, v in alone.items()}, "chosen": chosen}))  # fmt: skip


if __name__ == "__main__":
    main()
