"""Distinct cells: hashes of expression that do not depend on the order of genes, and the cells that are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.training.config.data import TrainingFile


def cell_hashes(values: sp.csr_matrix, symbols: Sequence[str]) -> NDArray[np.uint64]:
    """Hash of the expressed genes and their values for each cell, uint64 (cells,); 0 for cells without any.

    Parameters
    ----------
    values
        CSR (cells, genes). Values are compared as float32.
    symbols
        Gene of each column; the hash does not depend on their order, nor on genes that are not expressed.
    """
    salts = np.array([_salt(symbol) for symbol in symbols], dtype=np.uint64)
    expressed = values.data != 0
    bits = values.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    mixed = _mix(salts[values.indices] ^ (bits * np.uint64(0x9E3779B97F4A7C15)))
    sums = np.append(np.uint64(0), np.cumsum(np.where(expressed, mixed, np.uint64(0)), dtype=np.uint64))
    return np.asarray(sums[values.indptr[1:]] - sums[values.indptr[:-1]], dtype=np.uint64)


def hashes_of_file(data: TrainingFile, base: Path) -> NDArray[np.uint64]:
    """:func:`cell_hashes` of all cells of a file, read in blocks."""
    matrix = data.matrix
    with Expression.open(
        base / data.file,
        layer=matrix.layer,
        use_raw=matrix.use_raw,
        symbols=matrix.symbols,
        case="upper",
        scale=matrix.scale,
    ) as expression:
        return np.concatenate([cell_hashes(block.values, expression.symbols) for block in expression.blocks()])


def first_of_each(hashes: Sequence[NDArray[np.uint64]], order: Sequence[int]) -> list[NDArray[np.bool_]]:
    """Which cells are the first with their hash, bool (cells,) for each file; cells without genes are not.

    Parameters
    ----------
    hashes
        Of each file.
    order
        Numbers of the files in the order in which their cells are preferred.
    """
    stacked = np.concatenate([hashes[number] for number in order])
    kept = np.zeros(len(stacked), dtype=bool)
    kept[np.unique(stacked, return_index=True)[1]] = True
    kept &= stacked != 0
    bounds = np.cumsum([0, *(len(hashes[number]) for number in order)])
    masks: list[Any] = [None] * len(hashes)
    for place, number in enumerate(order):
        masks[number] = kept[bounds[place] : bounds[place + 1]]
    return masks


def _salt(symbol: str) -> int:
    return int.from_bytes(hashlib.blake2b(symbol.encode(), digest_size=8).digest())


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014), uint64 (n,)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)), dtype=np.uint64)
