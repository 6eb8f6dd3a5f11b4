"""Settings of an adaptation to unlabelled cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Losses, steps, and what is kept of the model before."""

    next_gene: float = 1.0
    """Weight of the loss of the next gene of the cell's own sentence."""

    two_views: float = 1.0
    """Weight of the contrastive loss of two views of one cell."""

    temperature: float = 0.1
    """Temperature of the contrastive loss: squared distances, in units of the mean distance of the cells from their
    mean, are divided by it."""

    learning_rate: float | None = None
    """Highest learning rate. By default 1e-3 below 50 million parameters, 2e-4 for the adapters of larger models."""

    batch_size: int = 32
    """Cells in a step, each in two views."""

    start_share: float = 0.0
    """Share of the starting weights in the saved weights, by interpolation: less is forgotten."""

    gene_part: int = 128
    """Dimensions of the gene part, which is fitted to the cells; 0 for none."""

    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        if min(self.next_gene, self.two_views) < 0 or not self.next_gene + self.two_views:
            raise ValueError(
                "adaptation: next_gene and two_views are weights of the losses, at least 0 and not both 0, found "
                f"{self.next_gene} and {self.two_views}"
            )
        if self.temperature <= 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise ValueError(
                "adaptation: temperature and learning_rate must be above 0, found "
                f"{self.temperature} and {self.learning_rate}"
            )
        if self.batch_size < 2:
            raise ValueError(f"adaptation: batch_size must be at least 2 cells, to tell apart, found {self.batch_size}")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"adaptation: start_share is a share from 0 to below 1, found {self.start_share}")
        if self.gene_part < 0:
            raise ValueError(f"adaptation: gene_part is a number of dimensions, at least 0, found {self.gene_part}")
