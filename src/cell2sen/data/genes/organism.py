"""Organism of each cell: from obs, uns, the user, or the gene names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen.data.genes.identifiers import MIN_SHARE_OF_KIND, ensembl_prefix, fault, texts
from cell2sen.data.names.text import as_texts, written

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Columns of obs (in any case) and keys of uns with the organism, in order of preference.
KEYS = ("organism", "species", "organism_ontology_term_id")

_SYNONYMS = {
    "Homo sapiens": ("human", "homo sapiens", "h. sapiens", "hsapiens", "hs", "9606", "ncbitaxon:9606"),
    "Mus musculus": ("mouse", "mus musculus", "m. musculus", "mmusculus", "mm", "10090", "ncbitaxon:10090"),
}
_NAMES = {synonym: name for name, synonyms in _SYNONYMS.items() for synonym in synonyms}

#: Line of a check that a warning is about.
_TOPIC = {"topic": "organism"}

#: Share of symbols in one casing that distinguishes human from mouse; real datasets: 0.86 to 1.0.
MIN_SHARE_OF_CASE = 0.8


def scientific_name(value: Any) -> str:
    """Scientific name: ``"human"``, ``"NCBITaxon:9606"``, … → ``"Homo sapiens"``; other organisms stay unchanged."""
    text = written(value).replace("_", " ")
    return _NAMES.get(text.lower(), text)


def organism_of_cells(
    obs: pd.DataFrame,
    uns: Mapping[str, Any],
    given: str | Sequence[str] | None,
    var_names: Collection[Any],
    *,
    of_genome: str | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Scientific name of the organism of each cell; see :func:`organism_and_source`."""
    return organism_and_source(obs, uns, given, var_names, of_genome=of_genome)[0]


def organism_and_source(
    obs: pd.DataFrame,
    uns: Mapping[str, Any],
    given: str | Sequence[str] | None,
    var_names: Collection[Any],
    *,
    of_genome: str | Sequence[str] | None = None,
) -> tuple[tuple[str, ...], str]:
    """Scientific name of the organism of each cell, and where it was found, for people.

    In order of preference: `given`, ``obs``, ``uns`` (:data:`KEYS`), `of_genome`, the gene names
    (:func:`guess_organism`), and human with a warning.

    Parameters
    ----------
    given
        One organism, or one per cell.
    of_genome
        The same by the genomes in the names of the genes.

    Raises
    ------
    ValueError
        `given` has not one name per cell, or has missing values.
    """
    if given is not None:
        return _given_organism(given, len(obs)), "organism="
    for key in KEYS:
        column = organism_column(obs, key)
        if column is None:
            continue
        values = as_texts(obs[column])
        n_missing = sum(value is None for value in values)
        if n_missing == len(values):
            continue
        guess = _from_genes(var_names) if n_missing else ""
        if n_missing:
            logger.warning("obs[%r] is missing in %d of %d cells, taken as %s", column, n_missing, len(obs), guess)
        names = {value: scientific_name(value) if value else guess for value in set(values)}
        return tuple(names[value] for value in values), f"obs[{column!r}]"
    for key in KEYS:
        names_in_uns = set(as_texts(np.ravel(uns[key]))) if key in uns else set()
        if len(names_in_uns) == 1 and (name := names_in_uns.pop()):
            return (scientific_name(name),) * len(obs), f"uns[{key!r}]"
    if of_genome is not None:
        cells = (of_genome,) * len(obs) if isinstance(of_genome, str) else tuple(of_genome)
        return cells, "the genome of the genes"
    source = "assumed" if guess_organism(var_names) is None else "the names of the genes"
    return (_from_genes(var_names),) * len(obs), source


def organism_column(obs: pd.DataFrame, key: str) -> str | None:
    """Column of `obs` with the name `key`, in any case; ``None`` without one."""
    if key in obs.columns:
        return key
    return next((name for name in obs.columns if str(name).lower() == key), None)


def guess_organism(names: Iterable[Any]) -> str | None:
    """``"Homo sapiens"`` or ``"Mus musculus"``, guessed from gene names; ``None`` if unclear.

    If there are Ensembl identifiers, 90 % of them must have the prefix of one species. Otherwise 80 % of the symbols
    must be in upper case (human) or capitalised (mouse), which cannot distinguish mouse from rat, human from pig, or
    human genes from mouse genes in upper case.
    """
    return _guess_organism(texts(names))


@lru_cache(maxsize=8)  # the genes are the same in all calls for a dataset
def _guess_organism(names: tuple[str | None, ...]) -> str | None:
    texts_only = [text for text in names if text is not None]
    prefixes = [ensembl_prefix(text) for text in texts_only if fault(text) == "ids"]
    if prefixes:
        prefix, n = Counter(prefixes).most_common(1)[0]
        organism = {"ENSG": "Homo sapiens", "ENSMUSG": "Mus musculus"}.get(str(prefix))
        return organism if n >= MIN_SHARE_OF_KIND * len(prefixes) else None
    words = [text for text in texts_only if text[:1].isalpha() or any(map(str.isalpha, text))] or [""]
    upper = sum(word == word.upper() and word != "" for word in words)
    capitalised = sum(word[:1].isupper() and not word.isupper() and any(map(str.islower, word)) for word in words)
    if max(upper, capitalised) < MIN_SHARE_OF_CASE * len(words):
        return None
    return "Homo sapiens" if upper > capitalised else "Mus musculus"


def _given_organism(given: str | Sequence[str], n: int) -> tuple[str, ...]:
    if isinstance(given, str):
        return (scientific_name(given),) * n
    if len(given) != n:
        raise ValueError(f"organism must be one name or one per cell: {n} cells, found {len(given)} names")
    texts_given = as_texts(given)
    if None in texts_given:
        raise ValueError("organism has missing values; pass a name for each cell, or None to read it from the data")
    names = {value: scientific_name(value) for value in set(texts_given)}
    return tuple(names[value] for value in texts_given)


def _from_genes(var_names: Collection[Any]) -> str:
    guess = guess_organism(var_names)
    if guess is None:
        logger.warning(
            "the organism is neither in obs nor in uns nor clear from the gene names: taken as Homo sapiens; organism= "
            "sets it",
            extra=_TOPIC,
        )
        return "Homo sapiens"
    return guess
