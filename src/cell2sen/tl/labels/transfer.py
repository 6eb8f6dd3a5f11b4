"""Tools for a labelled reference: transfer of its labels to other cells, and votes of clusters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import pandas as pd

from cell2sen.data.files.formats import locate
from cell2sen.data.names.text import as_texts
from cell2sen.data.obs import obs_column
from cell2sen.inference.answers.columns import label_table, picked_labels
from cell2sen.inference.options import Options
from cell2sen.inference.transfer.classifiers import Method
from cell2sen.inference.transfer.features import FeatureName
from cell2sen.inference.transfer.labels import TransferSettings, transfer_labels
from cell2sen.inference.transfer.sides import open_sides
from cell2sen.inference.transfer.stored import stored_embeddings
from cell2sen.inference.transfer.terms import ENDING, terms_of_labels
from cell2sen.inference.transfer.votes import given_clusters, leiden_clusters, vote
from cell2sen.tl.labels.votes import record_of_votes
from cell2sen.tl.results import UNKNOWN, check_input, copied, record

if TYPE_CHECKING:
    from anndata import AnnData


def transfer(
    query: AnnData,
    reference: AnnData | str | Path,
    label: str,
    *,
    classifier: Method | Literal["auto", "model"] = "auto",
    features: FeatureName | Literal["auto"] = "auto",
    held_out_by: str | None = None,
    min_cells: int = 3,
    hidden_layer: int = -1,
    threshold: float = 0.0,
    majority_voting: bool = True,
    cluster: str | None = None,
    resolution: float | None = None,
    cache: str | Path | bool | None = None,
    reference_options: Mapping[str, Any] | None = None,
    key_added: str | None = None,
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Labels of a reference, carried over to the cells of a query.

    Genes are cut to those that both files and the model have. The model embeds both; a classifier is chosen by
    cross-validation on the reference, calibrated on its held-out cells, and applied to each cell of the query alone.

    Parameters
    ----------
    query
        Cells to label, as counts or log-normalised values; in memory or backed.
    reference
        Labelled cells: AnnData, or a file, which is read only.
    label
        Column of the reference's obs with the labels. Cells without one, and labels such as "unknown", are left out.
    classifier
        ``"logistic"`` (regression) or ``"neighbours"`` (the nearest 15). ``"auto"``: regression on both, unless
        another one has a clearly smaller log loss on held-out cells of the reference
        (:func:`cell2sen.inference.transfer.classifiers.choose`). ``"model"``: the model's own probabilities of the
        labels, for a model that was trained on the reference (:func:`cell2sen.training.fine_tune`).
    features
        ``"embedding"`` of the model, ``"expression"`` of variable genes (principal components for neighbours), or
        ``"both"``: the mean of the log-probabilities of two regressions. ``"auto"`` chooses, too.
    held_out_by
        Column of the reference's obs with donors or batches, which are held out as a whole. Recommended where there is
        one: scores and probabilities are then those of new donors.
    min_cells
        Labels of fewer reference cells are left out.
    hidden_layer
        Layer whose vectors are compared, as for :func:`cell2sen.tl.embed`. 1 with the embedded model, which has two,
        takes half the time, and carries labels over to another species clearly worse.
    threshold
        Cells whose most probable label is less probable than this are ``"unknown"``.
    majority_voting
        Label of most cells of each cluster, in addition. Depends on which cells are in the query.
    cluster
        Column of the query's obs with clusters. Default: Leiden on the embedding.
    resolution
        Of Leiden. Default: many small clusters, as in CellTypist
        (:func:`cell2sen.inference.transfer.votes.default_resolution`).
    cache
        Folder that keeps the embeddings of the reference, under a hash of its cells, the shared genes and the model.
        ``None``: beside a reference that is a file; ``True`` the same; ``False``: nowhere.
    reference_options
        Which values of the reference are read, and the names of its genes: ``layer``, ``use_raw``, ``symbols``,
        ``gene_table``, ``aliases``, ``organism``, ``scale``.
    key_added
        Key of the results. Default: ``"transferred_"`` and `label`.
    copy
        Write into a copy and return it.
    **options
        Model, matrix of the query, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    ``None``, or the copy. Sets

    ``obs[key_added]``, ``obs[key_added + "_score"]``
        Label, categorical, and its probability, float64; ``"unknown"`` below the threshold and for cells without genes.
    ``obs[key_added + "_ontology_term_id"]``
        Id of the label in the Cell Ontology: from the reference's column of that name (`label` and
        ``_ontology_term_id``), or of labels that are names of the ontology or usual spellings; missing for others.
    ``obs[key_added + "_distance"]``
        Distance to the 10th nearest reference cell in the embedding, float64.
    ``obs[key_added + "_unseen"]``
        Unseen-type score, float64: about the share of the reference cells that were more like its types when they were
        held out, by distances and the certainty of the label. Near 1 for cells of types that the reference does not
        have (:meth:`cell2sen.inference.transfer.novelty.Novelty.score`).
    ``obs[key_added + "_in_reference"]``
        Cells that are in the reference, by expression or name, bool. They are labelled without themselves.
    ``obs[key_added + "_cluster"]``, ``…_majority_voting``, ``…_majority_share``
        Cluster, label of most of its cells, and their share.
    ``obsm[key_added + "_probabilities"]``
        Probabilities, a DataFrame with a column per label, as of :func:`cell2sen.tl.annotate`;
        :func:`cell2sen.tl.probabilities` reads them.
    ``obsm["X_cell2sen_shared"]``
        Embeddings of that layer over the shared genes, float32 (n, hidden), for ``scanpy.pp.neighbors(use_rep=…)``.
    ``uns["cell2sen"]["transfer"]``
        Provenance; ``hidden_layer``; ``classifier`` and ``features`` that were chosen, ``held_out`` (their scores),
        ``candidates`` (those of all), ``clusters`` (a row per cluster, with ``types``: one or several,
        :func:`cell2sen.inference.transfer.votes.vote`).

    Raises
    ------
    ValueError
        Fewer than two labels, too few shared genes, or negative or infinite values.
    KeyError
        Unknown column or layer; lists the available ones.
    TypeError
        `query` is no AnnData object, or an option does not exist.
    ImportError
        scikit-learn is not installed; for votes without `cluster`, scanpy or igraph.

    Notes
    -----
    The result of a cell depends on that cell and on the reference, not on other cells of the query or their order; only
    the votes depend on its neighbours. The order of the reference does not matter, its cells do: more donors and
    technologies are worth more than more cells.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, found {threshold}")
    check_input(query, copy=copy)
    require_scikit_learn()
    settings = TransferSettings(
        label=label,
        classifier=classifier,
        features=features,
        held_out_by=held_out_by,
        min_cells=min_cells,
        hidden_layer=hidden_layer,
    )
    given = None if cluster is None or not majority_voting else given_clusters(query.obs, cluster)
    with open_sides(query, reference, options, reference_options) as sides:
        place = _cache_place(reference, cache)
        session = sides.reference.session
        stored = None if place is None else stored_embeddings(session, *place, hidden_layer=hidden_layer)
        result = transfer_labels(sides, settings, stored)
        provenance = sides.query.session.provenance()
    key = key_added or f"transferred_{label}"
    adata = copied(query) if copy else query
    columns, labels, scores = picked_labels(key, result.probabilities, threshold, UNKNOWN)
    if result.terms:
        columns[f"{key}{ENDING}"] = pd.Categorical([result.terms.get(name) for name in labels])
    columns |= {
        f"{key}_distance": result.distance,
        f"{key}_unseen": result.unseen,
        f"{key}_in_reference": result.in_reference,
    }
    settings_record = result.record | {"key": key, "threshold": threshold, "column": label}
    if majority_voting:
        if given is None:
            given = leiden_clusters(result.embedding, [str(name) for name in adata.obs_names], resolution=resolution)
        votes = vote(given, labels, scores, result.confusion, scores > 0)
        columns |= votes.obs(key)
        settings_record |= record_of_votes(votes, cluster)
    for name, values in columns.items():
        adata.obs[name] = values
    adata.obsm[f"{key}_probabilities"] = label_table(result.probabilities, adata.obs_names)
    adata.obsm["X_cell2sen_shared"] = result.embedding
    record(adata, "transfer", provenance | settings_record)
    return adata if copy else None


def ontology_ids(adata: AnnData, column: str, *, key_added: str | None = None) -> dict[str, str]:
    """Cell Ontology ids of the labels in a column of obs, written beside it.

    Parameters
    ----------
    adata
        Cells with labels.
    column
        Column of obs. Ids in ``obs[column + "_ontology_term_id"]`` are kept for their labels.
    key_added
        Column of the ids. Default: `column` and ``"_ontology_term_id"``.

    Returns
    -------
    Label → id, of labels that have one. Sets ``obs[key_added]``, missing where there is no id.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    """
    texts = as_texts(obs_column(adata.obs, column))
    terms = terms_of_labels(adata.obs, column, sorted({text for text in texts if text is not None}))
    adata.obs[key_added or f"{column}{ENDING}"] = pd.Categorical([terms.get(str(text)) for text in texts])
    return terms


def require_scikit_learn() -> None:
    """Raise an ImportError with a hint unless scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError("transfer of labels needs scikit-learn: pip install 'cell2sen[scanpy]'") from error


def _cache_place(reference: AnnData | str | Path, cache: str | Path | bool | None) -> tuple[Path, str] | None:
    """Folder and beginning of the name of stored embeddings; ``None``: they are not stored."""
    if cache is False:
        return None
    is_file = isinstance(reference, str | Path)
    file = locate(str(reference)).file if is_file else None
    if cache is None or cache is True:
        return None if file is None else (file.absolute().parent, file.name)
    return Path(cache), "reference" if file is None else file.name
