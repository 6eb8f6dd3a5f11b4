"""Tools for several batches: integrate, from cells to an integrated map and clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from cell2sen.inference.embed import embed_cells
from cell2sen.inference.gene_part import check_parts
from cell2sen.inference.integration.graph import GraphSettings, graph_of, order_of_cells, require_scanpy
from cell2sen.inference.integration.harmony import batches_of, harmony, require_harmony, scaled
from cell2sen.inference.options import Options
from cell2sen.inference.session import start
from cell2sen.tl.results import check_input, copied, record

if TYPE_CHECKING:
    from anndata import AnnData

#: Key of the embeddings that are computed here, and what is added to it for scaled and for corrected ones.
EMBEDDING, SCALED, CORRECTED = "X_cell2sen", "_scaled", "_harmony"


def integrate(
    adata: AnnData,
    batch: str | Sequence[str] | None = None,
    *,
    use_rep: str | None = None,
    n_neighbors: int = 15,
    resolution: float = 1.0,
    seed: int = 0,
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Embedding, batch correction by Harmony, neighbours, UMAP and Leiden in one call, under scanpy's keys.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed. Cells of several files:
        ``anndata.concat(files, join="inner", label="batch")``, which cuts genes to those that all files have.
    batch
        Column of obs with donors, technologies or other batches, or several columns. Differences between batches are
        taken out of the embedding (Harmony, Korsunsky et al. 2019). Default: none are.
    use_rep
        Key of obsm with an embedding that is there already: ``"X_cell2sen"`` of :func:`cell2sen.tl.embed`, whose
        dimensions are scaled to variance 1, or another one such as ``"X_pca"``, which is used as it is. Default: the
        cells are embedded.
    n_neighbors
        Neighbours of a cell in the graph.
    resolution
        Of Leiden (Traag et al. 2019): larger values give more clusters.
    seed
        Of Harmony, UMAP and Leiden.
    copy
        Write into a copy and return it.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`. Not used with
        `use_rep`.

    Returns
    -------
    ``None``, or the copy. Sets

    ``obsm["X_cell2sen"]``
        Embeddings, float32 (n, hidden), NaN for cells without genes; as :func:`cell2sen.tl.embed`.
    ``obsm["X_cell2sen_harmony"]``
        With `batch`: scaled and corrected, float32 (n, hidden); of another `use_rep`, its key with ``_harmony``.
    ``obsm["X_cell2sen_scaled"]``
        Without `batch`: scaled to mean 0 and variance 1 over the cells, float32 (n, hidden); not of another `use_rep`.
    ``obsp["distances"]``, ``obsp["connectivities"]``, ``uns["neighbors"]``
        Graph of neighbours, as of :func:`scanpy.pp.neighbors`.
    ``obsm["X_umap"]``, ``obs["leiden"]``
        Map, float32 (n, 2), and clusters, categorical, as of scanpy; with ``uns["umap"]`` and ``uns["leiden"]``.
    ``uns["cell2sen"]["integrate"]``
        Provenance: batches and numbers of cells in each, key of the embedding, settings.

    Raises
    ------
    KeyError
        No such column of obs or key of obsm; lists the available ones.
    ValueError
        Cells without a batch, one batch only, or too few cells.
    TypeError
        `adata` is no AnnData object, or an option does not exist.
    ImportError
        scanpy, igraph or, with `batch`, harmonypy is not installed.

    Notes
    -----
    Unlike an embedding, results depend on all cells that are there, though not on their order. Correction makes batches
    alike, and with them what is specific to one: cell types that only one batch has, or an effect of treatment if
    batches are treatments. Look at the uncorrected map (``batch=None``), too.
    """
    check_input(adata, copy=copy)
    settings = GraphSettings(n_neighbors=n_neighbors, resolution=resolution, seed=seed)
    columns = [batch] if isinstance(batch, str) else list(batch or ())
    require_scanpy()
    if batch is not None:
        require_harmony()
    batches = None if batch is None else batches_of(adata.obs, columns)
    if use_rep is not None:
        if use_rep not in adata.obsm:
            raise KeyError(f"obsm has no {use_rep!r} for use_rep=; available: {list(map(str, adata.obsm))}")
        vectors, provenance = np.asarray(adata.obsm[use_rep], dtype=np.float32), {}
    else:
        session = start(adata, "embed", options)
        parts = check_parts(None, session.model, is_default=True)
        vectors, provenance = embed_cells(session, parts=parts).vectors, session.provenance()
    source = key = use_rep or EMBEDDING
    names = [str(name) for name in adata.obs_names]
    order = order_of_cells(vectors, names)
    used = np.full_like(vectors, np.nan)
    used[order] = scaled(vectors[order]) if source == EMBEDDING else vectors[order]
    chosen: dict[str, object] = {"use_rep": source, "n_neighbors": n_neighbors, "resolution": resolution, "seed": seed}
    if batches is not None:
        used[order] = harmony(used[order], batches.iloc[order].reset_index(drop=True), seed)
        key = f"{source}{CORRECTED}"
        chosen |= {
            "batch": np.array(columns, dtype=object),
            "cells_per_batch": {name: batches[name].value_counts().to_frame("n_cells") for name in columns},
        }
    elif source == EMBEDDING:
        key = f"{source}{SCALED}"
    graph = graph_of(used, names, key, settings)
    adata = copied(adata) if copy else adata
    for name, values in {source: vectors, key: used}.items():
        if name != use_rep:
            adata.obsm[name] = values
    for name, matrix in graph.obsp.items():
        adata.obsp[name] = matrix
    adata.obsm["X_umap"] = graph.umap
    adata.obs["leiden"] = graph.leiden
    adata.uns.update(graph.uns)
    record(adata, "integrate", provenance | chosen | {"key": key, "n_clusters": len(graph.leiden.categories)})
    return adata if copy else None
