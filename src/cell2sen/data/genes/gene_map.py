"""GeneMap: columns of a matrix → gene symbols; duplicates merged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: Share of genes without a symbol above which a warning is logged.
MIN_SHARE_TO_WARN = 0.2

#: Numbers of an account besides genes, mapped and symbols. ``ids_mapped``: through a table.
ACCOUNT_NUMBERS = (
    "not_genes", "names_restored", "prefixes_removed", "mangled_repaired", "mangled_unclear", "doubtful_features",
    "ids_mapped", "suffixes_removed", "aliases_replaced", "aliases_kept", "ambiguous_aliases", "duplicate_symbols",
    "duplicate_columns", "case_collisions", "dropped", "dropped_ids", "dropped_numbers", "dropped_missing",
    "dropped_whitespace", "ambiguous_ids",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneMap:
    """Columns of a matrix → gene symbols, from :func:`cell2sen.data.genes.symbols.resolve_genes`."""

    n_columns: int
    """Number of columns of the matrix."""

    columns: NDArray[np.int64]
    """int64 (kept,), ascending: the columns that have a symbol."""

    positions: NDArray[np.int64]
    """int64 (kept,): index into `symbols` of each of `columns`. Columns with the same symbol have the same index."""

    symbols: tuple[str, ...]
    """Unique symbols, in the order of their first column."""

    account: dict[str, Any]
    """Source of the symbols, and numbers and examples of lost genes; plain values for ``adata.uns``."""

    is_gene: NDArray[np.bool_] | None = None
    """bool (n_columns,): columns that are genes and count in the sums of cells; ``None``: all."""

    written: tuple[str, ...] = ()
    """Symbol of each of `columns` as the file spells it, before any change of case."""

    organisms: tuple[str | None, ...] | None = None
    """Organism of each column by its genome or identifier; ``None`` if the names do not tell."""

    @property
    def is_identity(self) -> bool:
        """Whether every column has its own symbol, so that :meth:`apply` changes nothing."""
        return self.n_columns == len(self.columns) == len(self.symbols)

    @property
    def by_column(self) -> tuple[str | None, ...]:
        """Symbol of each column, ``None`` where the column is dropped."""
        position = dict(zip(self.columns.tolist(), self.positions.tolist(), strict=True))
        return tuple(self.symbols[position[i]] if i in position else None for i in range(self.n_columns))

    def apply(self, block: Any) -> Any:
        """Columns → symbols; columns with the same symbol are merged by their maximum in each cell.

        The maximum gives the same order of genes on counts, CP10k and log values; a sum does not. NaN is ignored unless
        all merged columns are NaN.

        Parameters
        ----------
        block
            (cells, n_columns), sparse or dense, any real dtype. Never modified.

        Returns
        -------
        scipy.sparse.csr_matrix
            (cells, len(symbols)), same dtype, canonical. May share memory with `block`. Stored zeros and NaN are kept.

        Raises
        ------
        ValueError
            Another number of columns.
        """
        matrix = sp.csr_matrix(block)  # a new object with the arrays of a CSR matrix
        if matrix.shape[1] != self.n_columns:
            raise ValueError(f"the gene map needs a block of {self.n_columns} columns, found {matrix.shape[1]}")
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        if self.is_identity:
            return matrix
        position = np.full(self.n_columns, -1, dtype=matrix.indices.dtype)
        position[self.columns] = self.positions
        indices = position[matrix.indices]
        keep = indices >= 0
        indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr]
        shape = (matrix.shape[0], len(self.symbols))
        result = sp.csr_matrix((matrix.data[keep], indices[keep], indptr), shape=shape)
        if len(self.columns) == len(self.symbols):
            return result
        return _merge_by_maximum(result, np.bincount(self.positions, minlength=len(self.symbols)))

    def summary(self) -> str:
        """The account in one line, with up to three examples for each number."""
        account = self.account
        parts = [f"{account['genes']} genes → {account['symbols']} symbols from {account['source']}"]
        if account.get("kinds_left_out"):
            parts.append(f"left out, as they are no genes: {account['kinds_left_out']}")
        for key in ACCOUNT_NUMBERS:
            if account.get(key):
                parts.append(f"{key.replace('_', ' ')} {account[key]} ({', '.join(account['examples'][key][:3])})")
        return "; ".join(parts)

    def log(self) -> GeneMap:
        """The map itself, after logging its account, with a warning if many genes were dropped."""
        logger.info("%s", self.summary())
        account, n_genes = self.account, self.account["genes"]
        if (dropped := account["dropped"]) > MIN_SHARE_TO_WARN * n_genes:
            logger.warning(
                "%d of %d genes have no symbol, such as %s, and are left out; pass symbols= (a column of var) or "
                "gene_table=",
                dropped,
                n_genes,
                account["examples"]["dropped"][:3],
                extra={"topic": "genes"},
            )
        if account.get("mangled_unclear"):
            logger.warning(
                "%d names of genes look changed by a spreadsheet, such as %s, and could be several genes or none: they "
                "are used as they are. Restore the names from the original file",
                account["mangled_unclear"],
                account["examples"]["mangled_unclear"][:3],
            )
        if account.get("doubtful_features"):
            logger.warning(
                "%d rows of var may be no genes, such as %s; they are used as genes. If they are antibodies or other "
                "features, name their kind in var['feature_types'] or leave them out",
                account["doubtful_features"],
                account["examples"]["doubtful_features"][:3],
            )
        return self


def _merge_by_maximum(matrix: Any, group_sizes: NDArray[np.int64]) -> Any:
    """Maximum per cell and symbol; columns of a group that are not stored count as zero."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    first = np.append(True, (np.diff(rows) != 0) | (np.diff(matrix.indices) != 0))[: len(rows)]
    start = np.flatnonzero(first)
    if not len(start):
        return matrix
    rows, indices, data = rows[start], matrix.indices[start], np.fmax.reduceat(matrix.data, start)
    partly = np.diff(np.append(start, len(matrix.data))) < group_sizes[indices]
    data[partly] = np.fmax(data[partly], np.zeros(1, dtype=data.dtype))
    indptr = np.searchsorted(rows, np.arange(matrix.shape[0] + 1))
    return sp.csr_matrix((data, indices, indptr), shape=matrix.shape)
