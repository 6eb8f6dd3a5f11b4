"""Expected change by a perturbation, with its stored correction.

Both expectations are of the same cell, so that the model's error about the cell itself is in both and cancels. The
difference is added to the cell's measured expression, together with the mean residual of such differences
(:mod:`cell2sen.inference.corrections`). A written sentence is a single draw, and the mean of many keeps that error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Unsupported
from cell2sen.inference import corrections
from cell2sen.inference.session import Session, Slots

#: Cells whose expectations, one value per gene, are in memory together.
_CELLS_IN_MEMORY = 256

#: Smaller changes, in ln(1 + CP10k), are set to 0: together they are less than a thousandth of a cell's change.
MIN_CHANGE_LN = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedResponse:
    """Control and predicted expression of some rows, ln(1 + CP10k)."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    control: sp.csr_matrix
    """Measured expression, float32 (m, symbols)."""

    predicted: sp.csr_matrix
    """float32 (m, symbols), not negative."""

    corrected: tuple[str, ...]
    """Perturbations of these rows that have a correction."""

    sentences: list[list[str]]
    """Genes of each prediction in descending order, as many as its prompt has."""


def expected_response(
    session: Session,
    slots: Slots,
    *,
    n_genes: int | None = None,
    seed: int = 0,
    correction: bool = True,
) -> ExpectedResponse:
    """Expected response of every row that has slots and genes.

    Parameters
    ----------
    slots
        One entry per cell: values for the task's slots, ``None`` to skip the cell.
    n_genes
        Maximum number of genes of prompt and answer; by default the number that the model was trained with.
    seed
        Seed of the answers that the expectations are estimated from.
    correction
        Add the stored mean residuals of the perturbation, if the model has some.

    Raises
    ------
    Unsupported
        The model was trained without ``no_perturbation:``, or its backend computes no expectations.
    ValueError
        No cell or no gene is left to predict, or the session has no measured expression.
    """
    untreated = session.model.metadata.get("no_perturbation")
    if not untreated:
        raise Unsupported(
            f"{session.model.name} was trained without a name for no perturbation (no_perturbation: in the training "
            "file), so it has no expected response; use readout='sentence'"
        )
    sentences = session.sentences
    length = session.genes_per_prompt(n_genes)
    rows = session.rows_to_predict(slots)
    symbols = sentences.symbols
    n_prompt_genes = sentences.n_genes if length is None else np.minimum(sentences.n_genes, length)
    if session.data is None:
        raise ValueError("expected responses need measured expression: start with an AnnData or a file, not sentences")
    control = session.data[rows].ln_cp10k()
    rank_values = own_rank_values(control, n_prompt_genes[rows])
    names = [str((slots[row] or {}).get("perturbation")) for row in rows]
    stored = corrections.load(session.model) if correction else corrections.Corrections(genes=(), amounts={})
    amounts = {name: stored.of(name, symbols) for name in set(names)}

    def expectations(part: slice, perturbations: Sequence[str]) -> NDArray[np.float32]:
        chunk = rows[part]
        filled = [{**(slots[row] or {}), "perturbation": name} for row, name in zip(chunk, perturbations, strict=True)]
        lengths = n_prompt_genes[chunk].tolist()
        prompts = session.prompts(chunk, length=length, answer_genes=lengths, slots=filled)
        return session.backend.expect(prompts, symbols, rank_values[part], seed=seed)

    parts = []
    for start in range(0, len(rows), _CELLS_IN_MEMORY):
        part = slice(start, start + _CELLS_IN_MEMORY)
        treatments = names[part]
        # The same draws for both, so that their noise cancels, too.
        change = expectations(part, treatments) - expectations(part, [untreated] * len(treatments))
        change[np.abs(change) < MIN_CHANGE_LN] = 0
        amount = np.stack([amounts[name] for name in treatments])
        parts.append(sp.csr_matrix(corrections.corrected(control[part].toarray(), change, amount)))
    predicted = sp.csr_matrix(sp.vstack(parts), dtype=np.float32)
    return ExpectedResponse(
        rows=rows,
        control=control,
        predicted=predicted,
        corrected=tuple(sorted(set(names) & set(stored.amounts))),
        sentences=_highest_genes(predicted, symbols, n_prompt_genes[rows].tolist()),
    )


def own_rank_values(expression: sp.csr_matrix, lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Value at each rank of each cell: its own values in descending order, so that no other cell takes part.

    Parameters
    ----------
    expression
        (cells, symbols), without negative values.
    lengths
        Number of ranks of each cell, int64 (cells,). Ranks beyond its expressed genes have its smallest value.

    Returns
    -------
    One float32 (length,) per cell.
    """
    values = []
    for row, length in enumerate(lengths):
        own = expression.data[expression.indptr[row] : expression.indptr[row + 1]]
        own = np.sort(own[own > 0])[::-1][:length].astype(np.float32)
        values.append(np.pad(own, (0, length - len(own)), mode="edge") if len(own) else np.zeros(length, np.float32))
    return values


def _highest_genes(matrix: sp.csr_matrix, symbols: Sequence[str], lengths: Sequence[int]) -> list[list[str]]:
    """The highest genes of each row, as many as `lengths`; ties in alphabetical order."""
    alphabetical = np.argsort(np.argsort(np.asarray(symbols, dtype=object)))
    gene_lists = []
    for row, length in enumerate(lengths):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        order = np.lexsort((alphabetical[matrix.indices[part]], -matrix.data[part]))[:length]
        gene_lists.append([symbols[gene] for gene in matrix.indices[part][order]])
    return gene_lists
