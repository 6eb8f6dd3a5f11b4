"""A cell's response to a perturbation: what the model expects with it, less what it expects without it.

A predicted sentence is one draw, and the mean of many still has what the model gets wrong about the cell itself. Both
expectations are of the same cell, so that error is in both and their difference is the perturbation's. It is added to
what was measured of the cell, with what such differences miss on average (:mod:`cell2sen.inference.corrections`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Backend, Unsupported
from cell2sen.data.genes import symbols as gene_names
from cell2sen.data.reader import open_source
from cell2sen.data.scale import recognise
from cell2sen.inference import corrections
from cell2sen.inference.session import Session, Slots
from cell2sen.sentences.ranking import RankFit

#: Cells whose expectations, a value for every gene, are in memory together.
_CELLS = 256

#: Changes below it, in ln(1 + CP10k), are set to 0: together they are less than a thousandth of a cell's change.
LEAST = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedResponse:
    """Control and predicted expression of some rows, ln(1 + CP10k)."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    control: sp.csr_matrix
    """What was measured, float32 (m, vocabulary)."""

    predicted: sp.csr_matrix
    """float32 (m, vocabulary), not negative."""

    corrected: tuple[str, ...]
    """Perturbations of these rows that have a correction."""

    sentences: list[list[str]]
    """The genes of each prediction in descending order, as many as its prompt asked for."""


def can_expect(session: Session) -> bool:
    """Whether the model knows a name for no perturbation, and says how likely each gene is at each place."""
    named = session.model.metadata.get("no_perturbation")
    return bool(named) and type(session.backend).expect is not Backend.expect


def expected_response(
    session: Session,
    slots: Slots,
    *,
    fit: RankFit | None = None,
    n_genes: int | None = None,
    seed: int = 0,
    correction: bool = True,
) -> ExpectedResponse:
    """Predict the response of every row that has slots and genes.

    Parameters
    ----------
    slots
        One entry per cell: values for the task's slots, ``None`` to skip the cell.
    fit
        Expression at each rank; the session's by default.
    n_genes
        Genes of prompt and answer at most; as many as the model was trained with by default.
    correction
        Add what the model's responses to a perturbation missed in its training cells, where it says so.

    Raises
    ------
    Unsupported
        The model has not learned what no perturbation is (``no_perturbation:`` of its training).
    ValueError
        No cell is left to predict, or no gene.
    """
    nothing = session.model.metadata.get("no_perturbation")
    if not nothing:
        raise Unsupported(
            f"{session.model.name} has not learned what happens without a perturbation (no_perturbation: in its "
            "training), so no change can be expected; use readout='sentence'"
        )
    sentences = session.sentences
    lists = sentences.gene_lists(session.genes_per_prompt(n_genes))
    rows = session.rows_to_predict(slots)
    symbols = sentences.symbols
    worth = (fit or session.fit).expression(np.arange(max(len(lists[row]) for row in rows))) * np.log(10.0)
    control = measured(session)[rows]
    names = [str((slots[row] or {}).get("perturbation")) for row in rows]
    known = corrections.load(session.model) if correction else corrections.Corrections(genes=(), amounts={})
    amounts = {name: known.of(name, symbols) for name in set(names)}
    parts = []
    for start in range(0, len(rows), _CELLS):
        some = rows[start : start + _CELLS]
        given: tuple[dict[str, str], ...] = ({}, {"perturbation": nothing})
        # The same draws for both: what is noise in one expectation is noise in the other.
        treated, untreated = (
            session.backend.expect(
                [
                    session.task.prompt(
                        genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row]),
                        answer_genes=len(lists[row]), **{**(slots[row] or {}), **instead},
                    )
                    for row in some
                ],
                symbols, worth, seed=seed,
            )
            for instead in given
        )  # fmt: skip
        change = treated - untreated
        change[np.abs(change) < LEAST] = 0
        chunk = slice(start, start + len(some))
        amount = np.stack([amounts[name] for name in names[chunk]])
        parts.append(sp.csr_matrix(corrections.corrected(control[chunk].toarray(), change, amount)))
    predicted = sp.csr_matrix(sp.vstack(parts), dtype=np.float32)
    written = _written(predicted, symbols, [len(lists[row]) for row in rows])
    corrected = tuple(sorted(set(names) & set(known.amounts)))
    return ExpectedResponse(rows=rows, control=control, predicted=predicted, corrected=corrected, sentences=written)


def measured(session: Session) -> sp.csr_matrix:
    """Measured expression of the session's cells, ln(1 + CP10k), float32 CSR (cells, symbols).

    Raises
    ------
    ValueError
        The session began with sentences, which hold no expression.
    """
    if session.data is None:
        raise ValueError("expected responses need measured expression: start with an AnnData or a file, not sentences")
    options, symbols = session.options, session.sentences.symbols
    with open_source(session.data, layer=options.get("layer"), use_raw=options.get("use_raw", False)) as source:
        mapped = gene_names.resolve(
            source.var, symbols=options.get("symbols"), table=options.get("gene_table"), aliases=options.get("aliases"),
            case=session.sentences.recipe.case,
        )  # fmt: skip
        place = {symbol: column for column, symbol in enumerate(mapped.symbols)}
        columns = [place[symbol] for symbol in symbols]
        scale = session.sentences.scale or recognise(source.sample(), source.hint)
        blocks = []
        for _, block in source.blocks():
            block.data = np.nan_to_num(block.data)
            sums = scale.row_sums(block)
            one = sp.csr_matrix(mapped.apply(block)[:, columns], dtype=np.float32)
            one.data = (scale.log10_cp10k(one.data, np.repeat(sums, np.diff(one.indptr))) * np.log(10)).astype(
                np.float32
            )
            blocks.append(one)
    return sp.csr_matrix(sp.vstack(blocks))


def _written(matrix: sp.csr_matrix, symbols: Sequence[str], lengths: Sequence[int]) -> list[list[str]]:
    """The highest genes of each row; ties in the order of the symbols."""
    alphabetical = np.argsort(np.argsort(np.asarray(symbols, dtype=object)))
    written = []
    for row, length in enumerate(lengths):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        order = np.lexsort((alphabetical[matrix.indices[part]], -matrix.data[part]))[:length]
        written.append([symbols[gene] for gene in matrix.indices[part][order]])
    return written
