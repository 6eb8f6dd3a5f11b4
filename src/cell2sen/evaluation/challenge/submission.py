"""Submissions to the Virtual Cell Challenge: counts of perturbed cells in the challenge's order of genes, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData


def submission(
    predicted: AnnData,
    genes: Sequence[str],
    cells: Mapping[str, int],
    *,
    perturbation: str = "perturbation",
    control: str = "non-targeting",
) -> AnnData:
    """Predicted cells as a submission: ``obs["target"]``, whole-number counts, genes in the given order, no controls.

    Parameters
    ----------
    predicted
        Counts in ``X``.
    genes
        All genes of the challenge, in its order; those that the prediction lacks are 0.
    cells
        Target → number of cells; the first ones in alphabetical order of their names are taken.

    Raises
    ------
    ValueError
        A rule that :func:`problems` lists is broken, or a target has too few predicted cells.
    """
    from anndata import AnnData

    names = predicted.obs[perturbation].astype(str).to_numpy()
    rows: list[int] = []
    for target, number in cells.items():
        own = np.flatnonzero(names == target)
        if len(own) < number:
            raise ValueError(f"target {target!r} needs {number} cells, found {len(own)}: predict more control cells")
        rows += own[np.argsort(predicted.obs_names[own].astype(str), kind="stable")][:number].tolist()
    place = predicted.var_names.get_indexer(pd.Index(genes))
    present = np.flatnonzero(place >= 0)
    chosen = sp.csc_matrix(sp.csr_matrix(predicted.X)[rows][:, place[present]])
    move = sp.csr_matrix((np.ones(len(present)), (np.arange(len(present)), present)), shape=(len(present), len(genes)))
    obs = pd.DataFrame({"target": pd.Categorical(names[rows])}, index=[f"cell{row}" for row in range(len(rows))])
    result = AnnData(sp.csr_matrix(chosen @ move, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))
    if found := problems(result, genes, cells, control=control):
        raise ValueError("this is no valid submission: " + "; ".join(found))
    return result


def problems(
    adata: AnnData, genes: Sequence[str], cells: Mapping[str, int], *, control: str = "non-targeting"
) -> list[str]:
    """Broken rules of a submission: counts, genes and their order, targets, cells of each, no controls."""
    found = []
    values = sp.csr_matrix(adata.X).data
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.rint(values)).any():
        found.append("X has values that are no counts (whole, not negative)")
    if list(adata.var_names) != list(genes):
        found.append("genes are not those of the challenge, in its order")
    counts = adata.obs["target"].astype(str).value_counts().to_dict()
    if counts.pop(control, 0):
        found.append(f"controls ({control}) are among the cells")
    if wrong := sorted(set(counts) ^ set(cells)):
        found.append(f"targets are missing or too many: {wrong[:6]}")
    if wrong := sorted(name for name in set(counts) & set(cells) if counts[name] != cells[name]):
        found.append(f"wrong number of cells of {wrong[:6]}")
    if (np.asarray(adata.X.sum(axis=1)).ravel() == 0).any():
        found.append("some cells have no counts")
    return found
