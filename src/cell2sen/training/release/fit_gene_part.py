"""Gene part of a new model's embeddings: directions in which the gene ranks of its training cells vary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import Backend
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.gene_part import GenePart, Scaling
from cell2sen.inference.session import load_model, start
from cell2sen.model import resolve
from cell2sen.sentences.gene_space import GeneSpace
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_density import MIN_TRAINING, DensityCells

#: Maximum number of training cells of a file whose embeddings the network's part is scaled by.
MAX_EMBEDDED = 50


def fit_gene_part(folder: Path, cells: Sequence[TrainingCells], size: int, *, seed: int = 0) -> bool:
    """Fit the gene part and write it into a model's directory.

    Parameters
    ----------
    size
        Dimensions, at most; 0 for no gene part.

    Returns
    -------
    Whether the file was written: `size` is not 0, and there were enough training cells and genes.
    """
    usable = [file for file in cells if (np.diff(file.matrix[~file.test].indptr) > 0).any()]
    if not size or sum(int((~file.test).sum()) for file in usable) < MIN_TRAINING:
        return False
    genes = sorted({symbol for file in usable for symbol in file.symbols})
    chosen = DensityCells.together([DensityCells.of(file, genes, number, seed) for number, file in enumerate(usable)])
    backend = load_model({"model": resolve(folder), "progress": False})
    vectors = [network_vectors(file, backend, seed) for file in usable]
    gene_part_of(chosen, genes, size, Scaling.of(np.concatenate(vectors)), seed=seed).write(folder)
    return True


def gene_part_of(cells: DensityCells, genes: Sequence[str], size: int, network: Scaling, *, seed: int = 0) -> GenePart:
    """Gene part of the training cells among some cells, of `size` dimensions at most.

    Its directions are right singular vectors of scaled rank weights. There are equally many cells of each label and
    file, as they are and as other technologies might have found them.

    Parameters
    ----------
    genes
        Columns of the cells' weights.
    network
        Scaling of the network's vectors.
    """
    weights = cells[~cells.test].weights
    return GenePart.of(GeneSpace.of(weights, genes, size, seed=seed), weights, network)


def network_vectors(file: TrainingCells, backend: Backend, seed: int = 0) -> NDArray[np.float32]:
    """Vectors of the network of some training cells with genes, float32 (cells, hidden)."""
    rows = np.flatnonzero(~file.test & (np.diff(file.matrix.indptr) > 0))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_EMBEDDED])
    session = start(file.anndata(rows), "embed", {"model": backend, "progress": False, "scale": "log1p"})
    return embed_cells(session).vectors
