"""Change vectors: first vectors of gene tokens from responses to perturbations."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.cells import MIN_GROUP_CELLS, TrainingCells
from cell2sen.training.network.loading import TrainableModel

logger = logging.getLogger(__name__)

#: Scale of change vectors: a gene with three times the root mean square change gets a logit of about 1.
CHANGE_SCALE = 0.3

#: Default number of change vectors, where a perturbation is new to a model.
N_CHANGE_VECTORS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupCounts:
    """Number of sentences with each gene, in a perturbed group and in its controls."""

    treated: NDArray[np.float64]
    """Perturbed cells with the gene, float64 (genes,)."""

    n_treated: int
    control: NDArray[np.float64]
    """Controls with the gene, float64 (genes,)."""

    n_control: int
    symbols: Sequence[str]


def group_counts(cells: TrainingCells, length: int, seed: int) -> Iterator[GroupCounts]:
    """Counts of each perturbation and context with :data:`MIN_GROUP_CELLS` training cells on both sides.

    Parameters
    ----------
    length
        Number of genes at the beginning of a sentence that are counted.
    """
    if cells.perturbation is None:
        return
    lists = [genes.ids for genes in cells.sentences(0, Augmentation(), seed).gene_lists(length)]
    written = sp.csr_matrix(
        (np.ones(sum(map(len, lists))), np.concatenate(lists).astype(np.int64), np.cumsum([0, *map(len, lists)])),
        shape=(len(lists), len(cells.symbols)),
    )
    for sides in cells.groups(np.flatnonzero(~cells.test)).values():
        control = sides.pop(cells.data.control, [])
        for treated in sides.values():
            if min(len(control), len(treated)) >= MIN_GROUP_CELLS:
                counts = [
                    np.asarray(written[rows].sum(axis=0), dtype=np.float64).ravel() for rows in (treated, control)
                ]
                yield GroupCounts(
                    treated=counts[0],
                    n_treated=len(treated),
                    control=counts[1],
                    n_control=len(control),
                    symbols=cells.symbols,
                )


def change_vectors(groups: Iterable[GroupCounts], genes: Sequence[str], size: int) -> NDArray[np.float32]:
    """Principal directions of the change of gene frequencies under perturbations, float32 (genes, size).

    Of each group a row c · max(0, 1 - 3 s² / c²) (positive-part James-Stein shrinkage), where c is the log frequency of
    a gene among the perturbed cells minus that among the controls, and s² = 1 / (k + 1) + 1 / (j + 1) its squared
    standard error for k perturbed cells and j controls with the gene. The columns are the right singular vectors of
    these rows, scaled by their singular values; the first, which most groups share, has unit mean square.

    Parameters
    ----------
    groups
        Counts of training cells only.
    genes
        Genes of the result; zero for genes that no group has.
    size
        Number of columns; zero beyond the number of groups.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    rows = []
    for group in groups:
        columns = np.array([place.get(symbol, -1) for symbol in group.symbols])
        treated, control = group.treated + 1, group.control + 1
        change = np.log(treated / (group.n_treated + 2)) - np.log(control / (group.n_control + 2))
        squared_error = 1 / treated + 1 / control
        shrunk = change * np.maximum(1 - 3 * squared_error / np.maximum(change**2, 1e-12), 0)
        row = np.zeros(len(genes))
        row[columns[columns >= 0]] = shrunk[columns >= 0]
        rows.append(row)
    result = np.zeros((len(genes), size), dtype=np.float32)
    if not rows or not np.any(rows):
        return result
    left, lengths, right = np.linalg.svd(np.array(rows), full_matrices=False)
    signs = np.where(left.sum(axis=0) < 0, -1.0, 1.0)  # genes that rise in most groups are positive
    n = min(size, int(np.sum(lengths > 1e-9 * lengths[0])))
    scaled = (right[:n] * (signs[:n] * lengths[:n] / lengths[0])[:, None]).T
    result[:, :n] = scaled / np.sqrt(np.mean(scaled[:, 0] ** 2))
    return result


def add_change_vectors(
    model: TrainableModel, cells: Mapping[str, TrainingCells], length: int, size: int, seed: int
) -> None:
    """Add change vectors to the vectors of gene tokens, in the directions in which these vary least.

    Tokens of the perturbations' names are scaled up to a mean square of the layer norms' epsilon, where it is smaller:
    otherwise they have no effect for the first hundred steps.

    Parameters
    ----------
    length
        Number of genes at the beginning of a sentence that are counted.
    size
        Number of change vectors.

    Raises
    ------
    ValueError
        No perturbed cells, or genes of several tokens.
    """
    import torch

    perturbed = [file for file in cells.values() if file.perturbation is not None]
    genes = sorted({symbol for file in perturbed for symbol in file.symbols})
    ids = model.tokens.ids([" " + gene for gene in genes])
    if not perturbed or any(len(gene_ids) != 1 for gene_ids in ids):
        raise ValueError(
            "model.change_vectors needs perturbed training cells, and a model that writes a gene as one token; found "
            f"{len(perturbed)} files with perturbations, {sum(len(gene_ids) != 1 for gene_ids in ids)} genes of "
            "several tokens; set it to 0"
        )
    groups = [group for file in perturbed for group in group_counts(file, length, seed)]
    if not groups:
        logger.warning(
            "no group of %d perturbed cells and as many controls of their context: gene tokens get no change vectors",
            MIN_GROUP_CELLS,
        )
        return
    vectors = torch.from_numpy(change_vectors(groups, genes, size))
    rows = torch.tensor([gene_ids[0] for gene_ids in ids])
    network: Any = model.network
    weight: torch.Tensor = network.get_input_embeddings().weight
    with torch.no_grad():
        used = weight[rows] - weight[rows].mean(dim=0)
        _, directions = torch.linalg.eigh((used.T @ used).double())  # ascending
        weight[rows] += CHANGE_SCALE * vectors @ directions[:, :size].T.float()
        head = network.get_output_embeddings()
        if head is not None and head.weight is not weight:
            head.weight[rows] += CHANGE_SCALE * vectors @ directions[:, :size].T.float()
        words = sorted(_name_tokens(perturbed, model.tokens) - set(rows.tolist()))
        root_mean_square = weight[words].pow(2).mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
        epsilon = float(getattr(network.config, "layer_norm_eps", 0.0))
        weight[words] *= (epsilon**0.5 / root_mean_square).clamp(min=1)


def _name_tokens(perturbed: Sequence[TrainingCells], tokens: Tokens) -> set[int]:
    """Token ids of the names of perturbations in the training cells."""
    names: set[str] = set()
    for file in perturbed:
        assert file.perturbation is not None
        names |= {name for name in file.perturbation[~file.test] if name and name != file.data.control}
    return {token for ids in tokens.ids([f" {name}" for name in sorted(names)]) for token in ids}
