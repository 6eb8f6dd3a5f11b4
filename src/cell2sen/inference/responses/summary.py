"""Summary of predicted responses: genes that rise and fall most, and what the prediction comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cell2sen.data.names.text import some

#: Genes of each direction, and perturbations, that a summary lists.
N_GENES, N_PERTURBATIONS = 8, 5


@dataclass(frozen=True, kw_only=True)
class ResponseSummary:
    """Response to one perturbation."""

    perturbation: str
    n_cells: int
    rises: dict[str, float]
    """Genes that rise most → mean change, ln(1 + CP10k)."""

    falls: dict[str, float]
    """Genes that fall most → mean change, ln(1 + CP10k)."""

    source: str
    """What the response is predicted from."""

    def lines(self) -> list[str]:
        """Text for a terminal."""
        return [
            f"{self.perturbation} ({self.n_cells:,} cells): {self.source}",
            *(
                f"  {word:<6}{', '.join(f'{gene} {change:+.2f}' for gene, change in genes.items()) or 'no gene'}"
                for word, genes in (("rise", self.rises), ("fall", self.falls))
            ),
        ]


def summaries(predicted: AnnData) -> list[ResponseSummary]:
    """Summaries of the result of :func:`cell2sen.tl.perturb`, by perturbation, those of most cells first."""
    provenance = predicted.uns["cell2sen"]["perturb"]
    basis, symbols = provenance["basis"], predicted.var["symbol"].astype(str).to_numpy()
    found = []
    for name, n_cells in predicted.obs["perturbation"].astype(str).value_counts().items():
        rows = np.flatnonzero((predicted.obs["perturbation"].astype(str) == name).to_numpy())
        change = np.asarray(predicted.layers["delta"][rows].mean(axis=0)).ravel()
        order = np.argsort(change, kind="stable")
        own = basis[basis["perturbation"] == name]
        contexts, share = [context for context in own["context"] if context], float(own["model_share"].max() or 0)
        if provenance["readout"] == "sentence":
            source = "sentences written by the model"
        elif not contexts:
            source = "the model's own prediction; no response to it was measured in training cells"
        elif len(contexts) == 1:
            source = f"the mean change of training cells ({contexts[0]})"
        else:
            source = f"the changes of the most similar of {len(contexts)} groups of training cells ({some(contexts)})"
        if contexts and share:
            source += f", and {share:.0%} of what the model predicts beyond them"
        found.append(
            ResponseSummary(
                perturbation=str(name),
                n_cells=int(n_cells),
                rises=_changes(symbols, change, order[::-1][:N_GENES], 1),
                falls=_changes(symbols, change, order[:N_GENES], -1),
                source=source,
            )
        )
    return found


def text(predicted: AnnData) -> str:
    """Summary of all perturbations for a terminal."""
    found = summaries(predicted)
    lines = [line for summary in found[:N_PERTURBATIONS] for line in summary.lines()]
    return "\n".join([*lines, *([f"and {len(found) - N_PERTURBATIONS} more"] if len(found) > N_PERTURBATIONS else [])])


def _changes(
    symbols: NDArray[np.object_], change: NDArray[np.float32], genes: NDArray[np.int64], sign: int
) -> dict[str, float]:
    return {str(symbols[gene]): round(float(change[gene]), 4) for gene in genes if sign * change[gene] > 0}
