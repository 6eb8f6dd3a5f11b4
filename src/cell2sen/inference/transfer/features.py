"""Features of cells that classifiers compare: the embedding, expression of variable genes, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

FeatureName = Literal["embedding", "expression", "both"]
FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)

BlockName = Literal["embedding", "genes", "components"]

#: Values of cells: float64 (n, dimensions), dense or CSR.
Block = NDArray[np.float64] | sp.csr_matrix

#: Genes with the largest variance among the reference cells, and principal components of them.
N_VARIABLE, N_COMPONENTS = 2000, 50

#: Cells whose values are dense at a time.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Linear map to features, fitted to the cells of a reference alone."""

    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    """float64 (d,): standard deviation of each dimension of the embedding; 1 where it is constant."""

    genes: NDArray[np.int64]
    """int64 (genes,): columns of the variable genes."""

    components: Any = None
    """Fitted PCA of scikit-learn; ``None`` if expression is not used."""

    scale: float = 1.0
    """Root mean square of the principal components."""

    length: float = 1.0
    """Root mean square of the lengths of the reference cells over the variable genes."""

    @classmethod
    def of(cls, vectors: NDArray[np.float32], expression: sp.csr_matrix | None) -> Space:
        """Map for cells like these.

        Parameters
        ----------
        vectors
            Embeddings of the reference cells, float32 (n, hidden).
        expression
            ln(1 + CP10k), CSR (n, genes); ``None``: embeddings alone.
        """
        given = vectors.astype(np.float64)
        width = given.std(axis=0)
        width[width < 1e-9] = 1.0
        fitted = cls(centre=given.mean(axis=0), width=width, genes=np.zeros(0, dtype=np.int64))
        if expression is None:
            return fitted
        from sklearn.decomposition import PCA

        genes = variable_genes(expression, N_VARIABLE)
        chosen = sp.csr_matrix(expression[:, genes], dtype=np.float64)
        n_components = min(N_COMPONENTS, len(genes), expression.shape[0])
        pca = PCA(n_components, svd_solver="covariance_eigh").fit(chosen.toarray() if _is_small(chosen) else chosen)
        scale = float(np.sqrt(np.mean(pca.explained_variance_))) or 1.0
        length = float(np.sqrt(np.mean(row_lengths(chosen) ** 2))) or 1.0
        return cls(centre=fitted.centre, width=width, genes=genes, components=pca, scale=scale, length=length)

    def __call__(self, name: BlockName, vectors: NDArray[np.float32], expression: sp.csr_matrix | None) -> Block:
        """Features of cells: scaled embedding, variable genes, or principal components of these.

        ``"genes"`` are ln(1 + CP10k), each cell scaled to the length that reference cells have on average: how deep a
        cell is does not make it more certain.
        """
        if name == "embedding":
            return np.asarray((vectors.astype(np.float64) - self.centre) / self.width)
        assert expression is not None
        if name == "genes":
            values = sp.csr_matrix(expression[:, self.genes], dtype=np.float64)
            lengths = row_lengths(values)
            values.data *= np.repeat(self.length / np.where(lengths > 0, lengths, 1), np.diff(values.indptr))
            return values
        assert self.components is not None
        parts = [
            self.components.transform(expression[first : first + _BLOCK][:, self.genes].toarray().astype(np.float64))
            for first in range(0, expression.shape[0], _BLOCK)
        ]
        return np.asarray(np.concatenate([*parts, np.zeros((0, self.components.n_components_))]) / self.scale)


def row_lengths(values: sp.csr_matrix) -> NDArray[np.float64]:
    """Euclidean length of each row, float64 (n,)."""
    squares = sp.csr_matrix((values.data**2, values.indices, values.indptr), shape=values.shape)
    return np.asarray(np.sqrt(squares.sum(axis=1)), dtype=np.float64).ravel()


def variable_genes(expression: sp.csr_matrix, n: int) -> NDArray[np.int64]:
    """Columns of the `n` genes with the largest variance, int64, ascending; of equal ones the first."""
    mean = np.asarray(expression.mean(axis=0), dtype=np.float64).ravel()
    parts = (expression.data.astype(np.float64) ** 2, expression.indices, expression.indptr)
    squares = sp.csr_matrix(parts, shape=expression.shape)
    variance = np.asarray(squares.mean(axis=0)).ravel() - mean**2
    chosen = np.argsort(-variance, kind="stable")[:n]
    return np.sort(chosen).astype(np.int64)


def _is_small(matrix: sp.csr_matrix) -> bool:
    """Whether a dense copy has at most 400 MB."""
    return int(matrix.shape[0]) * int(matrix.shape[1]) * 8 <= 4e8
