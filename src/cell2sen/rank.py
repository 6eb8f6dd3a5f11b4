"""Recipe; rank(X) → gene order; RankFit: ranks ⇄ expression."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Ties = Literal["hash", "random", "alphabetical"]
Case = Literal["keep", "upper"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a profile becomes a sentence. Everything here changes the sentence; nothing else does."""

    max_genes: int | None = None
    """Genes of a sentence at most; ``None`` keeps all expressed genes."""

    ties: Ties = "hash"
    """Order of equal values: ``"hash"`` of (seed, symbol), the same in every cell, so that identical cells give identical
    sentences; ``"random"``, drawn anew for each cell from (seed, cell name), as in the published training data;
    ``"alphabetical"``."""

    case: Case = "keep"
    """``"upper"`` writes symbols in upper case, as the published checkpoints were trained, mouse too."""

    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_genes is not None and self.max_genes < 1:
            raise ValueError(f"max_genes must be at least 1 or None, found {self.max_genes}")
        for name, value, menu in (
            ("ties", self.ties, ("hash", "random", "alphabetical")),
            ("case", self.case, ("keep", "upper")),
        ):
            if value not in menu:
                raise ValueError(f"{name} must be one of {menu}, found {value!r}")

    def provenance(self) -> dict[str, Any]:
        """The fields as plain values, ``None`` as 0 genes = no limit."""
        return {**asdict(self), "max_genes": self.max_genes or 0}


def hash_order(symbols: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Place of each symbol in the order of BLAKE2b(seed, symbol), int64 (n,), a permutation of 0…n-1.

    A function of the symbol alone, so neither column order nor CPU can change which of two tied genes comes first.
    """
    digests = np.array(
        [hashlib.blake2b(f"{seed}\0{symbol}".encode(), digest_size=8).digest() for symbol in symbols], dtype="S8"
    )
    # S8 drops trailing zero bytes in comparisons, equal digests fall back to the symbol: still deterministic.
    order = np.lexsort((np.asarray(symbols, dtype=str), digests))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def _tie_places(symbols: Sequence[str], recipe: Recipe) -> NDArray[np.int64]:
    if recipe.ties == "alphabetical":
        places = np.empty(len(symbols), dtype=np.int64)
        places[np.argsort(np.asarray(symbols, dtype=str), kind="stable")] = np.arange(len(symbols))
        return places
    return hash_order(symbols, recipe.seed)


def cell_generator(seed: int, name: str) -> np.random.Generator:
    """Generator of one cell: a function of seed and cell name, so that no cell depends on its neighbours."""
    return np.random.default_rng(np.frombuffer(hashlib.blake2b(f"{seed}\0{name}".encode()).digest(), dtype=np.uint32))


class Ranker:
    """Ranks blocks of cells over one fixed set of symbols.

    The tie order is settled once, by permuting the columns into it; what is left is a stable sort by value.
    """

    def __init__(self, symbols: Sequence[str], recipe: Recipe) -> None:
        self.recipe = recipe
        self._places = _tie_places(symbols, recipe)
        self._gene_at = np.argsort(self._places).astype(np.int32)

    def rank(
        self, values: Any, names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Genes of each cell in descending value, ties by the recipe; zeros and NaN are no genes.

        Parameters
        ----------
        values
            (cells, genes), sparse or dense, any real dtype, not negative.
        names
            Cell names, needed for random ties only.

        Returns
        -------
        indptr
            int64 (cells + 1,).
        genes
            int32 (nnz,): column numbers; those of cell ``i`` at ``indptr[i]:indptr[i + 1]``. All expressed genes:
            ``max_genes`` is applied by the caller, because the rank fit wants every position.
        values
            float64 (nnz,): the values in that order.
        """
        matrix = sp.csr_matrix(values) if not sp.issparse(values) else values.tocsr()
        indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
        keep = data > 0  # False for NaN and stored zeros
        if not keep.all():
            counts = np.add.reduceat(np.append(keep, False).astype(np.int64), indptr[:-1]) if len(indptr) > 1 else []
            counts = np.where(np.diff(indptr) > 0, counts, 0)
            indices, data = indices[keep], data[keep]
            indptr = np.concatenate([[0], np.cumsum(counts)])
        indptr = indptr.astype(np.int64)
        # Into tie order by two linear transpositions: rows come out sorted by place, without a comparison sort.
        placed = sp.csr_matrix((data, self._places[indices].astype(np.int32), indptr), shape=matrix.shape)
        placed.has_canonical_format = True
        placed = placed.tocsc().tocsr()
        places, data = placed.indices, placed.data
        descending = _sortable(data)
        genes = np.empty(len(places), dtype=np.int32)
        ordered = np.empty(len(places), dtype=np.float64)
        for cell, (start, stop) in enumerate(zip(indptr[:-1], indptr[1:], strict=True)):
            row = slice(start, stop)
            if self.recipe.ties == "random":
                if names is None:
                    raise ValueError("random ties need the cells' names, because each cell's order is seeded by its name")
                shuffle = cell_generator(self.recipe.seed, names[cell]).permutation(stop - start)
                order = shuffle[np.argsort(descending[row][shuffle], kind="stable")]
            else:
                order = np.argsort(descending[row], kind="stable")
            genes[row] = self._gene_at[places[row][order]]
            ordered[row] = data[row][order]
        return indptr, genes, ordered


def _sortable(data: NDArray[Any]) -> NDArray[Any]:
    """Keys that sort ascending where `data` sorts descending; 16-bit where exact, as NumPy sorts those by radix."""
    if len(data) and data.max() < 2**16 and (np.issubdtype(data.dtype, np.integer) or not np.any(data % 1)):
        return (2**16 - 1 - data.astype(np.int64)).astype(np.uint16)
    return -data.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class RankFit:
    """``log10(1 + CP10k) = intercept + slope * log10(1 + position)``, position from 0, clipped at 0."""

    slope: float
    intercept: float
    r_squared: float

    def expression(self, positions: Any) -> NDArray[np.float64]:
        """Expression in log10(1 + CP10k) at `positions` (0 first), same shape, float64."""
        line = self.intercept + self.slope * np.log10(1.0 + np.asarray(positions, dtype=np.float64))
        return np.maximum(line, 0.0)

    def position(self, expression: Any) -> NDArray[np.float64]:
        """The (fractional) position at which `expression` in log10(1 + CP10k) stands: inverse of :meth:`expression`.

        The inverse exists where the line is positive; values above the intercept give position 0.
        """
        values = np.asarray(expression, dtype=np.float64)
        return np.maximum(10.0 ** ((values - self.intercept) / self.slope) - 1.0, 0.0)


class RankFitter:
    """Least squares over blocks in one pass and constant memory.

    The line is fitted to the entries of the first `max_cells` added cells with ``log10(1 + position) < 3``, R² is taken on
    all non-zero entries added (both as in Levine et al. 2024, with the authors' 1,024 cells as default).
    """

    def __init__(self, max_cells: int = 1024) -> None:
        self._left = max_cells
        self._line = np.zeros(4)  # n, Σx, Σy, Σxx, and Σxy below
        self._line_xy = 0.0
        self._all = np.zeros(6)  # n, Σx, Σy, Σxx, Σxy, Σyy

    def add(self, indptr: NDArray[np.int64], expression: NDArray[np.float64]) -> None:
        """Add ranked cells: `expression` in log10(1 + CP10k), float64 (nnz,), in rank order within each cell."""
        lengths = np.diff(indptr)
        position = np.arange(len(expression)) - np.repeat(indptr[:-1], lengths)
        x, y = np.log10(1.0 + position), expression
        self._all += [len(x), x.sum(), y.sum(), x @ x, x @ y, y @ y]
        if self._left > 0:
            stop = indptr[min(self._left, len(lengths))]
            use = np.flatnonzero(x[:stop] < 3)
            u, v = x[use], y[use]
            self._line += [len(u), u.sum(), v.sum(), u @ u]
            self._line_xy += u @ v
            self._left -= len(lengths)

    def fit(self) -> RankFit | None:
        """The line; ``None`` where there are fewer than two positions to fit."""
        n, x, y, xx = self._line
        spread = n * xx - x * x
        if n < 2 or spread <= 0:
            return None
        slope = (n * self._line_xy - x * y) / spread
        intercept = (y - slope * x) / n
        n, x, y, xx, xy, yy = self._all
        residual = yy - 2 * intercept * y - 2 * slope * xy + n * intercept**2 + 2 * intercept * slope * x + slope**2 * xx
        total = yy - y * y / n
        r_squared = 1.0 - residual / total if total > 0 else 0.0
        return RankFit(slope=float(slope), intercept=float(intercept), r_squared=float(r_squared))
