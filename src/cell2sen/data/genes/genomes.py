"""Genomes in front of gene names, as Cell Ranger writes them (GRCh38_CD3D), or behind: recognised and taken off."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cell2sen.data.genes.identifiers import TextSearch, ensembl_prefix

_HUMAN, _MOUSE = "Homo sapiens", "Mus musculus"

#: Names of assemblies, which are no beginning of a gene's name → organism.
_ASSEMBLIES: tuple[tuple[str, str | None], ...] = (
    (
        r"(?:refdata[-_](?:gex[-_]|cellranger[-_])?)?(?:GRCh3[678]|hg1[6789]|hg38|b37|(?:T2T[-_]?)?CHM13(?:v\d(?:\.\d)?)?)",
        _HUMAN,
    ),
    (r"(?:refdata[-_](?:gex[-_]|cellranger[-_])?)?(?:GRCm3[89]|NCBIM37|mm8|mm9|mm10|mm39)", _MOUSE),
    (r"(?:mRatBN7|Rnor[-_]?[456]|rn[4567](?=[_:|]|-(?!8S)))", "Rattus norvegicus"),
    (r"(?:Mmul[-_]?(?:8|10)|rheMac\d+)", "Macaca mulatta"),
    (r"(?:Macaca_fascicularis|macFas\d+)", "Macaca fascicularis"),
    (r"(?:Sscrofa\d*|susScr\d+)", "Sus scrofa"),
    (r"(?:GRCz1[01]|danRer\d+)", "Danio rerio"),
    (r"(?:BDGP6|dm[36])", "Drosophila melanogaster"),
    (r"(?:WBcel235|ce1[01])", "Caenorhabditis elegans"),
    (r"(?:GRCg[67]\w?|galGal\d+)", "Gallus gallus"),
    (r"(?:Homo[-_]sapiens)", _HUMAN),
    (r"(?:Mus[-_]musculus)", _MOUSE),
)

#: Words that could begin a gene's name, and so count only in front of nearly all names.
_WORDS: tuple[tuple[str, str | None], ...] = (
    (r"(?:human|hsapiens|hsap|hs|homo|(?:(?:ncbi)?tax(?:on|id)?[-_:]?)?9606)", _HUMAN),
    (r"(?:mouse|mmusculus|mmus|mm|mus|(?:(?:ncbi)?tax(?:on|id)?[-_:]?)?10090)", _MOUSE),
    (r"(?:rna|gex|sct|gene[-_]expression|genes?|symbol)", None),  # the assay, as Seurat and MuData write it; GFF files
)

_VERSION = (
    r"(?:[-_.]+(?:\d{4}-[A-Z]|\d+(?:\.\d+)+|p\d+|v\d+|release\d+|ensembl\.?\d*|gencode\.?v?M?\d*|premrna|pre[-_]?mrna|"
    r"ens\d+|filtered|mkref|optimi[sz]ed|exon|full|gex|and|cellranger))*"
)
_SEPARATOR = r"(?:[_:|\s]+|-+|\.{2,}|\.(?!\d+(?:[^A-Za-z]|$)))"


def _pattern(genomes: Sequence[tuple[str, str | None]]) -> re.Pattern[str]:
    names = "|".join(f"(?P<o{number}>{pattern})" for number, (pattern, _) in enumerate(genomes))
    return re.compile(rf"(?P<prefix>(?:{names}){_VERSION}{_SEPARATOR})(?P<name>(?!\d+$)\S.*)", re.IGNORECASE)


_ASSEMBLY, _WORD = _pattern(_ASSEMBLIES), _pattern(_WORDS)
_BEHIND = re.compile(
    r"(?P<name>\S+?)(?P<prefix>[_:|.-]+(?:"
    + "|".join(f"(?P<o{number}>{pattern})" for number, (pattern, _) in enumerate(_ASSEMBLIES))
    + "))",
    re.IGNORECASE,
)
#: Text in lower case of which every assembly has some; only names with it are tested.
_TEXT = (
    "grch3", "hg1", "hg38", "b37", "chm13", "grcm3", "ncbim37", "mm8", "mm9", "mm10", "mm39", "mratbn7", "rnor", "rn4",
    "rn5", "rn6", "rn7", "mmul", "rhemac", "macaca_", "macfas", "sscrofa", "susscr", "grcz1", "danrer", "bdgp6", "dm3",
    "dm6", "wbcel235", "ce10", "ce11", "grcg", "galgal", "sapiens", "musculus",
)  # fmt: skip
#: Column of var with the genome of each gene, as 10x files have it.
GENOME_COLUMN = "genome"

#: Minimum share of names with a prefix that is also a word, and of the names or identifiers of each of two organisms.
MIN_SHARE_WITH_WORD, MIN_SHARE_OF_ORGANISM = 0.9, 0.1


@dataclass(frozen=True, kw_only=True)
class Genomes:
    """Names without genomes, and the organism of each."""

    names: tuple[str | None, ...]
    organisms: tuple[str | None, ...] | None
    """Organism of each name by its genome; ``None`` without genomes."""

    prefixes: dict[str, int]
    """Prefix, or genome behind names, → number of names."""


def without_genomes(names: tuple[str | None, ...]) -> Genomes:
    """Names without the genome in front of them; names without one stay as they are."""
    matches: list[re.Match[str] | None] = [None] * len(names)
    for row in TextSearch(names).rows_with(_TEXT):
        matches[row] = _ASSEMBLY.fullmatch(names[row] or "") or _BEHIND.fullmatch(names[row] or "")
    table: Sequence[tuple[str, str | None]] = _ASSEMBLIES
    if not any(matches):
        table = _WORDS
        some = [name for name in names[:: max(1, len(names) // 100)] if name]
        if not some or sum(bool(_WORD.fullmatch(name)) for name in some) < MIN_SHARE_WITH_WORD * len(some):
            return Genomes(names=names, organisms=None, prefixes={})
        matches = [_WORD.fullmatch(name) if name else None for name in names]
        if sum(map(bool, matches)) < MIN_SHARE_WITH_WORD * sum(map(bool, names)):
            return Genomes(names=names, organisms=None, prefixes={})
    stripped = tuple(match["name"] if match else name for match, name in zip(matches, names, strict=True))
    organisms = tuple(
        next(organism for number, (_, organism) in enumerate(table) if match[f"o{number}"]) if match else None
        for match in matches
    )
    return Genomes(
        names=stripped, organisms=organisms, prefixes=dict(Counter(match["prefix"] for match in matches if match))
    )


def organisms_in(genomes: Sequence[str | None]) -> tuple[str | None, ...] | None:
    """Organism of each gene by a column with the name of its genome, as 10x files have; ``None`` if none is known."""
    known: dict[str | None, str | None] = {}
    for genome in set(genomes):
        match = _ASSEMBLY.fullmatch(f"{genome}_x") or _WORD.fullmatch(f"{genome}_x")
        table = _ASSEMBLIES if match and match.re is _ASSEMBLY else _WORDS
        known[genome] = match and next(organism for number, (_, organism) in enumerate(table) if match[f"o{number}"])
    return tuple(known[genome] for genome in genomes) if any(known.values()) else None


def organisms_of_ids(names: Sequence[str | None]) -> tuple[str | None, ...] | None:
    """Organism of each name by its Ensembl identifier, if there are many of both human and mouse; else ``None``."""
    of_prefix = {"ENSG": _HUMAN, "ENSMUSG": _MOUSE}
    starts = {(name or "")[:4].upper() for name in names}
    if not {"ENSG", "ENSM"} <= starts:
        return None
    organisms = tuple(of_prefix.get(ensembl_prefix(name) or "") if name else None for name in names)
    counts = Counter(organism for organism in organisms if organism)
    mixed = len(counts) == 2 and min(counts.values()) >= MIN_SHARE_OF_ORGANISM * len(names)
    return organisms if mixed else None
