"""Density of a model's training cells in gene space, and the unseen score of cells that lie outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from cell2sen.inference.transfer.novelty import Gaussians
from cell2sen.model import Model
from cell2sen.sentences.gene_space import GeneSpace, rank_weights
from cell2sen.sentences.sentences import Sentences

#: File beside the weights, and the number of its layout.
DENSITY_FILE, LAYOUT = "training_density.npz", 2

#: Unseen score above which a cell is unlike the training cells, and share of such cells above which a warning is given.
MAX_UNSEEN, MAX_SHARE_UNLIKE = 0.95, 0.5

#: Share of the genes of training cells, by weight, that a file must have, so that its cells can be compared with them.
MIN_SHARE_OF_GENES = 0.8

#: Quantiles of the evidence of held-out cells that are stored.
STEPS = np.linspace(0, 1, 501)

#: Cells of the common distribution that are added to the held-out cells of each group: a few cells tell little.
PRIOR_CELLS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class StandardScore:
    """How unusual a value is for cells of a group with this number of genes, in standard deviations.

    Cells with fewer genes lie farther from all groups, so the mean depends on the number of genes; groups that were
    measured in several ways are wider than others, so each group has its own offset and deviation.
    """

    curve: NDArray[np.float64]
    """float64 (3,): mean as a polynomial of ln(number of genes), constant first."""

    offsets: NDArray[np.float64]
    deviations: NDArray[np.float64]
    """float64 (groups,): mean and standard deviation of each group around the curve."""

    @classmethod
    def of(
        cls, values: NDArray[np.float64], group: NDArray[np.int64], n_genes: NDArray[np.int64], n_groups: int
    ) -> StandardScore:
        """Score fitted to held-out cells; groups without any have the mean and deviation of all cells."""
        curve = np.asarray(np.linalg.lstsq(_powers(n_genes), values, rcond=None)[0], dtype=np.float64)
        rest = values - _powers(n_genes) @ curve
        n_cells = np.bincount(group, minlength=n_groups)
        offsets = np.bincount(group, rest, n_groups) / (n_cells + PRIOR_CELLS)
        squares = np.bincount(group, (rest - offsets[group]) ** 2, n_groups)
        variance = (squares + PRIOR_CELLS * float(rest.var())) / (n_cells + PRIOR_CELLS)
        return cls(curve=curve, offsets=offsets, deviations=np.sqrt(np.maximum(variance, 1e-12)))

    def __call__(
        self, values: NDArray[np.float64], group: NDArray[np.int64], n_genes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Standard score of each cell, float64 (n,)."""
        expected = _powers(n_genes) @ self.curve + self.offsets[group]
        return np.asarray((values - expected) / self.deviations[group])


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDensity:
    """Training cells in gene space: one normal distribution per group (label and file) with a common covariance.

    Evidence that a cell is unlike them is the sum of two standard scores among held-out cells: of its Mahalanobis
    distance to the nearest group, and of the share of its genes' weights that lies outside the gene space.
    """

    space: GeneSpace
    centres: NDArray[np.float64]
    """float64 (groups, d), whitened."""

    within: NDArray[np.float64]
    """float64 (d, d): whitens the cells of a group."""

    of_distance: StandardScore
    of_residual: StandardScore
    quantiles: NDArray[np.float64]
    """float64 (501,): quantiles of the evidence of held-out cells, at equal steps from 0 to 1."""

    @classmethod
    def of(
        cls,
        space: GeneSpace,
        training: sp.csr_matrix,
        codes: NDArray[np.int64],
        held_out: sp.csr_matrix,
        counted: NDArray[np.bool_] | None = None,
    ) -> TrainingDensity:
        """Density of grouped training cells, with the evidence of held-out cells.

        Parameters
        ----------
        training, held_out
            :func:`cell2sen.sentences.gene_space.rank_weights` of the cells.
        codes
            Number of each training cell's group, int64 (cells,).
        counted
            Held-out cells whose evidence is a quantile of :attr:`quantiles`, bool (cells,); the others count in the
            standard scores only. Default: all.
        """
        fitted = Gaussians.of(space.features(training), codes)
        empty = StandardScore(curve=np.zeros(3), offsets=np.zeros(0), deviations=np.zeros(0))
        density = cls(
            space=space,
            centres=fitted.centres @ fitted.within,
            within=fitted.within,
            of_distance=empty,
            of_residual=empty,
            quantiles=np.zeros(len(STEPS)),
        )
        group, distance = density.nearest(held_out)
        n_genes, n_groups = np.diff(held_out.indptr), len(density.centres)
        density = replace(
            density,
            of_distance=StandardScore.of(distance, group, n_genes, n_groups),
            of_residual=StandardScore.of(space.residual(held_out), group, n_genes, n_groups),
        )
        evidence = density.evidence(held_out)
        return replace(density, quantiles=np.quantile(evidence if counted is None else evidence[counted], STEPS))

    def nearest(self, weights: sp.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Nearest group of each cell, int64 (n,), and Mahalanobis distance to it, float64 (n,), from rank weights."""
        found = cdist(self.space.features(weights) @ self.within, self.centres)
        return found.argmin(axis=1), found.min(axis=1)

    def evidence(self, weights: sp.csr_matrix) -> NDArray[np.float64]:
        """Evidence that cells are unlike training cells, float64 (n,), from rank weights; ∞ without a known gene."""
        group, distance = self.nearest(weights)
        n_genes = np.diff(weights.indptr)
        total = self.of_distance(distance, group, n_genes)
        total += self.of_residual(self.space.residual(weights), group, n_genes)
        return np.where(n_genes > 0, total, np.inf)

    def share_of_genes(self, symbols: Sequence[str]) -> float:
        """Share of the squared mean rank weights of training cells that is of these genes; the largest of all groups.

        Near 1 for the whole transcriptome and for the panel of a training file; low for other selections of genes
        (highly variable ones, another panel), of which even cells of known types have other ranks.
        """
        centres = (self.centres @ np.linalg.pinv(self.within)).astype(np.float32)
        mean = np.maximum((self.space.vectors / self.space.scale[:, None] ** 2) @ centres.T, 0)  # (genes, groups)
        measured = mean[np.isin(self.space.genes, list(symbols))]
        of_measured, of_all = (np.einsum("gc,gc->c", each, each, dtype=np.float64) for each in (measured, mean))
        return float((of_measured / np.maximum(of_all, 1e-12)).max(initial=0.0))

    def unseen(self, sentences: Sentences) -> NDArray[np.float64]:
        """Unseen score, float64 (n,): share of the model's held-out cells that are more like its training cells.

        NaN for cells without genes, and for all cells if the file has a selection of genes that no training file has
        (:meth:`share_of_genes`); 1 for cells without a gene that training cells have.
        """
        if self.share_of_genes(sentences.symbols) < MIN_SHARE_OF_GENES:
            return np.full(len(sentences), np.nan)
        evidence = self.evidence(rank_weights(sentences, self.space.genes))
        return np.where(sentences.n_genes > 0, np.interp(evidence, self.quantiles, STEPS), np.nan)

    def write(self, folder: Path) -> None:
        """Write the file of the density into a model's directory."""
        arrays: dict[str, Any] = {
            f"{name}_{part}": getattr(score, part)
            for name, score in (("distance", self.of_distance), ("residual", self.of_residual))
            for part in ("curve", "offsets", "deviations")
        }
        arrays |= self.space.arrays()
        np.savez_compressed(
            folder / DENSITY_FILE,
            layout=np.array(LAYOUT),
            centres=self.centres.astype(np.float32),
            within=self.within.astype(np.float32),
            quantiles=self.quantiles,
            **arrays,
        )


def load_density(model: Model) -> TrainingDensity | None:
    """Density beside a model's weights; ``None`` for models without one.

    Raises
    ------
    ValueError
        The file was written by another version.
    """
    file = Path(model.path) / DENSITY_FILE
    if not model.is_local or not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        if "layout" not in stored or int(stored["layout"]) != LAYOUT:
            raise ValueError(
                f"{DENSITY_FILE} of {model.name} was written by another version of cell2sen: train the model again, or "
                "remove the file, and nothing tells how unlike cells are to its training cells"
            )

        def score(name: str) -> StandardScore:
            parts = (stored[f"{name}_{part}"].astype(np.float64) for part in ("curve", "offsets", "deviations"))
            curve, offsets, deviations = parts
            return StandardScore(curve=curve, offsets=offsets, deviations=deviations)

        return TrainingDensity(
            space=GeneSpace.from_arrays(stored),
            centres=stored["centres"].astype(np.float64),
            within=stored["within"].astype(np.float64),
            of_distance=score("distance"),
            of_residual=score("residual"),
            quantiles=stored["quantiles"],
        )


def share_unlike(unseen: NDArray[np.float64]) -> float:
    """Share of cells whose unseen score is above :data:`MAX_UNSEEN`; 0 without cells that have genes."""
    known = unseen[~np.isnan(unseen)]
    return float(np.mean(known > MAX_UNSEEN)) if len(known) else 0.0


def unlike_training(unseen: NDArray[np.float64], name: str) -> str:
    """Text of a warning if most cells are unlike those that a model was trained on, or cannot be compared, else empty.

    Parameters
    ----------
    unseen
        :meth:`TrainingDensity.unseen` of cells that have genes, or some that have none.
    """
    if len(unseen) and np.isnan(unseen).all():
        return (
            f"the file has a selection of genes that no training file of {name} has (a panel, highly variable genes): "
            "nothing tells how unlike its cells are to the training cells. Pass all measured genes if there are more"
        )
    share = share_unlike(unseen)
    if share <= MAX_SHARE_UNLIKE:
        return ""
    return (
        f"{share:.0%} of the cells are unlike those that {name} was trained on: their types may be none of its labels. "
        "Train it on cells like these, or transfer labels from a reference (cell2sen transfer)"
    )


def _powers(n_genes: NDArray[np.int64]) -> NDArray[np.float64]:
    logarithm = np.log(np.maximum(n_genes, 1))
    return np.stack([np.ones(len(logarithm)), logarithm, logarithm**2], axis=1)
