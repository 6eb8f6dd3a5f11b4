"""Files of cell sentences, written in parts: memory is bounded, whatever the number of cells."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.obs import perturbations_of_cells
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences, rows_of_text
from cell2sen.sentences.writing import rank_cells

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells of a part; datasets writes .jsonl and .csv in batches of 1,000.
_ROWS = 2000


def write_sentences(
    data: AnnData | str | Path,
    out: Path,
    recipe: Recipe,
    *,
    organism: str | Sequence[str] | None = None,
    perturbation_column: str | None = None,
    obs_columns: Sequence[str] = (),
    progress: bool = False,
    **matrix: Any,
) -> NDArray[np.int64]:
    """Write the cell sentences of an AnnData object or file: a table with a row per cell, or a text with a line.

    The genes of all cells are ranked first, for the rank fit that each row has, and wait in a temporary file beside
    `out`. The content is that of :meth:`Sentences.to_dataset`.

    Parameters
    ----------
    out
        ``.parquet``, ``.jsonl``, ``.csv`` or ``.txt``.
    **matrix
        Further arguments of :meth:`cell2sen.data.expression.Expression.open`.

    Returns
    -------
    int64 (cells,): number of genes of each sentence.
    """
    with (
        tempfile.TemporaryFile(dir=out.parent) as ranked,
        Expression.open(data, case=recipe.case, **matrix) as expression,
    ):
        sentences, n_genes = rank_cells(
            expression,
            recipe,
            lambda genes: ranked.write(genes.tobytes()),
            organism=organism,
            perturbations=perturbations_of_cells(expression.obs, perturbation_column),
            obs_columns=obs_columns,
            progress=progress,
        )
        write = {".parquet": _write_parquet, ".txt": _write_text}.get(out.suffix, _write_lines)
        with out.open("wb") as stream:
            write(stream, out.suffix, sentences, n_genes, ranked)
    return n_genes


def _write_text(
    stream: BinaryIO, suffix: str, sentences: Sentences, n_genes: NDArray[np.int64], ranked: BinaryIO
) -> None:
    for _, part in _parts(sentences, n_genes, ranked, _ROWS):
        stream.write("".join(f"{text}\n" for text in part.texts().to_pylist()).encode("utf-8"))


def _write_lines(
    stream: BinaryIO, suffix: str, sentences: Sentences, n_genes: NDArray[np.int64], ranked: BinaryIO
) -> None:
    """Write a table of text: ``.jsonl`` or ``.csv``."""
    for first, part in _parts(sentences, n_genes, ranked, _ROWS):
        dataset = part.to_dataset()
        if suffix == ".jsonl":
            dataset.to_json(stream)
        else:
            dataset.to_csv(stream, header=first == 0)


def _write_parquet(
    stream: BinaryIO, suffix: str, sentences: Sentences, n_genes: NDArray[np.int64], ranked: BinaryIO
) -> None:
    """Write a Parquet file with the row groups and settings of datasets' ``to_parquet``."""
    import datasets
    import pyarrow.parquet as pq
    from datasets.arrow_writer import get_writer_batch_size_from_data_size

    table = sentences.annotations()
    rows = get_writer_batch_size_from_data_size(
        len(sentences), table.nbytes + _bytes_of_text(sentences, n_genes, ranked)
    )
    schema = sentences[:0].to_dataset().features.arrow_schema
    chunking = datasets.config.DEFAULT_CDC_OPTIONS
    with pq.ParquetWriter(stream, schema, use_content_defined_chunking=chunking, write_page_index=True) as writer:
        for first, part in _parts(sentences, n_genes, ranked, rows):
            annotations = table.slice(first, len(part))
            writer.write_table(annotations.add_column(0, "cell_sentence", part.texts()).cast(schema))
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(chunking)})


def _bytes_of_text(sentences: Sentences, n_genes: NDArray[np.int64], ranked: BinaryIO) -> int:
    """Size in memory of the text of all sentences, as Arrow chunks of :meth:`Sentences.texts`."""
    lengths = np.array([len(symbol.encode("utf-8")) + 1 for symbol in sentences.symbols], dtype=np.int64)
    size = -int(np.count_nonzero(n_genes))  # no space after the last gene
    for genes in _gene_ids(n_genes, ranked, _ROWS):
        size += int(lengths[genes].sum())
    n_cells = len(sentences)
    n_chunks = -(-n_cells // rows_of_text(n_cells, int(n_genes.sum())))
    return size + np.dtype(np.int32).itemsize * (n_cells + n_chunks)


def _parts(
    sentences: Sentences, n_genes: NDArray[np.int64], ranked: BinaryIO, rows: int
) -> Iterator[tuple[int, Sentences]]:
    """First cell and sentences of `rows` cells at a time."""
    for part, genes in enumerate(_gene_ids(n_genes, ranked, rows)):
        first = part * rows
        offsets = np.concatenate([[0], np.cumsum(n_genes[first : first + rows])]).astype(np.int32)
        lists = pa.ListArray.from_arrays(offsets, genes)
        yield first, replace(sentences[first : first + rows], genes=lists)


def _gene_ids(n_genes: NDArray[np.int64], ranked: BinaryIO, rows: int) -> Iterator[NDArray[np.int32]]:
    """Gene ids of `rows` cells at a time, from the temporary file."""
    ranked.seek(0)
    for first in range(0, len(n_genes), rows):
        n = int(n_genes[first : first + rows].sum())
        yield np.frombuffer(ranked.read(n * np.dtype(np.int32).itemsize), dtype=np.int32)
