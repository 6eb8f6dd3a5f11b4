"""AnnData to cell sentences, and the rank fit over all cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.obs import cell_names, perturbations_of_cells
from cell2sen.data.obs import obs_columns as columns_of
from cell2sen.data.progress import Progress, Report
from cell2sen.data.reader import rows_of
from cell2sen.data.scale.refusals import COMPRESSED_GENES, COMPRESSED_MEDIAN, COMPRESSED_RANGE
from cell2sen.data.scale.units import COUNTS, ScaleName
from cell2sen.sentences.rank_fit import RankFitter, run_sums
from cell2sen.sentences.ranking import Ranker, Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.sentences.threads import in_parallel

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: About the number of values that a thread ranks at a time.
_PART_VALUES = 2**19


#: Genes of a cell with one value in all of them, from which on the cell is tested for values of 0 and 1.
_MIN_CONSTANT = 20


def from_anndata(
    data: AnnData | str | Path,
    recipe: Recipe | None = None,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    symbols: str | None = None,
    gene_table: Any = None,
    aliases: Any = None,
    organism: str | Sequence[str] | None = None,
    scale: ScaleName | None = None,
    perturbation_column: str | None = None,
    obs_columns: Sequence[str] = (),
    known: Callable[[Sequence[str]], NDArray[np.bool_]] | None = None,
    block_rows: int | None = None,
    progress: bool | Report = False,
) -> Sentences:
    """Cell sentences of an AnnData object or file, one per cell.

    Reads contiguous blocks of rows, so that memory is bounded by a block and the sentences. Never changes its input.

    Parameters
    ----------
    data
        AnnData in memory or backed, or the path of an ``.h5ad`` file or ``.zarr`` store.
    recipe
        Length, ties and case of the sentences.
    layer, use_raw
        Matrix to read instead of ``X``: a layer, or ``raw.X``.
    symbols
        ``var`` column with the gene symbols; recognised by its name if the index has identifiers.
    gene_table, aliases
        Tables identifier → symbol and alias → approved symbol (path, frame or mapping), see
        :func:`cell2sen.data.genes.symbols.resolve_genes`.
    organism
        Of all cells, or one per cell; ``None``: read from ``obs`` or ``uns``, or guessed from the gene names.
    scale
        Scale of the values, such as ``"counts"`` or ``"log1p"`` (ln(1 + CP10k)), see
        :data:`cell2sen.data.scale.units.NAMED`; ``None`` or ``"auto"``: recognised.
    perturbation_column
        ``obs`` column with each cell's perturbation; missing values and empty strings mean none.
    obs_columns
        ``obs`` columns to keep.
    known
        Symbols → bool: can the model write them. Others are left out before ranking, and counted in the account.
    block_rows
        Rows read at a time; ``None``: chosen by size. Changes no sentence.
    progress
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        Nothing to rank, negative or infinite values, cells on several scales, no gene symbols.
    KeyError
        Unknown layer or column; lists the available ones.
    """
    recipe = recipe or Recipe()
    with Expression.open(
        data,
        layer=layer,
        use_raw=use_raw,
        symbols=symbols,
        gene_table=gene_table,
        aliases=aliases,
        case=recipe.case,
        scale=scale,
    ) as expression:
        organism = expression.organism(organism)
        return from_expression(
            expression if known is None else expression.known_to(known, organism),
            recipe,
            organism=organism,
            perturbations=perturbations_of_cells(expression.obs, perturbation_column),
            obs_columns=obs_columns,
            block_rows=block_rows,
            progress=progress,
        )


def from_expression(
    expression: Expression,
    recipe: Recipe,
    *,
    organism: str | Sequence[str] | None = None,
    perturbations: Sequence[str | None] | None = None,
    obs_columns: Sequence[str] = (),
    block_rows: int | None = None,
    progress: bool | Report = False,
) -> Sentences:
    """Cell sentences of an open matrix, one per cell; see :func:`from_anndata`.

    Parameters
    ----------
    perturbations
        One per cell, ``None`` for no perturbation.
    """
    genes: list[NDArray[np.int32]] = []
    sentences, n_genes = rank_cells(
        expression,
        recipe,
        genes.append,
        organism=organism,
        perturbations=perturbations,
        obs_columns=obs_columns,
        block_rows=block_rows,
        progress=progress,
        preparation=True,
    )
    return replace(sentences, genes=_arrow_lists(n_genes, genes))


def rank_cells(
    expression: Expression,
    recipe: Recipe,
    store: Callable[[NDArray[np.int32]], object],
    *,
    organism: str | Sequence[str] | None = None,
    perturbations: Sequence[str | None] | None = None,
    obs_columns: Sequence[str] = (),
    block_rows: int | None = None,
    progress: bool | Report = False,
    preparation: bool = False,
) -> tuple[Sentences, NDArray[np.int64]]:
    """Rank the genes of all cells, and give the gene ids of consecutive cells to `store`, which keeps them.

    Returns
    -------
    Sentences of all cells whose gene lists are still empty, and the number of genes of each.
    """
    writer = _Writer(expression, recipe)
    fitter = RankFitter()
    lengths: list[NDArray[np.int64]] = []
    n_missing = n_noise = 0
    with Progress(len(expression), "cell sentences", show=progress, preparation=preparation) as bar:
        for written in in_parallel(writer.write, _parts(expression, block_rows)):
            fitter.add_sums(written.sums)
            store(written.genes)
            lengths.append(written.lengths)
            n_missing += written.n_missing
            n_noise += written.n_noise
            bar.update(len(written.lengths))
    n_genes = np.concatenate(lengths)
    _warn_of_empty(n_genes, n_missing, expression)
    sentences = Sentences(
        genes=_arrow_lists(np.zeros(len(expression), dtype=np.int64), [np.zeros(0, dtype=np.int32)]),
        vocabulary=pa.array(expression.symbols, type=pa.string()),
        names=writer.names,
        organism=expression.organism(organism),
        perturbations=(None,) * len(expression) if perturbations is None else tuple(perturbations),
        obs=_kept_columns(expression, obs_columns),
        recipe=recipe,
        fit=fitter.fit(),
        scale=expression.scale,
        account={
            **expression.account,
            "n_missing_values": n_missing,
            "n_noise_values": n_noise,
            "n_cells_without_genes": int(np.sum(n_genes == 0)),
        },
    )
    return sentences, n_genes


class NoGenes(ValueError):
    """Error for data in which no cell has an expressed gene that can be written."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Written:
    """Sentences of consecutive cells."""

    genes: NDArray[np.int32]
    lengths: NDArray[np.int64]
    sums: tuple[NDArray[np.float64], NDArray[np.float64]]
    n_missing: int
    n_noise: int


class _Writer:
    """Sentences of parts of the cells; safe to use in threads."""

    def __init__(self, expression: Expression, recipe: Recipe) -> None:
        self.expression = expression
        self.names = expression.names
        self.ranker = Ranker(expression.symbols, recipe)

    def write(self, first: int, rows: sp.csr_matrix) -> _Written:
        """Sentences of the cells from number `first` on."""
        expression, scale = self.expression, self.expression.scale
        whole = scale == COUNTS  # whether all values are whole is known after ranking
        block = expression.block(first, rows, tested=not whole)
        names = list(self.names[first : first + rows.shape[0]])
        ranked = self.ranker.ranked(block.values, names, self.ranker.recipe.max_genes)
        doubtful = (
            not ranked.are_counts
            or ranked.has_constant_cells(_MIN_CONSTANT)
            or ranked.has_compressed_cells(COMPRESSED_GENES, COMPRESSED_MEDIAN, COMPRESSED_RANGE)
        )
        if whole and expression.is_recognised and doubtful:
            block = expression.block(first, rows)
            ranked = self.ranker.ranked(block.values, names, self.ranker.recipe.max_genes)
        row_sums = np.ones(rows.shape[0])
        if scale.needs_row_sums:
            counted = expression.has_all_columns and scale.kind == "counts"
            row_sums = ranked.row_sums() if counted else expression.row_sums(block)
        log10_cp10k = scale.log10_cp10k(ranked.values, ranked.of_runs(row_sums))
        return _Written(
            genes=ranked.genes,
            lengths=np.diff(ranked.kept),
            sums=run_sums(ranked, log10_cp10k),
            n_missing=block.n_missing,
            n_noise=block.n_noise,
        )


def _parts(expression: Expression, block_rows: int | None) -> Iterator[tuple[int, sp.csr_matrix]]:
    """First cell and rows of each part. The sums of the rank fit depend on the parts, so these do not on threads."""
    for first, block in expression.reader.blocks(block_rows, shared=True):
        n_cells = int(block.shape[0])
        rows = max(1, _PART_VALUES * n_cells // max(int(block.nnz), 1))
        for start in range(0, n_cells, rows):
            yield first + start, rows_of(block, start, min(start + rows, n_cells))


def _arrow_lists(n_genes: NDArray[np.int64], genes: Sequence[NDArray[np.int32]]) -> pa.ListArray:
    """Concatenated gene ids → one list per cell."""
    offsets = np.concatenate([[0], np.cumsum(n_genes)])
    if offsets[-1] >= 2**31:
        raise ValueError(
            f"all sentences together can have {2**31 - 1:,} genes, found {offsets[-1]:,}: set max_genes or split the "
            "data"
        )
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.concat_arrays(map(pa.array, genes)))


def _kept_columns(expression: Expression, columns: Sequence[str]) -> pd.DataFrame:
    kept = columns_of(expression.obs, columns).copy()
    kept.index = cell_names(expression.obs)
    return kept


def _warn_of_empty(n_genes: NDArray[np.int64], n_missing: int, expression: Expression) -> None:
    reader = expression.reader
    empty = np.flatnonzero(n_genes == 0)
    if len(empty) == len(n_genes):
        raise NoGenes(
            f"none of the {len(n_genes)} cells has an expressed gene that can be written in {reader.where}; look at "
            f"the matrix, or pass another one: {reader.hint}"
        )
    if len(empty):
        examples = [str(expression.names[cell]) for cell in empty[:3]]
        logger.warning(
            "%d of %d cells have no expressed gene that can be written (for example %s): they get no embedding, label "
            "or prediction; sc.pp.filter_cells(adata, min_genes=1) removes them",
            len(empty),
            len(n_genes),
            examples,
        )
    if n_missing:
        logger.warning("%d missing values (NaN) in %s were read as not expressed", n_missing, reader.where)
