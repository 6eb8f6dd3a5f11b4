"""Density of the training cells, written beside the weights: how unlike a cell is to what the model has learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.inference.novelty.gene_space import GeneSpace, rank_weights
from cell2sen.inference.novelty.training_density import TrainingDensity
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import TrainingCells

#: Changes of the cells besides which they are used as they are: other technologies must not look like other types.
TECHNOLOGIES = Augmentation(thin=(0.1, 1.0), panel=0.1, ambient=0.2, gene_factors=0.7, dropout=0.4)

#: Maximum number of training cells of a label, of all of a file, and of held-out cells of a file.
MAX_LABEL_CELLS, MAX_FILE_CELLS, MAX_HELD_OUT = 60, 800, 300

#: Minimum number of held-out cells; with fewer a fifth of the chosen training cells is held out of the density.
MIN_HELD_OUT = 20

#: Minimum number of training cells, and of genes.
MIN_TRAINING = 4

#: Dimensions of the gene space.
SIZE = 64


def fit_density(folder: Path, cells: Sequence[TrainingCells], *, seed: int = 0) -> bool:
    """Fit the density of training cells and write it into a model's directory.

    Returns
    -------
    Whether there were enough cells and genes, :data:`MIN_TRAINING`; without them no file is written.
    """
    genes = sorted({symbol for file in cells for symbol in file.symbols})
    if not genes:
        return False
    parts: tuple[list[sp.csr_matrix], list[sp.csr_matrix]] = ([], [])
    labels: list[str] = []
    for number, file in enumerate(cells):
        part = _part(file, np.random.default_rng([seed, number]))
        names = _groups(part)
        for augmentation in (Augmentation(), TECHNOLOGIES):
            sentences = part.sentences(0, augmentation, seed)
            has_genes = sentences.n_genes > 0
            for side, held_out in zip(parts, (False, True), strict=True):
                side.append(rank_weights(sentences[np.flatnonzero(has_genes & (part.test == held_out))], genes))
            labels += names[has_genes & ~part.test].tolist()
    weights, others = (sp.vstack(part, format="csr") for part in parts)
    codes = np.unique(np.array(labels, dtype=str), return_inverse=True)[1].astype(np.int64)
    if others.shape[0] < MIN_HELD_OUT:
        fifth = np.arange(len(codes)) % 5 == 0
        weights, others, codes = weights[~fifth], weights[fifth], codes[~fifth]
    if min(weights.shape) < MIN_TRAINING or not others.shape[0]:
        return False
    space = GeneSpace.of(weights, genes, SIZE, seed=seed)
    TrainingDensity.of(space, weights, codes, others).write(folder)
    return True


def _part(file: TrainingCells, generator: np.random.Generator) -> TrainingCells:
    """Some training cells of each label, and some held-out cells."""
    training = _chosen(_groups(file), np.flatnonzero(~file.test), generator)
    held_out = generator.permutation(np.flatnonzero(file.test))[:MAX_HELD_OUT]
    part = copy.copy(file)
    part.keep(np.sort(np.concatenate([training, held_out])))
    return part


def _groups(file: TrainingCells) -> NDArray[np.object_]:
    """Label of each cell, or the name of the file for cells without one."""
    labels = np.full(len(file.names), None, dtype=object) if file.label is None else file.label
    return np.array([file.data.file if label is None else str(label) for label in labels], dtype=object)


def _chosen(names: NDArray[np.object_], rows: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Random rows, at most :data:`MAX_LABEL_CELLS` of each name and :data:`MAX_FILE_CELLS` of all, ascending."""
    order = generator.permutation(rows)
    place = np.zeros(len(order), dtype=np.int64)
    seen: dict[str, int] = {}
    for number, row in enumerate(order):
        place[number] = seen.get(names[row], 0)
        seen[names[row]] = place[number] + 1
    order = order[place < MAX_LABEL_CELLS]
    return np.sort(order[np.argsort(place[place < MAX_LABEL_CELLS], kind="stable")][:MAX_FILE_CELLS])
