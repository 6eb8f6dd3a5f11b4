"""Labels of held-out cells under shifts that files bring, beside logistic regressions on the same training cells.

    python benchmarks/shifts.py DATA_DIR [--model nano] [--cells 250] [--only depth panel] [--across]

Cells are those that nano.yaml holds out of pbmc3k. Each shift changes their counts as another technology would:
fewer counts, a targeted panel, ambient counts, markers that are not measured, log-normalised values, factors of genes
(full-length protocols, other chemistries), genes lost at random. The rivals are logistic regressions (2,000 variable
genes, C = 0.1): on the training cells as they are, and on these and four augmented copies of each
(:mod:`cell2sen.training.augmentation`, settings of recipes/nano-first.yaml). Values are ln(1 + CP10k) of the shifted
cell, unmeasured genes are 0.

`--across` also labels cells of another study and chemistry with broad types: untreated cells of Kang et al. from
pbmc3k, and the other way. Regressions learn from one side only; name models that did, too (trained by a copy of the
training file with one file): ``--model-from-pbmc3k DIR --model-from-kang DIR``. Recall of both types of monocytes is
reported.

Prints one JSON line for each row: accuracy, 95 % interval, macro F1, calibration error (15 bins).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import cell2sen as c2s
from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.inference.session import load_model
from cell2sen.training import read_config
from cell2sen.training.augmentation import augmented
from cell2sen.training.examples.cells import TrainingCells

HERE = Path(__file__).parent.parent

#: Training file of the embedded model, whose augmentation the second regression has.
RECIPE = HERE / "recipes" / "nano-first.yaml"

#: Label in a file → broad type.
BROAD = {
    "Naive CD4 T": "CD4 T cell", "Memory CD4 T": "CD4 T cell", "CD4 T cells": "CD4 T cell",
    "CD8 T": "CD8 T cell", "CD8 T cells": "CD8 T cell", "B": "B cell", "B cells": "B cell",
    "NK": "NK cell", "NK cells": "NK cell", "CD14+ Mono": "CD14+ monocyte", "CD14+ Monocytes": "CD14+ monocyte",
    "FCGR3A+ Mono": "FCGR3A+ monocyte", "FCGR3A+ Monocytes": "FCGR3A+ monocyte",
    "DC": "dendritic cell", "Dendritic cells": "dendritic cell",
    "Platelet": "megakaryocyte", "Megakaryocytes": "megakaryocyte",
}  # fmt: skip

Counts = sp.csr_matrix
Shift = Callable[[Counts, np.random.Generator], Counts]


class Blood:
    """Cells of one file: counts, labels and side of the split."""

    def __init__(self, base: Path, name: str, label: Callable[[ad.AnnData], np.ndarray]) -> None:
        config = read_config(HERE / "recipes" / "nano.yaml")
        data = next(file for file in config.data.files if file.file.startswith(name))
        self.adata = ad.read_h5ad(base / data.file)
        self.counts = sp.csr_matrix(self.adata.X, dtype=np.float64)
        self.label = label(self.adata)
        self.test = TrainingCells(data, base, "upper").test
        self.names = np.asarray(self.adata.obs_names, dtype=str)
        self.genes = np.asarray(self.adata.var_names, dtype=str)

    def variable(self, rows: np.ndarray, n: int) -> np.ndarray:
        """Numbers of the most variable genes of some cells."""
        cells = ad.AnnData(ln_cp10k(self.counts[rows]))
        found = sc.pp.highly_variable_genes(cells, n_top_genes=n, inplace=False)
        return np.flatnonzero(found["highly_variable"].to_numpy())

    def anndata(self, counts: Counts, rows: np.ndarray, measured: np.ndarray | None = None) -> ad.AnnData:
        """A file of some cells, with the measured genes only."""
        obs, var = self.adata.obs.iloc[rows][[]], self.adata.var[[]]
        cells = ad.AnnData(counts.astype(np.float32), obs=obs, var=var)
        return cells if measured is None else cells[:, measured].copy()


def ln_cp10k(counts: Counts) -> Counts:
    sums = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return sp.csr_matrix(sp.diags(1e4 / sums) @ counts).log1p()


def thinned(share: float) -> Shift:
    def shift(counts: Counts, generator: np.random.Generator) -> Counts:
        result = counts.copy()
        result.data = generator.binomial(counts.data.astype(np.int64), share).astype(np.float64)
        result.eliminate_zeros()
        return result

    return shift


def ambient(share: float) -> Shift:
    def shift(counts: Counts, generator: np.random.Generator) -> Counts:
        profile = np.asarray(counts.sum(axis=0)).ravel()
        totals = np.asarray(counts.sum(axis=1)).ravel()
        added = [generator.multinomial(int(share * total), profile / profile.sum()) for total in totals]
        return sp.csr_matrix(thinned(1 - share)(counts, generator) + sp.csr_matrix(np.stack(added)))

    return shift


def factors(deviation: float, depth: float = 1.0, seed: int = 1) -> Shift:
    """Log-normal factors of the genes, the same in all cells: what a change of chemistry does to them."""

    def shift(counts: Counts, generator: np.random.Generator) -> Counts:
        chosen = np.exp(deviation * np.random.default_rng(seed).standard_normal(counts.shape[1]))
        result = sp.csr_matrix(counts @ sp.diags(chosen))
        result.data = generator.poisson(result.data * depth).astype(np.float64)
        result.eliminate_zeros()
        return result

    return shift


def full_length(counts: Counts, generator: np.random.Generator) -> Counts:
    """Reads instead of molecules: factors as of gene lengths (deviation 0.9), 30 reads a molecule, unequal copies."""
    result = sp.csr_matrix(counts @ sp.diags(np.exp(0.9 * np.random.default_rng(2).standard_normal(counts.shape[1]))))
    copies = generator.gamma(1.0, 30.0, len(result.data))
    result.data = np.floor(result.data * copies + generator.random(len(result.data)))
    result.eliminate_zeros()
    return result


def in_drop(counts: Counts, generator: np.random.Generator) -> Counts:
    """Capture of a quarter, unequal between cells and genes, and a fifth of the genes lost."""
    of_cells = np.exp(0.4 * generator.standard_normal(counts.shape[0]))
    of_genes = np.exp(0.6 * np.random.default_rng(3).standard_normal(counts.shape[1]))
    result = sp.csr_matrix(sp.diags(of_cells) @ counts @ sp.diags(of_genes))
    result.data = generator.poisson(0.25 * result.data) * (generator.random(len(result.data)) > 0.2).astype(float)
    result.eliminate_zeros()
    return result


def other_chemistry(counts: Counts, generator: np.random.Generator) -> Counts:
    """Factors (deviation 0.7), a third of the counts, a tenth of them ambient."""
    return ambient(0.1)(factors(0.7, depth=0.35, seed=4)(counts, generator), generator)


def logistic_regression(values: Counts, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=0.1, max_iter=300).fit(values, labels)


class Regression:
    """Logistic regression on variable genes of training cells, with or without augmented copies."""

    def __init__(self, blood: Blood, rows: np.ndarray, genes: np.ndarray, copies: int) -> None:
        self.genes = genes
        counts, names = blood.counts[rows], blood.names[rows]
        augmentation = read_config(RECIPE).data.augmentation
        profile = np.asarray(counts.sum(axis=0)).ravel()
        parts = [counts]
        for draw in range(copies):
            part = augmented(sp.csr_matrix(counts), names.tolist(), augmentation, profile=profile, draw=draw)
            parts.append(part.astype(np.float64))
        values = sp.vstack([ln_cp10k(part)[:, genes] for part in parts], format="csr")
        self.fitted = logistic_regression(values, np.tile(blood.label[rows], len(parts)))

    def probabilities(self, ln_values: Counts, labels: list[str]) -> np.ndarray:
        found = self.fitted.predict_proba(ln_values[:, self.genes])
        return pd.DataFrame(found, columns=self.fitted.classes_).reindex(columns=labels, fill_value=0.0).to_numpy()


def scores(truth: np.ndarray, labels: list[str], probabilities: np.ndarray) -> dict[str, Any]:
    predicted = np.array(labels)[probabilities.argmax(axis=1)]
    correct = predicted == truth
    generator = np.random.default_rng(0)
    means = [correct[generator.integers(0, len(correct), len(correct))].mean() for _ in range(500)]
    result = {
        "accuracy": round(float(correct.mean()), 4),
        "interval": [round(float(value), 3) for value in np.quantile(means, [0.025, 0.975])],
        "macro_f1": round(float(f1_score(truth, predicted, average="macro", labels=sorted(set(truth)))), 4),
        "ece": round(calibration_error(correct, probabilities.max(axis=1)), 4),
    }
    for kind in ("CD14+ monocyte", "FCGR3A+ monocyte", "CD8 T cell"):
        if kind in set(truth):
            result[f"recall of {kind}"] = round(float(correct[truth == kind].mean()), 3)
    return result


def annotated(cells: ad.AnnData, labels: list[str], backend: Any) -> np.ndarray:
    c2s.tl.annotate(cells, labels, model=backend, progress=False)
    found = cells.obsm["cell2sen_cell_type_probabilities"].to_numpy()
    return np.nan_to_num(found, nan=1 / len(labels))  # cells without genes


def shifts(blood: Blood, train: np.ndarray) -> dict[str, tuple[Shift | None, np.ndarray | None]]:
    """Name → shift, and the genes that are measured (``None``: all)."""
    rows: dict[str, tuple[Shift | None, np.ndarray | None]] = {"none": (None, None), "log-normalised": (None, None)}
    rows |= {f"depth {share:.0%}": (thinned(share), None) for share in (0.5, 0.25, 0.1)}
    order = blood.variable(train, 2000)
    variances = ln_cp10k(blood.counts[train])[:, order].toarray().var(axis=0)
    order = order[np.argsort(-variances)]
    for size in (300, 1000, 2000):  # half of a panel are variable genes, half any expressed ones
        generator = np.random.default_rng(size)
        expressed = np.flatnonzero(np.asarray((blood.counts[train] > 0).mean(axis=0)).ravel() > 0.01)
        chosen = np.concatenate([order[: size // 2], generator.choice(expressed, size // 2, replace=False)])
        rows[f"panel of {size}"] = (None, np.unique(chosen))
    rows |= {f"ambient {share:.0%}": (ambient(share), None) for share in (0.1, 0.2, 0.3)}
    values, labels = ln_cp10k(blood.counts[train]), blood.label[train]
    centre = {kind: np.asarray(values[labels == kind].mean(axis=0)).ravel() for kind in sorted(set(labels))}
    for n in (3, 10):
        of_types = [np.argsort(-(mean - np.mean(list(centre.values()), axis=0)))[:n] for mean in centre.values()]
        rows[f"{n} markers of each type missing"] = (
            None, np.setdiff1d(np.arange(len(blood.genes)), np.concatenate(of_types)),
        )  # fmt: skip
    return rows | {
        "gene factors 0.5": (factors(0.5), None),
        "gene factors 1.0": (factors(1.0), None),
        "full length": (full_length, None),
        "in-drop": (in_drop, None),
        "other chemistry": (other_chemistry, None),
    }


def simulated(base: Path, backend: Any, n_cells: int, only: list[str]) -> None:
    """Rows of the shifts of pbmc3k."""
    blood = Blood(base, "pbmc3k", lambda adata: adata.obs["cell_type"].astype(str).to_numpy())
    train = np.flatnonzero(~blood.test)
    rows = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(blood.test))[:n_cells])
    labels = sorted(set(blood.label))
    genes = blood.variable(train, 2000)
    methods = {name: Regression(blood, train, genes, n) for name, n in (("regression", 0), ("augmented", 4))}
    for name, (shift, measured) in shifts(blood, train).items():
        if only and not any(part in name for part in only):
            continue
        counts = blood.counts[rows]
        if shift is not None:
            counts = shift(counts, np.random.default_rng(5))
        if measured is not None:
            counts = sp.csr_matrix(counts @ sp.diags(np.isin(np.arange(counts.shape[1]), measured).astype(float)))
        values = ln_cp10k(counts)
        cells = blood.anndata(values if name == "log-normalised" else counts, rows, measured)
        truth = blood.label[rows]
        line: dict[str, Any] = {"shift": name, "n": len(rows)}
        line |= {method: scores(truth, labels, fit.probabilities(values, labels)) for method, fit in methods.items()}
        if backend is not None:
            line["model"] = scores(truth, labels, annotated(cells, labels, backend))
        print(json.dumps(line), flush=True)


def across(base: Path, models: dict[str, Any], n_cells: int) -> None:
    """Rows of broad types of another study, by methods that learned from one study only."""

    def broad(adata: ad.AnnData) -> np.ndarray:
        return np.array([BROAD.get(label, "") for label in adata.obs["cell_type"].astype(str)])

    def of_authors(adata: ad.AnnData) -> np.ndarray:
        known = (adata.obs["cell_type_source"] == "author") & (adata.obs["condition"] == "control")
        return np.where(known, broad(adata), "")

    sides = {"pbmc3k": Blood(base, "pbmc3k", broad), "kang": Blood(base, "kang_ifnb", of_authors)}
    for source, target in (("pbmc3k", "kang"), ("kang", "pbmc3k")):
        of, to = sides[source], sides[target]
        train = np.flatnonzero(of.label != "")
        rows = np.flatnonzero(to.label != "")
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:n_cells])
        truth, labels = to.label[rows], sorted(set(of.label[train]))
        place = {gene: number for number, gene in enumerate(to.genes)}
        shared = np.array([gene in place for gene in of.genes])
        columns = [place[gene] for gene in of.genes[shared]]
        values = sp.lil_matrix((len(rows), len(of.genes)))
        values[:, np.flatnonzero(shared)] = ln_cp10k(to.counts[rows])[:, columns]
        genes = np.intersect1d(of.variable(train, 2000), np.flatnonzero(shared))
        line: dict[str, Any] = {"across": f"{source} → {target}", "n": len(rows)}
        for method, n in (("regression", 0), ("augmented", 4)):
            fit = Regression(of, train, genes, n)
            line[method] = scores(truth, labels, fit.probabilities(values.tocsr(), labels))
        if source in models:
            line["model"] = scores(truth, labels, annotated(to.anndata(to.counts[rows], rows), labels, models[source]))
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--model", default="nano", help="'none' for the regressions alone")
    parser.add_argument("--cells", type=int, default=250)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of shifts")
    parser.add_argument("--across", action="store_true")
    parser.add_argument("--model-from-pbmc3k")
    parser.add_argument("--model-from-kang")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    load = lambda name: load_model({"model": name, "progress": False})  # noqa: E731
    if arguments.across:
        given = {"pbmc3k": arguments.model_from_pbmc3k, "kang": arguments.model_from_kang}
        across(arguments.data_dir, {side: load(name) for side, name in given.items() if name}, 4 * arguments.cells)
        return
    backend = None if arguments.model == "none" else load(arguments.model)
    simulated(arguments.data_dir, backend, arguments.cells, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
