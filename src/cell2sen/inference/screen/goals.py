"""Goals of a screen: a gene set, a direction between two groups of cells, or a label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.genes.gene_sets import gene_set as set_of_file
from cell2sen.data.names.text import list_of_names, some

#: Where a shift is measured.
Space = Literal["auto", "expression", "embedding", "label"]

#: Penalties among which the probe's is chosen, as shares of the mean squared singular value.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

#: Folds that choose the penalty and score the probe.
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What cells should move towards."""

    kind: Literal["gene_set", "direction", "label"]
    name: str
    genes: tuple[str, ...] = ()
    """Genes of a set."""

    groups: tuple[str, str] | None = None
    """Values of a column of obs: from, to."""

    label: str | None = None


def goal_of(
    gene_set: str | Sequence[str] | Mapping[str, Sequence[str]] | None,
    gmt: str | Path | None,
    direction: Sequence[str] | None,
    label: str | None,
) -> Goal:
    """The goal that the arguments of :func:`cell2sen.tl.screen` describe.

    Raises
    ------
    ValueError
        Not exactly one goal, or an incomplete one.
    """
    given = [name for name, value in zip(_NAMES, (gene_set, direction, label), strict=True) if value is not None]
    if len(given) != 1:
        raise ValueError(f"pass one goal: gene_set=, direction= or label=; found {given or 'none'}")
    if gmt is not None and not isinstance(gene_set, str):
        raise ValueError("gmt= is a file of gene sets: pass the name of one of them as gene_set=")
    if isinstance(gene_set, Mapping):
        if len(gene_set) != 1:
            raise ValueError(f"gene_set must be one set, found {len(gene_set)}: {some(list(gene_set))}")
        ((name, genes),) = gene_set.items()
        return Goal(kind="gene_set", name=str(name), genes=tuple(dict.fromkeys(map(str, genes))))
    if gene_set is not None:
        if gmt is not None:
            return Goal(kind="gene_set", name=str(gene_set), genes=set_of_file(Path(gmt), str(gene_set)))
        genes = tuple(dict.fromkeys(map(str, list_of_names(gene_set))))
        return Goal(kind="gene_set", name=f"{len(genes)} genes", genes=genes)
    if direction is not None:
        if isinstance(direction, str) or len(direction) != 2 or direction[0] == direction[1]:
            raise ValueError(f"direction must be two different groups, (from, to), found {direction!r}")
        start, end = map(str, direction)
        return Goal(kind="direction", name=f"{start} to {end}", groups=(start, end))
    return Goal(kind="label", name=str(label), label=str(label))


_NAMES = ("gene_set", "direction", "label")


def set_weights(genes: Sequence[str], symbols: Sequence[str]) -> NDArray[np.float64]:
    """Weights of genes whose sum with expression is the mean of the set, float64 (symbols,).

    Raises
    ------
    ValueError
        None of the genes is among the symbols.
    """
    column = {symbol.upper(): number for number, symbol in enumerate(symbols)}
    present = sorted({column[gene.upper()] for gene in genes if gene.upper() in column})
    if not present:
        raise ValueError(
            f"none of the {len(genes)} genes of the set ({some(list(genes))}) is in the data and in the model"
        )
    weights = np.zeros(len(symbols))
    weights[present] = 1 / len(present)
    return weights


def direction_weights(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that give 0 of the way at `start` and 1 at `end`, up to a constant: d / |d|² with d = end − start.

    Raises
    ------
    ValueError
        The two means are equal.
    """
    difference = end - start
    length = float(difference @ difference)
    if not length > 0:
        raise ValueError("the two groups of direction= have the same mean, so there is no direction")
    return difference / length


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """Linear probe: ridge regression of a score on embeddings."""

    weights: NDArray[np.float64]
    """float64 (hidden,): change of the score per unit of each dimension."""

    r: float
    """Correlation of score and prediction in cells that were left out of the fit."""


def fit_probe(
    vectors: NDArray[np.floating[Any]], score: NDArray[np.float64], groups: Sequence[Any], names: Sequence[str]
) -> Probe:
    """Ridge regression within groups, with the penalty of the smallest squared error in left-out cells.

    Parameters
    ----------
    vectors, score
        float (n, hidden) and (n,).
    groups
        Context of each cell. Means of contexts are subtracted, so that no difference between contexts is learned.
    names
        Names of the cells, whose hash chooses the fold, so that no result depends on the order of cells.

    Raises
    ------
    ValueError
        Fewer than 20 cells, or a constant score.
    """
    x, y = np.asarray(vectors, dtype=np.float64).copy(), score.astype(np.float64).copy()
    for group in dict.fromkeys(groups):
        members = np.array([value == group for value in groups])
        x[members] -= x[members].mean(axis=0)
        y[members] -= y[members].mean()
    if len(y) < 20 or not y.std() > 0:
        raise ValueError(f"the gene set has the same score in all of {len(y)} cells, or there are fewer than 20 cells")
    fold = np.array([hashlib.blake2b(str(name).encode(), digest_size=2).digest()[0] % _FOLDS for name in names])
    predicted = np.zeros((len(_PENALTIES), len(y)))
    for number in range(_FOLDS):
        out = fold == number
        if out.any() and not out.all():
            for place, penalty in enumerate(_PENALTIES):
                predicted[place, out] = x[out] @ _ridge(x[~out], y[~out], penalty)
    best = int(np.argmin(((predicted - y) ** 2).sum(axis=1)))
    chosen = predicted[best]
    r = float(np.corrcoef(chosen, y)[0, 1]) if chosen.std() > 0 else 0.0
    return Probe(weights=_ridge(x, y, _PENALTIES[best]), r=r)


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    gram = x.T @ x
    scaled = penalty * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram + scaled * np.eye(len(gram)), x.T @ y))


def group_mean(matrix: sp.csr_matrix | NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of some rows, float64 (columns,)."""
    return np.asarray(matrix[rows].astype(np.float64).mean(axis=0)).ravel()
