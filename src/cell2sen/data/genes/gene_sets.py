"""Gene sets: GMT files, names as words, genes in alphabetical order."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cell2sen.data.names.text_files import read_text


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Gene sets of a GMT file: each line has a name, a description and genes, separated by tabs.

    Raises
    ------
    ValueError
        A line without name or genes.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        genes = tuple(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
        if not name.strip() or not genes:
            raise ValueError(
                f"{path}, line {number}: a gene set must be name, description and genes, separated by tabs"
            )
        sets[name.strip()] = genes
    return sets


def gene_set(path: Path, name: str) -> tuple[str, ...]:
    """Genes of one set of a GMT file.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No such set; lists the available ones.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path} of gene sets (GMT: name, description and genes, separated by tabs)"
        )
    sets = read_gmt(path)
    if name not in sets:
        raise ValueError(f"{path} has no gene set {name!r}; available: {sorted(sets)}")
    return sets[name]


def read_sets(sets: Mapping[str, Sequence[str]] | Sequence[str] | str | Path) -> dict[str, tuple[str, ...]]:
    """Gene sets of a GMT file, of a mapping, or one list of genes; each gene once.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No set, or one without genes.
    """
    if isinstance(sets, str | Path):
        if not Path(sets).is_file():
            raise FileNotFoundError(
                f"there is no file {sets} of gene sets (GMT: name, description and genes, separated by tabs)"
            )
        found = read_gmt(Path(sets))
    else:
        given = sets if isinstance(sets, Mapping) else {"gene set": sets}
        found = {str(name): tuple(dict.fromkeys(map(str, genes))) for name, genes in given.items()}
    if not found:
        raise ValueError(f"there are no gene sets{f' in {sets}' if isinstance(sets, str | Path) else ''}")
    if empty := [name for name, genes in found.items() if not genes]:
        raise ValueError(f"gene sets must have genes, found none in {empty[:5]}")
    return found


def write_gmt(path: Path, sets: Mapping[str, Sequence[str]], description: str = "") -> None:
    """Write gene sets as GMT, one line each."""
    lines = ["\t".join([name, description, *genes]) for name, genes in sets.items()]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def name_in_text(name: str) -> str:
    """Name of a set as words: spaces for underscores (``HALLMARK_HYPOXIA`` → ``HALLMARK HYPOXIA``)."""
    return " ".join(name.replace("_", " ").split())


def listed_genes(genes: Sequence[str], length: int | None, name: str, seed: int = 0) -> tuple[str, ...]:
    """Genes of a set in alphabetical order; of a set with more than `length` genes a random part of `length`.

    The part depends on the seed, the name of the set and its genes, not on their order.
    """
    listed = sorted(set(genes))
    if length is not None and len(listed) > length:
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        listed = sorted(generator.choice(listed, size=length, replace=False).tolist())
    return tuple(listed)
