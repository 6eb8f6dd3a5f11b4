"""Features: rows of var that are no genes (antibodies, guides, hashtags, peaks, control probes), by column or name."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.identifiers import TextSearch, ensembl_prefix
from cell2sen.data.genes.symbol_table import share_known

Names = tuple[str | None, ...]

#: Columns of var that tell genes from other features, in lower case without separators.
FEATURE_COLUMNS = (
    "featuretypes", "featuretype", "modality", "modalities", "featureclass", "featurecategory", "featurebiotype",
    "codeclass", "assaytype", "libraryfeaturetype", "type",
)  # fmt: skip

#: Values of these columns that mean a gene, in lower case without separators.
GENE_VALUES = frozenset(
    ("geneexpression", "geneexp", "gene", "genes", "rna", "mrna", "gex", "gexrna", "rnaseq", "scrna", "scrnaseq",
     "expression", "transcript", "transcriptome", "transcriptomics", "endogenous", "predesigned", "geneexpressionrna")
)  # fmt: skip

#: Values that mean another feature where no row is marked as a gene; biotypes are none of them.
_OTHER_VALUES = re.compile(
    r"antibod\w*|adts?|abs?|abseq\w*|cite\w*|prot|proteins?|surfaceprotein\w*|proteinexpression|totalseq\w*|"
    r"crispr\w*|s?g?guides?\w*|s?grnas?\w*|htos?|hash\w*|multiplexing\w*|cellplex|cmos?|peaks?|atac\w*|chromatin\w*|"
    r"custom|neg\w*|systemcontrol\w*|control\w*|blank\w*|unassigned\w*|deprecated\w*|genomiccontrol\w*|\w*codeword|"
    r"spikeins?|ercc\w*|antigen\w*|vdj\w*|tcr\w*|bcr\w*|clonotypes?"
)

_BIOTYPE = re.compile("coding|rna|pseudogene|_?gene$|^tec$")

#: Names that no gene has: kind of feature, text in lower case of which such names have at least one, and pattern. The
#: text spares most names the pattern; without text, names that end in four digits or bases are tested.
_NAMES = tuple(
    (kind, tuple(text.split()), re.compile(pattern, re.IGNORECASE))
    for kind, text, pattern in (
        ("spike-in", "ercc spike sirv", r"ERCC[-_.]?\d{5}( .*)?|(gSpikein|spike[-_.]?ins?)[-_.]?\S*|SIRV\d{3,}\S*"),
        (
            "control probe",
            "control unassigned deprecated",
            r"((NegControl|NegativeControl|GenomicControl|Unassigned|Deprecated)(Probe|Codeword)?[-_.]|"
            r"(Unassigned|Deprecated)Codeword)\S+|SystemControl[-_.]?\w*\d+",
        ),
        ("control probe", "blank", r"Blank[-_.]?(Codeword[-_.]?)?\d+|BLANKCodeword\S*"),
        (
            "control probe",
            "negprb negprobe falsecode negative notarget",
            r"(NegPrb|FalseCode|Negative|notarget)[-_.]?\w*\d+|NegProbe([-_.]\S*|\d+)|NegPrb\S*|notarget",
        ),
        ("control probe", "antisense_ intergenic_", r"antisense_\S+|Intergenic_Region\S*"),
        (
            "count of unassigned reads",
            "__ n_ unmapped no_match",
            r"__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)|"
            r"N_(unmapped|multimapping|noFeature|ambiguous)|unmapped|no_match",
        ),
        (
            "antibody",
            "ab_ adt cite_ prot abseq ab:",
            r"(AB|ADT|CITE|prot|protein|AbSeq)_\S+|(ADT|AbSeq)[-.:]\S+|(AB|ADT|prot)::?\S+",
        ),
        (
            "antibody",
            "total adt abseq pabo antibod prot isotype",
            r"\S+[-_.](TotalSeq[-_.]?[A-D]?|Total[A-D]|ADT|AbSeq|pAbO|prot)|\S+[_.]protein|\S+\|pAbO|\S*(antibod(y|ies)|isotype)\S*",
        ),
        (
            "antibody",
            "control isotype ctrl ctr",
            r"(Mouse|Rat|Hamster|Human)?[-_. ]?Ig[GMA]\d?[a-z]?[-_. ]\S*(control|isotype|ctrl|ctr)\S*",
        ),
        ("antibody", "", r"\S+[-_.][ACGT]{15}"),  # CITE-seq-Count: name and barcode
        (
            "hashtag",
            "hto hashtag cmo3 ocm ob1 ob2 ob3 ob4 multiseq",
            r"HTO([-_.]\S*|[-_.]?[A-Z]?\d{1,5}([-_.]\S*)?)?|\S*hashtag.*|CMO3\d\d|(OCM|OB)[1-4]_\S+|multiseq[-_.]?\S+",
        ),
        ("peak", "chr", r"(chr[0-9A-Z]{1,2}\S*|(GRCh|GRCm|hg|mm)\d\d[-_]+chr\S+)[:_-]\d+[-_]\d+"),
        ("peak", "", r"([0-9]{1,2}|[XYM]|MT|[GK][LI]\d{6}\.\d)[:_-]\d{3,}[-_]\d{3,}"),
        (
            "guide",
            "grna target neg_c neg-c negc ntc _g _sg -sg safe",
            r"(?-i:\S*gRNA\S*)|s?grna[-_.]\S+|\S+[-_.]s?grna\d*|\S+_s?g\d{1,2}|\S+-sg\d{1,2}|"
            r"non[-_. ]?target(ing)?([-_. ]\S*)?|neg[-_.]?(ctrl|control)([-_.]?\d+)?|NTC[-_.]\d+|"
            r"safe[-_.]?(target(ing)?|harbou?r)([-_.]\S*)?",
        ),
        ("guide", "sg", r"(?-i:sg[A-Z])[A-Za-z0-9]*[-_.]\S*|(?-i:sg)(NTC?|CTRL|Ctrl|control|GFP|LacZ)\S*"),
    )
)  # fmt: skip

#: Names that may be of other features; a warning gives examples.
_DOUBTFUL = re.compile(r"\S+[-_.]ab|ab[-.]\S+", re.IGNORECASE)
_DOUBTFUL_TEXT = ("-ab", "_ab", ".ab", "ab-", "ab.")

#: Ends of barcodes.
_ENDS = frozenset(map("".join, itertools.product("acgt", repeat=4)))

#: What var_names_make_unique and R's make.unique append.
_MADE_UNIQUE = re.compile(r"(\S+)[-.][1-9]")

#: Names such as 12, c3 or s12, which genes have, too (C3), but mostly not.
_NUMBERED = re.compile(r"[A-Za-z]{0,2}\d+|[A-Za-z]")

#: Cell barcodes, with or without the suffix of a library.
_BARCODE = re.compile(r"(\S*[_:#-])?[ACGT]{8,}([-_.:][\w.:-]*)?")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which rows of var are genes."""

    is_gene: NDArray[np.bool_]
    """bool (rows,)."""

    kinds: dict[str, int]
    """Kind of feature that is no gene → number of rows."""

    examples: dict[str, str]
    """Kind → name of one of these rows."""

    names: dict[int, str]
    """Row of a gene → name that it had before an antibody of the same name made it unique."""

    doubtful: tuple[str, ...]
    """Names of rows that may be no genes."""


def features_of(index: Names, columns: Sequence[tuple[str, Names]]) -> Features:
    """Rows of var that are genes, by a column of :data:`FEATURE_COLUMNS` and by names that no gene has.

    Where some rows are marked as genes, all others with another mark are left out. Where none is, marks that are known
    not to be genes are. Names in doubt are kept.

    Parameters
    ----------
    index
        Names of the rows.
    columns
        Names and values of columns of var; others than :data:`FEATURE_COLUMNS` are ignored.

    Raises
    ------
    ValueError
        No row is a gene.
    """
    kinds: list[str | None] = [None] * len(index)
    source = ""
    for column, values in columns:
        if normalised_feature(column) in FEATURE_COLUMNS:
            marks = _marked(values, column)
            source = source or (f"var[{column!r}]" if any(marks) else "")
            kinds = [kind or mark for kind, mark in zip(kinds, marks, strict=True)]
    search = TextSearch(index)
    others = _ends_like_barcodes_or_ranges(index)
    for kind, with_text, pattern in _NAMES:
        for row in search.rows_with(with_text) if with_text else others:
            if kinds[row] is None and pattern.fullmatch(index[row] or ""):
                kinds[row] = kind
    is_gene = np.array([kind is None for kind in kinds], dtype=bool)
    counted = dict(Counter(kind for kind in kinds if kind))
    if len(index) and not is_gene.any():
        found = f"{source} marks all {len(index)} rows" if source else f"all {len(index)} rows of var have names"
        raise ValueError(
            f"there are no genes: {found} as {', '.join(list(counted)[:5])}. Pass the matrix of gene expression "
            "(another modality or layer); where the rows are genes, drop that column of var"
        )
    return Features(
        is_gene=is_gene,
        kinds=counted,
        examples={kind: index[row] or f"row {row}" for row, kind in reversed(list(enumerate(kinds))) if kind},
        names=_restored(index, is_gene),
        doubtful=tuple(
            name
            for row in search.rows_with(_DOUBTFUL_TEXT)
            if is_gene[row] and (name := index[row] or "") and _DOUBTFUL.fullmatch(name)
        ),
    )


def _ends_like_barcodes_or_ranges(index: Names) -> list[int]:
    """Rows whose last four signs are bases or digits."""
    return [row for row, name in enumerate(index) if name and ((end := name[-4:]).isdigit() or end.lower() in _ENDS)]


def normalised_feature(column: str) -> str:
    """Name of a column in lower case without separators."""
    return re.sub(r"[^a-z0-9]+", "", column.lower())


def _marked(values: Sequence[str | None], column: str) -> list[str | None]:
    """Kind of each row that the column marks as no gene."""
    plain = {value: normalised_feature(value) for value in set(values) if value}
    genes = {value for value, text in plain.items() if text in GENE_VALUES}
    others = {value for value, text in plain.items() if _OTHER_VALUES.fullmatch(text)}
    # Biotypes are of genes: those of CELLxGENE and of annotations, where "protein" means protein-coding.
    biotypes = {value for value in set(plain) - genes - others if _BIOTYPE.search(plain[value])}
    if biotypes and not genes:
        others -= {value for value in others if plain[value] in ("protein", "proteins", "prot")}
    if genes and normalised_feature(column) not in ("type", "featurebiotype"):
        others |= set(plain) - genes - biotypes
    return [value if value in others else None for value in values]


def _restored(index: Sequence[str | None], is_gene: NDArray[np.bool_]) -> dict[int, str]:
    """Names of genes that became ``CD4-1`` or ``CD4.1`` because of an antibody CD4 before them."""
    if is_gene.all():
        return {}
    other = {name for name, gene in zip(index, is_gene, strict=True) if name and not gene}
    genes = {name for name, gene in zip(index, is_gene, strict=True) if name and gene}
    names: dict[int, str] = {}
    for row in np.flatnonzero(is_gene).tolist():
        match = _MADE_UNIQUE.fullmatch(index[row] or "")
        if match and match[1] in other and match[1] not in genes:
            genes.add(match[1])
            names[row] = match[1]
    return names


def refuse_transposed(var_names: Any, obs_names: Any, limit: int = 300) -> None:
    """Raise an error if the genes are in obs and the cells in var.

    Genes are recognised as Ensembl identifiers or symbols of human or mouse, cells by their barcodes.

    Raises
    ------
    ValueError
        At least half of the names in obs are genes and fewer in var; or most of the names in var are cell barcodes.
    """
    var_some, obs_some = (
        list(dict.fromkeys(str(name) for name in names[:: max(1, len(names) // limit)]))
        for names in (var_names, obs_names)
    )
    if not var_some or not obs_some:
        return
    barcodes = sum(bool(_BARCODE.fullmatch(name)) for name in var_some) > 0.5 * len(var_some)
    in_obs, in_var = 0.0, 0.0
    if not barcodes:
        in_obs = _share_of_genes(obs_some)
        in_var = _share_of_genes(var_some) if in_obs >= 0.5 and len(obs_some) >= 5 else 1.0
    if barcodes or in_var < 0.5 * in_obs:
        what = "cell barcodes" if barcodes else "names that are no genes"
        raise ValueError(
            f"the matrix is transposed: var_names hold {what} ({', '.join(var_some[:2])}, …) and obs_names "
            f"{'' if barcodes else 'genes '}({', '.join(obs_some[:2])}, …), but genes belong in var. Pass adata.T; "
            "for a file: anndata.read_h5ad(path).T.write_h5ad(new_path)"
        )


def _share_of_genes(names: Sequence[str]) -> float:
    ids = sum(ensembl_prefix(name) is not None for name in names)
    words = [name for name in names if not _BARCODE.fullmatch(name) and not _NUMBERED.fullmatch(name)]
    return ids / len(names) + (share_known(words) * len(words) / len(names) if len(words) >= 0.4 * len(names) else 0.0)
