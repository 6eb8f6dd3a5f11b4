"""GeneReader: a reader of genes only, and of the genes of each cell's own organism."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.genes.gene_map import GeneMap
from cell2sen.data.genes.symbols import gene_rows
from cell2sen.data.reader import Reader


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneReader(Reader):
    """The same matrix, where columns that are no genes are empty.

    In a mixture of two organisms, each cell has the genes of the organism that most of its counts are of; the others
    are ambient RNA.
    """

    is_gene: NDArray[np.bool_]
    """bool (columns,)."""

    organisms: tuple[str, ...] = ()
    """Organisms of a mixture; empty for one organism."""

    organism_of: NDArray[np.int64] | None = None
    """int64 (columns,): index into `organisms` of each column; -1: of any."""

    def blocks(self, rows: int | None = None, *, shared: bool = False) -> Iterator[tuple[int, sp.csr_matrix]]:
        """As :meth:`Reader.blocks`; blocks share no memory with the matrix."""
        for first, block in super().blocks(rows, shared=shared):
            yield first, self._genes_in(block)

    def read(self, rows: NDArray[np.integer[Any]]) -> sp.csr_matrix:
        """As :meth:`Reader.read`."""
        return self._genes_in(super().read(rows))

    def samples(self, rows: int = 256) -> list[sp.csr_matrix]:
        """As :meth:`Reader.samples`."""
        return [self._genes_in(run) for run in super().samples(rows)]

    @cached_property
    def organism_of_cells(self) -> tuple[str, ...]:
        """Organism of each cell of a mixture, by most of its counts. Reads the matrix once."""
        found = [self._majority(block) for _, block in super().blocks(shared=True)]
        return tuple(self.organisms[number] for number in np.concatenate(found))

    def _genes_in(self, block: sp.csr_matrix) -> sp.csr_matrix:
        keep = self.is_gene[block.indices]
        if self.organism_of is not None:
            own = np.repeat(self._majority(block), np.diff(block.indptr))
            of_entry = self.organism_of[block.indices]
            keep &= (of_entry < 0) | (of_entry == own)
        indptr = np.concatenate([[0], np.cumsum(keep)])[block.indptr].astype(block.indptr.dtype)
        return sp.csr_matrix((block.data[keep], block.indices[keep], indptr), shape=block.shape)

    def _majority(self, block: sp.csr_matrix) -> NDArray[np.int64]:
        """Organism with the largest sum in each cell, int64 (cells,)."""
        assert self.organism_of is not None
        values = sp.csr_matrix((np.nan_to_num(block.data), block.indices, block.indptr), shape=block.shape)
        sums = [
            np.asarray(values @ (self.organism_of == number).astype(np.float64)).ravel()
            for number in range(len(self.organisms))
        ]
        return np.asarray(np.argmax(sums, axis=0), dtype=np.int64)


def only_genes(reader: Reader) -> Reader:
    """The reader itself if all rows of var are genes, else a :class:`GeneReader` of both organisms of any mixture."""
    is_gene = gene_rows(reader.var)
    return reader if is_gene.all() else _gene_reader(reader, is_gene)


def genes_of(reader: Reader, gene_map: GeneMap) -> Reader:
    """The reader itself if all its columns are genes of one organism, else a :class:`GeneReader`."""
    organisms = tuple(sorted({organism for organism in gene_map.organisms or () if organism}))
    if gene_map.is_gene is None and len(organisms) < 2:
        return reader
    organism_of = None
    if len(organisms) > 1:
        number = {organism: n for n, organism in enumerate(organisms)}
        organism_of = np.array(
            [number.get(organism or "", -1) for organism in gene_map.organisms or ()], dtype=np.int64
        )
    is_gene = np.ones(len(reader.var), dtype=bool) if gene_map.is_gene is None else gene_map.is_gene
    return _gene_reader(
        reader, is_gene, organisms=organisms if organism_of is not None else (), organism_of=organism_of
    )


def _gene_reader(reader: Reader, is_gene: NDArray[np.bool_], **mixture: Any) -> GeneReader:
    inherited = {field.name: getattr(reader, field.name) for field in fields(Reader)}
    return GeneReader(**inherited, is_gene=is_gene, **mixture)
