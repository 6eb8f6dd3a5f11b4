"""Density of the training cells, written beside the weights: how unlike a cell is to what the model has learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.inference.novelty.training_density import TrainingDensity
from cell2sen.sentences.gene_space import GeneSpace, rank_weights
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
SIZE = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class DensityCells:
    """Rank weights of the cells that a density is fitted to."""

    weights: sp.csr_matrix
    groups: NDArray[np.str_]
    """Label and number of the file of each cell."""

    test: NDArray[np.bool_]
    """Held-out cells, bool (cells,)."""

    as_measured: NDArray[np.bool_]
    """Cells that are not changed to those of another technology, bool (cells,)."""

    @classmethod
    def of(cls, file: TrainingCells, genes: Sequence[str], number: int, seed: int) -> DensityCells:
        """Some cells of a file, each as it is and as another technology might have found it.

        Parameters
        ----------
        number
            Number of the file, which random choices depend on.
        """
        part = _part(file, np.random.default_rng([seed, number]))
        names = np.array([f"{name}\n{number}" for name in _groups(part)], dtype=str)
        both = []
        for augmentation in (Augmentation(), TECHNOLOGIES):
            sentences = part.sentences(0, augmentation, seed)
            as_measured = np.full(len(names), augmentation is not TECHNOLOGIES)
            cells = cls(weights=rank_weights(sentences, genes), groups=names, test=part.test, as_measured=as_measured)
            both.append(cells[sentences.n_genes > 0])
        return cls.together(both)

    @classmethod
    def together(cls, parts: Sequence[DensityCells]) -> DensityCells:
        """Cells of several parts."""
        return cls(
            weights=sp.vstack([part.weights for part in parts], format="csr"),
            groups=np.concatenate([part.groups for part in parts]),
            test=np.concatenate([part.test for part in parts]),
            as_measured=np.concatenate([part.as_measured for part in parts]),
        )

    def __getitem__(self, cells: NDArray[np.bool_]) -> DensityCells:
        """Some of the cells, bool (cells,)."""
        return DensityCells(
            weights=self.weights[np.flatnonzero(cells)],
            groups=self.groups[cells],
            test=self.test[cells],
            as_measured=self.as_measured[cells],
        )

    def density(self, genes: Sequence[str], seed: int) -> TrainingDensity | None:
        """Density of the cells; ``None`` for too few cells or genes.

        With fewer than :data:`MIN_HELD_OUT` held-out cells a fifth of the training cells is used instead.
        """
        training, held_out = self[~self.test], self[self.test]
        if len(held_out.groups) < MIN_HELD_OUT:
            fifth = np.arange(len(training.groups)) % 5 == 0
            training, held_out = training[~fifth], training[fifth]
        if min(training.weights.shape) < MIN_TRAINING or not len(held_out.groups):
            return None
        codes = np.unique(training.groups, return_inverse=True)[1].astype(np.int64)
        space = GeneSpace.of(training.weights, genes, SIZE, seed=seed)
        counted = held_out.as_measured if held_out.as_measured.any() else None
        return TrainingDensity.of(space, training.weights, codes, held_out.weights, counted)


def fit_density(folder: Path, cells: Sequence[TrainingCells], *, seed: int = 0) -> bool:
    """Fit the density of training cells and write it into a model's directory.

    Returns
    -------
    Whether there were enough cells and genes, :data:`MIN_TRAINING`; without them no file is written.
    """
    genes = sorted({symbol for file in cells for symbol in file.symbols})
    if not genes:
        return False
    parts = [DensityCells.of(file, genes, number, seed) for number, file in enumerate(cells)]
    density = DensityCells.together(parts).density(genes, seed)
    if density is None:
        return False
    density.write(folder)
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
