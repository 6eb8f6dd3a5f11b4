"""Augmentation: random changes of cells' counts that files of other technologies, depths and gene panels bring."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.training.config.data import Augmentation

#: Smallest share of the genes that a random panel has.
MIN_PANEL_SHARE = 0.03


def augmented(
    counts: sp.csr_matrix,
    names: Sequence[str],
    augmentation: Augmentation,
    *,
    profile: NDArray[np.float64] | None = None,
    draw: int = 0,
    seed: int = 0,
) -> sp.csr_matrix:
    """Counts of cells as another experiment might have found them.

    The steps are, as in an experiment: ambient counts, gene factors of the technology, thinning, genes that are not
    found (dropout, panel). All cells of a draw have the same panel. What a cell becomes depends on its counts, its
    name, `draw`, `seed` and `profile`, not on the other cells or their order.

    Parameters
    ----------
    counts
        Whole numbers, CSR (cells, genes). Not modified.
    names
        Cell names.
    augmentation
        Limits of the changes. :attr:`Augmentation.context_dropout` is not used here.
    profile
        Ambient profile: counts of each gene, float64 (genes,), which :attr:`Augmentation.ambient` needs. Nothing is
        added if all are zero.
    draw
        Number of the pass over the data.
    seed
        Seed of all random choices.

    Returns
    -------
    scipy.sparse.csr_matrix
        Whole numbers, float32 (cells, genes), without stored zeros, columns ascending.
    """
    ambient = None
    if augmentation.ambient:
        if profile is None:
            raise ValueError("augmentation.ambient needs a profile")
        ambient = np.cumsum(profile) / profile.sum() if profile.any() else None
    matrix = sp.csr_matrix(counts)
    measured = _panel(matrix.shape[1], draw, seed) if augmentation.panel else None
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for row, name in enumerate(names):
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        genes = matrix.indices[span].astype(np.int64)
        values = np.rint(matrix.data[span]).astype(np.int64)
        generator = np.random.default_rng([seed, draw, _number(name)])
        genes, values = _augmented_cell(genes, values, augmentation, ambient, generator)
        if measured is not None and generator.random() < augmentation.panel:
            values = np.where(measured[genes], values, 0)
        kept = values > 0
        rows.append((genes[kept], values[kept]))
    indptr = np.concatenate([[0], np.cumsum([len(genes) for genes, _ in rows])]).astype(np.int64)
    indices = np.concatenate([genes for genes, _ in rows]) if rows else np.zeros(0, dtype=np.int64)
    data = np.concatenate([values for _, values in rows]) if rows else np.zeros(0, dtype=np.int64)
    result = sp.csr_matrix((data.astype(np.float32), indices, indptr), shape=matrix.shape)
    result.sort_indices()
    return result


def _augmented_cell(
    genes: NDArray[np.int64],
    values: NDArray[np.int64],
    augmentation: Augmentation,
    ambient: NDArray[np.float64] | None,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genes and counts of one cell. Each step draws its numbers only if it is used."""
    if ambient is not None:
        genes, values = _with_ambient(genes, values, generator.uniform(0, augmentation.ambient), ambient, generator)
    if augmentation.gene_factors:
        deviation = generator.uniform(0, augmentation.gene_factors)
        factors = np.exp(deviation * generator.standard_normal(len(genes)))
        values = np.floor(values * factors + generator.random(len(genes))).astype(np.int64)
    low, high = augmentation.thin
    if low < 1.0:
        values = generator.binomial(values, generator.uniform(low, high))
    if augmentation.dropout:
        share = generator.uniform(0, augmentation.dropout)
        values = np.where(generator.random(len(genes)) >= share, values, 0)
    return genes, values


def _with_ambient(
    genes: NDArray[np.int64],
    values: NDArray[np.int64],
    share: float,
    ambient: NDArray[np.float64],
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of which the expected share `share` comes from the ambient profile; their sum is about the same."""
    n_ambient = generator.poisson(share * values.sum())
    own = generator.binomial(values, 1 - share)
    found = np.minimum(np.searchsorted(ambient, generator.random(n_ambient), side="right"), len(ambient) - 1)
    union, place = np.unique(np.concatenate([genes, found]), return_inverse=True)
    weights = np.concatenate([own, np.ones(n_ambient, dtype=np.int64)])
    return union, np.bincount(place, weights=weights, minlength=len(union)).astype(np.int64)


def _panel(n_genes: int, draw: int, seed: int) -> NDArray[np.bool_]:
    """Genes of the panel of a draw, bool (genes,): a share of them from 3 % to all, log-uniform."""
    generator = np.random.default_rng([seed, draw])
    share = np.exp(generator.uniform(np.log(MIN_PANEL_SHARE), 0))
    return np.asarray(generator.random(n_genes) < share)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(), "little")
