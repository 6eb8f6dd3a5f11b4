"""Recipe; rank(X) → gene order; RankFit: ranks ⇄ expression."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.sentences import counting_sort as rank_counts

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


@lru_cache(maxsize=8)  # a few data sets in turn
def _tie_places(symbols: tuple[str, ...], alphabetical: bool, seed: int) -> NDArray[np.int64]:
    if alphabetical:
        return _places(np.argsort(np.asarray(symbols, dtype=str), kind="stable"))
    return hash_order(symbols, seed)


def _places(order: NDArray[np.intp]) -> NDArray[np.int64]:
    """The inverse of a permutation."""
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def cell_generator(seed: int, name: str) -> np.random.Generator:
    """Generator of one cell: a function of seed and cell name, so that no cell depends on its neighbours."""
    return np.random.default_rng(np.frombuffer(hashlib.blake2b(f"{seed}\0{name}".encode()).digest(), dtype=np.uint32))


class Ranked(NamedTuple):
    """Ranked cells. Equal values stand together, so that values are told once for each run of them."""

    indptr: NDArray[np.int64]
    """int64 (cells + 1,): the entries of cell ``i`` are ``indptr[i]:indptr[i + 1]``, all expressed genes."""

    kept: NDArray[np.int64]
    """int64 (cells + 1,): the same in `genes`, of which a sentence may keep the first ones only."""

    genes: NDArray[np.int32]
    """int32 (kept,): column numbers."""

    starts: NDArray[np.int64]
    """int64 (runs,): the entry that each run of equal values within a cell begins with."""

    values: NDArray[np.float64]
    """float64 (runs,): the value of each run."""

    def row_sums(self) -> NDArray[np.float64]:
        """Sum of each cell, float64 (cells,); exact for counts."""
        sums = np.append(0.0, np.cumsum(self.values * np.diff(self.starts, append=self.indptr[-1])))
        return np.diff(sums[np.searchsorted(self.starts, self.indptr)])

    def of_runs(self, of_cells: NDArray[Any]) -> NDArray[Any]:
        """What (cells,) says, for each run, (runs,)."""
        return np.repeat(of_cells, np.diff(np.searchsorted(self.starts, self.indptr)))


class Ranker:
    """Ranks blocks of cells over one fixed set of symbols.

    Many counts are ranked by counting them (:mod:`cell2sen.sentences.counting_sort`). Of what is sorted, each entry
    becomes one whole number: the value upside down in its upper bits, the gene's place in the tie order in the lower
    ones. No two keys of a cell are equal, so that sorting them is the ranking, whatever the sort algorithm. Counts and
    places fit into 32 bits together, which is less to sort than the 64 that other values need. The first genes of a
    sentence are not ranked apart from the others, as the rank fit wants all positions.
    """

    def __init__(self, symbols: Sequence[str], recipe: Recipe) -> None:
        self.recipe = recipe
        places = _tie_places(tuple(symbols), recipe.ties == "alphabetical", recipe.seed)
        self._place_of = places.astype(np.uint32)
        self._gene_at = np.empty(len(places), dtype=np.int32)
        self._gene_at[places] = np.arange(len(places), dtype=np.int32)
        self._bits = np.uint32(max(len(symbols) - 1, 1).bit_length())
        self._shift = np.int32(self._bits)
        self._places = np.uint32((1 << int(self._bits)) - 1)
        self._top = np.uint32((1 << (32 - int(self._bits))) - 1)
        self._key_of_zero = (self._top << self._bits) | self._place_of

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
            int32 (nnz,): column numbers; those of cell ``i`` at ``indptr[i]:indptr[i + 1]``. All expressed genes,
            whatever ``max_genes`` says.
        values
            float64 (nnz,): the values in that order.
        """
        ranked = self.ranked(values, names, None)
        return ranked.indptr, ranked.genes, _of_entries(ranked)

    def ranked(self, values: Any, names: Sequence[str] | None = None, max_genes: int | None = None) -> Ranked:
        """:meth:`rank` with values by runs, and with no more than `max_genes` genes of each cell."""
        random = self.recipe.ties == "random"
        if random and names is None:
            raise ValueError("random ties need the cells' names, because each cell's order is seeded by its name")
        matrix = values if isinstance(values, sp.csr_matrix) else sp.csr_matrix(values)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        indptr, indices, data = matrix.indptr.astype(np.int64), matrix.indices, matrix.data
        if len(data) and not data.min() > 0:
            keep = data > 0  # False for NaN and stored zeros
            indptr = np.append(0, np.cumsum(keep, dtype=np.int64))[indptr]
            indices, data = indices[keep], data[keep]
        found = self._ranked_counts(indptr, indices, data) or self._sorted(indptr, indices, data)
        genes, starts, run_values = found
        if random:
            assert names is not None
            run = np.zeros(len(genes), dtype=np.int64)
            run[starts] = 1
            run = np.cumsum(run)
            genes = genes.copy()
            for name, (start, stop) in zip(names, pairwise(indptr.tolist()), strict=False):
                order = _shuffle_ties(run[start:stop], cell_generator(self.recipe.seed, name))
                genes[start:stop] = genes[start:stop][order]
        kept = indptr
        if max_genes is not None:
            lengths = np.minimum(np.diff(indptr), max_genes)
            kept = np.append(0, np.cumsum(lengths))
            genes = genes[np.arange(kept[-1]) + np.repeat(indptr[:-1] - kept[:-1], lengths)]
        return Ranked(indptr, kept, genes, starts, run_values)

    def _ranked_counts(
        self, indptr: NDArray[np.int64], indices: NDArray[Any], data: NDArray[Any]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]] | None:
        """:meth:`_sorted` of whole numbers that fit into a key beside a place; None for others."""
        if not len(data) or data.max() > self._top:
            return None
        counts = data.astype(np.int32)
        if data.dtype.kind == "f" and not np.array_equal(counts.astype(data.dtype), data):
            return None
        if kernel := rank_counts.kernel(len(counts), len(indptr) - 1, len(self._gene_at)):
            return rank_counts.rank_counts(kernel, indptr, indices, counts, self._place_of, self._gene_at)
        return self._sorted_counts(indptr, indices, counts)

    def _sorted_counts(
        self, indptr: NDArray[np.int64], indices: NDArray[Any], counts: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
        """:meth:`_sorted` of counts, which are lost."""
        shifted = np.left_shift(counts, self._shift, out=counts).view(np.uint32)
        keys = np.subtract(_take(self._key_of_zero, indices), shifted, out=shifted)
        _sort_rows(keys, indptr)
        upper = keys >> self._bits
        starts = _run_starts(upper, indptr)
        keys &= self._places
        return _take(self._gene_at, keys), starts, (self._top - upper[starts]).astype(np.float64)

    def _sorted(
        self, indptr: NDArray[np.int64], indices: NDArray[Any], data: NDArray[Any]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
        """Genes of the sorted entries, int32 (nnz,); beginnings of the runs of equal values and their values."""
        with np.errstate(over="ignore"):
            single = data.astype(np.float32)
        # The bits of positive float32 ascend with the value.
        upper = _LOW - single.view(np.uint32)
        keys = upper.astype(np.uint64) << _HALF
        keys |= self._place_of[indices]
        _sort_rows(keys, indptr)
        places = keys.astype(np.uint32)
        if np.array_equal(single, data):
            upper = (keys >> _HALF).astype(np.uint32)
            starts = _run_starts(upper, indptr)
            return self._gene_at.take(places), starts, (_LOW - upper[starts]).view(np.float32).astype(np.float64)
        # Rounding to float32 made ties at most, so the order is right but for these.
        ordered = np.empty(len(data), dtype=np.float64)
        value_at = np.empty(len(self._gene_at), dtype=np.float64)
        for start, stop in pairwise(indptr.tolist()):
            value_at[self._place_of[indices[start:stop]]] = data[start:stop]
            row = value_at[places[start:stop]]
            order = np.argsort(-row, kind="stable")
            places[start:stop], ordered[start:stop] = places[start:stop][order], row[order]
        starts = _run_starts(ordered, indptr)
        return self._gene_at.take(places), starts, ordered[starts]


_HALF, _LOW = np.uint64(32), np.uint32(2**32 - 1)


def _sort_rows(keys: NDArray[Any], indptr: NDArray[np.int64]) -> None:
    """Sort each row in place."""
    for start, stop in pairwise(indptr.tolist()):
        keys[start:stop].sort()


def _take(table: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """``table[places]``, to be read only; Arrow needs no int64 copy of the places, as NumPy does."""
    return np.asarray(pc.take(pa.array(table), pa.array(places), boundscheck=False).to_numpy(zero_copy_only=True))


def _run_starts(ordered: NDArray[Any], indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where another value or another row begins."""
    new = np.empty(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    new[indptr[:-1][indptr[:-1] < indptr[1:]]] = True
    return np.flatnonzero(new)


def _of_entries(ranked: Ranked) -> NDArray[np.float64]:
    """The value of each entry, float64 (nnz,)."""
    return np.repeat(ranked.values, np.diff(ranked.starts, append=ranked.indptr[-1]))


def _shuffle_ties(ordered: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """An order of the entries of a row in which only those of one run, given by its number, have changed places."""
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


def run_sums(ranked: Ranked, expression: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """:func:`rank_sums` from one value a run, float64 (runs,), without a look at every entry."""
    lengths = np.diff(ranked.indptr)
    x_before, xx_before = _position_sums(int(lengths.max(initial=0)).bit_length())
    first = ranked.starts - ranked.of_runs(ranked.indptr[:-1])
    last = first + np.diff(ranked.starts, append=ranked.indptr[-1])

    def sums(most: int) -> NDArray[np.float64]:
        cut, start, stop = (np.minimum(each, most) for each in (lengths, first, last))
        n, x = (stop - start).astype(np.float64), x_before[stop] - x_before[start]
        y = expression
        return np.array([cut.sum(), x_before[cut].sum(), n @ y, xx_before[cut].sum(), x @ y, n @ (y * y)])

    whole = sums(len(x_before))
    return (whole if len(lengths) == 0 or lengths.max() <= _LINE else sums(_LINE))[:5], whole


#: Positions with log10(1 + position) < 3.
_LINE = 999


@lru_cache(maxsize=32)
def _position_sums(bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of log10(1 + position) and of its square over the first 0, 1, … positions, float64 (2**bits + 1,)."""
    x = np.log10(1.0 + np.arange(2**bits))
    return np.append(0.0, np.cumsum(x)), np.append(0.0, np.cumsum(x * x))
