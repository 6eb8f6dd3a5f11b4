"""Gene sets in GMT files: name, description and genes of each set."""

from __future__ import annotations

from pathlib import Path

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
