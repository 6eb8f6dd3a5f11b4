"""First vectors of gene tokens: how genes vary together in the training cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds


def gene_vectors(
    matrices: Iterable[tuple[sp.csr_matrix, Sequence[str]]], genes: Sequence[str], size: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """Right singular vectors of log-normalised expression, float32 (genes, size), each column of unit mean square.

    A small model that starts from them reads programmes of genes out of its first layer, instead of learning from
    answers alone which of twenty thousand words mean the same. The rows are training cells only.

    Parameters
    ----------
    matrices
        ``(cells × genes, symbols)`` of each data set, ln(1 + CP10k).
    genes
        Wanted genes; zero for genes that no matrix has.
    size
        Dimensions, fewer than the cells.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    blocks = []
    for matrix, symbols in matrices:
        columns = np.array([place.get(symbol, -1) for symbol in symbols])
        kept = sp.csr_matrix(matrix)[:, columns >= 0].tocoo()
        shape = (matrix.shape[0], len(genes))
        blocks.append(sp.csr_matrix((kept.data, (kept.row, columns[columns >= 0][kept.col])), shape=shape))
    stacked = sp.vstack(blocks, format="csr").astype(np.float32)
    mean = np.asarray(stacked.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(stacked.multiply(stacked).mean(axis=0)).ravel() - mean**2, 0))
    # Rare genes are mostly noise: the constant keeps them from being blown up to the size of the others.
    scaled = stacked @ sp.diags((1 / (deviation + 0.1)).astype(np.float32))
    start = np.random.default_rng(seed).standard_normal(min(scaled.shape))
    _, _, vectors = svds(scaled, k=min(size, min(scaled.shape) - 1), v0=start)
    vectors = vectors[::-1].T
    result = np.zeros((len(genes), size), dtype=np.float32)
    result[:, : vectors.shape[1]] = vectors / np.sqrt(np.mean(vectors**2, axis=0, keepdims=True))
    return result


def log_frequency(
    matrices: Iterable[tuple[sp.csr_matrix, Sequence[str]]], genes: Sequence[str]
) -> tuple[NDArray[np.float32], float]:
    """How often each gene is expressed: standardised logarithm, float32 (genes,), and its standard deviation in nats.

    A model whose output layer begins with it knows at once which genes are common, which otherwise takes most of a
    short training.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    share = np.zeros(len(genes))
    for matrix, symbols in matrices:
        expressed = np.asarray((matrix > 0).mean(axis=0)).ravel()
        for symbol, value in zip(symbols, expressed, strict=True):
            if symbol in place:
                share[place[symbol]] = max(share[place[symbol]], value)
    logs = np.log(share + 1e-3)
    spread = float(logs.std()) or 1.0
    return ((logs - logs.mean()) / spread).astype(np.float32), spread


def change_vectors(
    groups: Iterable[tuple[NDArray[np.float64], int, NDArray[np.float64], int, Sequence[str]]],
    genes: Sequence[str],
    size: int,
) -> NDArray[np.float32]:
    """How perturbations change which genes are written, float32 (genes, size); the first column has unit mean square.

    For each group the log frequency of a gene among its perturbed cells less that among its controls, shrunk towards 0
    by its standard error (positive-part James-Stein); right singular vectors of these rows, each as long as its
    singular value says. The first is what all groups have in common. Groups are training cells only.

    Parameters
    ----------
    groups
        ``(cells with the gene, cells, controls with the gene, controls, symbols)`` of each perturbation and context.
    genes
        Wanted genes; zero for genes that no group has.
    size
        Columns; zero beyond the number of groups.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    rows = []
    for treated, n_treated, control, n_control, symbols in groups:
        columns = np.array([place.get(symbol, -1) for symbol in symbols])
        change = np.log((treated + 1) / (n_treated + 2)) - np.log((control + 1) / (n_control + 2))
        error = 1 / (treated + 1) + 1 / (control + 1)
        shrunk = change * np.maximum(1 - 3 * error / np.maximum(change**2, 1e-12), 0)
        row = np.zeros(len(genes))
        row[columns[columns >= 0]] = shrunk[columns >= 0]
        rows.append(row)
    result = np.zeros((len(genes), size), dtype=np.float32)
    if not rows or not np.any(rows):
        return result
    left, lengths, right = np.linalg.svd(np.array(rows), full_matrices=False)
    signs = np.where(left.sum(axis=0) < 0, -1.0, 1.0)  # up is what most groups do
    n = min(size, int(np.sum(lengths > 1e-9 * lengths[0])))
    scaled = (right[:n] * (signs[:n] * lengths[:n] / lengths[0])[:, None]).T
    result[:, :n] = scaled / np.sqrt(np.mean(scaled[:, 0] ** 2))
    return result
