"""Sentences: cell sentences of a dataset, as gene ids, text or a Hugging Face dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.genes.organism import scientific_name
from cell2sen.data.names.text import as_text, decoded
from cell2sen.data.obs import clean_perturbations
from cell2sen.data.scale.units import Scale
from cell2sen.sentences.gene_list import GeneList
from cell2sen.sentences.rank_fit import RankFit, inverse_transform
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.threads import in_parallel

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: First columns of the Hugging Face dataset, in this order.
DATASET_COLUMNS = ("cell_sentence", "fit_parameters", "organism", "perturbations")

#: Signs between and around genes in sentences of other tools.
_SIGNS = frozenset(",;'\"")

#: Maximum number of cells, and of genes, in a chunk of text, which then fits into a core's cache.
_MAX_TEXT_ROWS, _MAX_TEXT_GENES = 4096, 2**18


@dataclass(frozen=True, kw_only=True, eq=False)
class Sentences:
    """Cell sentences of one dataset, as gene ids into a vocabulary; text on demand."""

    genes: pa.ListArray
    """list<int32> (n,): gene ids of each cell in descending expression."""

    vocabulary: pa.StringArray
    """Symbol of each gene id: all genes of the dataset that the model can write, expressed or not."""

    names: NDArray[Any]
    """Cell names, object (n,)."""

    organism: tuple[str, ...]
    perturbations: tuple[str | None, ...]
    """Perturbation of each cell; ``None`` for missing values and empty strings."""

    obs: pd.DataFrame
    """obs columns that were kept, indexed by cell name."""

    recipe: Recipe
    fit: RankFit | None
    scale: Scale | None = None
    account: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of genes that were mapped, dropped or ambiguous. Plain values, for ``uns``."""

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> Sentences:
        """Some of the cells in the order of `rows`: a row number, row numbers, a slice or a boolean mask."""
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
        """Number of genes of each sentence, int64 (n,)."""
        return np.asarray(pc.list_value_length(self.genes).to_numpy(zero_copy_only=False), dtype=np.int64)

    @property
    def symbols(self) -> list[str]:
        """Vocabulary as a list."""
        return list(self.vocabulary.to_pylist())

    def gene_names(self, max_genes: int | None = None) -> list[list[str]]:
        """Symbols of each cell in order, at most `max_genes`."""
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
        """Text of each sentence: symbols joined by single spaces, string (n,).

        Chunked, since an Arrow string array holds at most 2 GB: 150,000 cells of 2,500 genes.
        """
        n_words = len(self.vocabulary)
        # Every gene is written with a space after it, except the last one of a cell.
        with_space = pc.binary_join_element_wise(self.vocabulary, "", " ")
        words = pa.concat_arrays([with_space, self.vocabulary])
        flat = self.genes.flatten().to_numpy()
        bounds = np.append(0, np.cumsum(self.n_genes))

        def write(first: int, last: int) -> pa.StringArray:
            start, stop = bounds[first], bounds[last]
            gene_ids = flat[start:stop].copy()
            ends = bounds[first : last + 1] - start
            gene_ids[ends[1:][ends[1:] > ends[:-1]] - 1] += n_words
            written = pc.take(words, pa.array(gene_ids), boundscheck=False)
            # The buffer is already the text of all cells; only their bounds are new.
            _, word_bounds, text = written.buffers()
            places = np.frombuffer(word_bounds, dtype=np.int32)[written.offset :][ends]
            return pa.StringArray.from_buffers(last - first, pa.py_buffer(places), text)

        rows = rows_of_text(len(self), int(bounds[-1]))
        firsts = range(0, len(self), rows)
        chunks = in_parallel(write, ((first, min(first + rows, len(self))) for first in firsts))
        return pa.chunked_array(chunks, type=pa.string())

    def expression(self, gene_lists: Sequence[Sequence[str]], fit: RankFit | None = None) -> sp.csr_matrix:
        """Inverse transform: sentences over this vocabulary → log10(1 + CP10k), float32 CSR (n, vocabulary).

        The value of a gene is that of its rank by `fit` (default: the dataset's); absent genes have the value 0. Drop
        words outside the vocabulary and repeated genes first (:func:`cell2sen.answer.parse_sentence`).

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
        return inverse_transform(gene_lists, self.symbols, fit)

    def to_dataset(self) -> Dataset:
        """Hugging Face dataset with the columns :data:`DATASET_COLUMNS`, then ``cell_name`` and the kept obs columns.

        Numbers in obs stay numbers, other values become text. An obs column with the name of one of the first columns
        is left out.
        """
        from datasets import Dataset

        table = self.annotations()
        return Dataset(table.add_column(0, "cell_sentence", self.texts()))

    def annotations(self) -> pa.Table:
        """The columns of :meth:`to_dataset` without the text of the sentences."""
        n = len(self)
        fit = None if self.fit is None else asdict(self.fit)
        fit_type = pa.struct([(field.name, pa.float64()) for field in fields(RankFit)])
        columns: dict[str, Any] = {
            "fit_parameters": pa.array([fit] * n, type=fit_type),
            "organism": pa.array(self.organism, type=pa.string()),
            "perturbations": pa.array(self.perturbations, type=pa.string()),
            "cell_name": pa.array(self.names.astype(str), type=pa.string()),
        }
        for name in self.obs.columns:
            if str(name) not in (*columns, "cell_sentence"):
                columns[str(name)] = _arrow_column(self.obs[name])
        return pa.table(columns)

    @classmethod
    def from_dataset(cls, dataset: Dataset, recipe: Recipe | None = None) -> Sentences:
        """Sentences of a dataset with a column ``cell_sentence``, from :meth:`to_dataset` or another tool.

        A sentence is a text or a list of genes; commas between them and a final full stop are left out, as are genes
        that the sentence has already. Genes are written in upper case if the recipe says so.

        Raises
        ------
        TypeError
            No dataset of Hugging Face, or several splits.
        KeyError
            No column ``cell_sentence``; lists the available ones.
        ValueError
            No rows.
        """
        if isinstance(dataset, Mapping):
            raise TypeError(
                f"the dataset has the splits {list(dataset)}: pass one of them, as dataset[{next(iter(dataset), '')!r}]"
            )
        if not hasattr(dataset, "column_names"):
            raise TypeError(
                f"expected a datasets.Dataset, found {type(dataset).__name__}: datasets.Dataset.from_pandas(frame) "
                "makes one of a pandas DataFrame"
            )
        if "cell_sentence" not in dataset.column_names:
            raise KeyError(f"the dataset has no column 'cell_sentence'; available: {dataset.column_names}")
        dataset = dataset.with_format(None)
        upper = recipe is not None and recipe.case == "upper"
        written = [_words(text, upper) for text in dataset["cell_sentence"]]
        if not written:
            raise ValueError("the dataset is empty: it has no rows")
        words = [list(dict.fromkeys(genes)) for genes in written]
        if repeated := sum(len(genes) < len(before) for genes, before in zip(words, written, strict=True)):
            logger.warning("%d of %d sentences repeat genes; only the first of each is read", repeated, len(words))
        vocabulary = sorted({word for sentence in words for word in sentence})
        ids = {word: gene for gene, word in enumerate(vocabulary)}
        n = len(words)

        def column(name: str, default: Any) -> list[Any]:
            return list(dataset[name]) if name in dataset.column_names else [default] * n

        names = [field.name for field in fields(RankFit)]
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
            genes=pa.array([[ids[word] for word in sentence] for sentence in words], type=pa.list_(pa.int32())),
            vocabulary=pa.array(vocabulary, type=pa.string()),
            names=np.asarray(cell_names, dtype=object),
            organism=tuple(scientific_name(as_text(value) or "Homo sapiens") for value in column("organism", None)),
            perturbations=clean_perturbations(column("perturbations", None), n),
            obs=pd.DataFrame({name: list(dataset[name]) for name in extra}, index=cell_names),
            recipe=recipe or Recipe(),
            fit=fits.pop() if len(fits) == 1 else None,
        )


def _words(sentence: Any, upper: bool) -> list[str]:
    """Genes of a sentence, which is text, bytes or a list."""
    text = decoded(sentence)
    if text is None or text != text:  # NaN
        return []
    if not isinstance(text, str):
        text = " ".join(str(decoded(word)) for word in text)
    if text.endswith((".", "]")) or not _SIGNS.isdisjoint(text):
        text = " ".join(re.sub(r"[,;\[\]'\"]", " ", text).split()).removesuffix(".")
    return (text.upper() if upper else text).split()


def rows_of_text(n_cells: int, n_genes: int) -> int:
    """Cells in a chunk of text, of the number of cells and the genes of all together."""
    return max(1, min(_MAX_TEXT_ROWS, _MAX_TEXT_GENES * n_cells // max(n_genes, 1)))


def _arrow_column(values: pd.Series[Any]) -> pa.Array:
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return pa.array(values, from_pandas=True)
    return pa.array([None if pd.isna(value) else str(decoded(value)) for value in values], type=pa.string())
