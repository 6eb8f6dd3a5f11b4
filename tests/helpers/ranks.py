"""Ranking by its definition, and values to rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cell2sen.sentences.ranking import Ranker, Recipe

SYMBOLS = ["CD4", "Actb", "ACTB", "B2M", "LYZ", "MT-CO1", "HLA-A", "7SK", "RP11-34P13.7", "GNLY"]

few_values = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 6), st.just(len(SYMBOLS))),
    elements=st.sampled_from([0.0, 0.0, 1.0, 2.0, 0.5, math.nan, 1e-300, 1e300, 1 / 3, np.nextafter(1 / 3, 1)]),
)
small_counts = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.uint16, np.int32]),
    st.tuples(st.integers(1, 5), st.just(len(SYMBOLS))),
    elements=st.integers(0, 255),
)
large_counts = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.uint16]),
    st.tuples(st.integers(1, 5), st.just(len(SYMBOLS))),
    elements=st.sampled_from([0, 0, 1, 2, 253, 254, 255, 256, 257, 60_000]),
)
any_values = few_values | small_counts | large_counts


def slow_rank(row: Any, symbols: Sequence[str], place_of: Any) -> list[int]:
    """Genes of one cell in order, by definition."""
    expressed = [gene for gene in range(len(symbols)) if not math.isnan(row[gene]) and row[gene] > 0]
    return sorted(expressed, key=lambda gene: (-row[gene], place_of[gene]))


def rank(
    values: Any, symbols: Sequence[str] = SYMBOLS, recipe: Recipe | None = None, names: Sequence[str] | None = None
) -> list[tuple[list[int], list[float]]]:
    """Genes and values of each cell in order."""
    indptr, genes, ordered = Ranker(symbols, recipe or Recipe()).rank(values, names)
    return [(genes[start:stop].tolist(), ordered[start:stop].tolist()) for start, stop in pairwise(indptr)]


def words(
    values: Any, symbols: Sequence[str] = SYMBOLS, recipe: Recipe | None = None, names: Sequence[str] | None = None
) -> list[list[str]]:
    """Symbols of each cell in order."""
    return [[symbols[gene] for gene in genes] for genes, _ in rank(values, symbols, recipe, names)]
