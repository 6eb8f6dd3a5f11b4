"""Answers to the spatial questions, labels pooled over neighbours, generated neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from cell2sen.answer import ParsedSentence, parse_sentence
from cell2sen.backend import Sampling
from cell2sen.data.space.neighbourhoods import Neighbourhoods
from cell2sen.data.space.reading import Space
from cell2sen.data.space.samples import SpaceCells, SpaceSample, draw_samples
from cell2sen.inference.session import DEFAULT_GENES, Session

#: Answers to questions, in the order of their probabilities.
YES_NO = ("yes", "no")


def samples_in_space(
    session: Session,
    space: Space,
    *,
    n_cells: int,
    seed: int = 0,
    niches: NDArray[np.object_] | None = None,
    centres: NDArray[np.int64] | None = None,
) -> list[SpaceSample]:
    """Samples of the session's cells for its task (:func:`cell2sen.data.space.samples.draw_samples`).

    Raises
    ------
    ValueError
        The task has no samples in space, or another number of cells.
    """
    task = session.task
    if task.space is None or task.cells is None:
        raise ValueError(f"task {task.name!r} has no samples of cells in space")
    fewest, most = task.cells
    if not fewest <= n_cells <= most:
        raise ValueError(f"task {task.name!r} reads {fewest} to {most} cells, found n_cells={n_cells}")
    cells = SpaceCells(
        names=[str(name) for name in session.sentences.names],
        neighbourhoods=space.neighbourhoods,
        usable=session.sentences.n_genes > 0,
        sections=space.sections,
        niches=niches,
    )
    return draw_samples(
        task.space, cells, n_cells=n_cells, seed=seed, centres=centres, missing_niches="the obs column of the niche"
    )


def yes_probabilities(session: Session, samples: Sequence[SpaceSample]) -> NDArray[np.float64]:
    """Probability of yes for each sample, float64 (samples,): softmax over the log-likelihoods of yes and no."""
    task = session.task
    prompts = session.prompts([sample.cells for sample in samples], length=session.length)
    slots: list[dict[str, Any]] = [{str(task.target): word} for word in YES_NO]
    answers = [task.complete(**values) for values in slots]
    return np.asarray(softmax(session.backend.score(prompts, answers), axis=1)[:, 0], dtype=np.float64)


def pool_over_neighbours(probabilities: NDArray[np.float64], neighbourhoods: Neighbourhoods) -> NDArray[np.float64]:
    """Probabilities of labels from each cell and its neighbours: softmax of the mean of their log-probabilities.

    Parameters
    ----------
    probabilities
        float64 (cells, labels); rows of NaN (cells without genes) are left out of the means.

    Returns
    -------
    float64 (cells, labels), NaN where neither the cell nor a neighbour has probabilities.
    """
    known: NDArray[np.bool_] = np.asarray(np.isfinite(probabilities).all(axis=1))
    logs = np.where(known[:, None], np.log(np.clip(np.nan_to_num(probabilities), 1e-12, None)), 0.0)
    links = sp.csr_matrix(neighbourhoods.connectivities + sp.eye(len(known), format="csr"))
    n_known = np.asarray(links @ known[:, None].astype(np.float64)).ravel()
    means = np.asarray(links @ logs) / np.maximum(n_known, 1)[:, None]
    return np.where(n_known[:, None] > 0, np.exp(log_softmax(means, axis=1)), np.nan)


def generate_neighbours(
    session: Session,
    samples: Sequence[SpaceSample],
    sampling: Sampling,
    *,
    n_genes: int | None = None,
    guided: bool = True,
) -> list[ParsedSentence]:
    """Sentence of a further cell for each sample; by default with as many genes as a cell in the prompt has."""
    symbols = session.sentences.symbols
    length = min(n_genes or session.length or DEFAULT_GENES, len(symbols))
    prompts = session.prompts(
        [sample.cells for sample in samples],
        length=session.length,
        answer_genes=[length] * len(samples),
    )
    known = frozenset(symbols)
    texts = session.backend.generate(prompts, sampling, genes=symbols if guided else None)
    return [parse_sentence(text, known) for text in texts]


def expression_distances(expression: sp.csr_matrix, samples: Sequence[SpaceSample]) -> NDArray[np.float64]:
    """Mean of 1 − Pearson correlation over the pairs of cells of each sample, float64 (samples,).

    Parameters
    ----------
    expression
        ln(1 + CP10k), CSR (cells, genes). Cells without variance correlate with none.
    """
    n = expression.shape[1]
    means = np.asarray(expression.mean(axis=1)).ravel()
    squares = np.asarray(expression.multiply(expression).mean(axis=1)).ravel()
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    distances = np.zeros(len(samples))
    for place, sample in enumerate(samples):
        rows = sample.cells
        products = (expression[rows] @ expression[rows].T).toarray() / n - np.outer(means[rows], means[rows])
        scales = np.outer(deviations[rows], deviations[rows])
        correlations = np.divide(products, scales, out=np.zeros_like(scales), where=scales > 0)
        distances[place] = np.mean(1 - correlations[np.triu_indices(len(rows), 1)])
    return distances
