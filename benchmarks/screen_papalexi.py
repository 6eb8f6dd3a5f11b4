"""Screens for the interferon-gamma genes in Papalexi et al.: measured, predicted and in edited sentences.

    python benchmarks/screen_papalexi.py --data-dir FOLDER [--only measured predicted deleted] [--model DIR]

`--model`: a model of yours instead of the embedded one, such as that of docs/how-to/screen.md. Prints the first 15
rows of each table of that page, and those of the four knock-outs that are expected there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import pandas as pd

import cell2sen as c2s
from cell2sen.inference.session import model_of

#: Knock-outs that are known to lower the interferon-gamma response.
EXPECTED = ["STAT1", "JAK2", "IFNGR1", "IFNGR2"]

HIDDEN = ["context", "kind", "null", "n_donors"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    kinds = ["measured", "predicted", "deleted"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    pd.set_option("display.width", 250, "display.max_columns", 30)
    adata = ad.read_h5ad(arguments.data_dir / "papalexi_thp1_20729x299.h5ad")
    held_out = adata[(adata.obs["replicate"] == "rep_3").to_numpy()].copy()
    trained = model_of({"model": arguments.model}).metadata["perturbations"]
    names = [name for name in trained if name not in ("IFN-beta", "control")]
    goal = {
        "gene_set": "HALLMARK_INTERFERON_GAMMA_RESPONSE",
        "gmt": str(arguments.data_dir / "hallmark_v7.0_human.gmt"),
        "perturbation_column": "perturbation",
        "towards": "down",
        "progress": False,
        "model": arguments.model,
    }
    screens = {
        "measured": lambda: c2s.tl.screen(adata, measured=True, **goal),
        "predicted": lambda: c2s.tl.screen(held_out, perturbations=names, n_cells=50, **goal),
        "deleted": lambda: c2s.tl.screen(held_out, delete="all", n_cells=100, **goal),
    }
    for kind in arguments.only:
        table = screens[kind]()
        print(f"\n{kind}, {len(table)} items, {(table['fdr'] < 0.05).sum()} with fdr < 0.05")
        if kind == "deleted":
            print(f"probe_r {held_out.uns['cell2sen']['screen']['goal']['probe_r']:.2f}")
        shown = table["rank"].le(15) | table["item"].str.split().str[0].isin(EXPECTED)
        print(table.drop(columns=HIDDEN, errors="ignore")[shown].to_string())


if __name__ == "__main__":
    main()
