"""Recipe; rank(X) → gene order; RankFit: ranks ⇄ expression."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
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
    """Order of equal values: ``"hash"`` of (seed, symbol), the same in every cell, so that identical cells give
    identical sentences; ``"random"``, drawn anew for each cell from (seed, cell name), as in the published training
    data; ``"alphabetical"``."""

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
    digests = b"".join(hashlib.blake2b(f"{seed}\0{symbol}".encode(), digest_size=8).digest() for symbol in symbols)
    # Should two digests be equal, the symbols decide.
    return _places(np.lexsort((np.asarray(symbols, dtype=str), np.frombuffer(digests, dtype=">u8"))))


def _tie_places(symbols: Sequence[str], recipe: Recipe) -> NDArray[np.int64]:
    if recipe.ties == "alphabetical":
        return _places(np.argsort(np.asarray(symbols, dtype=str), kind="stable"))
    return hash_order(symbols, recipe.seed)


def _places(order: NDArray[np.intp]) -> NDArray[np.int64]:
    """The inverse of a permutation."""
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def cell_generator(seed: int, name: str) -> np.random.Generator:
    """Generator of one cell: a function of seed and cell name, so that no cell depends on its neighbours."""
    return np.random.default_rng(np.frombuffer(hashlib.blake2b(f"{seed}\0{name}".encode()).digest(), dtype=np.uint32))


#: Sorted keys → places in the tie order, values.
Decode = Callable[[NDArray[Any]], tuple[NDArray[np.uint32], NDArray[np.float64] | None]]


class Ranker:
    """Ranks blocks of cells over one fixed set of symbols.

    Each entry becomes one whole number: the value upside down in its upper bits, the gene's place in the tie order in
    the lower ones. No two keys of a cell are equal, so that sorting them is the ranking, whatever the sort algorithm.
    Counts and places fit into 32 bits together, which is less to sort than the 64 that other values need. The longest
    values are not sorted apart, as the rank fit wants all positions.
    """

    def __init__(self, symbols: Sequence[str], recipe: Recipe) -> None:
        self.recipe = recipe
        self._place_of = _tie_places(symbols, recipe).astype(np.uint32)
        self._gene_at = np.argsort(self._place_of).astype(np.int32)
        self._bits = np.uint32(max(len(symbols) - 1, 1).bit_length())

    def rank(
        self, values: Any, names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Genes of each cell in descending value, ties by the recipe; zeros and NaN are no genes.

        Parameters
        ----------
        values
            (cells, genes), sparse or dense, any real dtype, not negative. Never modified; repeated entries count as
            their sum.
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
        random = self.recipe.ties == "random"
        if random and names is None:
            raise ValueError("random ties need the cells' names, because each cell's order is seeded by its name")
        matrix = sp.csr_matrix(values)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        indptr, indices, data = matrix.indptr.astype(np.int64), matrix.indices, matrix.data
        keep = data > 0  # False for NaN and stored zeros
        if not keep.all():
            indptr = np.append(0, np.cumsum(keep, dtype=np.int64))[indptr]
            indices, data = indices[keep], data[keep]
        keys, decode = self._keys(data, indices)
        bounds = indptr.tolist()
        for start, stop in pairwise(bounds):
            keys[start:stop].sort()
        places, ordered = decode(keys)
        if ordered is None:  # rounding to float32 made ties at most, so the order is right but for these
            ordered = np.empty(len(data), dtype=np.float64)
            value_at = np.empty(len(self._gene_at), dtype=np.float64)
            for start, stop in pairwise(bounds):
                value_at[self._place_of[indices[start:stop]]] = data[start:stop]
                row = value_at[places[start:stop]]
                order = np.argsort(-row, kind="stable")
                places[start:stop], ordered[start:stop] = places[start:stop][order], row[order]
        if random:
            assert names is not None
            for name, (start, stop) in zip(names, pairwise(bounds), strict=False):
                order = _shuffle_ties(ordered[start:stop], cell_generator(self.recipe.seed, name))
                places[start:stop] = places[start:stop][order]
        return indptr, self._gene_at[places], ordered

    def _keys(self, data: NDArray[Any], indices: NDArray[Any]) -> tuple[NDArray[Any], Decode]:
        """One key an entry, and what makes places, uint32, and values, float64, of sorted ones.

        The values are None where they cannot be read off the keys.
        """
        place = self._place_of[indices]
        bits, mask = self._bits, np.uint32((1 << int(self._bits)) - 1)
        top = np.uint32((1 << (32 - int(bits))) - 1)
        if len(data) and data.max() <= top and (data.dtype.kind in "biu" or not np.any(data % 1)):
            small = np.subtract(top, data.astype(np.uint32))
            return (small << bits) | place, lambda keys: (keys & mask, (top - (keys >> bits)).astype(np.float64))
        with np.errstate(over="ignore"):
            single = data.astype(np.float32)
        exact = np.array_equal(single, data)
        # The bits of positive float32 ascend with the value.
        upper = (_LOW - single.view(np.uint32)).astype(np.uint64) << _HALF

        def decode(keys: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.float64] | None]:
            values = (_LOW - (keys >> _HALF).astype(np.uint32)).view(np.float32) if exact else None
            return keys.astype(np.uint32), None if values is None else values.astype(np.float64)

        return upper | place, decode


_HALF, _LOW = np.uint64(32), np.uint32(2**32 - 1)


def _shuffle_ties(ordered: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """An order of the entries of a sorted row in which only equal values have changed places."""
    shuffled = generator.permutation(len(ordered))
    groups = np.append(0, np.cumsum(ordered[1:] != ordered[:-1]))[: len(ordered)]
    keys = groups << 32
    keys[shuffled] |= np.arange(len(ordered))
    keys.sort()
    return np.asarray(shuffled[keys & (2**32 - 1)])


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

        Raises
        ------
        ValueError
            The line does not fall (all values of the dataset were equal), so no position can be told from it.
        """
        if self.slope >= 0:
            raise ValueError(f"positions can be told from a falling line only, found slope {self.slope:.4g}")
        values = np.asarray(expression, dtype=np.float64)
        return np.maximum(10.0 ** ((values - self.intercept) / self.slope) - 1.0, 0.0)


class RankFitter:
    """Least squares over blocks in one pass and constant memory.

    The line is fitted to the entries with ``log10(1 + position) < 3``, R² is taken on all non-zero entries, both as in
    Levine et al. 2024. Their fit saw 1,024 cells; by default all added cells are used here, because a part of them
    depends on the order of the cells (sorted by cell type, the first 1,024 of 12,261 PBMC move R² from 0.910 to 0.891).

    Parameters
    ----------
    max_cells
        Fit the line to the first so many added cells only.
    """

    def __init__(self, max_cells: int | None = None) -> None:
        self._left = max_cells
        self._line = np.zeros(5)  # n, Σx, Σy, Σxx, Σxy of the entries that the line is fitted to
        self._all = np.zeros(6)  # the same of all entries, and Σyy

    def add(self, indptr: NDArray[np.int64], expression: NDArray[np.float64]) -> None:
        """Add ranked cells: `expression` in log10(1 + CP10k), float64 (nnz,), in rank order within each cell."""
        cells = len(indptr) - 1 if self._left is None else min(self._left, len(indptr) - 1)
        self.add_sums(rank_sums(indptr, expression, cells))
        if self._left is not None:
            self._left -= cells

    def add_sums(self, sums: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
        """Add what :func:`rank_sums` made of some cells."""
        self._line += sums[0]
        self._all += sums[1]

    def fit(self) -> RankFit | None:
        """The line; ``None`` where there are fewer than two positions to fit."""
        n, x, y, xx, xy = self._line
        spread = n * xx - x * x
        if n < 2 or spread <= 0:
            return None
        slope = (n * xy - x * y) / spread
        intercept = (y - slope * x) / n
        n, x, y, xx, xy, yy = self._all
        residual = yy - 2 * (intercept * y + slope * xy - intercept * slope * x) + n * intercept**2 + slope**2 * xx
        total = yy - y * y / n
        r_squared = 1.0 - residual / total if total > 0 else 0.0
        return RankFit(slope=float(slope), intercept=float(intercept), r_squared=float(r_squared))


def rank_sums(
    indptr: NDArray[np.int64], expression: NDArray[np.float64], cells: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What :class:`RankFitter` keeps of ranked cells: n, Σx, Σy, Σxx, Σxy for the line; all of them and Σyy.

    Parameters
    ----------
    cells
        Only the first so many cells count for the line; all if None.
    """
    lengths = np.diff(indptr)
    longest = int(lengths.max(initial=0))
    table = np.log10(1.0 + np.arange(longest))
    x = table[np.arange(len(expression)) - np.repeat(indptr[:-1], lengths)]
    y = expression
    whole = np.array([len(x), x.sum(), y.sum(), x @ x, x @ y, y @ y])
    use = x[: indptr[len(lengths) if cells is None else cells]]
    if longest <= 999 and len(use) == len(x):  # log10(1 + position) < 3 everywhere
        return whole[:5].copy(), whole
    y = y[: len(use)][use < 3]
    x = use[use < 3]
    return np.array([len(x), x.sum(), y.sum(), x @ x, x @ y]), whole
