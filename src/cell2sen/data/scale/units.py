"""Scale: unit of the values of a matrix, and their conversion to ln(1 + CP10k)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Kind = Literal["counts", "normalised", "log", "sqrt", "arcsinh", "log of log"]
Base = Literal["", "e", "2", "10"]
ScaleName = Literal[
    "auto", "counts", "cp10k", "cpm", "normalised", "log1p", "log1p_cpm", "ln", "log2", "log10", "sqrt", "arcsinh"
]

#: Bases of logarithms, the most usual first: the order in which they are tried.
BASES: dict[Base, float] = {"e": math.e, "2": 2.0, "10": 10.0}

MAX_ROW_SUM = 1e9
"""Counts of a cell or sample: a larger sum means that the scale is wrong."""

TARGET = 1e4
"""Counts per cell of the normalisation that the rank fit is defined on."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Unit of the values of a matrix."""

    kind: Kind
    base: Base = ""
    """Base of the logarithm of 1 + x, for ``kind="log"``."""

    total: float | None = None
    """Sum of a whole cell before the transformation (1e4 for CP10k). ``None``: each cell is divided by its own sum, as
    counts are."""

    of_counts: bool = False
    """The transformation is of counts that were not normalised before."""

    decimals: bool = False
    """Counts that are no whole numbers: corrected for ambient RNA, or shared between genes."""

    certain: bool = True
    """False if the scale is an assumption, for which the values are no evidence."""

    complete: bool = field(default=True, compare=False)
    """False if genes were left out after normalisation, so that sums of cells are below :attr:`total`."""

    evidence: tuple[str, ...] = field(default=(), compare=False)
    """What the scale was recognised by, one line each."""

    def __str__(self) -> str:
        assumed = "" if self.certain else ", assumed"
        if self.kind == "counts":
            return ("counts with decimals" if self.decimals else "counts") + assumed
        total = f", total {self.total:.4g} per cell" if self.total else ", each cell over its own sum"
        return self.transformation + (" of counts" if self.of_counts else total) + assumed

    def with_reason(self) -> str:
        """The scale with its certainty and the first line of its evidence."""
        certainty = "certain" if self.certain else "assumed"
        text = str(replace(self, certain=True))
        return f"{text} ({certainty}: {self.evidence[0]})" if self.evidence else f"{text} ({certainty})"

    @property
    def transformation(self) -> str:
        """Name of the transformation, without the total."""
        if self.kind == "log":
            return f"log base {self.base} of 1 + x"
        names = {
            "counts": "counts",
            "normalised": "linear, normalised",
            "sqrt": "square root",
            "arcsinh": "arcsinh",
            "log of log": "log base e of 1 + x, taken twice",
        }
        return names[self.kind]

    def agrees_with(self, other: Scale) -> bool:
        """Whether two scales have the same transformation and no different totals. Counts are linear values."""
        linear = ("counts", "normalised")
        same = (self.kind in linear and other.kind in linear) or (self.kind, self.base) == (other.kind, other.base)
        totals = {total for total in (self.total, other.total) if total}
        return same and len(totals) < 2 and not (other.of_counts and self.total)

    def linear(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values before the transformation, float64 of the same shape; overflow is infinite.

        Those of ``arcsinh(x / c)`` are ``x / c`` for an unknown c, which cancels where a cell is divided by its sum.
        """
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(over="ignore"):
            if self.kind == "log":
                return np.asarray(np.expm1(values * math.log(BASES[self.base])))
            if self.kind == "sqrt":
                return np.asarray(values * values)
            if self.kind == "arcsinh":
                return np.asarray(np.sinh(values))
            if self.kind == "log of log":
                return np.asarray(np.expm1(np.expm1(values)))
        return values

    def row_sums(self, matrix: Any) -> NDArray[np.float64]:
        """Sum of each cell of a CSR matrix before the transformation, float64 (cells,)."""
        if self.kind not in ("counts", "normalised"):
            matrix = sp.csr_matrix((self.linear(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
        with np.errstate(over="ignore"):
            return np.asarray(matrix.sum(axis=1, dtype=np.float64), dtype=np.float64).ravel()

    def counts(self, matrix: sp.csr_matrix) -> NDArray[np.int64]:
        """Counts of the stored entries, int64 (nnz,), in their order; estimated if the values are no counts.

        The estimate assumes that a cell's smallest value is one count: nearly every cell has a gene with one count.
        """
        if self.kind == "counts":
            return np.asarray(np.rint(matrix.data), dtype=np.int64)
        linear = self.linear(matrix.data)
        lengths = np.diff(matrix.indptr)
        positive = np.where(linear > 0, linear, np.inf)
        smallest = np.minimum.reduceat(positive, matrix.indptr[:-1][lengths > 0]) if len(positive) else positive
        counts = np.rint(np.minimum(linear / np.repeat(smallest, lengths[lengths > 0]), MAX_ROW_SUM))
        return np.asarray(counts, dtype=np.int64)

    @property
    def needs_row_sums(self) -> bool:
        """Whether :meth:`log10_cp10k` needs the sums of the cells."""
        return not self.total

    @property
    def is_ln_cp10k(self) -> bool:
        """Whether the values are ln(1 + CP10k) already."""
        return (self.kind, self.base, self.total) == ("log", "e", TARGET)

    def log10_cp10k(self, values: NDArray[Any], row_sums: NDArray[Any]) -> NDArray[np.float64]:
        """Values → log10(1 + CP10k).

        Parameters
        ----------
        values
            (nnz,), not negative.
        row_sums
            (nnz,): :meth:`row_sums` of each value's cell over all its genes. Used only if :attr:`needs_row_sums`.
        """
        linear = self.linear(values)
        total = self.total if self.total else np.asarray(row_sums, dtype=np.float64)
        return np.asarray(np.log10(1.0 + linear * (TARGET / total)))

    def ln_cp10k(self, matrix: sp.csr_matrix, row_sums: NDArray[np.float64]) -> sp.csr_matrix:
        """Values of cells → ln(1 + CP10k), the unit of ``scanpy.pp.log1p``.

        Parameters
        ----------
        matrix
            CSR (cells, genes), not negative. Not changed; some or all of the genes.
        row_sums
            float64 (cells,): :meth:`row_sums` over all genes.

        Returns
        -------
        float64 CSR (cells, genes).
        """
        sums = np.repeat(np.where(row_sums > 0, row_sums, 1.0), np.diff(matrix.indptr))
        values = self.log10_cp10k(matrix.data, sums) * math.log(10)
        return sp.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape)


#: Scale of whole numbers, and of the usual logarithms.
COUNTS = Scale(kind="counts")
LN_CP10K = Scale(kind="log", base="e", total=TARGET)

#: Transformations that are recognised, the most usual first.
TRANSFORMATIONS = (
    Scale(kind="normalised"),
    *(Scale(kind="log", base=base) for base in BASES),
    Scale(kind="sqrt"),
    Scale(kind="arcsinh"),
    Scale(kind="log of log"),
)

#: Names that users type → scale.
NAMED: dict[str, Scale] = {
    "counts": COUNTS,
    "cp10k": Scale(kind="normalised", total=1e4),
    "cpm": Scale(kind="normalised", total=1e6),
    "normalised": Scale(kind="normalised"),
    "log1p": LN_CP10K,
    "log1p_cpm": Scale(kind="log", base="e", total=1e6),
    "ln": Scale(kind="log", base="e"),
    "log2": Scale(kind="log", base="2"),
    "log10": Scale(kind="log", base="10"),
    "sqrt": Scale(kind="sqrt"),
    "arcsinh": Scale(kind="arcsinh"),
}


def check_scale_name(name: str | None, argument: str = "scale") -> None:
    """Raise a ValueError unless `name` is ``None`` or one of :data:`ScaleName`."""
    if name is not None and name not in get_args(ScaleName):
        raise ValueError(f"{argument} must be one of {', '.join(get_args(ScaleName))}; found {name!r}")
