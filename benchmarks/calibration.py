"""Dynamic range of each metric of perturbations: from other perturbations' cells to a replicate of the own ones.

    python benchmarks/calibration.py --data-dir FOLDER [--seeds 0 1 2]

Negative control: real cells under the label of another perturbation (Papalexi et al., 25 knock-outs) or of another
cell type (Kang et al., where there is one perturbation). Positive control: real cells as a prediction of other real
cells, random halves (Kang) or the other replicates (Papalexi). A metric is calibrated by what it gives for both. Prints
for each metric and data set the negative, the positive, and the share of the way from the negative to the perfect value
that the positive goes (dynamic range fraction); means over seeds, which draw the halves and the labels.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cell2sen as c2s


def kang(data_dir: Path, seed: int) -> tuple[ad.AnnData, ad.AnnData, str, list[str]]:
    """One half of the treated cells as prediction; the other half with all controls."""
    adata = ad.read_h5ad(data_dir / "kang_ifnb_2000x9015.h5ad")
    sizes = adata.obs.groupby(["cell_type", "condition"], observed=True).size().unstack().min(axis=1)
    adata = adata[adata.obs["cell_type"].isin(sizes.index[sizes >= 30])].copy()
    treated = (adata.obs["condition"] == "IFN-beta").to_numpy()
    half = treated & (np.random.default_rng(seed).random(len(treated)) < 0.5)
    return adata[half].copy(), adata[~half].copy(), "condition", ["cell_type"]


def papalexi(data_dir: Path, seed: int) -> tuple[ad.AnnData, ad.AnnData, str, list[str]]:
    """Knock-outs of two replicates as prediction of the third, which the seed chooses."""
    adata = ad.read_h5ad(data_dir / "papalexi_thp1_20729x299.h5ad")
    held = (adata.obs["replicate"].astype(str) == f"rep_{1 + seed % 3}").to_numpy()
    control = (adata.obs["perturbation"] == "control").to_numpy()
    sizes = adata.obs["perturbation"][held].value_counts()
    kept = adata.obs["perturbation"].isin(sizes.index[sizes >= 30]).to_numpy()
    return adata[~held & ~control & kept].copy(), adata[held & kept].copy(), "perturbation", []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    columns = {}
    for name, source in (("Kang", kang), ("Papalexi", papalexi)):
        tables = []
        for seed in arguments.seeds:
            predicted, real, perturbation, context = source(arguments.data_dir, seed)
            tables.append(
                c2s.evaluate(
                    predicted, real, perturbation=perturbation, context=context, resamples=0, seed=seed, leaks="report"
                ).table
            )
        mean = {
            key: np.mean([table[key].astype(float) for table in tables], axis=0)
            for key in ("label_shuffle", "prediction")
        }
        perfect = tables[0]["perfect"].astype(float).to_numpy()
        low, high = mean["label_shuffle"], mean["prediction"]
        fraction = np.divide(high - low, perfect - low, out=np.full(len(low), np.nan), where=perfect != low)
        index = tables[0].index
        columns[name, "negative"] = pd.Series(low, index=index)
        columns[name, "positive"] = pd.Series(high, index=index)
        columns[name, "range"] = pd.Series(fraction, index=index)
    print(pd.DataFrame(columns).dropna(how="all").round(3).to_string())


if __name__ == "__main__":
    main()
