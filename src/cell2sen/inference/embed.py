"""Cell embeddings and gene-level attention maps of a session's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from cell2sen.backend import AttentionMap, Embeddings, Pooling
from cell2sen.inference.gene_part import Part, load_gene_part
from cell2sen.inference.session import Session
from cell2sen.sentences.gene_space import N_GENES


def embed_cells(
    session: Session,
    *,
    pooling: Pooling = "mean",
    hidden_layer: int = -1,
    attention_for: Sequence[int] = (),
    attention_layer: int = -1,
    parts: Sequence[Part] = ("network",),
) -> Embeddings:
    """Embeddings of all cells, in order; NaN for cells without genes.

    Parameters
    ----------
    pooling, attention_layer
        See :meth:`cell2sen.backend.Backend.embed`.
    hidden_layer
        `layer` of :meth:`cell2sen.backend.Backend.embed`.
    attention_for
        Row numbers of the cells whose gene-level attention is returned.
    parts
        Parts of the vectors (:func:`cell2sen.inference.gene_part.check_parts`).

    Returns
    -------
    Embeddings
        One entry per cell, cells without genes included; these have no attention map.
    """
    sentences = session.sentences
    gene_part = load_gene_part(session.model) if "genes" in parts else None
    if gene_part is not None and "network" not in parts and not len(attention_for):
        genes_used = np.minimum(sentences.n_genes, N_GENES)
        return Embeddings(vectors=gene_part.vectors(sentences, None), genes_used=genes_used, attention=None)
    rows = np.flatnonzero(sentences.n_genes > 0)
    prompt_of_row = {int(row): number for number, row in enumerate(rows)}
    embeddings = session.backend.embed(
        session.prompts(rows, length=session.length),
        pooling=pooling,
        layer=hidden_layer,
        attention_for=[prompt_of_row[row] for row in attention_for if row in prompt_of_row],
        attention_layer=attention_layer,
    )
    vectors = np.full((len(sentences), embeddings.vectors.shape[1]), np.nan, dtype=np.float32)
    vectors[rows] = embeddings.vectors
    genes_used = np.zeros(len(sentences), dtype=np.int64)
    genes_used[rows] = embeddings.genes_used
    maps: list[AttentionMap | None] = [None] * len(sentences)
    if embeddings.attention is not None:
        for row, attention_map in zip(rows, embeddings.attention, strict=True):
            maps[row] = attention_map
    if gene_part is not None:
        vectors = gene_part.vectors(sentences, vectors if "network" in parts else None)
    return Embeddings(vectors=vectors, genes_used=genes_used, attention=maps if len(attention_for) else None)


def attention_key(cell: str) -> str:
    """Key of a cell in ``uns["cell2sen"]["attention"]``: its name, percent-encoded where HDF5 does not allow it."""
    key = quote(cell, safe=" :|+")
    return key.replace(".", "%2E") if not key.strip(".") else key


def rows_of_cells(names: pd.Index[Any], cells: Sequence[str | int]) -> list[int]:
    """Row numbers of cells given by name or number, whose attention maps are stored.

    Raises
    ------
    KeyError, ValueError
        No such cell, or several of one name.
    """
    if isinstance(cells, str):
        raise ValueError(f"attention_for must be a list of cells, found the text {cells!r}: pass [{cells!r}]")
    rows = []
    for cell in cells:
        if isinstance(cell, str):
            if cell not in names:
                raise KeyError(f"there is no cell {cell!r}; the first cells are {list(names[:3])}")
            rows.append(int(np.flatnonzero(names == cell)[0]))
        else:
            if not 0 <= cell < len(names):
                raise ValueError(f"there is no cell number {cell}; numbers are 0 to {len(names) - 1}")
            rows.append(int(cell))
    if repeated := sorted(set(names[rows]) & set(names[names.duplicated()])):
        raise ValueError(
            f"attention maps are stored by cell name, but several cells have the names {repeated[:3]}: call "
            "adata.obs_names_make_unique() first"
        )
    return rows
