"""Vocabulary of a model: names of a file's genes in it, and the share of expressed counts that they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.genes.mangled import repaired_for
from cell2sen.data.genes.symbol_table import Known, Renaming, renamed, table_year

#: Cells in which the share of counts is measured, and the share of all counts above which an unknown gene is strong.
COVERAGE_CELLS, STRONG_SHARE = 128, 0.002

_MAX_EXAMPLES = 20

#: Word that no list of genes has.
_NO_GENE = "NOSUCHGENE0"


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Names of genes in a vocabulary."""

    names: tuple[str | None, ...]
    """Name of each symbol in the vocabulary; ``None`` for genes that it does not have."""

    account: dict[str, Any]
    """Numbers of unknown, renamed and ambiguous genes, with examples; plain values."""

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Which symbols it has, bool (symbols,)."""
        return np.array([name is not None for name in self.names], dtype=bool)


def match(symbols: Sequence[str], known: Known, organisms: Iterable[str] = (), *, upper: bool = False) -> Matched:
    """Name of each gene in a vocabulary: its own, that of another year, or the one that R has mangled.

    Parameters
    ----------
    symbols
        Different symbols of a file.
    known
        Symbols → bool: is it in the vocabulary.
    organisms
        Organisms of the cells.
    upper
        Whether the vocabulary is in upper case.
    """
    is_known = np.asarray(known(symbols), dtype=bool)
    if is_known.all():
        return Matched(names=tuple(symbols), account={"n_unknown_to_model": 0})
    missing = [symbol for symbol, has in zip(symbols, is_known, strict=True) if not has]
    repairs: dict[str, str] = {}
    renaming = Renaming()
    if not known([_NO_GENE])[0]:  # a model that writes any word has no names of its own
        repairs = repaired_for(missing, known, frozenset(symbols))
        renaming = renamed([repairs.get(symbol, symbol) for symbol in symbols], known, organisms, upper=upper)
    other = {**repairs, **renaming.names}
    names = tuple(symbol if has else other.get(symbol) for symbol, has in zip(symbols, is_known, strict=True))
    unknown = [symbol for symbol, name in zip(symbols, names, strict=True) if name is None]
    account: dict[str, Any] = {"n_unknown_to_model": len(unknown)}
    groups = {
        "unknown_to_model": unknown,
        "repaired_for_model": [f"{symbol} → {name}" for symbol, name in repairs.items()],
        "renamed_for_model": [f"{symbol} → {name}" for symbol, name in renaming.names.items()],
        "ambiguous_for_model": list(renaming.ambiguous),
    }
    for key, examples in groups.items():
        if examples:
            account |= {f"n_{key}": len(examples), f"examples_{key}": examples[:_MAX_EXAMPLES]}
    if renaming.names:
        account["symbol_table"] = table_year()
    return Matched(names=names, account=account)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Share of the expressed counts that are of known genes."""

    share: float
    strong: tuple[tuple[int, float], ...]
    """Strongly expressed columns that are not known, and their share of the counts, the strongest first."""

    shares: NDArray[np.float64]
    """Share of the counts in each column, float64 (columns,)."""


def coverage(cp10k: Any, is_known: NDArray[np.bool_]) -> Coverage:
    """Share of the counts in known columns: the mean over cells of their share in each cell.

    Parameters
    ----------
    cp10k
        Linear expression of some cells over all genes, CSR (cells, columns).
    is_known
        bool (columns,).
    """
    linear = sp.csr_matrix(cp10k, dtype=np.float64)
    sums = np.asarray(linear.sum(axis=1)).ravel()
    expressed = sums > 0
    if not expressed.any():
        return Coverage(share=1.0, strong=(), shares=np.zeros(linear.shape[1]))
    weights = np.where(expressed, 1 / np.where(expressed, sums, 1.0), 0.0) / expressed.sum()
    shares = np.asarray(linear.T @ weights).ravel()
    strong = [column for column in np.argsort(-shares, kind="stable")[:200] if not is_known[column]]
    return Coverage(
        share=float(min(1.0, shares[is_known].sum())),
        strong=tuple((int(column), float(shares[column])) for column in strong if shares[column] >= STRONG_SHARE),
        shares=shares,
    )
