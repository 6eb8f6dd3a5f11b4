"""Interactions between cells: ligands and their receptors, from a user's table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from cell2sen.data.names.text import as_texts

#: Names of the columns of ligands and of receptors, in lower case, in the order in which they are looked for.
LIGAND, RECEPTOR = ("ligand", "source", "gene_a", "from"), ("receptor", "target", "gene_b", "to")


def read_interactions(path: str | Path, symbols: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Receptors of each ligand, in alphabetical order; only genes among `symbols`.

    Parameters
    ----------
    path
        Table (.csv, .tsv) with a row per interaction and columns ``ligand`` and ``receptor`` (or ``source`` and
        ``target``, ``gene_a`` and ``gene_b``, ``from`` and ``to``). Parts of a complex are joined by ``_``, ``+`` or
        ``:``; each of its genes counts.
    symbols
        Genes of the cells. Symbols are compared without case.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No such columns, or no interaction between genes of the cells.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} of ligands and receptors")
    table = pd.read_csv(path, sep="\t" if {".tsv", ".txt"} & set(path.suffixes) else ",", dtype=str)
    columns = {str(name).strip().lower(): name for name in table.columns}
    sides = [next((columns[name] for name in names if name in columns), None) for names in (LIGAND, RECEPTOR)]
    if None in sides:
        raise ValueError(f"{path} needs the columns ligand and receptor, found {list(map(str, table.columns))}")
    spelling = {symbol.lower(): symbol for symbol in symbols}
    receptors: dict[str, set[str]] = {}
    for ligand, receptor in zip(*(as_texts(table[side]) for side in sides), strict=True):
        for first in _genes(ligand, spelling):
            receptors.setdefault(first, set()).update(_genes(receptor, spelling))
    found = {ligand: tuple(sorted(genes)) for ligand, genes in sorted(receptors.items()) if genes}
    if not found:
        raise ValueError(f"{path}: none of its {len(table)} interactions is between genes of the cells")
    return found


def _genes(text: str | None, spelling: dict[str, str]) -> list[str]:
    """Genes of a complex, as the cells spell them."""
    words = (text or "").replace("+", "_").replace(":", "_")
    names = [words, *words.split("_")] if words.lower() not in spelling else [words]
    return [spelling[name.strip().lower()] for name in names if name.strip().lower() in spelling]
