"""Tools for bulk samples: pseudobulk of groups of cells, and the composition of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import pandas as pd

from cell2sen.data.expression import Expression
from cell2sen.data.pseudobulk import obs_of, sum_groups, unit_of_sums, weighted_sums
from cell2sen.data.scale.units import ScaleName
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.groups.composition import (
    common_profiles,
    correlation,
    cosine,
    deconvolve,
    draw_mixtures,
    nearest_shares,
)
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.session import load_model, start

if TYPE_CHECKING:
    from anndata import AnnData

#: Key of the provenance in ``uns``, and of that of a table in ``attrs``.
UNS = "cell2sen"

#: Options that describe the matrix of the samples, not that of the reference.
MATRIX = ("layer", "use_raw", "symbols", "scale", "gene_table", "aliases")


def pseudobulk(
    adata: AnnData | str | Path,
    by: str | Sequence[str],
    *,
    min_cells: int = 1,
    layer: str | None = None,
    use_raw: bool = False,
    symbols: str | None = None,
    scale: ScaleName | None = None,
) -> AnnData:
    """Sums of the counts of groups of cells: one sample for each combination of values in obs columns.

    Parameters
    ----------
    adata
        Cells: AnnData, in memory or backed, or a file of any format that is read. Not changed. Cells are read in
        blocks.
    by
        obs columns whose values define the groups, such as donor and cell type. Cells with a missing value are in none.
    min_cells
        Groups with fewer cells are left out.
    layer, use_raw, symbols, scale
        As for other verbs: see :class:`cell2sen.inference.options.Options`. Logarithms are undone before values are
        added; values that are normalised, without counts behind them, are added as they are, so that each cell has the
        same weight. ``uns["cell2sen"]["pseudobulk"]["unit"]`` tells which.

    Returns
    -------
    AnnData of the groups, in the order of their first cells.

    ``X``
        Sums over all genes of the input, float64 CSR (groups, genes). Antibodies and other features that are no genes
        are empty.
    ``obs``
        The columns `by`, and ``n_cells``.
    ``var``
        As in the input.
    ``uns["cell2sen"]["pseudobulk"]``
        Provenance.

    Raises
    ------
    KeyError
        No such column or layer; lists the available ones.
    ValueError
        No column, no group with enough cells, or values that cannot be summed (scaled per gene, or arcsinh).
    """
    from anndata import AnnData
    from anndata.utils import make_index_unique

    columns = [by] if isinstance(by, str) else list(by)
    with Expression.open(adata, layer=layer, use_raw=use_raw, symbols=symbols, scale=scale) as expression:
        bulk = sum_groups(expression, columns, min_cells=min_cells)
        var, uns, recognised = expression.reader.var.copy(), dict(expression.reader.uns), expression.scale
    obs = obs_of(bulk, columns)
    obs.index = make_index_unique(obs.index) if not obs.index.is_unique else obs.index
    var.index = pd.Index([str(name) for name in var.index], dtype=object, name=var.index.name)
    if not var.index.is_unique:
        var.index = make_index_unique(var.index)
    result = AnnData(X=bulk.values, obs=obs, var=var)
    result.uns.update({key: uns[key] for key in ("organism", "species", "organism_ontology_term_id") if key in uns})
    result.uns[UNS] = {
        "pseudobulk": {
            "by": np.array(columns, dtype=object),
            "min_cells": min_cells,
            "scale": str(recognised),
            "unit": unit_of_sums(recognised),
            "n_cells": int(bulk.n_cells.sum()),
        }
    }
    return result


def compose(
    samples: AnnData | str | Path,
    cells: AnnData | str | Path,
    label: str,
    *,
    n_mixtures: int = 300,
    n_cells: int = 300,
    k: int = 5,
    min_cells: int = 10,
    seed: int = 0,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Populations in bulk samples: nearest mixtures of reference cells in the embedding, beside two simple methods.

    Mixtures of cells with known shares are drawn, summed and embedded like the samples. The shares of a sample are the
    mean of those of its `k` nearest mixtures by the cosine of the embeddings. A population that the reference lacks
    cannot be found: its cells are attributed to others.

    Parameters
    ----------
    samples
        Bulk samples: AnnData or a file of any format that is read, such as a table (CSV, TSV) with samples on either
        side, of counts, TPM, FPKM or their logarithms.
    cells
        Reference: single cells with labels.
    label
        obs column of `cells` with the population of each cell.
    n_mixtures
        Random mixtures, besides one pure sample of each population.
    n_cells
        Cells of a mixture.
    k
        Mixtures whose shares are averaged.
    min_cells
        Populations with fewer cells are left out.
    seed
        Seed of the mixtures.
    **options
        Model, genes, templates and speed: see :class:`cell2sen.inference.options.Options`. ``layer``, ``use_raw``,
        ``symbols`` and ``scale`` describe the samples; of `cells`, ``X`` is read.

    Returns
    -------
    A table with a row for each sample and population, in the order of the samples and of the share.

    ``sample``, ``population``
        Names.
    ``share``
        Share of the population's cells, by nearest mixtures, float64; sums to 1 over the populations.
    ``similarity``
        Cosine of the embeddings of the sample and of all cells of the population together, float64.
    ``correlation``
        Pearson's correlation of their ln(1 + CP10k) over the common genes, float64: the simple method for the same.
    ``share_nnls``
        Share by non-negative least squares over marker genes, float64: the simple method for the share.
    ``attrs["cell2sen"]["compose"]``
        Provenance.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        Fewer than two populations with enough cells, no common gene, or cells that cannot be summed.
    """
    from anndata import AnnData

    check_options(options)
    if min(n_mixtures, n_cells, k) < 1:
        raise ValueError(f"n_mixtures, n_cells and k must be at least 1, found {n_mixtures}, {n_cells}, {k}")
    backend = load_model(options)
    loaded = {name: value for name, value in options.items() if name not in ("revision", "dtype", "quantize")}
    given = cast("Options", {**loaded, "model": backend})
    reference = cast("Options", {name: value for name, value in given.items() if name not in MATRIX})
    with Expression.open(cells, case=backend.model.recipe.case) as expression:
        bulk = sum_groups(expression, [label], min_cells=min_cells)
        if len(bulk.keys) < 2:
            raise ValueError(
                f"obs[{label!r}] must have at least two populations of {min_cells} cells, found {bulk.keys}"
            )
        mixtures = draw_mixtures(bulk.rows, len(expression), n=n_mixtures, n_cells=n_cells, seed=seed)
        sums = weighted_sums(expression, mixtures.weights)
        mixed = AnnData(X=sums, var=expression.reader.var.copy())
        mixed.uns.update({key: value for key, value in expression.reader.uns.items() if key == "organism"})
    mixed.obs_names = [f"mixture {number}" for number in range(mixed.n_obs)]
    vectors = embed_cells(start(mixed, "embed", reference)).vectors
    with start(samples, "embed", given) as session:
        of_samples = embed_cells(session).vectors
    matrix: Any = {name: value for name, value in options.items() if name in MATRIX}
    with Expression.open(samples, case=backend.model.recipe.case, **matrix) as opened:
        linear, profiles = common_profiles(opened, bulk.values, expression)
    similarity = cosine(of_samples, vectors)
    populations = [key[0] for key in bulk.keys]
    n = len(populations)
    columns = {
        "share": nearest_shares(similarity, mixtures.shares, k),
        "similarity": similarity[:, :n],
        "correlation": correlation(linear, profiles),
        "share_nnls": deconvolve(linear, profiles, bulk.n_cells),
    }
    names = [str(name) for name in session.sentences.names]
    table = pd.DataFrame({"sample": np.repeat(names, n), "population": populations * len(names)})
    for name, values in columns.items():
        table[name] = values.ravel()
    table["_order"] = np.repeat(np.arange(len(names)), n)
    table = table.sort_values(["_order", "share", "similarity"], ascending=[True, False, False], kind="stable")
    table = table.drop(columns="_order").reset_index(drop=True)
    table.attrs[UNS] = {
        "compose": session.provenance(
            label=label, n_mixtures=n_mixtures, n_cells=n_cells, k=k, min_cells=min_cells, seed=seed
        )
    }
    return table
