"""Simulated experiment of two cell types, a control and three drugs, and predictions of known quality."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.inputs import read_sides
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.scoring.groups import Groups, perturbation_groups
from cell2sen.evaluation.settings import Settings

GENES = [f"GENE{number}" for number in range(150)]
TYPES = ["B", "T"]
DRUGS = ["alpha", "beta", "gamma"]
#: Cells of each drug and type.
N = 36


def _world() -> ad.AnnData:
    """Counts; each drug changes 15 genes, a little differently in each type."""
    rng = np.random.default_rng(0)
    base = {kind: rng.gamma(0.5, 2.0, len(GENES)) + 0.05 for kind in TYPES}
    effect = {drug: np.where(np.arange(len(GENES)) // 15 == at, 1.6, 0.0) for at, drug in enumerate(DRUGS)}
    rows, obs = [], []
    for kind in TYPES:
        for drug in ["control", *DRUGS]:
            shift = effect[drug] * (0.8 if kind == "B" else 1.2) if drug != "control" else 0.0
            mean = base[kind] * np.exp(shift)
            rows.append(rng.poisson(mean / mean.sum() * rng.uniform(800, 1200, (N, 1))))
            obs += [(drug, kind, f"d{number % 4}") for number in range(N)]
    names = [f"cell{number}" for number in range(len(obs))]
    table = pd.DataFrame(obs, columns=["drug", "cell_type", "donor"], index=names)
    return ad.AnnData(sp.csr_matrix(np.concatenate(rows).astype(np.float32)), obs=table, var=pd.DataFrame(index=GENES))


REAL = _world()
#: Other cells from the same distributions: predictions of a good model.
TWIN = REAL.copy()
_GROUP_MEANS = [np.asarray(REAL.X[first : first + N].mean(axis=0)).ravel() for first in range(0, REAL.n_obs, N)]
TWIN.X = sp.csr_matrix(np.random.default_rng(9).poisson(np.repeat(_GROUP_MEANS, N, axis=0)).astype(np.float32))
TWIN.obs_names = [f"twin{number}" for number in range(TWIN.n_obs)]


def perturbed(adata: ad.AnnData) -> ad.AnnData:
    """Cells that are no controls."""
    return adata[adata.obs["drug"] != "control"].copy()


def copied_control() -> ad.AnnData:
    """The control cells as the prediction for each drug."""
    controls = REAL[REAL.obs["drug"] == "control"]
    parts = []
    for drug in DRUGS:
        part = controls.copy()
        part.obs["drug"] = drug
        part.obs_names = [f"{drug}-{name}" for name in part.obs_names]
        parts.append(part)
    return ad.concat(parts)


def swapped() -> ad.AnnData:
    """Good cells under the name of another drug."""
    cells = perturbed(TWIN)
    cells.obs["drug"] = cells.obs["drug"].map(dict(zip(DRUGS, [*DRUGS[1:], DRUGS[0]], strict=True))).astype(str)
    return cells


def shuffled() -> ad.AnnData:
    """Good cells whose drugs are permuted."""
    cells = perturbed(TWIN)
    cells.obs["drug"] = np.random.default_rng(0).permutation(cells.obs["drug"])
    return cells


def own_prediction(cells: ad.AnnData, drug: str = "alpha") -> ad.AnnData:
    """A prediction from `cells` as tl.perturb writes it."""
    predicted = ad.AnnData(
        sp.csr_matrix(log_cp10k(cells).astype(np.float32)), obs=cells.obs.copy(), var=cells.var.copy()
    )
    predicted.layers["control"] = predicted.X.copy()
    target = log_cp10k(REAL)[(REAL.obs["drug"] == drug).to_numpy()].mean(axis=0)
    predicted.X = sp.csr_matrix((0.5 * predicted.X.toarray() + 0.5 * target).astype(np.float32))
    predicted.layers["delta"] = (predicted.X - predicted.layers["control"]).tocsr()
    predicted.obs["perturbation"] = drug
    predicted.obs["sentence"] = [" ".join(GENES[:30])] * predicted.n_obs
    predicted.obs["validity"] = 0.75
    predicted.uns["cell2sen"] = {"perturb": {"model": {"name": "test", "weights_sha256": "ab"}}}
    return predicted


def run(predicted: Any, real: Any = REAL, **options: Any) -> Evaluation:
    """An evaluation with few resamples and components, that reports leaks."""
    options = {
        "perturbation": "drug",
        "context": "cell_type",
        "leaks": "report",
        "resamples": 20,
        "components": 10,
        **options,
    }
    return evaluate(predicted, real, **options)


def groups_of(
    predicted: ad.AnnData, real: ad.AnnData = REAL, train: ad.AnnData | None = None, **options: Any
) -> Groups:
    """Groups of drugs in cell types, as `evaluate` makes them."""
    settings = Settings.of(**{"perturbation": "drug", "context": "cell_type", **options})
    sides = read_sides(predicted, real, train, settings.values)
    sides.align(settings.values.case)
    return perturbation_groups(sides, settings)


def log_cp10k(adata: ad.AnnData) -> np.ndarray:
    """ln(1 + CP10k), (cells, genes)."""
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def means(adata: ad.AnnData) -> dict[tuple[str, str], np.ndarray]:
    """(drug, cell type) → mean of :func:`log_cp10k`."""
    values, drugs, kinds = log_cp10k(adata), adata.obs["drug"], adata.obs["cell_type"]
    return {
        (drug, kind): values[((drugs == drug) & (kinds == kind)).to_numpy()].mean(axis=0)
        for drug in ["control", *DRUGS]
        for kind in TYPES
    }
