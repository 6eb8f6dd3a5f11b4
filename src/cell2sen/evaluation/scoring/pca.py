"""Embedding in which sets of cells are compared: PCA of expression, or obsm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import Cells
from cell2sen.evaluation.metrics import Missing

#: Genes with the highest variance, of which principal components are taken.
N_GENES = 2000


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Principal components of real cells: of ln(1 + CP10k), or of a key of ``obsm``."""

    key: str
    """``"pca"``, or the key of ``obsm``."""

    pca: Any
    """The fitted :class:`sklearn.decomposition.PCA`."""

    genes: NDArray[np.int64] | None = None
    """Columns of the genes that the components are of, int64; None for a key of ``obsm``."""

    @classmethod
    def fit(cls, key: str, real: Cells, rows: NDArray[Any], components: int) -> Embedding:
        """Principal components of some real cells, `components` at most; for ``"pca"`` of the most variable genes.

        Raises
        ------
        KeyError, ValueError
            No such key of ``obsm``, or values that are not finite.
        ImportError
            scikit-learn is not installed.
        """
        if key != "pca":
            return cls(key=key, pca=_principal_components(_obsm(real, key)[rows], components))
        block = real.rows(rows)
        mean = np.asarray(block.mean(axis=0)).ravel()
        variance = np.asarray(block.multiply(block).mean(axis=0)).ravel() - mean**2
        genes = np.sort(np.argsort(-variance, kind="stable")[:N_GENES])
        return cls(key=key, pca=_principal_components(block[:, genes].tocsr(), components), genes=genes)

    def record(self) -> dict[str, Any]:
        """Key, number of components, share of the variance and number of genes, as plain values."""
        return {
            "key": self.key,
            "components": len(self.pca.components_),
            "explained_variance": round(float(np.nan_to_num(self.pca.explained_variance_ratio_).sum()), 4),
            "genes": None if self.genes is None else len(self.genes),
        }

    def cells(
        self, side: Cells, rows: NDArray[Any], transform: Callable[[Any], Any] | None = None
    ) -> NDArray[np.float64]:
        """Coordinates of some cells, float64 (cells, components); `transform` is applied to their expression first.

        Raises
        ------
        Missing
            There is a `transform`, but the embedding is a key of ``obsm``.
        """
        if self.genes is not None:
            block = transform(side.rows(rows))[:, self.genes] if transform else side.rows(rows, genes=self.genes)
            return np.asarray(self.pca.transform(block))
        if transform is not None:
            raise Missing(f"obsm[{self.key!r}] holds no sentences")
        return np.asarray(self.pca.transform(_obsm(side, self.key)[rows]))

    def change(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """A change of mean expression in the embedding, float64 (genes,) → (components,).

        Raises
        ------
        Missing
            The embedding is a key of ``obsm``.
        """
        if self.genes is None:
            raise Missing(f"a change of expression has no place in obsm[{self.key!r}]")
        return np.asarray(self.pca.components_ @ change[self.genes])


def _principal_components(cells: Any, components: int) -> Any:
    """Exact principal components of (cells, features), sparse or dense; the largest loading of each is positive."""
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise ImportError("principal components need scikit-learn: pip install 'cell2sen[eval]'") from error
    n = min(components, cells.shape[0] - 1, cells.shape[1])
    with np.errstate(invalid="ignore"):  # equal cells have no variance to be divided by
        return PCA(n, svd_solver="covariance_eigh").fit(cells.astype(np.float64))


def _obsm(side: Cells, key: str) -> NDArray[np.float64]:
    if key not in side.obsm:
        raise KeyError(f"obsm of the {side.name} cells has no {key!r}; available: {['pca', *map(str, side.obsm)]}")
    values = np.asarray(side.obsm[key], dtype=np.float64)
    if not np.isfinite(values).all():
        bad = side.names[~np.isfinite(values).all(axis=1)]
        raise ValueError(
            f"obsm[{key!r}] of {len(bad)} {side.name} cells is not finite, for example {list(bad[:3])}; remove these "
            "cells"
        )
    return values
