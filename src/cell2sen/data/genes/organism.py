"""Organism of each cell: from obs, uns, the user, or the look of the gene names."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen.data.genes import naming

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Looked for in this order, in obs first (whatever the case), then in uns.
KEYS = ("organism", "species", "organism_ontology_term_id")

_SPOKEN = {
    "Homo sapiens": ("human", "homo sapiens", "h. sapiens", "hsapiens", "hs", "9606", "ncbitaxon:9606"),
    "Mus musculus": ("mouse", "mus musculus", "m. musculus", "mmusculus", "mm", "10090", "ncbitaxon:10090"),
}
_NAMES = {spoken: name for name, all_spoken in _SPOKEN.items() for spoken in all_spoken}


def scientific_name(value: Any) -> str:
    """``"human"``, ``"NCBITaxon:9606"``, … → ``"Homo sapiens"``; other organisms are kept as they are written."""
    text = str(value).strip().replace("_", " ")
    return _NAMES.get(text.lower(), text)


def organism_of_cells(
    obs: pd.DataFrame, uns: Mapping[str, Any], given: str | Sequence[str] | None, var_names: Collection[Any]
) -> tuple[str, ...]:
    """The organism of each cell.

    What is given wins, then ``obs``, then ``uns`` (keys `KEYS`), then the look of the gene names (Ensembl prefix, upper
    or title case); human with a warning where nothing is known.

    Raises
    ------
    ValueError
        Not one organism per cell, or a missing one in the list given.
    """
    n = len(obs)
    if given is not None:
        if isinstance(given, str):
            return (scientific_name(given),) * n
        if len(given) != n:
            raise ValueError(f"organism must be one name or one per cell: {n} cells, found {len(given)} names")
        if any(not str(value or "").strip() or value != value for value in given):
            raise ValueError(
                "organism has missing values; give one name per cell, or leave it out to have it looked up"
            )
        return tuple(scientific_name(value) for value in given)
    for key in KEYS:
        column = organism_column(obs, key)
        if column is None:
            continue
        values = obs[column].astype(object)
        missing = values.isna() | (values.astype(str).str.strip() == "")
        if missing.all():
            continue
        if missing.any():
            fallback = _from_genes(var_names)
            logger.warning("obs[%r] is missing in %d of %d cells, taken as %s", column, int(missing.sum()), n, fallback)
            values = values.where(~missing, fallback)
        names = {value: scientific_name(value) for value in values.unique()}
        return tuple(names[value] for value in values)
    for key in KEYS:
        named = {str(value).strip() for value in np.ravel(uns[key])} if key in uns else set()
        if len(named) == 1 and (name := named.pop()):
            return (scientific_name(name),) * n
    return (_from_genes(var_names),) * n


def organism_column(obs: pd.DataFrame, key: str) -> str | None:
    """The column of `obs` called `key`, as it is or in another case; ``None`` without one."""
    if key in obs.columns:
        return key
    return next((name for name in obs.columns if str(name).lower() == key), None)


def _from_genes(var_names: Collection[Any]) -> str:
    guess = naming.guess_organism(var_names)
    if guess is None:
        logger.warning("the organism is neither in obs nor in uns nor clear from the gene names: taken as Homo sapiens")
        return "Homo sapiens"
    return guess
