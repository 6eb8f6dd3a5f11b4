"""A donor left out, by the commands of a user: train, perturb, evaluate; donors stand for patients.

    python benchmarks/patients.py --data-dir FOLDER --keep FOLDER [--steps 8] [--donors 101 1015 107]

Kang et al. without the cells of unknown donors. For each donor `cell2sen train` fine-tunes the embedded model with the
donor held out, `cell2sen perturb` predicts the donor's controls, `cell2sen evaluate` scores them beside the simple
methods that were learned from the other donors' cells: with the change measured from the same controls on both sides,
and from disjoint halves of them, so that the noise of the controls is in one side only. The responses of the training
cells are measured at the end of a training and do not depend on its steps, so that a few suffice. Prints two tables,
each with a JSON line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

DONORS = ("101", "1015", "107")
MIN_CELLS = 10
METHODS = ["prediction", "mean_shift", "similar_contexts", "ridge_on_control", "mean_of_perturbed", "ceiling"]
METRICS = ("pearson_delta", "pearson_delta_disjoint")


def cell2sen(*arguments: object) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "cell2sen", *map(str, arguments), "--quiet"], check=True)


def of_donor(adata: ad.AnnData, donor: str, folder: Path, steps: int) -> pd.DataFrame:
    """Correlations of the change of all methods, cell types in rows."""
    own = (adata.obs["donor"] == donor).to_numpy()
    sizes = pd.crosstab(adata.obs["cell_type"][own], adata.obs["condition"][own]).min(axis=1)
    kept = own & adata.obs["cell_type"].isin(sizes.index[sizes >= MIN_CELLS]).to_numpy()
    files = {name: folder / f"{donor}-{name}.h5ad" for name in ("real", "train", "controls", "predicted")}
    adata[kept].copy().write_h5ad(files["real"])
    adata[~own].copy().write_h5ad(files["train"])
    adata[kept & (adata.obs["condition"] == "control").to_numpy()].copy().write_h5ad(files["controls"])
    model = folder / f"{donor}-model"
    if not model.exists():
        cell2sen(
            "train", folder / "kang.h5ad", model, "--perturbation", "condition", "--control", "control",
            "--context", "cell_type", "--split-by", "donor", "--hold-out", donor,
            "--set", f"optimiser.max_steps={steps}", "--set", "card.score_cells=0", "--set", "checkpoints.eval_pairs=8",
        )  # fmt: skip
    cell2sen("perturb", files["controls"], files["predicted"], "-p", "IFN-beta", "--model", model, "--all-cells")
    table = folder / f"{donor}.csv"
    cell2sen(
        "evaluate", files["predicted"], files["real"], "--train", files["train"], "--perturbation", "condition",
        "--context", "cell_type", "--resamples", 0, "--table", table,
    )  # fmt: skip
    scores = pd.read_csv(table)
    scores = scores[scores["metric"].isin(METRICS) & (scores["group"] != "all")]
    wide = scores.pivot(index=["metric", "group"], columns="method", values="value")[METHODS]
    names = [(metric, f"{donor}, {group.split(' | ')[-1]}") for metric, group in wide.index]
    return wide.set_axis(pd.MultiIndex.from_tuples(names, names=["metric", "group"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True, help="folder for the models and files")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--donors", nargs="+", default=list(DONORS))
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    adata.obs["donor"] = adata.obs["donor"].astype(str)
    adata = adata[~adata.obs["donor"].isin(["", "nan"]).to_numpy()].copy()
    adata.write_h5ad(arguments.keep / "kang.h5ad")
    rows = [of_donor(adata, donor, arguments.keep, arguments.steps) for donor in arguments.donors]
    whole = pd.concat(rows)
    for metric in METRICS:
        table = whole.loc[metric]
        table.loc["mean"] = table.mean()
        print(f"{metric}\n{table.round(3).to_string()}")
        print(json.dumps({"metric": metric, **{name: row.round(4).to_dict() for name, row in table.iterrows()}}))
        assert np.isfinite(table.loc["mean", "prediction"])


if __name__ == "__main__":
    main()
