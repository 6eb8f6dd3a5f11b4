"""Expression: a matrix opened once, with its genes and its scale."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.gene_reader import GeneReader, genes_of
from cell2sen.data.genes.features import refuse_transposed
from cell2sen.data.genes.gene_map import GeneMap
from cell2sen.data.genes.organism import guess_organism, organism_and_source
from cell2sen.data.genes.symbols import resolve_genes
from cell2sen.data.reader import Reader, canonical, open_reader
from cell2sen.data.scale.contradictions import are_no_counts, contradicting, refuse_overflow
from cell2sen.data.scale.noise import are_counts, rankable, without_noise
from cell2sen.data.scale.of_matrix import scale_of
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.units import COUNTS, Scale, ScaleName, check_scale_name
from cell2sen.data.vocabulary import COVERAGE_CELLS, coverage, match

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Share of counts in genes known to a model below which a warning is logged, and that of one unknown gene above which.
MIN_SHARE_OF_COUNTS, MAX_SHARE_OF_UNKNOWN_GENE = 0.7, 0.005


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Consecutive cells over the symbols of an :class:`Expression`, on the scale of the matrix."""

    first: int
    """Number of the first cell."""

    values: sp.csr_matrix
    """Canonical CSR (cells, symbols). May share memory with the matrix."""

    all_genes: sp.csr_matrix
    """The same cells over all columns of the matrix, for their row sums."""

    n_missing: int
    """Missing values (NaN) that were read as 0."""

    n_noise: int = 0
    """Values that are zero but for rounding (1e-16), which were read as 0."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What was found in a whole file, for cells that are some of its rows: they are read as all of it is."""

    scale: Scale
    """Recognised scale; each block is tested against it."""

    organisms: tuple[str, ...]
    """Organisms of all cells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Expression:
    """Expression of the cells of one matrix over gene symbols. Close it, or use ``with``, if they are in a file."""

    reader: Reader
    gene_map: GeneMap
    scale: Scale
    columns: NDArray[np.int64]
    """int64 (symbols,): columns of the mapped matrix that are used."""

    symbols: tuple[str, ...]
    """Unique gene symbols, in the order of the matrix; after :meth:`known_to` those of the model."""

    account: Mapping[str, Any]
    """Numbers of genes that were mapped, dropped, ambiguous or unknown, with examples. Plain values, for ``uns``."""

    is_recognised: bool = True
    """Whether the scale was recognised, so that each block is tested against it; False for a scale that was given."""

    whole: Whole | None = None
    """The file that the cells are some rows of; ``None`` if they are all."""

    @classmethod
    def open(
        cls, data: AnnData | str | Path, *, layer: str | None = None, use_raw: bool = False, **options: Any
    ) -> Expression:
        """Open an AnnData object, an ``.h5ad`` file or a ``.zarr`` store.

        Parameters
        ----------
        layer, use_raw
            Matrix to read instead of ``X``: a layer, or ``raw.X``.
        **options
            As for :meth:`of`.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            No such file, layer or column; an empty matrix; no gene symbols; values that cannot be ranked in the sample
            of cells from which the scale is recognised (negative, infinite, only 0 and 1, scaled per gene).
        """
        reader = open_reader(data, layer=layer, use_raw=use_raw)
        try:
            return cls.of(reader, **options)
        except BaseException:
            reader.close()
            raise

    @classmethod
    def of(
        cls,
        reader: Reader,
        *,
        symbols: str | None = None,
        gene_table: Any = None,
        aliases: Any = None,
        case: Literal["keep", "upper"] = "keep",
        scale: Scale | ScaleName | None = None,
        whole: Whole | None = None,
    ) -> Expression:
        """Expression of an open matrix, with its genes resolved and its scale recognised.

        A scale that is not certain gives a warning, and so does a given one that the values contradict.

        Parameters
        ----------
        symbols, gene_table, aliases, case
            As for :func:`cell2sen.data.genes.symbols.resolve_genes`.
        scale
            Scale of the values, or its name in :data:`cell2sen.data.scale.units.NAMED`; ``None`` or ``"auto"``:
            recognised from a sample of cells, and each block is tested against it while it is read.
        whole
            The file that the cells are some rows of, whose scale was recognised; of use where `scale` is not given.
        """
        is_recognised = scale in (None, "auto")
        if whole is not None and is_recognised:
            scale = whole.scale
        if not isinstance(scale, Scale):
            check_scale_name(scale)
        try:
            gene_map = resolve_genes(reader.var, symbols=symbols, gene_table=gene_table, aliases=aliases, case=case)
        except ValueError:
            refuse_transposed(reader.var.index, reader.obs.index)
            raise
        refuse_transposed(gene_map.symbols, reader.obs.index)  # symbols may be in a column, or behind a genome
        reader = genes_of(reader, gene_map)
        return cls(
            reader=reader,
            gene_map=gene_map,
            scale=scale if isinstance(scale, Scale) else scale_of(reader, scale),
            is_recognised=is_recognised,
            columns=np.arange(len(gene_map.symbols)),
            symbols=gene_map.symbols,
            account=gene_map.account,
            whole=whole,
        )

    def __enter__(self) -> Expression:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Names, annotations, symbols and scale stay available."""
        self.reader.close()

    def __len__(self) -> int:
        return self.reader.n_obs

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> Expression:
        """Some of the cells, with the gene map and scale of all; see :meth:`Reader.__getitem__`."""
        return replace(self, reader=self.reader[rows])

    @property
    def names(self) -> NDArray[Any]:
        """Cell names, object (n,)."""
        return self.reader.names

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells."""
        return self.reader.obs

    @property
    def input_columns(self) -> NDArray[np.int64]:
        """int64 (symbols,): column of the matrix of each symbol, the first of several with the same symbol."""
        _, firsts = np.unique(self.gene_map.positions, return_index=True)
        return np.asarray(self.gene_map.columns[firsts][self.columns], dtype=np.int64)

    def var(self) -> pd.DataFrame:
        """Rows of the input's var of each of `symbols`, under the input's names, with a column ``symbol``.

        Another column ``symbol`` of the input becomes ``symbol_before``.
        """
        return var_of(self.reader.var.iloc[self.input_columns], self.symbols)

    def organism(self, given: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """Organism of each cell, see :func:`cell2sen.data.genes.organism.organism_and_source`."""
        return self.organism_and_source(given)[0]

    def organism_and_source(self, given: str | Sequence[str] | None = None) -> tuple[tuple[str, ...], str]:
        """Organism of each cell, and where it was found, for people."""
        of_genome = {organism for organism in self.gene_map.organisms or () if organism}
        cells: str | Sequence[str] | None = None
        if isinstance(self.reader, GeneReader) and self.reader.organisms:
            cells = self.reader.organism_of_cells
        elif len(of_genome) == 1:
            cells = of_genome.pop()
        names: Collection[Any] = self.reader.var.index
        if guess_organism(names) is None:
            names = self.gene_map.written
        return organism_and_source(self.obs, self.reader.uns, given, names, of_genome=cells)

    def known_to(
        self, known: Callable[[Sequence[str]], NDArray[np.bool_]], organism: str | Sequence[str] | None = None
    ) -> Expression:
        """The same cells over the genes that a model can write, under its names.

        Genes that the model knows under a name of another year are renamed
        (:func:`cell2sen.data.genes.symbol_table.renamed`). The account counts renamed and unknown genes, with examples;
        lists the names of all unknown ones in the input, the most expressed first (``unknown_to_model``); and has the
        share of the counts that are of known genes (``share_of_counts_known``).

        Parameters
        ----------
        known
            Symbols → bool (symbols,), such as :meth:`cell2sen.backend.Backend.known_genes`.
        organism
            Of all cells, or one per cell; ``None``: as :meth:`organism` finds it.

        Raises
        ------
        ValueError
            The model can write none of the genes.
        """
        organisms = {*self.organism(organism), *(() if self.whole is None else self.whole.organisms)}
        matched = match(self.symbols, known, organisms, upper=self.gene_map.account["case"] == "upper")
        keep = matched.is_known
        if not keep.any():
            raise ValueError(
                f"the model can write none of the {len(keep)} genes (for example {list(self.symbols[:5])}). It needs "
                "gene symbols of human or mouse: name the var column with them (symbols=) or pass a table (gene_table=)"
            )
        names = tuple(name for name in matched.names if name is not None)
        result = replace(self, columns=self.columns[keep], symbols=names)
        unknown = self.input_columns[~keep]
        return replace(result, account={**self.account, **matched.account, **result._coverage(unknown)})

    def limited_to(self, symbols: Collection[str]) -> Expression:
        """The same cells over those of `symbols` that they have, in the order of the matrix."""
        chosen = frozenset(symbols)
        keep = np.array([symbol in chosen for symbol in self.symbols], dtype=bool)
        names = tuple(symbol for symbol in self.symbols if symbol in chosen)
        return replace(self, columns=self.columns[keep], symbols=names)

    def _coverage(self, unknown: NDArray[np.int64]) -> dict[str, Any]:
        """Share of counts in the genes of this expression, and the genes that are not, for the account.

        Parameters
        ----------
        unknown
            Columns of the matrix whose symbols the model does not have.
        """
        if not len(unknown) and self.gene_map.account["dropped"] == 0:
            return {"share_of_counts_known": 1.0}
        is_known = np.zeros(self.gene_map.n_columns, dtype=bool)
        is_known[self.gene_map.columns[np.isin(self.gene_map.positions, self.columns)]] = True
        cells = canonical(sp.csr_matrix(sp.vstack(self.reader.samples(COVERAGE_CELLS))))
        cells.data = np.maximum(np.nan_to_num(cells.data.astype(np.float64)), 0)
        cells = self.scale.ln_cp10k(cells, self.scale.row_sums(cells))
        cells.data = np.expm1(cells.data)
        measured = coverage(cells, is_known)
        names = self.reader.var.index.astype(str)
        strong = [f"{names[column]} ({share:.1%})" for column, share in measured.strong]
        if measured.share < MIN_SHARE_OF_COUNTS or any(
            share > MAX_SHARE_OF_UNKNOWN_GENE for _, share in measured.strong
        ):
            logger.warning(
                "%.0f %% of the expressed counts are of genes that the model knows%s",
                100 * measured.share,
                f"; strongly expressed genes that it does not know: {', '.join(strong[:8])}" if strong else "",
                extra={"topic": "known genes"},
            )
        account: dict[str, Any] = {"share_of_counts_known": round(measured.share, 4)}
        if len(unknown):
            strongest_first = unknown[np.argsort(-measured.shares[unknown], kind="stable")]
            account["unknown_to_model"] = names[strongest_first].tolist()
        if strong:
            account["strong_genes_unknown_to_model"] = strong[:20]
        return account

    @property
    def has_all_columns(self) -> bool:
        """Whether the columns of the matrix are `symbols`, in the same order."""
        return self.gene_map.is_identity and len(self.symbols) == self.gene_map.n_columns

    def blocks(self, rows: int | None = None) -> Iterator[Block]:
        """Blocks of `rows` cells (``None``: chosen by size), in order, with values that may be changed.

        Raises
        ------
        ValueError
            Negative or infinite values, or cells on another scale than the others.
        """
        for first, block in self.reader.blocks(rows):
            yield self.block(first, block)

    def block(self, first: int, rows: sp.csr_matrix, *, tested: bool = True) -> Block:
        """Block of cells from number `first` on, from rows of the matrix as :meth:`Reader.blocks` returns them.

        Parameters
        ----------
        tested
            Test the cells against the recognised scale. Not needed for counts that turn out to be whole numbers while
            they are ranked.
        """
        try:
            rows, n_noise = rankable(rows, self.reader.hint)
        except ValueError as error:
            raise ValueError(f"{self._unrankable_cells()}: {error}") from error
        rows = canonical(rows)
        n_missing = 0
        if rows.nnz and np.isnan(rows.data.min()):
            missing = np.isnan(rows.data)
            n_missing = int(missing.sum())
            rows.data = np.where(missing, 0, rows.data)
        if not self.is_recognised:
            refuse_overflow(rows.data, self.scale)
        elif tested:
            rows = self._tested(rows)
        return Block(first=first, values=self.over_symbols(rows), all_genes=rows, n_missing=n_missing, n_noise=n_noise)

    def example(self, is_wanted: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> tuple[str, str]:
        """Names of the first cell, and of its gene as in var, with a value that `is_wanted` (values → bool).

        Raises
        ------
        LookupError
            There is none.
        """
        for first, rows in self.reader.blocks(shared=True):
            found = np.flatnonzero(is_wanted(rows.data))
            if len(found):
                cell = first + int(np.searchsorted(rows.indptr, found[0], side="right")) - 1
                return str(self.names[cell]), str(self.reader.var.index[rows.indices[found[0]]])
        raise LookupError("no cell has such a value")

    def refuse_contradictions(self) -> None:
        """Read all cells once, and raise a ValueError if some are on another scale than :attr:`scale`."""
        for _, shared in self.reader.blocks(shared=True):
            rows = canonical(without_noise(shared)[0])
            if rows.nnz and np.isnan(rows.data.min()):
                rows = sp.csr_matrix((np.nan_to_num(rows.data), rows.indices, rows.indptr), shape=rows.shape)
            self._tested(rows)

    def _tested(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        """The cells, after a test against the recognised scale; counts that are whole but for rounding become whole."""
        whole = self.scale == COUNTS
        is_usual = whole and are_counts(rows.data)
        if (are_no_counts(rows, self.scale) if is_usual else contradicting(rows, self.scale)).any():
            self._refuse_contradictions()
        if whole and not is_usual:
            rows = rows.copy()
            np.rint(rows.data, out=rows.data)
        return rows

    def _unrankable_cells(self) -> str:
        """Number of cells with negative or infinite values, and the name of one."""
        cells: list[int] = []
        for first, block in self.reader.blocks():
            data = without_noise(block)[0].data
            bad = (data < 0) | np.isinf(data)
            cells += (first + np.unique(np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[bad])).tolist()
        return f"{len(cells):,} of {len(self):,} cells in {self.reader.where}, for example {self.names[cells[0]]!r}"

    def _refuse_contradictions(self) -> None:
        """Raise a ValueError with the number of cells that are on another scale, and an example."""
        n_cells = 0
        found: list[tuple[int, sp.csr_matrix]] = []
        for first, block in self.reader.blocks():
            block, _ = without_noise(block)
            block.data = np.nan_to_num(block.data)
            cells = np.flatnonzero(contradicting(block, self.scale))
            n_cells += len(cells)
            if len(cells) and not found:
                found = [(first + int(cells[0]), block[cells[:50]])]
        row, examples = found[0]
        values = examples[0]
        highest = int(values.data.argmax())
        gene, value = self.reader.var.index[values.indices[highest]], values.data[highest]
        try:
            looks_like = f"looks like {recognise(examples)}"
        except ValueError:
            looks_like = "cannot be ranked"
        raise ValueError(
            f"{n_cells:,} of {len(self):,} cells in {self.reader.where} are on another scale than the others "
            f"({self.scale}): for example cell {self.names[row]!r} has the value {value:.5g} for {gene}, and "
            f"{looks_like}. Convert all cells to one scale, or pass another matrix: {self.reader.hint}. If all "
            "have the same scale, pass it as scale="
        )

    def over_symbols(self, rows: sp.csr_matrix) -> sp.csr_matrix:
        """CSR (cells, columns of the matrix) → CSR (cells, symbols); columns of one symbol become their maximum."""
        if self.has_all_columns:
            return rows
        mapped = self.gene_map.apply(rows)
        return mapped if len(self.columns) == len(self.gene_map.symbols) else sp.csr_matrix(mapped[:, self.columns])

    def row_sums(self, block: Block) -> NDArray[np.float64]:
        """Sum of each cell over all columns of the matrix, float64 (cells,); see :meth:`Scale.row_sums`."""
        return self.scale.row_sums(block.all_genes)

    def ln_cp10k(self) -> sp.csr_matrix:
        """All cells as ln(1 + CP10k), float32 CSR (cells, symbols)."""
        parts = []
        for block in self.blocks():
            values = block.values.astype(np.float32)
            parts.append(self.scale.ln_cp10k(values, self.row_sums(block)).astype(np.float32))
        return sp.csr_matrix(sp.vstack(parts))


def var_of(rows: pd.DataFrame, symbols: Sequence[str]) -> pd.DataFrame:
    """Rows of an input's var, under their names, with `symbols` in a column ``symbol``.

    Another column ``symbol`` becomes ``symbol_before``. Names that are missing or repeated become unique.
    """
    from anndata.utils import make_index_unique

    var = rows.copy()
    names = pd.Index([str(name) for name in var.index], dtype=object, name=var.index.name)
    var.index = names if names.is_unique else make_index_unique(names)
    if "symbol" in var and [str(value) for value in var["symbol"]] != list(symbols):
        var["symbol_before"] = var["symbol"]
    var["symbol"] = np.asarray(symbols, dtype=object)
    return var
