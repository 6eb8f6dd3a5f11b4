"""Projection: principal components of real cells, the space in which sets of cells are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import Cells
from cell2sen.sentences.ranking import RankFit

_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Principal components of the real cells."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    """(features, components), orthonormal."""

    explained: float
    """Share of the variance of the cells it was fitted to."""

    @classmethod
    def fit(cls, cells: Any, components: int = 50) -> Projection:
        """Principal components of (cells, features), sparse or dense, by the eigenvectors of the covariance (exact)."""
        n = cells.shape[0]
        mean = np.asarray(cells.mean(axis=0), dtype=np.float64).ravel()
        gram = np.zeros((cells.shape[1], cells.shape[1]))
        for start in range(0, n, _CHUNK):
            block = cells[start : start + _CHUNK]
            dense = np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64) - mean
            gram += dense.T @ dense
        level, axes = np.linalg.eigh(gram)
        order = np.argsort(-level, kind="stable")[: min(components, n - 1, cells.shape[1])]
        chosen = axes[:, order]
        # Eigenvectors have no sign of their own: the largest loading is made positive.
        chosen = chosen * np.sign(chosen[np.argmax(np.abs(chosen), axis=0), np.arange(chosen.shape[1])])
        total = float(np.maximum(level, 0).sum())
        return cls(mean=mean, axes=chosen, explained=float(level[order].sum() / total) if total else 0.0)

    def apply(self, cells: Any) -> NDArray[np.float64]:
        """Coordinates, float64 (cells, components)."""
        return np.asarray(cells @ self.axes, dtype=np.float64) - self.mean @ self.axes


@dataclass(kw_only=True)
class Embedding:
    """Where sets of cells are compared: principal components of ln(1 + CP10k), or of a column of ``obsm``."""

    key: str
    projection: Projection
    genes: NDArray[np.int64] | None = None

    @classmethod
    def fit(cls, key: str, real: Cells, rows: NDArray[Any], components: int, n_genes: int = 2000) -> Embedding:
        """From real cells only: of ``"pca"``, the most variable genes."""
        if key == "pca":
            block = real.rows(rows)
            mean = np.asarray(block.mean(axis=0)).ravel()
            variance = np.asarray(block.multiply(block).mean(axis=0)).ravel() - mean**2
            genes = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
            return cls(key=key, projection=Projection.fit(block[:, genes].tocsr(), components), genes=genes)
        return cls(key=key, projection=Projection.fit(_obsm(real, key)[rows], components))

    def cells(self, side: Cells, rows: NDArray[Any], change: Callable[[Any], Any] | None = None) -> NDArray[np.float64]:
        """Coordinates of some cells, float64 (cells, components); `change` is applied to their expression before."""
        if self.genes is not None:
            block = side.rows(rows)
            return self.projection.apply((change(block) if change else block)[:, self.genes])
        return self.projection.apply(_obsm(side, self.key)[rows])


@dataclass(frozen=True, kw_only=True)
class SentenceFit:
    """Expression → cell sentence → expression, as predictions went that are sentences."""

    fit: RankFit
    n_genes: int
    """Genes of a sentence."""

    def apply(self, block: Any) -> sp.csr_matrix:
        """Each cell's first `n_genes` genes at the value of their rank, in ln(1 + CP10k), float32 CSR; others 0.

        Ties are in the order of columns.
        """
        block = sp.csr_matrix(block)
        n = np.diff(block.indptr)
        row = np.repeat(np.arange(block.shape[0]), n)
        order = np.lexsort((block.indices, -block.data, row))
        position = np.arange(len(order)) - np.repeat(block.indptr[:-1], n)
        kept = (position < self.n_genes) & (block.data[order] > 0)
        values = self.fit.expression(position[kept]) * np.log(10.0)
        cells = (values.astype(np.float32), (row[kept], block.indices[order][kept]))
        return sp.csr_matrix(cells, shape=block.shape)


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
