"""Tools for samples of several cells: generate_sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pandas as pd

from cell2sen.backend import Sampling
from cell2sen.inference.generate import generation_session
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.samples.generation import TASKS, generate_samples, origin_of
from cell2sen.tl.results import UNIT, add_sentences, record, sampling_record

if TYPE_CHECKING:
    from anndata import AnnData


def generate_sample(
    tissue: str | Sequence[str] | None = None,
    *,
    cell_types: str | Sequence[str] | None = None,
    abstract: str | None = None,
    n_cells: int | None = None,
    n: int = 10,
    genes: AnnData | str | Path | Sequence[str] | None = None,
    n_genes: int | None = None,
    guided: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 4096,
    **options: Unpack[Options],
) -> AnnData:
    """Generated samples of several cells each, written cell by cell in one answer.

    Parameters
    ----------
    tissue
        Tissues: a list, or one text, separated by semicolons. Without it, and without the next two, samples are
        generated from nothing (unconditional language modelling).
    cell_types
        Type of each cell of a sample, in order, instead of `tissue`; types may be repeated.
    abstract
        Abstract of a study, instead of `tissue`.
    n_cells
        Cells of a sample, 1 to 20. Default: 10, or one for each of `cell_types`.
    n
        Samples per tissue.
    genes
        Genes that the cells may have: symbols, or an AnnData object or file, of which the genes, the rank fit and the
        organism are used. Default: the model's own list.
    n_genes
        Genes of each cell. Default: the number that the model was trained with, at most as many as let all cells of a
        sample fit into the context together.
    guided
        Only these genes, each at most once per cell. ``False``: free text, from which the cells are read; missing cells
        have no genes.
    temperature, top_k, top_p, seed
        Sampling; temperature 0 is greedy. A cell's draw depends on the seed, the name of its sample and its number
        alone.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        ``organism``: that of the generated cells, by default that of the AnnData in `genes`, else human. For the other
        options see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    AnnData of `n` × `n_cells` cells per tissue, those of a sample in the order in which they were written.

    ``X``
        Expression, float32 CSR, ln(1 + CP10k).
    ``var``
        Names and columns of `genes`, if that is data, and ``symbol``, the model's name of each gene.
    ``obs``
        ``sample``, ``number`` (of the cell in its sample, from 1), ``tissue`` or ``cell_type``, ``sentence``,
        ``validity``, ``uniqueness``, ``n_unknown``, ``n_repeated`` as for :func:`cell2sen.tl.generate`.
    ``uns["cell2sen"]["generate"]``
        Provenance, with the abstract if there is one.

    Raises
    ------
    ValueError
        More than one of `tissue`, `cell_types` and `abstract`, a number of cells or genes out of range, genes that the
        model cannot write, or several organisms.
    TypeError
        An option does not exist.
    """
    from anndata import AnnData

    check_options(options)
    origin = origin_of(tissue, cell_types, abstract, n_cells)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=("\n\n",)
    )
    session, organism = generation_session(genes, options, TASKS[origin.kind])
    made = generate_samples(session, origin, n=n, organism=organism, sampling=sampling, guided=guided, n_genes=n_genes)
    obs = pd.DataFrame({"sample": pd.Categorical(made.samples)}, index=made.names)
    obs["number"] = np.tile(np.arange(1, origin.n_cells + 1), len(obs) // origin.n_cells)
    for slot in ("tissue", "cell_type"):
        if slot in made.slots[0]:
            obs[slot] = pd.Categorical([slots[slot] for slots in made.slots])
    add_sentences(obs, made.answers)
    result = AnnData(X=made.expression, obs=obs, var=session.var())
    provenance = session.provenance(
        unit=UNIT,
        guided=guided,
        n_genes=made.n_genes,
        n_cells=origin.n_cells,
        organism=organism,
        **sampling_record(sampling),
        **({"abstract": origin.slots[0]["abstract"]} if origin.kind == "abstract" else {}),
    )
    record(result, "generate", provenance)
    return result
