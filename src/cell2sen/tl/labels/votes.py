"""Votes of clusters and unseen scores of annotated cells: columns of obs and records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.inference.answers.columns import Annotation
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.novelty.offered_labels import MAX_PROBABILITY, none_of_these, sampled_rows
from cell2sen.inference.novelty.training_density import MAX_UNSEEN, load_density, unlike_training
from cell2sen.inference.session import Session
from cell2sen.inference.transfer.novelty import unseen_of_model
from cell2sen.inference.transfer.votes import Votes, expected_confusion, given_clusters, leiden_clusters, vote

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Where clusters are from, if they are no column of obs.
LEIDEN = "Leiden on the embedding"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits beyond which a cell has no label."""

    threshold: float = 0.0
    """Probability of the most probable label, at least."""

    unseen_above: float | None = None
    """Unseen score, at most; ``None``: any."""

    offered: tuple[str, ...] | None = None
    """Labels that were offered instead of the model's own."""

    none_of_these: bool = False
    """Whether cells for which none of the offered labels fits have no label; otherwise a warning tells their share."""

    abstain: str = "unknown"
    """What is written instead of a label."""


def annotation_columns(
    adata: AnnData,
    session: Session,
    results: Sequence[Annotation],
    limits: Limits,
    *,
    majority_voting: bool = False,
    cluster: str | None = None,
    unseen: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Columns of obs of each annotation, by its key, with votes and unseen scores; and the record of the votes.

    Parameters
    ----------
    limits
        Where a cell has no label. :attr:`Limits.unseen_above` and :attr:`Limits.none_of_these` write the scores, too.
    majority_voting, cluster, unseen
        As for :func:`cell2sen.tl.annotate`.

    Raises
    ------
    KeyError
        No such column of clusters; lists the available ones.
    ValueError
        The model has neither a density of its training cells nor a record of its held-out cells, for unseen scores.
    """
    written = {result.key: result.obs(limits.threshold, limits.abstain) for result in results}
    unknown = _add_unseen(session, results, written, limits, unseen=unseen)
    for key, cells in _add_none_of_these(session, results, written, limits).items():
        unknown[key] = unknown[key] | cells
    for result in results:
        if result.bins is None and unknown[result.key].any():
            written[result.key][result.key] = _without_label(
                written[result.key][result.key], unknown[result.key], limits
            )
    if not (majority_voting or cluster is not None):
        return written, {}
    if cluster is not None:
        clusters = given_clusters(adata.obs, cluster)
    else:
        vectors = embed_cells(session.with_task("embed")).vectors
        clusters = leiden_clusters(vectors, [str(name) for name in adata.obs_names])
    records = {}
    for result in results:
        if result.bins is not None:
            continue
        found = result.probabilities
        scores = np.nan_to_num(found.probabilities).max(axis=1)
        confusion = expected_confusion(found.labels, found.probabilities)
        votes = vote(
            clusters, list(written[result.key][result.key]), scores, confusion, (scores > 0) & ~unknown[result.key]
        )
        written[result.key] |= votes.obs(result.key)
        records[result.key] = record_of_votes(votes, cluster)
    tables = {key: each["clusters"] for key, each in records.items()}
    if len(tables) == 1:
        return written, next(iter(records.values()))
    return written, {"clusters": tables, "clusters_of": cluster or LEIDEN}


def _add_unseen(
    session: Session, results: Sequence[Annotation], written: dict[str, dict[str, Any]], limits: Limits, *, unseen: bool
) -> dict[str, NDArray[np.bool_]]:
    """Add the columns of unseen scores, and warn of them; returns the cells above the limit, bool (cells,), by key."""
    density = load_density(session.model)
    of_density = None if density is None else density.unseen(session.sentences)
    if of_density is not None and (text := unlike_training(of_density, session.model.name)):
        hint = (
            f". unseen=True (--unseen) writes how unlike each cell is, unseen_above={MAX_UNSEEN} "
            f"(--unseen-above {MAX_UNSEEN}) leaves out their labels"
        )
        logger.warning("%s%s", text, "" if np.isnan(of_density).all() else hint)
    beyond = {result.key: np.zeros(len(session.sentences), dtype=bool) for result in results}
    if not unseen and limits.unseen_above is None:
        return beyond
    for result in results:
        scores = of_density
        if scores is None:
            scores = unseen_of_model(session.model, result.task.name, result.probabilities.probabilities)
        written[result.key][f"{result.key}_unseen"] = scores
        if limits.unseen_above is not None:
            beyond[result.key] = np.nan_to_num(scores) > limits.unseen_above
    return beyond


def _add_none_of_these(
    session: Session, results: Sequence[Annotation], written: dict[str, dict[str, Any]], limits: Limits
) -> dict[str, NDArray[np.bool_]]:
    """Warn of, or add, the probability that no offered label fits; returns the cells with more than 0.5, by key."""
    if limits.offered is None or len(results) > 1:
        return {}
    key, own = results[0].key, session.with_task(results[0].task)
    rows = None if limits.none_of_these else sampled_rows(own)
    found = none_of_these(own, limits.offered, rows)
    if found is None:
        return {}
    if text := found.warning(limits.offered, own.model.name):
        logger.warning(
            "%s. none_of_these=True (--none-of-these) leaves out the labels of these cells; labels=None chooses among "
            "all of the model's",
            text,
        )
    if rows is not None:
        return {}
    probability = np.full(len(own.sentences), np.nan)
    probability[own.sentences.n_genes > 0] = found.probability
    written[key][f"{key}_none_of_these"] = probability
    return {key: np.nan_to_num(probability) > MAX_PROBABILITY}


def _without_label(labels: pd.Categorical, cells: NDArray[np.bool_], limits: Limits) -> pd.Categorical:
    """Labels in which some cells have none."""
    values = np.where(cells, limits.abstain, np.asarray(labels, dtype=object))
    categories = [*labels.categories, *({limits.abstain} - set(labels.categories))]
    return pd.Categorical(values, categories=categories).remove_unused_categories()


def record_of_votes(votes: Votes, cluster: str | None) -> dict[str, Any]:
    """Table of the clusters, and where they are from, for ``uns``."""
    table = votes.table.copy()
    table["n_cells"] = table["n_cells"].astype(np.int64)
    return {"clusters": table, "clusters_of": cluster or LEIDEN}
