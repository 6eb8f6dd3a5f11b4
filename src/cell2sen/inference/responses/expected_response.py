"""Response of cells to a perturbation: measured in similar training contexts, expected by the model, or both.

The model's own change is the expected expression with the perturbation minus that without it, of the same cell, so that
the model's error about the cell itself is in both and cancels. What any name in place of a perturbation changes is no
response and is taken out (:mod:`cell2sen.inference.responses.made_up_names`). A written sentence is a single draw, and
the mean of many keeps that error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Unsupported
from cell2sen.inference.counts.abundance import AbundanceChange
from cell2sen.inference.responses.known_responses import KnownResponse, KnownResponses, changed, load
from cell2sen.inference.responses.made_up_names import MADE_UP_NAMES, made_up_like, standing_out, without_directions
from cell2sen.inference.session import Session, Slots

#: Cells whose expectations, one value per gene, are in memory together.
_CELLS_IN_MEMORY = 256

#: Smaller changes, in ln(1 + CP10k), are set to 0: together they are less than a thousandth of a cell's change.
MIN_CHANGE_LN = 1e-3


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the response to one perturbation is predicted from."""

    contexts: Mapping[str, int]
    """Training contexts with a measured response → perturbed cells; empty: the model's own prediction."""

    model_share: float
    """Share of the model's own prediction beyond the measured responses; 1 without any."""

    unlike: float
    """Share of the cells that are less like these contexts than training cells are, 0 to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedResponse:
    """Control and predicted expression of some rows, ln(1 + CP10k)."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    control: sp.csr_matrix
    """Measured expression, float32 (m, symbols)."""

    predicted: sp.csr_matrix
    """float32 (m, symbols), not negative."""

    basis: Mapping[str, Basis]
    """Perturbations of these rows → what their response is predicted from."""

    sentences: list[list[str]]
    """Genes of each prediction in descending order, as many as its prompt has."""

    abundances: Sequence[AbundanceChange] = ()
    """Measured changes of abundance, for counts."""


def expected_response(
    session: Session,
    slots: Slots,
    *,
    n_genes: int | None = None,
    seed: int = 0,
    measured: bool = True,
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
    measured
        Start from the responses of the training cells, if the model has some of the perturbation
        (:mod:`cell2sen.inference.responses.known_responses`). Otherwise the model's own change alone.

    Raises
    ------
    Unsupported
        The model's own change is needed, and it was trained without ``no_perturbation:``, or its backend computes no
        expectations.
    ValueError
        No cell or no gene is left to predict, or the session has no measured expression.
    """
    sentences = session.sentences
    length = session.genes_per_prompt(n_genes)
    rows = session.rows_to_predict(slots)
    if session.data is None:
        raise ValueError("expected responses need measured expression: start with an AnnData or a file, not sentences")
    control = session.data[rows].ln_cp10k()
    n_prompt_genes = sentences.n_genes if length is None else np.minimum(sentences.n_genes, length)
    names = np.array([str((slots[row] or {}).get("perturbation")) for row in rows], dtype=object)
    stored = load(session.model) if measured else KnownResponses(responses={})
    columns, places = stored.shared_genes(sentences.symbols)
    known = {
        str(name): stored.responses[name].of_genes(columns)
        for name in dict.fromkeys(names)
        if name in stored.responses and len(columns)
    }
    model = _OwnChange(session, slots, length, n_prompt_genes, seed)
    unlike = dict.fromkeys(known, 0)
    parts = []
    weights: dict[str, list[NDArray[np.float64]]] = {name: [] for name in known}
    for start in range(0, len(rows), _CELLS_IN_MEMORY):
        part = slice(start, start + _CELLS_IN_MEMORY)
        before = control[part].toarray().astype(np.float64)
        change = np.zeros_like(before)
        for name in dict.fromkeys(names[part]):
            cells = np.flatnonzero(names[part] == name)
            response = known.get(name)
            own = None
            if response is None or response.model_share:
                own = model.change(rows[part][cells], control[part][cells], str(name))
                change[cells] = own * (response.model_share if response else 1.0)
            if response is not None:
                shared, own_shared = before[np.ix_(cells, places)], None if own is None else own[:, places]
                change[np.ix_(cells, places)] = response.change(shared, own_shared)
                unlike[name] += int(response.unlike(shared).sum())
                weights[name].append(response.weights(shared))
        change[np.abs(change) < MIN_CHANGE_LN] = 0
        parts.append(sp.csr_matrix(changed(before, change)))
    predicted = sp.csr_matrix(sp.vstack(parts), dtype=np.float32)
    return ExpectedResponse(
        rows=rows,
        control=control,
        predicted=predicted,
        basis={
            str(name): _basis(known.get(name), unlike.get(name, 0) / int((names == name).sum()))
            for name in sorted(set(names))
        },
        sentences=_highest_genes(predicted, sentences.symbols, n_prompt_genes[rows].tolist()),
        abundances=[
            AbundanceChange(
                rows=np.flatnonzero(names == name),
                weights=np.concatenate(weights[name]),
                abundances=response.abundances,
                log_folds=response.log_folds,
                places=places,
            )
            for name, response in known.items()
            if response.abundances is not None and response.log_folds is not None and not response.model_share
        ],
    )


def basis_table(basis: Mapping[str, Basis]) -> pd.DataFrame:
    """One row per perturbation and context; a perturbation without contexts has one row."""
    rows = [
        (name, context, n, of_name.model_share, of_name.unlike)
        for name, of_name in basis.items()
        for context, n in (of_name.contexts or {"": 0}).items()
    ]
    table = pd.DataFrame(rows, columns=["perturbation", "context", "perturbed_cells", "model_share", "unlike"])
    return table.set_axis(table.index.astype(str))


def _basis(response: KnownResponse | None, unlike: float) -> Basis:
    if response is None:
        return Basis(contexts={}, model_share=1.0, unlike=0.0)
    contexts: dict[str, int] = {}
    for name, n in zip(response.contexts, response.known.n_cells, strict=True):
        contexts[name] = contexts.get(name, 0) + int(n)
    return Basis(contexts=contexts, model_share=response.model_share, unlike=unlike)


@dataclass(frozen=True, eq=False)
class _OwnChange:
    """Change that the model itself predicts."""

    session: Session
    slots: Slots
    length: int | None
    n_prompt_genes: NDArray[np.int64]
    seed: int

    def change(self, rows: NDArray[np.int64], control: sp.csr_matrix, name: str) -> NDArray[np.float64]:
        """Change of some rows by the perturbation of this name, float64 (rows, symbols), ln(1 + CP10k)."""
        untreated = self.session.model.metadata.get("no_perturbation")
        if not untreated:
            raise Unsupported(
                f"{self.session.model.name} was trained without a name for no perturbation (no_perturbation: in the "
                "training file), so it has no expected response; use readout='sentence'"
            )
        rank_values = own_rank_values(control, self.n_prompt_genes[rows])
        lengths = self.n_prompt_genes[rows].tolist()

        def expected(perturbation: str) -> NDArray[np.float32]:
            filled = [{**(self.slots[row] or {}), "perturbation": perturbation} for row in rows]
            prompts = self.session.prompts(rows, length=self.length, answer_genes=lengths, slots=filled)
            # The same draws for all names, so that their noise cancels, too.
            return self.session.backend.expect(prompts, self.session.sentences.symbols, rank_values, seed=self.seed)

        before = expected(untreated)
        if name == untreated:
            return np.zeros(before.shape)
        change = (expected(name) - before).astype(np.float64)
        trained = self.session.model.metadata.get("perturbations") or {}
        if len(trained) == 1 and name in trained:
            return change  # with a single one, the model can take any name for it
        is_known = name in trained or not trained
        made_up_names = MADE_UP_NAMES if is_known else made_up_like(name, known=[*trained, untreated])
        made_up = np.stack([expected(other) - before for other in made_up_names], axis=2).astype(np.float64)
        return without_directions(change, made_up) if is_known else standing_out(change, made_up)


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
