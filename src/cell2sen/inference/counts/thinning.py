"""Counts of a predicted cell: those of a measured cell, thinned where genes fall and scaled where they rise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


def predicted_counts(
    measured: sp.csr_matrix,
    predicted: sp.csr_matrix,
    keys: Sequence[str],
    symbols: Sequence[str],
    *,
    seed: int = 0,
    targets: Callable[[int, NDArray[np.int64]], NDArray[np.float64] | None] | None = None,
) -> sp.csr_matrix:
    """Whole-number counts with the composition of predicted expression and the noise and size of measured cells.

    The target count of a gene is its share of the predicted expression times the cell's sum of counts. Genes with a
    target of at most their count keep each of their counts with the probability target / measured (binomial thinning).
    The counts that are then missing go to the other genes in proportion to their targets, rounded by systematic
    sampling (one random offset per cell), so that the sum is exactly the measured one. A cell that is predicted not to
    change keeps its counts. Nothing is drawn from a Poisson distribution around a mean: what varies from cell to cell
    is the measured cells and the rounding.

    Parameters
    ----------
    measured
        Counts of one measured cell for each predicted one, CSR (cells, symbols).
    predicted
        ln(1 + CP10k), not negative, CSR (cells, symbols).
    keys
        Text of each cell from which, with `seed`, its random numbers follow, such as its name and its perturbation.
    symbols
        Genes; random numbers are used in their alphabetical order, so that the order of columns changes nothing.
    seed
        Another seed gives other counts.
    targets
        Place of a cell and its counts (symbols,) → its target counts, up to a factor, or ``None``.

    Returns
    -------
    float32 CSR (cells, symbols), whole numbers; each row has the sum of that of `measured`.

    Raises
    ------
    ValueError
        Shapes that differ, counts that are negative or not whole, or predictions that are negative.
    """
    if not measured.shape == predicted.shape == (len(keys), len(symbols)):
        raise ValueError(
            f"measured and predicted cells must have the shape ({len(keys)}, {len(symbols)}) of names and genes, found "
            f"{measured.shape} and {predicted.shape}"
        )
    if (measured.data < 0).any() or (measured.data != np.rint(measured.data)).any():
        raise ValueError("measured counts must be whole and not negative")
    if (predicted.data < 0).any():
        raise ValueError("predicted expression must not be negative")
    order = np.argsort(np.asarray(symbols, dtype=object), kind="stable")
    rows = []
    for row, key in enumerate(keys):
        own = measured[row].toarray().ravel().astype(np.int64)
        composition = targets(row, own) if targets is not None else None
        if composition is None:
            composition = np.expm1(predicted[row].toarray().ravel().astype(np.float64))
        counts = np.empty(len(order), dtype=np.float32)
        counts[order] = _of_cell(own[order], composition[order], _generator(seed, key))
        rows.append(sp.csr_matrix(counts))
    if not rows:
        return sp.csr_matrix(np.zeros(measured.shape, dtype=np.float32))
    return sp.csr_matrix(sp.vstack(rows), dtype=np.float32)


def _of_cell(
    measured: NDArray[np.int64], composition: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.int64]:
    total, weight = int(measured.sum()), float(composition.sum())
    if total == 0 or weight == 0:
        return measured
    target = composition * (total / weight)
    # Float32 logarithms: a gene that stays within rounding of its count does not change.
    target = np.where(np.abs(target - measured) <= 1e-4 * np.maximum(measured, 1), measured, target)
    falls = target <= measured
    share = np.divide(target, measured, out=np.zeros_like(target), where=measured > 0)
    counts = np.where(falls, random.binomial(measured, np.where(falls, share, 0.0)), 0)
    missing = total - int(counts.sum())
    offset = float(random.random())
    takes = np.where(falls, 0.0, target)
    if not takes.any():  # nothing rises: the rounding of thinning goes back to genes that lost counts
        takes = (measured - counts).astype(np.float64)
    if missing and takes.any():
        ends = np.floor(np.cumsum(takes) * (missing / takes.sum()) + offset).astype(np.int64)
        ends[np.flatnonzero(takes)[-1] :] = missing + int(np.floor(offset))
        counts = counts + np.diff(ends, prepend=int(np.floor(offset)))
    return np.asarray(counts, dtype=np.int64)


def _generator(seed: int, key: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\x00{key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
