"""Projection: principal components of real cells, the space in which sets of cells are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.matching import Cells

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

    def cells(self, side: Cells, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates of some cells, float64 (cells, components)."""
        if self.genes is not None:
            return self.projection.apply(side.rows(rows)[:, self.genes])
        return self.projection.apply(_obsm(side, self.key)[rows])


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
