"""Knock-outs of one replicate, predicted from the others, by the six metrics of cell-eval2.

    python benchmarks/challenge.py --data-dir FOLDER [--held-out rep_1] [--seeds 0 1 2] [--references] [--out FILE]

Papalexi et al., 25 knock-outs in THP-1 cells. The responses of the other replicates are measured (no network is
trained) and predict counts of the held-out replicate from its own control cells (`tl.perturb(output="counts")`), for
each knock-out as many cells as there are real ones; another seed chooses other controls. Beside it, with the same
controls:

no change                          the controls
change of the other replicates     mean change of ln(1 + CP10k), added to each control; rounded at random
cells of the other replicates      their perturbed cells, as they are
rounding of predicted expression   counts of each cell's predicted expression, the way without measured abundance

`--references` adds the official baseline and replicate (three minutes). Needs `pip install 'cell2sen[vcc]'`. Prints one
table, the mean over seeds and its range, and one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cell2sen as c2s
from cell2sen.evaluation.challenge.cell_eval2 import DOES_NOT_SHOW
from cell2sen.inference.counts.thinning import predicted_counts
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training import read_config
from cell2sen.training.config.data import Split
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_responses import fit_responses

HERE = Path(__file__).parent.parent
SHORT = {
    "pds_cosine": "pds_cosine",
    "expr_mse_unbiased_capped_norm": "expr_mse ↓",
    "de_wilcoxon_direction_fidelity_yield_raw": "fidelity",
    "de_wilcoxon_direction_reach_raw": "reach",
    "de_wilcoxon_sig_jaccard": "sig_jaccard",
    "de_wilcoxon_lfc_nmae": "lfc_nmae ↓",
}
assert set(SHORT) == set(DOES_NOT_SHOW)


def measured(data_dir: Path, held_out: str, out: Path) -> Path:
    """The embedded model with the responses of the other replicates alone, in `out`."""
    shutil.copytree(resolve().path, out)
    files = read_config(HERE / "recipes" / "nano.yaml").data.files
    [papalexi] = [file for file in files if file.file.startswith("papalexi")]
    split = Split(by="replicate", values=(held_out,))
    cells = TrainingCells(
        dataclasses.replace(papalexi, tasks={"perturb": 1.0}, split=split), data_dir, resolve(out).recipe.case
    )
    cells.keep_genes(load_model({"model": str(out), "progress": False}).known_genes)
    fit_responses(out, [cells])
    return out


class Replicates:
    """Cells of the file, and the controls that stand for each knock-out with a seed."""

    def __init__(self, adata: ad.AnnData, held_out: str, seed: int) -> None:
        self.adata, self.seed = adata, seed
        self.replicate = adata.obs["replicate"].astype(str).to_numpy()
        self.perturbation = adata.obs["perturbation"].astype(str).to_numpy()
        self.held_out = self.replicate == held_out
        self.others = sorted(set(self.replicate) - {held_out})
        self.counts = sp.csr_matrix(adata.X).toarray().astype(np.float64)
        self.totals = self.counts.sum(axis=1, keepdims=True)
        self.log = np.log1p(self.counts / self.totals * 1e4)
        self.targets = sorted(set(self.perturbation) - {"control"})
        controls = np.flatnonzero(self.held_out & (self.perturbation == "control"))
        generator = np.random.default_rng(seed)
        sizes = {target: int((self.held_out & (self.perturbation == target)).sum()) for target in self.targets}
        self.base = {target: np.sort(generator.permutation(controls)[:n]) for target, n in sizes.items()}

    def anndata(self, counts: np.ndarray, targets: list[str]) -> ad.AnnData:
        """Predicted cells."""
        obs = pd.DataFrame({"perturbation": targets}, index=[f"cell{row}" for row in range(len(targets))])
        return ad.AnnData(
            sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=self.adata.var_names)
        )

    def each(self, counts_of: dict[str, np.ndarray]) -> ad.AnnData:
        """Counts of each target as predicted cells."""
        targets = [target for target, values in counts_of.items() for _ in range(len(values))]
        return self.anndata(np.concatenate(list(counts_of.values())), targets)

    def no_change(self) -> ad.AnnData:
        """The controls."""
        return self.each({target: self.counts[rows] for target, rows in self.base.items()})

    def transfer(self) -> ad.AnnData:
        """Controls plus the mean change of the other replicates, rounded at random."""
        generator, found = np.random.default_rng(self.seed), {}
        for target, rows in self.base.items():
            changes = [
                self.log[(self.replicate == other) & (self.perturbation == target)].mean(axis=0)
                - self.log[(self.replicate == other) & (self.perturbation == "control")].mean(axis=0)
                for other in self.others
            ]
            wanted = np.expm1(np.maximum(self.log[rows] + np.mean(changes, axis=0), 0)) * self.totals[rows] / 1e4
            found[target] = np.floor(wanted + generator.random(wanted.shape))
        return self.each(found)

    def cells_of_others(self) -> ad.AnnData:
        """Perturbed cells of the other replicates."""
        generator, found = np.random.default_rng(self.seed), {}
        for target, rows in self.base.items():
            pool = np.flatnonzero(~self.held_out & (self.perturbation == target))
            found[target] = self.counts[generator.permutation(pool)[: len(rows)]]
        return self.each(found)

    def ours(self, model: Path) -> dict[str, ad.AnnData]:
        """Counts of `tl.perturb`, and the rounding of its expression."""
        rows = np.concatenate(list(self.base.values()))
        targets = [target for target, own in self.base.items() for _ in own]
        cells = self.adata[rows].copy()
        cells.obs_names = [f"{name}-{target}" for name, target in zip(cells.obs_names, targets, strict=True)]
        cells.obs = cells.obs.drop(columns="perturbation")
        predicted = c2s.tl.perturb(
            cells, [f"{target} knock-out" for target in targets], output="counts", model=str(model), control=(),
            seed=self.seed, progress=False,
        )  # fmt: skip
        assert len(predicted) == len(cells)
        counts = sp.csr_matrix(cells[:, predicted.var_names].X)
        level = sp.csr_matrix(predicted.layers["control"] + predicted.layers["delta"])
        level.data = np.maximum(level.data, 0)
        rounded = predicted_counts(counts, level, list(cells.obs_names), list(predicted.var_names), seed=self.seed)
        found = {"prediction": predicted.X, "rounding of predicted expression": rounded}
        obs = pd.DataFrame({"perturbation": targets}, index=cells.obs_names)
        return {
            name: ad.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=predicted.var_names))
            for name, values in found.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--held-out", default="rep_1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = ad.read_h5ad(arguments.data_dir / "papalexi_thp1_20729x299.h5ad")
    real = adata[(adata.obs["replicate"] == arguments.held_out).to_numpy()].copy()
    rows: dict[str, list[pd.Series]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = measured(arguments.data_dir, arguments.held_out, Path(folder) / "model")
        for seed in arguments.seeds:
            cells = Replicates(adata, arguments.held_out, seed)
            methods = {
                **cells.ours(model),
                "change of the other replicates": cells.transfer(),
                "no change": cells.no_change(),
                "cells of the other replicates": cells.cells_of_others(),
            }
            for name, predicted in methods.items():
                references = arguments.references and "official baseline" not in rows
                table = c2s.cell_eval2(predicted, real, references=references).set_index("metric").loc[list(SHORT)]
                rows.setdefault(name, []).append(table["prediction"])
                if references:
                    rows["official baseline"], rows["replicate"] = [table["baseline"]], [table["replicate"]]
    mean = pd.DataFrame({name: np.mean(values, axis=0) for name, values in rows.items()}, index=list(SHORT.values())).T
    low = pd.DataFrame({name: np.min(values, axis=0) for name, values in rows.items()}, index=list(SHORT.values())).T
    high = pd.DataFrame({name: np.max(values, axis=0) for name, values in rows.items()}, index=list(SHORT.values())).T
    text = mean.round(3).astype(str) + " (" + low.round(3).astype(str) + " to " + high.round(3).astype(str) + ")"
    print(text.to_string())
    line = json.dumps(
        {"held_out": arguments.held_out, "seeds": arguments.seeds, "mean": mean.round(4).to_dict("index")}
    )
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
