"""Gene space: cells as rank-weighted means of gene vectors, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from cell2sen.sentences.sentences import Sentences

#: Genes of a sentence that count.
N_GENES = 400

#: Added to the standard deviation of a gene's weight, so that rare genes are not scaled up.
DEVIATION_OFFSET = 0.005


def rank_weights(sentences: Sentences, genes: Sequence[str], n_genes: int = N_GENES) -> sp.csr_matrix:
    """Weight of each gene in each cell, float64 CSR (cells, genes), rows of norm 1.

    A gene at rank r of the sentence has the weight 1 − ln r / ln(n_genes + 1), before the row is divided by its norm;
    ranks count genes of the sentence, also those that are not among `genes`. A cell without any of them is zero.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    column = np.array([place.get(symbol, -1) for symbol in sentences.symbols], dtype=np.int64)
    lengths = sentences.n_genes
    flat = np.asarray(sentences.genes.flatten().to_numpy(), dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    rank = np.arange(len(flat)) - np.repeat(starts, lengths) + 1
    columns = column[flat] if len(flat) else flat
    kept = (rank <= n_genes) & (columns >= 0)
    weights = 1 - np.log(rank[kept]) / np.log(n_genes + 1)
    rows = np.repeat(np.arange(len(lengths)), lengths)[kept]
    matrix = sp.csr_matrix((weights, (rows, columns[kept])), shape=(len(lengths), len(place)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.where(norms > 0, norms, 1)) @ matrix)


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneSpace:
    """Vectors of genes, the right singular vectors of scaled rank weights of training cells."""

    genes: tuple[str, ...]
    vectors: NDArray[np.float32]
    """float32 (genes, d)."""

    scale: NDArray[np.float32]
    """Factor of each gene's weight, float32 (genes,), which the vectors include."""

    @classmethod
    def of(cls, weights: sp.csr_matrix, genes: Sequence[str], size: int, *, seed: int = 0) -> GeneSpace:
        """Space of some cells, of at most `size` dimensions.

        Parameters
        ----------
        weights
            :func:`rank_weights` of the cells.
        """
        mean = np.asarray(weights.mean(axis=0)).ravel()
        deviation = np.sqrt(np.maximum(np.asarray(weights.multiply(weights).mean(axis=0)).ravel() - mean**2, 0))
        scale = 1 / (deviation + DEVIATION_OFFSET)
        scaled = sp.csr_matrix(weights @ sp.diags(scale))
        start = np.random.default_rng(seed).standard_normal(min(scaled.shape))
        _, _, vectors = svds(scaled, k=min(size, min(scaled.shape) - 1), v0=start)
        scaled_vectors = (vectors[::-1].T * scale[:, None]).astype(np.float32)
        return cls(genes=tuple(genes), vectors=scaled_vectors, scale=scale.astype(np.float32))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of a file with the space, vectors as float16."""
        genes = np.frombuffer("\n".join(self.genes).encode(), dtype=np.uint8)
        return {"genes": genes, "vectors": self.vectors.astype(np.float16), "scale": self.scale}

    @classmethod
    def from_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> GeneSpace:
        """Space of a file with :meth:`arrays`."""
        genes = tuple(bytes(stored["genes"]).decode().split("\n"))
        return cls(genes=genes, vectors=stored["vectors"].astype(np.float32), scale=stored["scale"])

    def features(self, weights: sp.csr_matrix) -> NDArray[np.float64]:
        """Features of cells from their :func:`rank_weights`, float64 (cells, d); 0 for cells without a known gene."""
        return np.asarray(weights @ self.vectors.astype(np.float64))

    def residual(self, weights: sp.csr_matrix) -> NDArray[np.float64]:
        """Share of the norm of scaled weights that lies outside the space, float64 (cells,), from 0 to 1.

        What the genes of training cells have in common is inside. 1 for cells without a known gene.
        """
        scaled = np.asarray(weights.multiply(weights) @ self.scale.astype(np.float64) ** 2).ravel()
        inside = (self.features(weights) ** 2).sum(axis=1)
        return np.asarray(np.sqrt(np.clip(1 - inside / np.where(scaled > 0, scaled, 1), 0, 1)))
