"""Tools for gene sets: names for lists of genes, and lists of genes for names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pandas as pd

from cell2sen.backend import SENTENCE_END, Sampling
from cell2sen.data.genes.gene_sets import read_sets
from cell2sen.data.names.text import list_of_names
from cell2sen.inference.groups.gene_sets import list_sets, name_sets
from cell2sen.inference.options import Options

if TYPE_CHECKING:
    from anndata import AnnData

#: Key of ``DataFrame.attrs`` with the provenance of a table.
ATTRS = "cell2sen"


def name_gene_sets(
    sets: Mapping[str, Sequence[str]] | Sequence[str] | str | Path,
    *,
    names: str | Sequence[str] | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 32,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Name of each gene set, as free text or chosen from a list.

    Parameters
    ----------
    sets
        GMT file, ``{name: genes}``, or one list of genes. Genes are written in alphabetical order; names of the sets
        are not in the prompts.
    names
        Names to choose from: a list, or one text, separated by semicolons. Default: free text.
    temperature, top_k, top_p, seed
        Sampling of free text; temperature 0 is greedy. The draw of a set depends on the seed and its name alone. The
        seed also chooses the genes of sets with more than the model's number of genes.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        ``max_genes``: genes of a set in the prompt, by default as the model was trained, else 200. For the other
        options see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A table with a row per set, under its name.

    ``name``
        The answer.
    ``score``
        Probability of the answer among `names`, float64; only with `names`.
    ``n_genes``, ``n_used``, ``n_unknown``
        Genes of the set, in the prompt, and unknown to the model, int64.
    ``attrs["cell2sen"]``
        Provenance.

    Raises
    ------
    Unsupported
        The model was trained on other tasks only, as the embedded one.
    FileNotFoundError, ValueError
        No such file, no sets, a set without genes that the model can write, or fewer than two names.
    """
    read = read_sets(sets)
    chosen = None if names is None else list_of_names(names)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    named = name_sets(read, options, names=chosen, sampling=sampling, seed=seed)
    table = pd.DataFrame({"name": np.array(named.names, dtype=object)}, index=pd.Index(list(read), name="set"))
    if named.scores is not None:
        table["score"] = named.scores
    table["n_genes"] = np.array([len(genes) for genes in read.values()], dtype=np.int64)
    table["n_used"] = np.array(named.n_used, dtype=np.int64)
    table["n_unknown"] = np.array(named.n_unknown, dtype=np.int64)
    table.attrs[ATTRS] = {"name_gene_set": dict(named.provenance)}
    return table


def list_gene_sets(
    names: str | Sequence[str],
    *,
    genes: AnnData | str | Path | Sequence[str] | None = None,
    n_genes: int | Mapping[str, int] | None = None,
    guided: bool = True,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Genes of each named set, in alphabetical order.

    Parameters
    ----------
    names
        Names: a list, or one text, separated by semicolons. Underscores are written as spaces.
    genes
        Symbols that may be listed, or cells, in memory or a file, whose genes may be. Default: the model's own list.
    n_genes
        Genes of each set, or ``{name: number}``. Default: the number that the model was trained with, else 50.
    guided
        Only genes that may be listed, each at most once. ``False``: free text.
    temperature, top_k, top_p, seed
        Sampling; temperature 0 is greedy. The draw of a set depends on the seed and its name alone.
    max_new_tokens
        Maximum length of free text, in tokens.
    **options
        See :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A table with a row per set, under its name.

    ``genes``
        Symbols in alphabetical order, joined by spaces.
    ``n_genes``, ``n_unknown``, ``n_repeated``
        Genes in the list; words that are no gene, and repeated genes, which free text may have; int64.
    ``validity``, ``uniqueness``
        Share of the words that are genes, and of these that are named for the first time; float64.
    ``attrs["cell2sen"]``
        Provenance.

    Raises
    ------
    Unsupported
        The model was trained on other tasks only, as the embedded one.
    ValueError
        No names, the same name twice, more genes than there are, or genes that the model cannot write.
    """
    given = list_of_names(names)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    listed = list_sets(given, options, genes=genes, n_genes=n_genes, guided=guided, sampling=sampling)
    answers = listed.answers
    table = pd.DataFrame(
        {
            "genes": np.array([" ".join(sorted(answer.genes)) for answer in answers], dtype=object),
            "n_genes": np.array([len(answer.genes) for answer in answers], dtype=np.int64),
            "n_unknown": np.array([answer.n_unknown for answer in answers], dtype=np.int64),
            "n_repeated": np.array([answer.n_repeated for answer in answers], dtype=np.int64),
            "validity": np.array([answer.validity for answer in answers], dtype=np.float64),
            "uniqueness": np.array([answer.uniqueness for answer in answers], dtype=np.float64),
        },
        index=pd.Index(given, name="set"),
    )
    table.attrs[ATTRS] = {"list_gene_set": dict(listed.provenance)}
    return table
