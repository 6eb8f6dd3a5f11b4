"""Readout of a response (expected or written), and predicted sentences."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.answer import ParsedSentence, parse_sentence
from cell2sen.backend import Sampling, Unsupported
from cell2sen.data.names.text import some
from cell2sen.inference.counts.abundance import AbundanceChange
from cell2sen.inference.responses.control_cells import require_perturbation
from cell2sen.inference.responses.expected_response import Basis, expected_response, own_rank_values
from cell2sen.inference.responses.known_responses import load
from cell2sen.inference.session import Session, Slots
from cell2sen.inference.trained import require_known
from cell2sen.sentences.rank_fit import values_at_ranks

logger = logging.getLogger(__name__)

Readout = Literal["auto", "expected", "sentence"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """Control and predicted expression of the cells that have a perturbation and genes."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    perturbations: list[str]
    """Perturbation of each of these rows."""

    control: sp.csr_matrix
    """Expression of the control, float32 (m, symbols), ln(1 + CP10k)."""

    predicted: sp.csr_matrix
    """Predicted expression, float32 (m, symbols), ln(1 + CP10k)."""

    answers: list[ParsedSentence]
    """Predicted cell sentences."""

    readout: Literal["expected", "sentence"]
    basis: Mapping[str, Basis] = field(default_factory=dict)
    """Perturbation → what its expected response is predicted from; empty for sentences."""

    abundances: Sequence[AbundanceChange] = ()
    """Measured changes of abundance, for counts."""


def predict_response(
    session: Session,
    perturbations: tuple[str | None, ...] | None,
    *,
    sampling: Sampling,
    readout: Readout = "auto",
    measured: bool = True,
    force: bool = False,
    guided: bool = True,
    n_genes: int | None = None,
) -> Response:
    """Predicted expression of each cell after its perturbation.

    Parameters
    ----------
    perturbations
        One per cell (:mod:`cell2sen.inference.responses.control_cells`); ``None`` takes those of the sentences.
    sampling
        Of written sentences; the expected readout uses its seed only.
    readout
        ``"auto"`` is ``"expected"`` if the model supports it, answers are guided and sampling is greedy, otherwise
        ``"sentence"``.
    measured
        Start expected responses from those of the training cells (:mod:`cell2sen.inference.responses.known_responses`).
    force
        Predict responses to names that the model was not trained on, too.
    guided, n_genes
        See :func:`predict_sentences`.

    Raises
    ------
    Unsupported
        ``readout="expected"`` of a model that does not support it.
    ValueError
        No such readout, no cell with a perturbation and genes, no rank fit, or an unknown perturbation without `force`.
    """
    if readout not in get_args(Readout):
        raise ValueError(f"no readout {readout!r}; available: {list(get_args(Readout))}")
    slots = perturbation_slots(session, perturbations, force=force)
    symbols = frozenset(session.sentences.symbols)
    greedy = sampling.temperature == 0 and sampling.top_k is None and sampling.top_p is None
    trained = bool(session.model.metadata.get("no_perturbation") or (measured and load(session.model).responses))
    if readout == "expected" or (readout == "auto" and guided and greedy and trained):
        try:
            expected = expected_response(session, slots, n_genes=n_genes, seed=sampling.seed, measured=measured)
        except Unsupported:  # genes of several tokens, or a backend without expectations
            if readout == "expected":
                raise
        else:
            _warn_of_contexts(session, expected.basis)
            return Response(
                rows=expected.rows,
                perturbations=_perturbations(slots, expected.rows),
                control=expected.control,
                predicted=expected.predicted,
                answers=[parse_sentence(" ".join(genes), symbols) for genes in expected.sentences],
                readout="expected",
                basis=expected.basis,
                abundances=expected.abundances,
            )
    written = predict_sentences(session, slots, sampling=sampling, n_genes=n_genes, guided=guided)
    control, predicted = _expression_of(session, written)
    return Response(
        rows=written.rows,
        perturbations=_perturbations(slots, written.rows),
        control=control,
        predicted=predicted,
        answers=written.answers,
        readout="sentence",
    )


def _expression_of(session: Session, written: PredictedSentences) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Control and predicted sentences as ln(1 + CP10k): the cell's own value at each rank; without data, the fit's."""
    answers = [answer.genes for answer in written.answers]
    if session.data is None:
        return session.expression(written.controls), session.expression(answers)
    lengths = np.array([max(len(before), len(after)) for before, after in zip(written.controls, answers, strict=True)])
    values = own_rank_values(session.data[written.rows].ln_cp10k(), lengths)
    symbols = session.sentences.symbols
    return values_at_ranks(written.controls, symbols, values), values_at_ranks(answers, symbols, values)


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictedSentences:
    """Predicted cell sentences of some rows."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    answers: list[ParsedSentence]
    """Parsed answers, in the order of `rows`."""

    texts: list[str]
    """Answers as the model wrote them."""

    controls: list[list[str]]
    """Genes of the prompts before any cut to the context, in the order of `rows`."""


def predict_sentences(
    session: Session,
    slots: Slots,
    *,
    sampling: Sampling,
    n_genes: int | None = None,
    guided: bool = True,
    vocabulary: Sequence[str] | None = None,
) -> PredictedSentences:
    """Predicted cell sentence of every row that has slots and genes.

    Parameters
    ----------
    slots
        One entry per cell: values for the task's slots, ``None`` to skip the cell.
    n_genes
        Maximum number of genes of prompt and answer; by default the number that the model was trained with.
    guided
        Only genes of the vocabulary, each at most once, as many as in the cell's prompt. Unguided answers are free
        text.
    vocabulary
        Genes that an answer may have; those of the sentences by default.

    Raises
    ------
    ValueError
        No cell to predict; or cells whose answers are sampled have the same name, and would have the same draws.
    """
    sentences = session.sentences
    length = session.genes_per_prompt(n_genes)
    rows = session.rows_to_predict(slots)
    if sampling.temperature > 0 and len(set(sentences.names[rows])) < len(rows):
        raise ValueError(
            "cell names must be unique where answers are drawn (temperature > 0), because a draw depends on the seed "
            "and the name: call adata.obs_names_make_unique() first"
        )
    limit = sentences.recipe.max_genes
    if n_genes is not None and limit is not None and n_genes > limit:
        logger.warning(
            "the sentences have %d genes at most, so n_genes=%d has no effect beyond that: set max_genes=%d, too",
            limit,
            n_genes,
            n_genes,
        )
    lists = sentences.gene_lists(length)
    prompts = session.prompts(
        rows,
        length=length,
        answer_genes=[len(lists[row]) for row in rows],
        slots=[slots[row] or {} for row in rows],
    )
    vocabulary = sentences.symbols if vocabulary is None else vocabulary
    texts = session.backend.generate(prompts, sampling, genes=vocabulary if guided else None)
    known = frozenset(vocabulary)
    return PredictedSentences(
        rows=rows,
        answers=[parse_sentence(text, known) for text in texts],
        texts=texts,
        controls=[list(lists[row]) for row in rows],
    )


def genes_that_fit(session: Session, vocabulary: Sequence[str], max_new_tokens: int) -> int:
    """Number of genes that fit into `max_new_tokens` at the vocabulary's mean tokens per gene, the same for every cell.

    At most the session's length.
    """
    mean = float(np.mean(session.backend.count_tokens([" " + gene for gene in vocabulary])))
    n_genes = max(1, math.floor(max_new_tokens / mean))
    return n_genes if session.length is None else min(n_genes, session.length)


def perturbation_slots(
    session: Session, perturbations: tuple[str | None, ...] | None, *, force: bool = False
) -> list[dict[str, str] | None]:
    """Slots of the perturbation task for each cell.

    Parameters
    ----------
    perturbations
        One per cell (:mod:`cell2sen.inference.responses.control_cells`); ``None`` takes those of the sentences.
    force
        Names that the model was not trained on are a warning, not an error.

    Raises
    ------
    ValueError
        No cell has a perturbation, or the model was not trained on one of the names.
    """
    values = session.sentences.perturbations if perturbations is None else perturbations
    require_perturbation(values)
    untreated = session.model.metadata.get("no_perturbation")
    names = sorted({value for value in values if value and value != untreated})
    require_known("perturbations", names, session.model, force=force)
    return [{"perturbation": value} if value else None for value in values]


def _warn_of_contexts(session: Session, basis: Mapping[str, Basis]) -> None:
    """Log a warning for each perturbation that was measured in other cells than most of these."""
    for name, of_name in basis.items():
        if of_name.unlike > 0.5:
            logger.warning(
                "%.0f %% of these cells are unlike those in which the response to %r was learned (%s): it may be "
                "another one here",
                100 * of_name.unlike,
                name,
                some(list(of_name.contexts)),
            )


def _perturbations(slots: Slots, rows: NDArray[np.int64]) -> list[str]:
    return [(slots[row] or {})["perturbation"] for row in rows]
