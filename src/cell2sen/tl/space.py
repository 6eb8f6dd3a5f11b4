"""Cells in space: graph of neighbours, held-out regions, niche, same neighbourhood or niche, a further neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.backend import SENTENCE_END, Sampling
from cell2sen.data.obs import text_column
from cell2sen.data.space.neighbourhoods import SPATIAL
from cell2sen.data.space.reading import Space, read_space
from cell2sen.data.space.regions import held_out_regions as split_by_space
from cell2sen.data.space.samples import SpaceSample
from cell2sen.inference.annotate import LabelProbabilities, check_labels, label_probabilities
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.session import start
from cell2sen.inference.space.answers import (
    YES_NO,
    expression_distances,
    generate_neighbours,
    pool_over_neighbours,
    samples_in_space,
    yes_probabilities,
)
from cell2sen.task import Task
from cell2sen.tl.results import UNIT, UNKNOWN, add_sentences, check_input, copied, record, sampling_record

if TYPE_CHECKING:
    from anndata import AnnData


class SpaceOptions(TypedDict, total=False):
    """Which cells are neighbours."""

    radius: float | None
    """Neighbours are all cells within this distance, in units of the coordinates."""

    k: int | None
    """Neighbours are the k nearest cells, and those as near as the last of them."""

    section: str | None
    """obs column of the section (slide) of each cell; neighbours are of one section."""

    coordinates: str
    """Key of the coordinates in ``obsm`` and of the graph in ``obsp``. Default: ``"spatial"``."""


class VerbOptions(Options, SpaceOptions, total=False):
    """Options of the verbs of space."""


def neighbourhoods(
    adata: AnnData,
    *,
    radius: float | None = None,
    k: int | None = None,
    section: str | None = None,
    coordinates: str = SPATIAL,
    copy: bool = False,
) -> AnnData | None:
    """Graph of neighbours in space, stored as by ``squidpy.gr.spatial_neighbors``.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm``.
    radius, k, section, coordinates
        See :class:`SpaceOptions`; either `radius` or `k`.
    copy
        Write into a copy and return it.

    Returns
    -------
    ``None``, or the copy. Sets ``obsp["spatial_connectivities"]`` (1 for each neighbour), ``obsp["spatial_distances"]``
    (units of the coordinates), both float64 CSR (cells, cells), and ``uns["spatial_neighbors"]``; the first word is the
    key of the coordinates.

    Raises
    ------
    KeyError
        No such coordinates or column; lists the available ones.
    ValueError
        Not exactly one of `radius` and `k`, or no cell with a neighbour.
    """
    check_input(adata, copy=copy)
    if (radius is None) == (k is None):
        raise ValueError(f"pass either radius or k, the number of nearest cells; found radius={radius} and k={k}")
    space = read_space(adata, radius=radius, k=k, section=section, coordinates=coordinates)
    adata = copied(adata) if copy else adata
    space.neighbourhoods.write(adata.obsp, adata.uns, coordinates)
    return adata if copy else None


def held_out_regions(
    adata: AnnData, *, share: float = 0.2, seed: int = 0, key_added: str = "region", **space: Unpack[SpaceOptions]
) -> None:
    """Split of the cells by blocks of space, with a margin as wide as a neighbourhood.

    Parameters
    ----------
    adata
        Cells with coordinates in ``obsm``.
    share
        Share of the cells of each section to hold out, about.
    seed
        Seed of the choice of blocks. ``split: {by: space}`` of a training draws the same ones.
    key_added
        Column of the result.
    **space
        See :class:`SpaceOptions`; by default the stored graph.

    Returns
    -------
    ``None``. Sets ``obs[key_added]``, categorical: ``"held out"``, ``"margin"`` (neighbours of held-out cells, which
    belong to neither side) or ``"training"``.
    """
    check_input(adata, copy=False)
    found = read_space(adata, **space)
    regions = split_by_space(found.coordinates, found.neighbourhoods, share=share, sections=found.sections, seed=seed)
    names = np.where(regions.held_out, "held out", np.where(regions.margin, "margin", "training"))
    adata.obs[key_added] = pd.Categorical(names, categories=["training", "held out", "margin"])


def niche(
    adata: AnnData,
    labels: str | Sequence[str] | None = None,
    *,
    pool: bool = False,
    threshold: float = 0.0,
    key_added: str = "cell2sen_niche",
    copy: bool = False,
    **options: Unpack[VerbOptions],
) -> AnnData | None:
    """Most probable niche (layer, region) of each cell of a tissue, from a closed set.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; with `pool` also coordinates in ``obsm``, or a graph in ``obsp``.
    labels
        Niches to choose from: a list, or one text, separated by semicolons. Default: those that the model was trained
        on.
    pool
        Average the log-probabilities over each cell and its neighbours.
    threshold
        Cells whose most probable niche is less probable than this are ``"unknown"``.
    key_added
        Key of the results.
    copy
        Write into a copy and return it.
    **options
        See :class:`SpaceOptions` and :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    ``None``, or the copy. Sets ``obs[key_added]``, ``obs[key_added + "_score"]``,
    ``obsm[key_added + "_probabilities"]`` and ``uns["cell2sen"]["annotate"]``, as :func:`cell2sen.tl.annotate`.
    """
    check_input(adata, copy=copy)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, found {threshold}")
    model_options, given = _split_options(options)
    space = read_space(adata, **given) if pool else None
    session = start(adata, "niche", model_options)
    found = label_probabilities(session, None if labels is None else check_labels(labels))
    values = found.probabilities
    if space is not None:
        values = pool_over_neighbours(values, space.neighbourhoods)
    pooled = LabelProbabilities(
        labels=found.labels, probabilities=values, temperature=found.temperature, calibrated=found.calibrated
    )
    picked, scores = pooled.pick(threshold, UNKNOWN)
    adata = copied(adata) if copy else adata
    used = set(picked)
    adata.obs[key_added] = pd.Categorical(
        picked, categories=[label for label in (*found.labels, UNKNOWN) if label in used]
    )
    adata.obs[f"{key_added}_score"] = scores
    adata.obsm[f"{key_added}_probabilities"] = pd.DataFrame(
        values, index=adata.obs_names, columns=[label.replace("/", "%2F") for label in found.labels]
    )
    provenance = session.provenance(
        labels=np.array(found.labels, dtype=object),
        threshold=threshold,
        temperature=found.temperature,
        calibrated=found.calibrated,
        key=key_added,
        pooled=pool,
        space={} if space is None else _record_of(space),
    )
    record(adata, "annotate", provenance)
    return adata if copy else None


def same_neighbourhood(adata: AnnData, *, n_cells: int = 5, seed: int = 0, **options: Unpack[VerbOptions]) -> AnnData:
    """Whether cells are of one neighbourhood: a question about each cell and its neighbours, and one about strangers.

    Each cell with neighbours gives two samples of the same size: with cells of its neighbourhood (true answer yes), and
    with cells of its section from outside of it (no).

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values, with coordinates in ``obsm`` or a graph in ``obsp``. Not changed.
    n_cells
        Largest number of cells of a sample, 2 to 20.
    seed
        Seed of the samples.
    **options
        See :class:`SpaceOptions` and :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A new AnnData with a row per sample, which :func:`cell2sen.evaluate` takes as both its arguments
    (``label="truth"``).

    ``obs``
        ``truth`` and ``cell2sen_same_neighbourhood`` (yes or no), ``cell2sen_same_neighbourhood_score`` (probability of
        that answer), ``centre``, ``cells`` (names, separated by tabs), ``n_cells``, ``expression_distance`` (mean of 1
        − Pearson correlation over the pairs of its cells).
    ``X``
        Expression of the sample: mean of its cells' CP10k as ln(1 + CP10k), float32 CSR.
    ``uns["cell2sen"]["annotate"]``, ``uns["cell2sen"]["samples"]``
        Provenance; what the rows are.

    Raises
    ------
    ValueError
        No neighbourhoods, or no cells outside of them.
    """
    return _questions(adata, "same_neighbourhood", None, n_cells=n_cells, seed=seed, options=options)


def same_niche(
    adata: AnnData, niche: str, *, n_cells: int = 5, seed: int = 0, **options: Unpack[VerbOptions]
) -> AnnData:
    """Whether cells are of one niche: a question about each cell and others of its niche, and one about strangers.

    Parameters
    ----------
    niche
        obs column with the niche of each cell; cells with a missing value are in no sample.
    adata, n_cells, seed, **options
        As for :func:`same_neighbourhood`.

    Returns
    -------
    As :func:`same_neighbourhood`, with ``cell2sen_same_niche``.
    """
    return _questions(adata, "same_niche", niche, n_cells=n_cells, seed=seed, options=options)


def neighbour(
    adata: AnnData,
    *,
    n_cells: int = 5,
    n_genes: int | None = None,
    guided: bool = True,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[VerbOptions],
) -> AnnData:
    """A further cell of the neighbourhood of each cell, generated from the cell and some of its neighbours.

    One neighbour of each cell is left out of the prompt; it is the truth that a generated cell is compared with.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values, with coordinates in ``obsm`` or a graph in ``obsp``. Not changed.
    n_cells
        Largest number of cells in a prompt, 1 to 19.
    n_genes
        Genes of each generated cell. Default: the number that the model was trained with.
    guided
        Only genes of this data set, each at most once. ``False``: free text.
    temperature, top_k, top_p, seed
        Sampling; temperature 0 is greedy. `seed` is also that of the samples.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        See :class:`SpaceOptions` and :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A new AnnData with a row per cell that has neighbours.

    ``X``, ``layers["context"]``
        Expression of the generated cell, and the mean of the cells in its prompt; ln(1 + CP10k), float32 CSR.
    ``obs``
        Columns of the cell whose neighbourhood it is, ``target`` (name of the neighbour that was left out), ``cells``
        (names of those in the prompt, separated by tabs), ``overlap`` (share of its genes that are among as many
        highest ones of the target), ``context_overlap`` (the same for the mean of the cells in the prompt, a baseline),
        ``nearest_overlap`` (for the first cell of the prompt, another), ``sentence``, ``validity``, ``uniqueness``,
        ``n_unknown``, ``n_repeated``.
    ``uns["cell2sen"]["generate"]``
        Provenance.
    """
    from anndata import AnnData

    check_input(adata, copy=True)
    model_options, given = _split_options(options)
    space = read_space(adata, **given)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    session = start(adata, "neighbour", model_options)
    samples = samples_in_space(session, space, n_cells=n_cells, seed=seed)
    answers = generate_neighbours(session, samples, sampling, n_genes=n_genes, guided=guided)
    assert session.data is not None
    context = _sample_means(session.data.ln_cp10k(), samples)
    obs = adata.obs.iloc[[sample.cells[0] for sample in samples]].copy()
    obs["target"] = adata.obs_names[[sample.target for sample in samples]]
    obs["cells"] = ["\t".join(adata.obs_names[sample.cells]) for sample in samples]
    lists = session.sentences.gene_names()
    symbols = session.sentences.symbols
    for name, others in (
        ("overlap", [answer.genes for answer in answers]),
        ("context_overlap", [_highest(context[row], symbols) for row in range(len(samples))]),
        ("nearest_overlap", [lists[int(sample.cells[0])] for sample in samples]),
    ):
        obs[name] = [
            _overlap(lists[int(sample.target or 0)], genes, len(answer.genes))
            for sample, genes, answer in zip(samples, others, answers, strict=True)
        ]
    add_sentences(obs, answers)
    result = AnnData(
        X=session.expression([answer.genes for answer in answers]),
        obs=obs,
        var=session.var(),
        layers={"context": context},
    )
    provenance = session.provenance(
        unit=UNIT, guided=guided, n_cells=n_cells, space=_record_of(space), **sampling_record(sampling)
    )
    record(result, "generate", provenance)
    return result


def _questions(
    adata: AnnData, name: str, niche_column: str | None, *, n_cells: int, seed: int, options: Any
) -> AnnData:
    """Samples of a question with yes or no, their true and their predicted answers."""
    from anndata import AnnData

    check_input(adata, copy=True)
    model_options, given = _split_options(options)
    task: Task = tasks.load(name)
    space = read_space(adata, **given)
    niches = None if niche_column is None else text_column(adata.obs, niche_column)
    session = start(adata, task, model_options)
    samples = samples_in_space(session, space, n_cells=n_cells, seed=seed, niches=niches)
    yes = yes_probabilities(session, samples)
    key = f"cell2sen_{task.target}"
    assert session.data is not None
    expression = session.data.ln_cp10k()
    centres = np.array([sample.cells[0] for sample in samples])
    obs = pd.DataFrame(
        {
            "truth": pd.Categorical([sample.answer for sample in samples], categories=list(YES_NO)),
            key: pd.Categorical(np.where(yes >= 0.5, *YES_NO), categories=list(YES_NO)),
            f"{key}_score": np.maximum(yes, 1 - yes),
            "centre": np.asarray(adata.obs_names[centres], dtype=object),
            "cells": ["\t".join(adata.obs_names[sample.cells]) for sample in samples],
            "n_cells": [len(sample.cells) for sample in samples],
            "expression_distance": expression_distances(expression, samples),
        },
        index=[f"{adata.obs_names[sample.cells[0]]}/{sample.answer}" for sample in samples],
    )
    result = AnnData(X=_sample_means(expression, samples), obs=obs, var=session.var())
    provenance = session.provenance(
        labels=np.array(YES_NO, dtype=object),
        key=key,
        n_cells=n_cells,
        seed=seed,
        niche=niche_column or "",
        space=_record_of(space),
    )
    record(result, "annotate", provenance)
    record(result, "samples", {"task": name, "unit": UNIT})
    return result


def _split_options(options: Any) -> tuple[Options, SpaceOptions]:
    """Options of the model and the matrix, and those of space."""
    names = SpaceOptions.__optional_keys__
    model_options: Any = {name: value for name, value in options.items() if name not in names}
    check_options(model_options)
    space: Any = {name: value for name, value in options.items() if name in names}
    return model_options, space


def _record_of(space: Space) -> dict[str, Any]:
    params = {name: "" if value is None else value for name, value in space.neighbourhoods.params.items()}
    return {**params, "mean_neighbours": float(space.neighbourhoods.n_neighbours.mean())}


def _sample_means(expression: sp.csr_matrix, samples: Sequence[SpaceSample]) -> sp.csr_matrix:
    """Mean CP10k of the cells of each sample, as ln(1 + CP10k), float32 CSR (samples, genes)."""
    cp10k = expression.copy()
    cp10k.data = np.expm1(cp10k.data)
    rows = np.repeat(np.arange(len(samples)), [len(sample.cells) for sample in samples])
    columns = np.concatenate([sample.cells for sample in samples])
    weights = np.concatenate([np.full(len(sample.cells), 1 / len(sample.cells)) for sample in samples])
    means = sp.csr_matrix(
        sp.csr_matrix((weights, (rows, columns)), shape=(len(samples), len(cp10k.indptr) - 1)) @ cp10k
    )
    means.data = np.log1p(means.data)
    return means.astype(np.float32)


def _highest(values: sp.csr_matrix, symbols: Sequence[str]) -> list[str]:
    """Genes of one row in descending order."""
    order: NDArray[Any] = np.argsort(-values.data, kind="stable")
    return [symbols[gene] for gene in values.indices[order]]


def _overlap(truth: Sequence[str], genes: Sequence[str], n: int) -> float:
    """Share of the first `n` genes of a sentence that are among the first `n` of the true one."""
    n = min(n, len(truth))
    return len(set(truth[:n]) & set(list(genes)[:n])) / n if n else 0.0
