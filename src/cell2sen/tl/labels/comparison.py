"""Comparison of predicted labels with given ones: compare_labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cell2sen.backend import Backend
from cell2sen.inference.answers.agreement import Agreement, agreement
from cell2sen.inference.session import model_of
from cell2sen.inference.trained import trained_names
from cell2sen.model import EMBEDDED, Model
from cell2sen.tl.results import UNS

if TYPE_CHECKING:
    from anndata import AnnData


def compare_labels(
    adata: AnnData, column: str, *, key: str | None = None, model: str | Path | Model | Backend = EMBEDDED
) -> Agreement:
    """Agreement of the labels that :func:`cell2sen.tl.annotate` chose with a given column.

    Names that mean the same to the model count as one ("CD14+ Mono" and "CD14+ monocyte"; "T cell" and "CD4 T cell").
    For scores beside baselines, with intervals: :func:`cell2sen.evaluate`.

    Parameters
    ----------
    adata
        Annotated cells. Not changed.
    column
        ``obs`` column with the given labels.
    key
        ``key_added`` of :func:`cell2sen.tl.annotate`; by default that of its last call.
    model
        Model whose spellings of labels count as the same.

    Returns
    -------
    Agreement
        ``.share`` (0–1), ``.table`` (a row per given label), ``.text``.

    Raises
    ------
    KeyError
        No such column, or no annotation; lists the available ones.
    ValueError
        No cell has a given label.
    """
    record = adata.uns.get(UNS, {}).get("annotate", {})
    chosen = key or record.get("key")
    records = {record.get("key"): record, **record.get("results", {})}
    if chosen not in records or chosen not in adata.obs:
        raise KeyError(f"no labels of tl.annotate under {chosen!r}; available: {[name for name in records if name]}")
    if column not in adata.obs:
        raise KeyError(f"adata.obs has no column {column!r} to compare with; available: {list(adata.obs.columns)}")
    resolved = model_of({"model": model})
    labels = [str(label) for label in records[chosen]["labels"]]
    trained = tuple(trained_names(resolved, "labels"))
    return agreement(adata.obs[column], adata.obs[chosen], labels, trained, resolved.metadata.get("spellings") or {})
