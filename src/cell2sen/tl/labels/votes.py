"""Votes of clusters and unseen scores of annotated cells: columns of obs and records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen.inference.answers.columns import Annotation
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.novelty.training_density import load_density, unlike_training
from cell2sen.inference.session import Session
from cell2sen.inference.transfer.novelty import unseen_of_model
from cell2sen.inference.transfer.votes import Votes, expected_confusion, given_clusters, leiden_clusters, vote

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Where clusters are from, if they are no column of obs.
LEIDEN = "Leiden on the embedding"


def annotation_columns(
    adata: AnnData,
    session: Session,
    results: Sequence[Annotation],
    threshold: tuple[float, str],
    *,
    majority_voting: bool = False,
    cluster: str | None = None,
    unseen: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Columns of obs of each annotation, by its key, with votes and unseen scores; and the record of the votes.

    Parameters
    ----------
    threshold
        Probability below which a cell has no label, and what is written then.
    majority_voting, cluster, unseen
        As for :func:`cell2sen.tl.annotate`.

    Raises
    ------
    KeyError
        No such column of clusters; lists the available ones.
    ValueError
        The model has neither a density of its training cells nor a record of its held-out cells, for unseen scores.
    """
    written = {result.key: result.obs(*threshold) for result in results}
    density = load_density(session.model)
    if density is not None:
        scores_of_density = density.unseen(session.sentences)
        if text := unlike_training(scores_of_density, session.model.name):
            logger.warning("%s; unseen=True (--unseen) writes how unlike each cell is", text)
    if unseen:
        for result in results:
            written[result.key][f"{result.key}_unseen"] = (
                unseen_of_model(session.model, result.task.name, result.probabilities.probabilities)
                if density is None
                else scores_of_density
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
        votes = vote(clusters, list(written[result.key][result.key]), scores, confusion, scores > 0)
        written[result.key] |= votes.obs(result.key)
        records[result.key] = record_of_votes(votes, cluster)
    tables = {key: each["clusters"] for key, each in records.items()}
    if len(tables) == 1:
        return written, next(iter(records.values()))
    return written, {"clusters": tables, "clusters_of": cluster or LEIDEN}


def record_of_votes(votes: Votes, cluster: str | None) -> dict[str, Any]:
    """Table of the clusters, and where they are from, for ``uns``."""
    table = votes.table.copy()
    table["n_cells"] = table["n_cells"].astype(np.int64)
    return {"clusters": table, "clusters_of": cluster or LEIDEN}
