"""Gene part of embeddings: a fixed projection of gene ranks, beside the vector of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.model import Model
from cell2sen.sentences.gene_space import GeneSpace, rank_weights
from cell2sen.sentences.sentences import Sentences

#: File beside the weights.
GENE_PART_FILE = "gene_part.npz"

Part = Literal["network", "genes"]

PARTS: tuple[Part, ...] = ("network", "genes")

#: Weight of the gene part beside the network's part, after both are scaled. Half of it is better on blood, which the
#: network knows, and worse on other tissues (benchmarks/neighbours.py --weights).
WEIGHT = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """Shift and factor that bring vectors of training cells to mean 0 and mean norm 1."""

    centre: NDArray[np.float32]
    """float32 (d,)."""

    factor: float

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Scaling:
        """Scaling of the vectors of some cells, (n, d)."""
        centre = vectors.mean(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(vectors - centre, axis=1).mean())
        return cls(centre=centre.astype(np.float32), factor=1 / norm if norm > 0 else 1.0)

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scaled vectors, float32 (n, d)."""
        return np.asarray((vectors - self.centre) * self.factor, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class GenePart:
    """Projection of the gene ranks of cells, and the scaling of both parts of a vector."""

    space: GeneSpace
    network: Scaling
    genes: Scaling

    @classmethod
    def of(cls, space: GeneSpace, weights: sp.csr_matrix, network: Scaling) -> GenePart:
        """Gene part of training cells.

        Each direction of the space is divided by the square root of its standard deviation over the cells: large
        differences between tissues count less, small ones within a tissue more, and those that are noise not too much.

        Parameters
        ----------
        weights
            :func:`cell2sen.sentences.gene_space.rank_weights` of the cells.
        """
        deviation = space.features(weights).std(axis=0)
        shrunk = space.vectors / np.sqrt(np.where(deviation > 0, deviation, 1))
        space = replace(space, vectors=shrunk.astype(np.float32))
        return cls(space=space, network=network, genes=Scaling.of(space.features(weights)))

    def vectors(self, sentences: Sentences, network: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Vectors of cells: the network's part, if there is one, then the gene part; NaN for cells without genes.

        A cell's vector depends on the cell alone. Its squared distance to another cell is the sum of those in the
        parts, each divided by the squared mean distance of training cells from their mean, the second times
        :data:`WEIGHT` squared.

        Parameters
        ----------
        network
            Embeddings of the network, float32 (n, hidden): mean over all tokens, last layer. ``None``: gene part alone.

        Returns
        -------
        float32 (n, hidden + d), or (n, d).
        """
        features = self.genes(self.space.features(rank_weights(sentences, self.space.genes))) * np.float32(WEIGHT)
        features[sentences.n_genes == 0] = np.nan
        return features if network is None else np.hstack([self.network(network), features])

    def write(self, folder: Path) -> None:
        """Write the file of the gene part into a model's directory."""
        arrays: dict[str, Any] = self.space.arrays()
        np.savez_compressed(
            folder / GENE_PART_FILE,
            **arrays,
            network_centre=self.network.centre,
            genes_centre=self.genes.centre,
            factors=np.array([self.network.factor, self.genes.factor]),
        )


def load_gene_part(model: Model) -> GenePart | None:
    """Gene part beside a model's weights; ``None`` for models without one."""
    file = Path(model.path) / GENE_PART_FILE
    if not model.is_local or not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as stored:
        of_network, of_genes = map(float, stored["factors"])
        return GenePart(
            space=GeneSpace.from_arrays(stored),
            network=Scaling(centre=stored["network_centre"], factor=of_network),
            genes=Scaling(centre=stored["genes_centre"], factor=of_genes),
        )


def check_parts(parts: str | Sequence[str] | None, model: Model, *, is_default: bool) -> tuple[Part, ...]:
    """Parts of a model's vectors: those given, or all that it has.

    Parameters
    ----------
    is_default
        Whether the network's vectors are the mean over all tokens after the last layer, which both parts are scaled
        for.

    Raises
    ------
    ValueError
        Unknown parts, a gene part that the model does not have, or both parts with other vectors of the network.
    """
    has_genes = (Path(model.path) / GENE_PART_FILE).is_file()
    if parts is None:
        return PARTS if has_genes and is_default else ("network",)
    given = [parts] if isinstance(parts, str) else list(parts)
    chosen = tuple(part for part in PARTS if part in given)
    if not chosen or set(given) - set(PARTS):
        raise ValueError(f"parts must be among {list(PARTS)}, found {given}")
    if "genes" in chosen and not has_genes:
        raise ValueError(f"{model.name} has no gene part of embeddings: train it with card.gene_part, such as 128")
    if chosen == PARTS and not is_default:
        raise ValueError(
            "both parts of an embedding are scaled for the mean over all tokens after the last layer: leave out "
            "pooling and hidden_layer, or pass parts='network'"
        )
    return chosen
