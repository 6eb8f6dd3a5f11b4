"""Round trip: expression to cell sentences and back, by the rank fit of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from cell2sen.evaluation.inputs import Cells
from cell2sen.sentences.rank_fit import RankFit

#: Predicted cells that the length of sentences is taken from, at most.
_MAX_MEASURED_CELLS = 256


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """Expression → cell sentence → expression."""

    fit: RankFit
    n_genes: int
    """Genes of a sentence."""

    def __call__(self, block: Any) -> sp.csr_matrix:
        """Each cell's first `n_genes` genes at the value of their rank, in ln(1 + CP10k), float32 CSR; others 0.

        Ties are in the order of columns.
        """
        block = sp.csr_matrix(block)
        n = np.diff(block.indptr)
        row = np.repeat(np.arange(block.shape[0]), n)
        order = np.lexsort((block.indices, -block.data, row))
        position = np.arange(len(order)) - np.repeat(block.indptr[:-1], n)
        kept = (position < self.n_genes) & (block.data[order] > 0)
        values = self.fit.expression(position[kept]) * np.log(10.0)
        cells = (values.astype(np.float32), (row[kept], block.indices[order][kept]))
        return sp.csr_matrix(cells, shape=block.shape)


def round_trip_of(predicted: Cells) -> RoundTrip | None:
    """Round trip by the rank fit that this package stored in a prediction; None for others.

    The length is the median number of compared genes that are expressed in a predicted cell.
    """
    fit = predicted.provenance.get("fit")
    if not fit or predicted.verb not in ("perturb", "generate"):
        return None
    some = predicted.rows(np.linspace(0, len(predicted) - 1, min(_MAX_MEASURED_CELLS, len(predicted))).astype(int))
    values = {name: float(fit[name]) for name in ("slope", "intercept", "r_squared")}
    return RoundTrip(fit=RankFit(**values), n_genes=max(1, int(np.median(np.diff(some.indptr)))))
