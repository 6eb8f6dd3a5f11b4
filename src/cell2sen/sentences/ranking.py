"""Recipe and Ranker: expression of cells → order of genes, with reproducible ties."""

from __future__ import annotations

import hashlib
import threading
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

from cell2sen.sentences import counting_sort

Ties = Literal["hash", "random", "alphabetical"]
Case = Literal["keep", "upper"]

#: Values that are tested at a time.
_PART = 2**16

_INT32_BITS, _MAX_UINT32 = np.uint64(32), np.uint32(2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of cell sentences: length, order of ties, case, seed."""

    max_genes: int | None = None
    """Maximum number of genes of a sentence; ``None`` keeps all expressed genes."""

    ties: Ties = "hash"
    """Order of equal values: ``"hash"`` of (seed, symbol), the same in every cell, so that identical cells have
    identical sentences; ``"random"``, by (seed, cell name), as in the published training data; ``"alphabetical"``."""

    case: Case = "keep"
    """``"upper"`` writes symbols in upper case, as in the training data of the published checkpoints, also of mouse."""

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
        """The fields as plain values; `max_genes` is 0 if there is no limit."""
        return {**asdict(self), "max_genes": self.max_genes or 0}


class Ranked(NamedTuple):
    """Ranked cells, with one value per run of equal values."""

    indptr: NDArray[np.int64]
    """int64 (cells + 1,): cell ``i`` has the entries ``indptr[i]:indptr[i + 1]``, all of its expressed genes."""

    kept: NDArray[np.int64]
    """int64 (cells + 1,): the same for `genes`, which may be cut to the first genes of a cell."""

    genes: NDArray[np.int32]
    """int32 (kept,): column numbers."""

    starts: NDArray[np.int64]
    """int64 (runs,): first entry of each run of equal values within a cell."""

    values: NDArray[np.float64]
    """float64 (runs,): the value of each run."""

    are_counts: bool = False
    """Whether all values were found to be whole numbers; large ones are not tested."""

    def row_sums(self) -> NDArray[np.float64]:
        """Sum of each cell, float64 (cells,); exact for counts."""
        sums = np.append(0.0, np.cumsum(self.values * np.diff(self.starts, append=self.indptr[-1])))
        return np.diff(sums[np.searchsorted(self.starts, self.indptr)])

    def has_constant_cells(self, min_genes: int) -> bool:
        """Whether a cell has one value in all of its genes, at least `min_genes` of them."""
        n_runs = np.diff(np.searchsorted(self.starts, self.indptr))
        return bool(np.any((n_runs == 1) & (np.diff(self.indptr) >= min_genes)))

    def has_compressed_cells(self, min_genes: int, median: float, ratio: float) -> bool:
        """Whether a cell of at least `min_genes` has such a median, and no value of `ratio` times it."""
        lengths = np.diff(self.indptr)
        cells = np.flatnonzero(lengths >= min_genes)
        firsts = self.indptr[cells]
        middle = self.values[np.searchsorted(self.starts, firsts + (lengths[cells] - 1) // 2, side="right") - 1]
        highest = self.values[np.searchsorted(self.starts, firsts)]
        return bool(np.any((middle >= median) & (highest < ratio * middle)))

    def of_runs(self, of_cells: NDArray[Any]) -> NDArray[Any]:
        """Value of each run's cell, (cells,) → (runs,)."""
        return np.repeat(of_cells, np.diff(np.searchsorted(self.starts, self.indptr)))

    def of_entries(self) -> NDArray[np.float64]:
        """Value of each entry, float64 (nnz,)."""
        return np.repeat(self.values, np.diff(self.starts, append=self.indptr[-1]))


#: Genes, starts and values of :class:`Ranked`, of all entries.
_Order = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]


class Ranker:
    """Order of genes in blocks of cells over a fixed list of symbols.

    Many counts are ranked by a counting sort (:mod:`cell2sen.sentences.counting_sort`), and so are values of which each
    cell has few different ones, such as logarithms of counts. Other values are sorted as integer keys: the inverted
    value in the upper bits, the gene's place in the order of ties in the lower bits. Keys of a cell are unique, so all
    sorting algorithms give the same order. Keys of counts have 32 bits, others 64. All genes are ranked, not only those
    that a sentence keeps, since the rank fit needs all ranks.
    """

    def __init__(self, symbols: Sequence[str], recipe: Recipe) -> None:
        self.recipe = recipe
        places = _places_of_ties(tuple(symbols), recipe.ties == "alphabetical", recipe.seed)
        self._place_of = places.astype(np.uint32)
        self._gene_at = np.empty(len(places), dtype=np.int32)
        self._gene_at[places] = np.arange(len(places), dtype=np.int32)
        self._bits = np.uint32(max(len(symbols) - 1, 1).bit_length())
        self._shift = np.int32(self._bits)
        self._place_mask = np.uint32((1 << int(self._bits)) - 1)
        self._max_count = np.uint32((1 << (32 - int(self._bits))) - 1)
        self._key_of_zero = (self._max_count << self._bits) | self._place_of
        self._scratch = _Scratch()

    def rank(
        self, values: Any, names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Expressed genes of each cell in descending value, ties by the recipe. Zeros and NaN are not expressed.

        Parameters
        ----------
        values
            (cells, genes), sparse or dense, any real dtype, not negative. Not changed; repeated entries are summed.
        names
            Cell names, for random ties.

        Returns
        -------
        indptr
            int64 (cells + 1,).
        genes
            int32 (nnz,): column numbers; those of cell ``i`` at ``indptr[i]:indptr[i + 1]``, not cut to ``max_genes``.
        values
            float64 (nnz,): the values in that order.

        Raises
        ------
        ValueError
            Random ties without names.
        """
        ranked = self.ranked(values, names, None)
        return ranked.indptr, ranked.genes, ranked.of_entries()

    def ranked(self, values: Any, names: Sequence[str] | None = None, max_genes: int | None = None) -> Ranked:
        """:meth:`rank` with one value per run, and at most `max_genes` genes of each cell."""
        matrix = values if isinstance(values, sp.csr_matrix) else sp.csr_matrix(values)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        indptr, indices, data = matrix.indptr.astype(np.int64), matrix.indices, matrix.data
        if len(data) and not data.min() > 0:
            keep = data > 0  # False for NaN and stored zeros
            indptr = np.append(0, np.cumsum(keep, dtype=np.int64))[indptr]
            indices, data = indices[keep], data[keep]
        counts = self._whole_numbers(data)
        if counts is None:
            genes, starts, run_values = self._order(indptr, indices, data, is_cut=max_genes is not None)
        else:
            genes, starts, run_values = self._order_counts(indptr, indices, counts, is_cut=max_genes is not None)
        if self.recipe.ties == "random":
            genes = self._shuffle_ties(genes, starts, indptr, names)
        kept = indptr
        if max_genes is not None:
            lengths = np.minimum(np.diff(indptr), max_genes)
            kept = np.append(0, np.cumsum(lengths))
            genes = genes[np.arange(kept[-1]) + np.repeat(indptr[:-1] - kept[:-1], lengths)]
        return Ranked(indptr, kept, genes, starts, run_values, counts is not None or not len(data))

    def _whole_numbers(self, data: NDArray[Any]) -> NDArray[np.int32] | None:
        """Values as int32 in scratch memory; ``None`` if a value is no whole number or too large for a key."""
        if not len(data) or data.max() > self._max_count:
            return None
        counts = self._scratch.int32("counts", len(data))
        for start in range(0, len(data), _PART):  # parts that fit into a core's cache
            part = slice(start, start + _PART)
            np.copyto(counts[part], data[part], casting="unsafe")
            if data.dtype.kind == "f" and not np.array_equal(counts[part], data[part]):
                return None
        return counts

    def _order_counts(
        self, indptr: NDArray[np.int64], indices: NDArray[Any], counts: NDArray[np.int32], is_cut: bool
    ) -> _Order:
        """:meth:`_order` of counts, which are overwritten. If the genes are cut next, they are in scratch memory."""
        kernel = counting_sort.kernel(len(counts), len(indptr) - 1, len(self._gene_at))
        if kernel is None:
            return self._sort_counts(indptr, indices, counts)
        return self._counting_sort(kernel, indptr, indices, counts, is_cut)

    def _counting_sort(
        self,
        kernel: counting_sort.Kernel,
        indptr: NDArray[np.int64],
        indices: NDArray[Any],
        counts: NDArray[np.int32],
        is_cut: bool,
    ) -> _Order:
        # Arrow keeps freed memory; NumPy returns it to the system, and new pages cost as much time as ranking.
        kept = None if is_cut else np.frombuffer(pa.allocate_buffer(4 * len(counts)), dtype=np.int32)
        genes = self._scratch.int32("genes", len(counts)) if kept is None else kept
        starts, values = counting_sort.rank_counts(
            kernel, indptr, indices, counts, self._place_of, self._gene_at, out=genes
        )
        return genes, starts, values

    def _sort_counts(self, indptr: NDArray[np.int64], indices: NDArray[Any], counts: NDArray[np.int32]) -> _Order:
        """:meth:`_order` of counts, which are overwritten."""
        shifted = np.left_shift(counts, self._shift, out=counts).view(np.uint32)
        keys = np.subtract(_take(self._key_of_zero, indices), shifted, out=shifted)
        _sort_rows(keys, indptr)
        upper = keys >> self._bits
        starts = _run_starts(upper, indptr)
        keys &= self._place_mask
        return _take(self._gene_at, keys), starts, (self._max_count - upper[starts]).astype(np.float64)

    def _order(self, indptr: NDArray[np.int64], indices: NDArray[Any], data: NDArray[Any], is_cut: bool) -> _Order:
        """Genes in order, first entries of the runs of equal values, and values of the runs."""
        with np.errstate(over="ignore"):
            single = data.astype(np.float32, copy=False)
        is_single = single is data or np.array_equal(single, data)
        kernel = counting_sort.kernel(len(data), len(indptr) - 1, len(self._gene_at)) if is_single else None
        if kernel is not None and len(data):
            numbers = self._scratch.int32("counts", len(data))
            values = counting_sort.numbered(indptr, single, numbers)
            if values is not None:
                genes, starts, _ = self._counting_sort(kernel, indptr, indices, numbers, is_cut)
                return genes, starts, values  # runs of a cell descend, too
        # The bits of positive float32 ascend with the value.
        upper = _MAX_UINT32 - single.view(np.uint32)
        keys = upper.astype(np.uint64) << _INT32_BITS
        keys |= self._place_of[indices]
        _sort_rows(keys, indptr)
        places = keys.astype(np.uint32)
        if is_single:
            upper = (keys >> _INT32_BITS).astype(np.uint32)
            starts = _run_starts(upper, indptr)
            return self._gene_at.take(places), starts, (_MAX_UINT32 - upper[starts]).view(np.float32).astype(np.float64)
        # Rounding to float32 makes ties, but changes no other order.
        ordered = np.empty(len(data), dtype=np.float64)
        value_at = np.empty(len(self._gene_at), dtype=np.float64)
        for start, stop in pairwise(indptr.tolist()):
            value_at[self._place_of[indices[start:stop]]] = data[start:stop]
            row = value_at[places[start:stop]]
            order = np.argsort(-row, kind="stable")
            places[start:stop], ordered[start:stop] = places[start:stop][order], row[order]
        starts = _run_starts(ordered, indptr)
        return self._gene_at.take(places), starts, ordered[starts]

    def _shuffle_ties(
        self,
        genes: NDArray[np.int32],
        starts: NDArray[np.int64],
        indptr: NDArray[np.int64],
        names: Sequence[str] | None,
    ) -> NDArray[np.int32]:
        """Genes with each run in a random order, which depends on seed and cell name."""
        if names is None:
            raise ValueError("random ties need names= of the cells, which seed their orders")
        run = np.zeros(len(genes), dtype=np.int64)
        run[starts] = 1
        run = np.cumsum(run)
        genes = genes.copy()
        for name, (start, stop) in zip(names, pairwise(indptr.tolist()), strict=False):
            order = _shuffled_runs(run[start:stop], cell_generator(self.recipe.seed, name))
            genes[start:stop] = genes[start:stop][order]
        return genes


class _Scratch(threading.local):
    """Arrays of one thread that are used again: a new array for each part of the cells costs a third of the time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.int32]] = {}

    def int32(self, name: str, size: int) -> NDArray[np.int32]:
        """The array of this name, int32 (size,), with undefined values; valid until it is taken again."""
        if len(self._arrays.get(name, ())) < size:
            self._arrays[name] = np.empty(size, dtype=np.int32)
        return self._arrays[name][:size]


def hash_order(symbols: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Place of each symbol in the order of BLAKE2b(seed, symbol), int64 (n,), a permutation of 0…n-1.

    Neither the order of columns nor the CPU changes which of two tied genes is first.
    """
    digests = b"".join(hashlib.blake2b(f"{seed}\0{symbol}".encode(), digest_size=8).digest() for symbol in symbols)
    # Equal digests are ordered by their symbols.
    return _places(np.lexsort((np.asarray(symbols, dtype=str), np.frombuffer(digests, dtype=">u8"))))


def cell_generator(seed: int, name: str) -> np.random.Generator:
    """Random generator of one cell, seeded by `seed` and its name, so that it does not depend on other cells."""
    return np.random.default_rng(np.frombuffer(hashlib.blake2b(f"{seed}\0{name}".encode()).digest(), dtype=np.uint32))


@lru_cache(maxsize=8)  # the genes are the same in all calls for a dataset
def _places_of_ties(symbols: tuple[str, ...], alphabetical: bool, seed: int) -> NDArray[np.int64]:
    if alphabetical:
        return _places(np.argsort(np.asarray(symbols, dtype=str), kind="stable"))
    return hash_order(symbols, seed)


def _places(order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Inverse of a permutation."""
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def _sort_rows(keys: NDArray[Any], indptr: NDArray[np.int64]) -> None:
    """Sort each row in place."""
    for start, stop in pairwise(indptr.tolist()):
        keys[start:stop].sort()


def _take(table: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """``table[places]``, read-only, without NumPy's int64 copy of the places."""
    return np.asarray(pc.take(pa.array(table), pa.array(places), boundscheck=False).to_numpy(zero_copy_only=True))


def _run_starts(ordered: NDArray[Any], indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """First entries of the runs of equal values within a row."""
    new = np.empty(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    new[indptr[:-1][indptr[:-1] < indptr[1:]]] = True
    return np.flatnonzero(new)


def _shuffled_runs(runs: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Order of a row's entries with each run shuffled; `runs`: run number of each entry, ascending."""
    shuffled = generator.permutation(len(runs))
    groups = np.append(0, np.cumsum(runs[1:] != runs[:-1]))[: len(runs)]
    keys = groups << 32
    keys[shuffled] |= np.arange(len(runs))
    keys.sort()
    return np.asarray(shuffled[keys & (2**32 - 1)])
