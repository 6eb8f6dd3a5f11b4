"""Tools for cells: embed, annotate (and its probabilities), generate."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd

from cell2sen.backend import SENTENCE_END, Pooling, Sampling
from cell2sen.inference.annotate import check_labels, samples_of_cells
from cell2sen.inference.answers.columns import annotate_cells, tasks_to_annotate
from cell2sen.inference.counts.measured_cells import counts_of, most_similar, refuse_without_counts
from cell2sen.inference.counts.thinning import predicted_counts
from cell2sen.inference.embed import attention_key, embed_cells, rows_of_cells
from cell2sen.inference.gene_part import check_parts
from cell2sen.inference.generate import check_cell_types, generate_cells, generation_session
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.session import Session, model_of, start
from cell2sen.task import Task
from cell2sen.tl.labels.votes import Limits, annotation_columns
from cell2sen.tl.results import (
    COUNTS_UNIT,
    UNIT,
    UNKNOWN,
    UNS,
    Output,
    add_sentences,
    check_input,
    check_output,
    copied,
    record,
    sample_names,
    sampling_record,
)

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    adata: AnnData,
    *,
    pooling: Pooling = "mean",
    hidden_layer: int = -1,
    attention_for: Sequence[str | int] = (),
    attention_layer: int = -1,
    parts: str | Sequence[str] | None = None,
    adapt: float | None = None,
    key_added: str = "X_cell2sen",
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Cell embeddings, written to ``obsm``.

    On tissues that the model was not trained on, principal components of the cells themselves keep types apart better
    (a former edition of the embedded model on mouse cortex and a lung tumour, docs/explanation/limits.md). `adapt`
    narrows this.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    pooling
        Mean over all tokens of the prompt (``"mean"``), over gene tokens only (``"genes"``), or the ``"last"`` token.
    hidden_layer
        -1: after the last layer and its norm. k ≥ 0: after k layers, before any final norm.
    attention_for
        Cells, by name or number, whose gene-level attention is stored.
    attention_layer
        0-based layer of the attention maps; negative values count from the end.
    parts
        ``"network"``, ``"genes"`` or both: the vector of the network, and a fixed projection of the cell's gene ranks,
        for models that were trained with ``card.gene_part``. Of both, each is scaled to mean norm 1 over the training
        cells, and counts alike. Default: what the model has, of the default pooling and layer.
    adapt
        Minutes of training on these cells, without labels, before they are embedded (:func:`cell2sen.adapt`). Then
        vectors depend on all cells that are there, and are comparable among themselves only. Default: none.
    key_added
        Key of the result in ``obsm``.
    copy
        Write into a copy and return it.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    ``None``, or the copy. Sets

    ``obsm[key_added]``
        Embeddings, float32 (n, hidden), with both parts (n, hidden + dimensions of the gene part); NaN for cells
        without genes.
    ``uns["cell2sen"]["embed"]``
        Provenance; under ``adaptation`` the steps, settings and losses of an adaptation.
    ``uns["cell2sen"]["attention"][cell]``
        For the cells in `attention_for`: ``genes``, and ``map``, float32 (heads, genes, genes), rows sum to at most 1.
        Characters of names that HDF5 keys cannot have are percent-encoded, such as ``%2F`` for ``/``.

    Raises
    ------
    ValueError
        Negative or infinite values, no gene symbols, unknown pooling, hidden layer or parts, parts that the model does
        not have, or names of attention cells that are not unique.
    KeyError
        Unknown cell, ``layer`` or column; lists the available ones.
    TypeError
        `adata` is no AnnData object, or an option does not exist.
    """
    check_input(adata, copy=copy)
    rows = rows_of_cells(adata.obs_names, attention_for)
    with _adapted(adata, adapt, options) as chosen_options:
        session = start(adata, "embed", chosen_options)
        chosen = check_parts(parts, session.model, is_default=pooling == "mean" and hidden_layer == -1)
        embeddings = embed_cells(
            session,
            pooling=pooling,
            hidden_layer=hidden_layer,
            attention_for=rows,
            attention_layer=attention_layer,
            parts=chosen,
        )
    adata = copied(adata) if copy else adata
    adata.obsm[key_added] = embeddings.vectors
    settings: dict[str, Any] = {"pooling": pooling, "hidden_layer": hidden_layer, "key": key_added}
    if chosen != ("network",):
        settings["parts"] = np.array(chosen, dtype=object)
    if embeddings.attention is not None:
        settings["attention_layer"] = attention_layer
    if adapt is not None:
        settings["adaptation"] = _without_none(session.model.metadata["adaptation"])
    record(adata, "embed", session.provenance(**settings))
    adata.uns[UNS].pop("attention", None)  # an earlier call may have used another model
    if embeddings.attention is not None:
        maps = {adata.obs_names[row]: embeddings.attention[row] for row in rows}
        adata.uns[UNS]["attention"] = {
            attention_key(str(name)): {
                "genes": np.array(attention_map.genes, dtype=object),
                "map": attention_map.array,
            }
            for name, attention_map in maps.items()
            if attention_map is not None
        }
    return adata if copy else None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values without ``None``, which HDF5 files do not have."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


@contextlib.contextmanager
def _adapted(adata: AnnData, minutes: float | None, options: Options) -> Iterator[Options]:
    """Options with a model that was adapted to the cells, in a temporary folder; without `minutes` those given."""
    if minutes is None:
        yield options
        return
    import cell2sen  # training is above this module

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{model_of(options).name.replace('/', '-')}-adapted"
        adapted = cell2sen.adapt(adata, path, minutes=minutes, **options)
        kept = {name: value for name, value in options.items() if name not in ("model", "revision", "dtype")}
        with_model: Any = {**kept, "model": adapted}
        yield with_model


def annotate(
    adata: AnnData,
    labels: str | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    task: str | Task | Sequence[str | Task] | None = None,
    sample_by: str | Sequence[str] | None = None,
    n_cells: int = 10,
    distinct: bool = False,
    seed: int = 0,
    threshold: float = 0.0,
    majority_voting: bool = False,
    cluster: str | None = None,
    unseen: bool = False,
    unseen_above: float | None = None,
    none_of_these: bool = False,
    key_added: str | None = None,
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Most probable label of each cell or sample, from a closed set; or a number, with an interval.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    labels
        Labels or numbers to choose from: a list, or one text, separated by semicolons; for several columns ``{column:
        labels}``. Default: those that the model was trained on.
    task
        ``"annotate"`` for the cell type, ``"identify"`` for the perturbation of each cell (`labels` are then
        perturbations), ``"tissue"`` for the tissue of samples of cells, ``"sample_cell_types"`` for the type of each
        cell, read together with the other cells of its sample, ``"label:COLUMN"`` or ``"number:COLUMN"`` for any column
        of obs (disease, sex, age), ``"joint:COLUMN+COLUMN"`` for several in one answer, each conditional on those
        before it. The column's name is enough if the model was trained on it. A list: several tasks, for which each
        cell is read once. Default: the cell type, or else all columns that the model was trained on.
    sample_by
        For tasks that read several cells (``"tissue"``, ``"sample_cell_types"``): obs columns whose values all cells of
        a sample share, such as the donor. Each such group is split at random into samples; cells with a missing value
        are in none.
    n_cells
        Target number of cells per sample; the samples of a group are of equal size (plus or minus one).
    distinct
        For ``"sample_cell_types"``: the cells of a sample get different labels, those with the highest product of
        probabilities (:func:`cell2sen.inference.samples.labels.label_cells`).
    seed
        Seed of the split into samples.
    threshold
        Cells whose most probable label is less probable than this are ``"unknown"``. 0.5 leaves out labels that are
        more likely wrong than right.
    majority_voting, cluster
        Label of most cells of each cluster, in addition, as :func:`cell2sen.tl.transfer` writes it. `cluster` is a
        column of obs with clusters; without it, Leiden on the embedding, for which the cells are read once more.
    unseen
        Add ``obs[key_added + "_unseen"]``: the share of the model's held-out cells that are more like its training
        cells, for models that :func:`cell2sen.training.train` has written with a density of these; for others the share
        that were more certain. If most cells are above 0.95, a warning is given with and without this.
    unseen_above
        Cells with a higher unseen score are ``"unknown"``, and the scores are added. 0.95 does this to about 5 % of
        cells that are like those of the training. Default: none.
    none_of_these
        Single cells with `labels`: read each cell once more (the time of an annotation with all of the model's labels),
        add ``obs[key_added + "_none_of_these"]``, the probability of those labels of the model that were not offered
        and mean something else, and write ``"unknown"`` where it is above 0.5. Without it 64 cells are read once more,
        and a warning is given if more than a tenth of them are of other types.
    key_added
        Key of the results of one column. Default: ``"cell2sen_cell_type"``, for others ``"cell2sen_"`` and their name.
    copy
        Write into a copy and return it.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    ``None``, or the copy. Sets, for each task and each column of a joint answer,

    ``obs[key_added]``, ``obs[key_added + "_score"]``
        Label, categorical, and its probability, float64; the product over a joint answer is that of the whole. Beyond
        the limits the label is ``"unknown"``; for cells without genes or in no sample, too, whose probability is 0.
    ``obs[key_added]``, ``obs[key_added + "_low"]``, ``obs[key_added + "_high"]``
        Of a number: expected value and the interval with 90 % of the probability, float64; NaN for cells without genes.
    ``obsm[key_added + "_probabilities"]``
        Probabilities, a DataFrame with a column per label, in the order of ``uns["cell2sen"]["annotate"]["labels"]``;
        NaN for cells without genes or in no sample. ``/`` in names of columns is written ``%2F``, since keys of HDF5
        cannot have it; :func:`probabilities` returns them under the labels.
    ``obs[key_added + "_sample"]``
        With `sample_by`: sample of the cell, named after the sample's first cell; missing for cells in no sample.
    ``uns["cell2sen"]["annotate"]``
        Provenance. ``calibrated`` is true for models whose probabilities were calibrated on held-out cells. Of several
        columns that of the first, and of all in ``"results"``, by key.

    Raises
    ------
    ValueError
        Fewer than two labels, a label twice, two labels with the same meaning, a threshold that is no probability, no
        samples for a task that reads them, no group with enough cells, or negative or infinite values.
    KeyError
        Unknown ``layer`` or column; lists the available ones.
    TypeError
        `adata` is no AnnData object, or an option does not exist.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, found {threshold}")
    if unseen_above is not None and not 0 <= unseen_above <= 1:
        raise ValueError(f"unseen_above must be a score between 0 and 1, found {unseen_above}")
    check_input(adata, copy=copy)
    check_options(options)
    tasks = tasks_to_annotate(task, model_of(options))
    if labels is not None and not isinstance(labels, Mapping) and tasks[0].answer in ("label", "labels"):
        labels = check_labels(labels)
    columns = [sample_by] if isinstance(sample_by, str) else list(sample_by or ())
    session = start(adata, tasks[0], options, obs_columns=columns)
    samples = samples_of_cells(session, columns, n_cells=n_cells, seed=seed) if columns else None
    results = annotate_cells(session, tasks, labels, key=key_added, samples=samples, distinct=distinct)
    written, voted = annotation_columns(
        adata,
        session,
        results,
        Limits(
            threshold=threshold,
            unseen_above=unseen_above,
            offered=None if labels is None or isinstance(labels, Mapping) else tuple(labels),
            none_of_these=none_of_these,
            abstain=UNKNOWN,
        ),
        majority_voting=majority_voting,
        cluster=cluster,
        unseen=unseen,
    )
    adata = copied(adata) if copy else adata
    for result in results:
        for name, values in written[result.key].items():
            adata.obs[name] = values
        adata.obsm[f"{result.key}_probabilities"] = result.table(adata.obs_names)
        if samples is not None:
            adata.obs[f"{result.key}_sample"] = sample_names(adata, samples)
    sampled = {"sample_by": np.array(columns, dtype=object), "n_cells": n_cells, "seed": seed, "distinct": distinct}
    provenance = session.provenance(
        **results[0].record(threshold),
        **({"results": {result.key: result.record(threshold) for result in results}} if len(results) > 1 else {}),
        **({} if samples is None else sampled),
        **({} if unseen_above is None else {"unseen_above": unseen_above}),
        **({"none_of_these": True} if none_of_these else {}),
        **voted,
    )
    record(adata, "annotate", provenance)
    return adata if copy else None


def probabilities(adata: AnnData, key: str | None = None) -> pd.DataFrame:
    """Probabilities that :func:`annotate` or :func:`cell2sen.tl.transfer` stored, under the labels: cells × labels.

    Parameters
    ----------
    adata
        Annotated cells, also read from a file.
    key
        ``key_added`` of that call; by default that of the last call of :func:`annotate`, or else of
        :func:`cell2sen.tl.transfer`.

    Raises
    ------
    KeyError
        `adata` has no such probabilities.
    """
    verbs = adata.uns.get(UNS, {})
    transferred = verbs.get("transfer", {})
    record = verbs.get("annotate", transferred)
    name = f"{key or record.get('key')}_probabilities"
    if name not in adata.obsm:
        raise KeyError(
            f"adata.obsm has no {name!r}, which tl.annotate or tl.transfer writes; available: {list(adata.obsm.keys())}"
        )
    stored: Any = adata.obsm[name]
    labels = [str(column).replace("%2F", "/") for column in stored.columns]
    records = {transferred.get("key"): transferred, record.get("key"): record, **record.get("results", {})}
    if (chosen := records.get(key or record.get("key"))) is not None:
        labels = list(map(str, chosen["labels"]))
    return pd.DataFrame(np.asarray(stored), index=adata.obs_names, columns=labels)


def generate(
    cell_type: str | Sequence[str],
    *,
    n: int = 100,
    genes: AnnData | str | Path | Sequence[str] | None = None,
    n_genes: int | None = None,
    candidates: int = 1,
    output: Output = "expression",
    guided: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[Options],
) -> AnnData:
    """Generated cells of given types.

    Parameters
    ----------
    cell_type
        Labels: a list, or one text, separated by semicolons.
    n
        Cells per label.
    genes
        Genes that the cells may have: symbols, or an AnnData object or file, of which the genes, the rank fit and the
        organism are used. Default: the model's own list.
    n_genes
        Genes of each cell. Default: the number that the model was trained with.
    candidates
        Sentences drawn for each cell, of which one is kept, in proportion to the probability of the cell's type by
        :func:`annotate`: cells match their type more often, at so many times the cost. 1 for models without labels.
    output
        ``"counts"``: ``X`` has whole-number counts and ``layers["expression"]`` the expression. Behind each drawn cell
        stands the measured cell of `genes` (which must be an AnnData or a file with counts) that correlates best with
        it, named in ``obs["measured_cell"]``; its counts are thinned and scaled to the drawn expression, with its sum.
    guided
        Only these genes, each at most once. ``False``: free text.
    temperature, top_k, top_p, seed
        Sampling; temperature 0 is greedy. A cell's draw depends on the seed, its label and its number alone.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        ``organism``: that of the generated cells, by default that of the AnnData in `genes`, else human. For the other
        options see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    AnnData of `n` cells per label.

    ``X``
        Expression (or counts), float32 CSR, ln(1 + CP10k).
    ``var``
        Names and columns of `genes`, if that is data, and ``symbol``, the model's name of each gene.
    ``obs``
        ``cell_type``, ``sentence``, ``validity`` (share of its words that are genes), ``uniqueness`` (share of these
        that are named for the first time), ``n_unknown``, ``n_repeated``.
    ``uns["cell2sen"]["generate"]``
        Provenance.

    Raises
    ------
    ValueError
        No cell type or one twice, more genes than there are, genes that the model cannot write, or several organisms.
    TypeError
        An option does not exist.
    """
    from anndata import AnnData

    check_options(options)
    check_output(output)
    cell_types = check_cell_types(cell_type, n, n_genes, candidates)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    session, organism = generation_session(genes, options)
    if output == "counts":
        refuse_without_counts(session.data, "measured cells in genes=")
    cells = generate_cells(
        session,
        cell_types,
        n=n,
        organism=organism,
        sampling=sampling,
        guided=guided,
        n_genes=n_genes,
        candidates=candidates,
    )
    obs = pd.DataFrame({"cell_type": pd.Categorical(cells.cell_types)}, index=cells.names)
    add_sentences(obs, cells.answers)
    result = AnnData(X=cells.expression, obs=obs, var=session.var())
    if output == "counts" and isinstance(genes, str | Path):
        with start(genes, "generate", options) as reopened:
            add_counts(result, reopened, seed)
    elif output == "counts":
        add_counts(result, session, seed)
    provenance = session.provenance(
        unit=COUNTS_UNIT if output == "counts" else UNIT,
        guided=guided,
        n_genes=cells.n_genes,
        candidates=candidates,
        organism=organism,
        **sampling_record(sampling),
    )
    record(result, "generate", provenance)
    return result


def add_counts(drawn: AnnData, session: Session, seed: int) -> None:
    """Counts of the most similar measured cells, moved to the drawn expression, in `drawn`."""
    data = session.data
    if data is None:  # refused before
        return
    rows = most_similar(data, drawn.X)
    drawn.layers["expression"] = drawn.X
    keys = list(map(str, drawn.obs_names))
    drawn.X = predicted_counts(counts_of(data, rows), drawn.X, keys, session.sentences.symbols, seed=seed)
    drawn.obs["measured_cell"] = data.names[rows]
