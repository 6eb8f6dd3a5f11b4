"""Sentences: AnnData / Dataset ⇄ rows of text (the boundary)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cell2sen.data.genes import naming
from cell2sen.data.genes.organism import organism_of_cells, scientific_name
from cell2sen.data.reader import Source, canonical, open_source, rows_of
from cell2sen.data.scale import COUNTS, Scale, are_counts, recognise, refuse_unrankable
from cell2sen.sentences.gene_list import GeneList
from cell2sen.sentences.ranking import Ranker, RankFit, RankFitter, Recipe, run_sums
from cell2sen.sentences.threads import in_parallel

if TYPE_CHECKING:
    from anndata import AnnData
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: The first columns of the Hugging Face dataset, in this order.
DATASET_COLUMNS = ("cell_sentence", "fit_parameters", "organism", "perturbations")

#: Cells of a chunk of text at most, and genes, so that it fits into a core's cache.
_TEXT_ROWS, _TEXT_GENES = 4096, 2**18

#: Values that a thread is given at a time.
_PART_VALUES = 2**19


@dataclass(frozen=True, kw_only=True, eq=False)
class Sentences:
    """Cell sentences of one dataset: gene ids per cell over a vocabulary; text on demand."""

    genes: pa.ListArray
    """list<int32>, one entry a cell: gene ids in descending expression."""

    vocabulary: pa.StringArray
    """Symbol of each gene id. All genes of the dataset that the model knows, expressed or not."""

    names: NDArray[Any]
    """Cell names, object (n,)."""

    organism: tuple[str, ...]
    perturbations: tuple[str | None, ...]
    """Perturbation of each cell; ``None`` where there is none (missing values and empty strings included)."""

    obs: pd.DataFrame
    """The obs columns that were asked for, indexed by cell name."""

    recipe: Recipe
    fit: RankFit | None
    scale: Scale | None = None
    account: Mapping[str, Any] = field(default_factory=dict)
    """What happened to the genes on the way: mapped, dropped, ambiguous. Plain values, for ``uns``."""

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> Sentences:
        """Some of the cells, in the order of `rows` (a number, numbers, a slice or a boolean mask)."""
        index = np.atleast_1d(np.arange(len(self))[rows if isinstance(rows, slice) or np.size(rows) else slice(0)])
        return replace(
            self,
            genes=self.genes.take(pa.array(index)),
            names=self.names[index],
            organism=tuple(self.organism[row] for row in index),
            perturbations=tuple(self.perturbations[row] for row in index),
            obs=self.obs.iloc[index],
        )

    @property
    def n_genes(self) -> NDArray[np.int64]:
        """Genes of each sentence, int64 (n,)."""
        return np.asarray(pc.list_value_length(self.genes).to_numpy(zero_copy_only=False), dtype=np.int64)

    @property
    def symbols(self) -> list[str]:
        """The vocabulary as a list."""
        return list(self.vocabulary.to_pylist())

    def gene_names(self, max_genes: int | None = None) -> list[list[str]]:
        """Symbols of each cell in order, cut after `max_genes`."""
        return [list(genes) for genes in self.gene_lists(max_genes)]

    def gene_lists(self, max_genes: int | None = None) -> list[GeneList]:
        """:meth:`gene_names` as gene ids, which prompts are built from; strings are made lazily."""
        symbols = np.asarray(self.symbols, dtype=object)
        flat = self.genes.flatten().to_numpy()
        stops = np.cumsum(self.n_genes)
        starts = stops - self.n_genes
        if max_genes is not None:
            stops = np.minimum(stops, starts + max_genes)
        bounds = zip(starts.tolist(), stops.tolist(), strict=True)
        return [GeneList(flat[start:stop], symbols) for start, stop in bounds]

    def texts(self) -> pa.ChunkedArray:
        """Each cell's sentence: symbols joined by single spaces, string (n,).

        In chunks, as an Arrow string array holds no more than 2 GB: 150,000 cells of 2,500 genes.
        """
        n_words = len(self.vocabulary)
        # A gene is written with the space behind it, but for the last one of a cell.
        with_space = pc.binary_join_element_wise(self.vocabulary, "", " ")
        words = pa.concat_arrays([with_space, self.vocabulary])
        flat = self.genes.flatten().to_numpy()
        bounds = np.append(0, np.cumsum(self.n_genes))

        def write(first: int, last: int) -> pa.StringArray:
            start, stop = bounds[first], bounds[last]
            numbers = flat[start:stop].copy()
            ends = bounds[first : last + 1] - start
            numbers[ends[1:][ends[1:] > ends[:-1]] - 1] += n_words
            written = pc.take(words, pa.array(numbers), boundscheck=False)
            # The words stand one behind the other: all that is wanting are the bounds of the cells.
            _, word_bounds, text = written.buffers()
            places = np.frombuffer(word_bounds, dtype=np.int32)[written.offset :][ends]
            return pa.StringArray.from_buffers(last - first, pa.py_buffer(places), text)

        rows = max(1, min(_TEXT_ROWS, _TEXT_GENES * len(self) // max(int(bounds[-1]), 1)))
        firsts = range(0, len(self), rows)
        chunks = in_parallel(write, ((first, min(first + rows, len(self))) for first in firsts))
        return pa.chunked_array(chunks, type=pa.string())

    def expression(self, gene_lists: Sequence[Sequence[str]], fit: RankFit | None = None) -> sp.csr_matrix:
        """The inverse transform: sentences over this vocabulary → log10(1 + CP10k), float32 CSR (n, vocabulary).

        A gene's value is that of its position on the rank fit; absent genes are 0. Words outside the vocabulary and
        repeated genes must have been dropped before (:func:`cell2sen.answer.parse_sentence`).

        Raises
        ------
        KeyError
            A word outside the vocabulary.
        ValueError
            No rank fit, or a gene twice in one sentence.
        """
        fit = fit or self.fit
        if fit is None:
            raise ValueError("this dataset has no rank fit (fewer than two expressed genes); pass one as fit=")
        number = {symbol: place for place, symbol in enumerate(self.symbols)}
        lengths = [len(genes) for genes in gene_lists]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        try:
            indices = np.array([number[gene] for genes in gene_lists for gene in genes], dtype=np.int32)
        except KeyError as error:
            raise KeyError(
                f"{error.args[0]!r} is none of the {len(number)} genes of this dataset; drop it first"
            ) from None
        positions = np.arange(len(indices)) - np.repeat(indptr[:-1], lengths)
        values = fit.expression(positions).astype(np.float32)
        matrix = sp.csr_matrix((values, indices, indptr), shape=(len(lengths), len(number)))
        matrix.sort_indices()
        if not matrix.has_canonical_format:
            raise ValueError("a gene stands twice in one sentence; drop the repetition first")
        return matrix

    def to_dataset(self) -> Dataset:
        """Hugging Face dataset with the columns `DATASET_COLUMNS`, then ``cell_name`` and the kept obs columns.

        Numbers in obs stay numbers, all else becomes text. An obs column with the name of one of the first columns is
        left out.
        """
        from datasets import Dataset

        n = len(self)
        fit = None if self.fit is None else asdict(self.fit)
        kind = pa.struct([(one.name, pa.float64()) for one in fields(RankFit)])
        columns: dict[str, Any] = {
            "cell_sentence": self.texts(),
            "fit_parameters": pa.array([fit] * n, type=kind),
            "organism": pa.array(self.organism, type=pa.string()),
            "perturbations": pa.array(self.perturbations, type=pa.string()),
            "cell_name": pa.array(self.names.astype(str), type=pa.string()),
        }
        for name in self.obs.columns:
            if str(name) not in columns:
                columns[str(name)] = _arrow_column(self.obs[name])
        return Dataset(pa.table(columns))

    @classmethod
    def from_dataset(cls, dataset: Dataset, recipe: Recipe | None = None) -> Sentences:
        """Read a dataset with a ``cell_sentence`` column, written by :meth:`to_dataset` or by the user.

        Raises
        ------
        KeyError
            No column ``cell_sentence``; lists those there are.
        ValueError
            No rows.
        """
        if "cell_sentence" not in dataset.column_names:
            raise KeyError(f"the dataset has no column 'cell_sentence'; available: {dataset.column_names}")
        words = [str(text or "").split() for text in dataset["cell_sentence"]]
        if not words:
            raise ValueError("the dataset is empty: it has no rows")
        vocabulary = sorted({word for sentence in words for word in sentence})
        number = {word: place for place, word in enumerate(vocabulary)}
        n = len(words)

        def column(name: str, default: Any) -> list[Any]:
            return list(dataset[name]) if name in dataset.column_names else [default] * n

        names = [one.name for one in fields(RankFit)]
        fits = {
            RankFit(**{name: fit[name] for name in names})
            for fit in column("fit_parameters", None)
            if isinstance(fit, Mapping) and all(fit.get(name) is not None for name in names)
        }
        if len(fits) > 1:
            logger.warning(
                "the dataset has %d different rank fits, so none is used: pass fit= where one is needed", len(fits)
            )
        cell_names = [str(name) for name in column("cell_name", "")]
        if "cell_name" not in dataset.column_names:
            cell_names = [str(row) for row in range(n)]
        extra = [name for name in dataset.column_names if name not in (*DATASET_COLUMNS, "cell_name")]
        return cls(
            genes=pa.array([[number[word] for word in sentence] for sentence in words], type=pa.list_(pa.int32())),
            vocabulary=pa.array(vocabulary, type=pa.string()),
            names=np.asarray(cell_names, dtype=object),
            organism=tuple(scientific_name(value or "Homo sapiens") for value in column("organism", None)),
            perturbations=clean_perturbations(column("perturbations", None), n),
            obs=pd.DataFrame({name: list(dataset[name]) for name in extra}, index=cell_names),
            recipe=recipe or Recipe(),
            fit=fits.pop() if len(fits) == 1 else None,
        )


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
    perturbation_column: str | None = None,
    obs_columns: Sequence[str] = (),
    known: Callable[[Sequence[str]], NDArray[np.bool_]] | None = None,
    block_rows: int | None = None,
    progress: bool = False,
) -> Sentences:
    """Write every cell of an AnnData object or file as a cell sentence.

    Reads contiguous blocks of rows, so that memory is bounded by a block and the sentences; never changes its input.

    Parameters
    ----------
    data
        AnnData in memory or backed, or the path of an ``.h5ad`` file or ``.zarr`` store.
    recipe
        Length, ties and case of the sentences.
    layer, use_raw
        Where the values are, instead of ``X``.
    symbols
        ``var`` column with the gene symbols; found by itself where the index holds Ensembl ids.
    gene_table, aliases
        Tables identifier → symbol and alias → approved symbol (path, table or mapping), see
        :func:`cell2sen.data.genes.symbols.resolve`.
    organism
        Of all cells, or one per cell; read from ``obs`` or ``uns`` where it is not given.
    perturbation_column
        ``obs`` column with each cell's perturbation; missing values and empty strings mean none.
    obs_columns
        ``obs`` columns to keep.
    known
        Which symbols the model can write; the others are left out before ranking and counted in the account.
    block_rows
        Rows read at a time; chosen by size where it is ``None``. Never changes the result.
    progress
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        Nothing to rank, negative or infinite values, no gene symbols.
    KeyError
        Unknown layer or column; lists those there are.
    """
    recipe = recipe or Recipe()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(data, layer=layer, use_raw=use_raw))
        gene_map = naming.resolve(source.var, symbols=symbols, table=gene_table, aliases=aliases, case=recipe.case)
        account: dict[str, Any] = dict(gene_map.account)
        keep = np.ones(len(gene_map.symbols), dtype=bool)
        if known is not None:
            keep = np.asarray(known(gene_map.symbols), dtype=bool)
            account["n_unknown_to_model"] = int(np.sum(~keep))
            unknown = [symbol for symbol, ok in zip(gene_map.symbols, keep, strict=True) if not ok]
            if unknown:
                account["examples_unknown_to_model"] = unknown[:20]
            if not keep.any():
                raise ValueError(
                    f"none of the {len(keep)} genes is known to the model (for example {unknown[:5]}). It wants gene "
                    "symbols of human or mouse: name the var column with them (symbols=) or pass a table (gene_table=)"
                )
        places = np.flatnonzero(keep)
        vocabulary = gene_map.symbols if keep.all() else tuple(gene_map.symbols[place] for place in places)
        samples = source.samples()
        if all(are_counts(run.data) for run in samples):
            scale = COUNTS
        else:
            scale = recognise(sp.vstack([canonical(run) for run in samples]), source.hint)
        if not scale.certain:
            logger.warning(
                "the values of %s are neither counts nor a known normalisation; taken as %s. Predicted expression "
                "depends on it, the sentences do not", source.where, scale,
            )  # fmt: skip
        names = source.names
        ranker = Ranker(vocabulary, recipe)
        fitter = RankFitter()
        n_missing = 0
        bar = tqdm(total=source.n_obs, desc="cell sentences", unit=" cells", disable=not progress)
        nothing_dropped = gene_map.is_identity and bool(keep.all())

        def write(first: int, block: sp.csr_matrix) -> _Written:
            refuse_unrankable(block.data, source.hint)
            block = canonical(block)
            n_missing = 0
            if block.nnz and np.isnan(block.data.min()):
                missing = np.isnan(block.data)
                n_missing = int(missing.sum())
                block.data = np.where(missing, 0, block.data)
            mapped = block if nothing_dropped else gene_map.apply(block)
            if not keep.all():
                mapped = mapped[:, places]
            ranked = ranker.ranked(mapped, list(names[first : first + block.shape[0]]), recipe.max_genes)
            row_sums = np.ones(block.shape[0])
            if scale.needs_row_sums:
                counted = nothing_dropped and scale.kind == "counts"
                row_sums = ranked.row_sums() if counted else scale.row_sums(block)
            expression = scale.log10_cp10k(ranked.values, ranked.of_runs(row_sums))
            return _Written(
                genes=ranked.genes, lengths=np.diff(ranked.kept), sums=run_sums(ranked, expression), n_missing=n_missing
            )

        parts = (
            (first + start, rows_of(block, start, stop))
            for first, block in source.blocks(block_rows, shared=True)
            for start, stop in _steps(block)
        )
        chunks: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = []
        for written in in_parallel(write, parts):
            n_missing += written.n_missing
            fitter.add_sums(written.sums)
            chunks.append(written.genes)
            lengths.append(written.lengths)
            bar.update(len(written.lengths))
        bar.close()
        n_genes = np.concatenate(lengths)
        account["n_missing_values"] = n_missing
        account["n_cells_without_genes"] = int(np.sum(n_genes == 0))
        _report(n_genes, n_missing, source)
        offsets = np.concatenate([[0], np.cumsum(n_genes)])
        if offsets[-1] >= 2**31:
            raise ValueError(
                f"{offsets[-1]:,} genes in all sentences, more than 2**31: set max_genes or split the data"
            )
        return Sentences(
            genes=pa.ListArray.from_arrays(offsets.astype(np.int32), np.concatenate(chunks)),
            vocabulary=naming.arrow(vocabulary),
            names=names,
            organism=organism_of_cells(source.obs, source.uns, organism, source.var.index),
            perturbations=perturbations_of_cells(source.obs, perturbation_column),
            obs=_obs_columns(source.obs, obs_columns),
            recipe=recipe,
            fit=fitter.fit(),
            scale=scale,
            account=account,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Written:
    """The sentences of some cells."""

    genes: NDArray[np.int32]
    lengths: NDArray[np.int64]
    sums: tuple[NDArray[np.float64], NDArray[np.float64]]
    n_missing: int


def _steps(block: Any) -> Iterator[tuple[int, int]]:
    """First and last row of what is done at a time: a function of the data alone, as the sums of the rank fit are."""
    rows = max(1, _PART_VALUES * int(block.shape[0]) // max(int(block.nnz), 1))
    return ((first, min(first + rows, block.shape[0])) for first in range(0, block.shape[0], rows))


def clean_perturbations(values: Sequence[Any], n: int) -> tuple[str | None, ...]:
    """One perturbation per cell; ``None``, NaN and blank strings become ``None``.

    Raises
    ------
    ValueError
        Not one value per cell.
    """
    if isinstance(values, str):
        raise ValueError(f"perturbations must be a list with one entry per cell, found the text {values!r}")
    if len(values) != n:
        raise ValueError(f"perturbations must have one entry per cell: {n} cells, found {len(values)} entries")
    return tuple(None if pd.isna(value) or not str(value).strip() else str(value).strip() for value in values)


def perturbations_of_cells(obs: pd.DataFrame, column: str | None) -> tuple[str | None, ...]:
    """The perturbations in an obs column, or none at all without a column."""
    if column is None:
        return (None,) * len(obs)
    return clean_perturbations(list(_obs_columns(obs, [column])[column]), len(obs))


def _obs_columns(obs: pd.DataFrame, columns: Collection[str]) -> pd.DataFrame:
    columns = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    for column in columns:
        if column not in obs.columns:
            raise KeyError(f"adata.obs has no column {column!r}; available: {list(map(str, obs.columns))}")
    kept = obs[columns].copy()
    kept.index = kept.index.astype(str)
    return kept


def _arrow_column(values: pd.Series[Any]) -> pa.Array:
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return pa.array(values, from_pandas=True)
    return pa.array([None if pd.isna(value) else str(value) for value in values], type=pa.string())


def _report(n_genes: NDArray[np.int64], n_missing: int, source: Source) -> None:
    empty = np.flatnonzero(n_genes == 0)
    if len(empty) == len(n_genes):
        raise ValueError(
            f"none of the {len(n_genes)} cells has an expressed gene that can be written in {source.where}; look at "
            f"the matrix, or pass another one: {source.hint}"
        )
    if len(empty):
        examples = [str(source.names[cell]) for cell in empty[:3]]
        logger.warning(
            "%d of %d cells have no expressed gene that can be written (for example %s): they get no embedding, label "
            "or prediction; sc.pp.filter_cells(adata, min_genes=1) removes them", len(empty), len(n_genes), examples,
        )  # fmt: skip
    if n_missing:
        logger.warning("%d missing values (NaN) in %s were read as not expressed", n_missing, source.where)
