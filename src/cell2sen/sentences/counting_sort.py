"""Counting sort of genes by counts, or by values of which a cell has few, compiled by numba if it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: Fewer counts are sorted by NumPy: importing numba takes 0.3 s, and compiling 2 s once per machine.
MIN_COUNTS = 2**17

#: Sparser cells are sorted by NumPy, which is faster: the counting sort visits every gene of the list.
MAX_GENES_PER_COUNT = 32

Kernel = Callable[..., int]


def kernel(n_counts: int, n_cells: int, n_genes: int) -> Kernel | None:
    """Compiled sort; ``None`` without numba or if NumPy's sort is faster."""
    is_faster = n_counts >= MIN_COUNTS and n_counts * MAX_GENES_PER_COUNT >= n_cells * n_genes
    return compiled() if is_faster else None


def rank_counts(
    kernel: Kernel,
    indptr: NDArray[np.int64],
    indices: NDArray[Any],
    counts: NDArray[np.int32],
    place_of: NDArray[np.uint32],
    gene_at: NDArray[np.int32],
    out: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Order of genes of each cell, written to `out`: descending counts, equal counts in ascending place.

    Parameters
    ----------
    kernel
        From :func:`kernel` or :func:`compiled`.
    indptr, indices
        Rows and columns as in a canonical CSR matrix.
    counts
        int32 (nnz,), all above 0.
    place_of, gene_at
        uint32 and int32 (genes,): place of each gene in the order of ties, and the inverse.

    out
        int32 (nnz,): receives the column numbers in order.

    Returns
    -------
    starts
        int64 (runs,): first entry of each run of equal counts within a cell.
    values
        float64 (runs,): the count of each run.
    """
    starts, values = np.empty(len(counts), dtype=np.int64), np.empty(len(counts), dtype=np.uint32)
    columns = np.ascontiguousarray(indices, dtype=np.int32).view(np.uint32)
    n_runs = kernel(indptr, columns, counts.view(np.uint32), place_of, gene_at, _BIT, out, starts, values)
    return starts[:n_runs].copy(), values[:n_runs].astype(np.float64)


def numbered(
    indptr: NDArray[np.int64], values: NDArray[np.float32], out: NDArray[np.int32]
) -> NDArray[np.float64] | None:
    """Number of each value among the different ones of its cell, from 1, ascending, written to `out`.

    Logarithms of normalised counts have as many different values as the counts had, and are then ranked as these are.

    Parameters
    ----------
    indptr
        Rows as in a CSR matrix.
    values
        float32 (nnz,), all above 0.
    out
        int32 (nnz,): receives the numbers.

    Returns
    -------
    The different values of each cell in descending order, cell after cell, float64; ``None`` if a cell has more than
    :data:`MOST_VALUES`, or without numba.
    """
    number = compiled("_number")
    if number is None:
        return None
    found = np.empty(len(values), dtype=np.uint32)
    n_found = number(indptr, np.ascontiguousarray(values).view(np.uint32), out.view(np.uint32), found)
    return None if n_found < 0 else found[:n_found].view(np.float32).astype(np.float64)


@lru_cache(maxsize=2)
def compiled(name: str = "_rank") -> Kernel | None:
    """A function below as machine code; ``None`` without numba. Cached beside this file or in the user's cache."""
    try:
        import numba
    except ImportError as error:  # not installed, or for another NumPy
        logger.debug("counts are sorted by NumPy: %s", error)
        return None
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return None

    def read(dtype: Any) -> Any:  # accepts read-only arrays
        return numba.types.Array(dtype, 1, "C", readonly=True)

    def write(dtype: Any) -> Any:
        return numba.types.Array(dtype, 1, "C")

    int32, int64, uint32, uint64 = numba.int32, numba.int64, numba.uint32, numba.uint64
    function: Kernel
    if name == "_number":
        function, signature = _number, int64(read(int64), read(uint32), write(uint32), write(uint32))
    else:
        inputs = read(int64), read(uint32), read(uint32), read(uint32), read(int32), read(uint64)
        function, signature = _rank, int64(*inputs, write(int32), write(int64), write(uint32))
    try:
        return numba.njit(signature, nogil=True, cache=True)(function)
    except (OSError, RuntimeError):  # no place for the cache
        return numba.njit(signature, nogil=True)(function)


#: Different values of a cell above which its values are sorted; slots of the table in which they are found.
MOST_VALUES, _SLOTS = 1000, 4096


def _number(indptr: Any, values: Any, numbers: Any, found: Any) -> int:
    """Number of different values, after filling `numbers` and `found`; -1 if a cell has too many.

    The bits of positive float32 ascend with the value. They are looked up in a table with open addressing.
    """
    factor, shift, last = np.uint32(2654435769), np.uint32(20), np.uint32(_SLOTS - 1)
    one, nothing = np.uint32(1), np.uint32(0)
    value_at, number_at = np.zeros(_SLOTS, dtype=np.uint32), np.zeros(_SLOTS, dtype=np.uint32)
    n_found = 0
    for row in range(len(indptr) - 1):
        begin = n_found
        for at in range(indptr[row], indptr[row + 1]):
            value = values[at]
            slot = np.uint32(value * factor) >> shift
            while value_at[slot] != value and value_at[slot] != nothing:
                slot = (slot + one) & last
            if value_at[slot] == nothing:
                if n_found - begin == MOST_VALUES:
                    return -1
                value_at[slot] = value
                found[n_found] = value
                n_found += 1
            numbers[at] = slot
        own = found[begin:n_found]
        own.sort()
        own[:] = own[::-1].copy()
        for place in range(len(own)):
            slot = np.uint32(own[place] * factor) >> shift
            while value_at[slot] != own[place]:
                slot = (slot + one) & last
            number_at[slot] = len(own) - place
        for at in range(indptr[row], indptr[row + 1]):
            slot = numbers[at]
            numbers[at] = number_at[slot]
            value_at[slot] = nothing
    return n_found


#: Counts of at least this number are rare in a cell, and are sorted.
_MANY = 255

#: Position of the single bit of a word, indexed by the upper six bits of its product with a de Bruijn sequence.
_SEQUENCE = 0x03F79D71B4CB0A89
_BIT = np.zeros(64, dtype=np.uint64)
for _place in range(64):
    _BIT[(_SEQUENCE << _place & 2**64 - 1) >> 58] = _place


def _rank(
    indptr: Any, indices: Any, counts: Any, place_of: Any, gene_at: Any, bit: Any, genes: Any, starts: Any, values: Any
) -> int:
    """Number of runs, after filling `genes`, `starts` and `values`.

    A bit set contains the places of a cell's genes. In ascending order of places, each gene is written to the next free
    entry of its count, so that nothing is compared and a gene is visited twice.
    """
    # Unsigned integers throughout: for signed ones numba checks at each index whether it is negative.
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(0xFFFFFFFF)
    sequence, to_bit, half, inside = np.uint64(_SEQUENCE), np.uint64(58), np.uint64(32), np.uint64(63)
    many = np.uint32(_MANY)
    words = np.zeros((len(gene_at) >> 6) + 1, dtype=np.uint64)
    count_at = np.zeros(len(gene_at), dtype=np.uint8)
    next_entry = np.zeros(_MANY + 1, dtype=np.uint64)
    n_runs = np.uint64(0)
    for row in range(len(indptr) - 1):
        entry = np.uint64(indptr[row])
        next_entry[:] = 0
        for at in range(indptr[row], indptr[row + 1]):
            place = np.uint64(place_of[indices[at]])
            count = min(counts[at], many)
            words[place >> six] |= one << (place & inside)
            count_at[place] = count
            next_entry[count] += one  # first the number of genes with this count
        if next_entry[many]:
            keys = np.empty(next_entry[many], dtype=np.uint64)
            n_keys = 0
            for at in range(indptr[row], indptr[row + 1]):
                if counts[at] >= many:
                    keys[n_keys] = (low - np.uint64(counts[at])) << half | np.uint64(place_of[indices[at]])
                    n_keys += 1
            keys.sort()
            before = low
            for key in keys:
                if key >> half != before:
                    before = key >> half
                    starts[n_runs], values[n_runs] = entry, low - before
                    n_runs += one
                genes[entry] = gene_at[key & low]
                entry += one
        for count in range(_MANY - 1, 0, -1):
            if next_entry[count]:
                starts[n_runs], values[n_runs] = entry, count
                n_runs += one
                entry, next_entry[count] = entry + next_entry[count], entry
        for word in range(len(words)):
            rest = words[word]
            words[word] = 0
            while rest:
                lowest = rest & (~rest + one)
                rest ^= lowest
                place = np.uint64(word) << six | bit[lowest * sequence >> to_bit]
                few = count_at[place]
                if few < many:
                    genes[next_entry[few]] = gene_at[place]
                    next_entry[few] += one
    return int(n_runs)
