"""Side of a matrix that holds the genes, recognised by the names of rows and columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ENSEMBL = re.compile(r"ENS[A-Z]*\d{11}(\.\d+)?", re.IGNORECASE)

#: Genes that are in most data sets of human and mouse, in upper case.
_TYPICAL = re.compile(
    r"(MT-|MT\.|RPL\d|RPS\d|MRPL\d|MRPS\d|NDUF|COX\d|ATP5|HLA-|HSP|EEF|EIF|SLC\d|ZNF\d|TMEM\d|KRT\d|CCL\d|CXC[LR]\d|CD\d"
    r"|IL\d|S100A|LINC\d|MALAT1$|ACTB$|ACTG1$|GAPDH$|B2M$|FTL1?$|FTH1$|TPT1$|TMSB\d|VIM$|LYZ$|NKG7$|GNLY$|MS4A\d)"
)

#: Names that cells have, and genes do not: barcodes, numbers, GEO and SRA accessions, "cell 12".
_CELL = re.compile(
    r"(\S*?[ACGT]{8,}([-_.:x]\S*)?|\d+|(GSM|SRR|ERR|SAM[NE]A?)\d+\S*|(cell|sample|barcode|bc|spot|well)[\s_.-]?\w*)",
    re.IGNORECASE,
)

#: Names of the column of row names, in lower case.
_GENE_HEADER = re.compile(r"(gene|symbol|feature|ensembl|hgnc|mgi|transcript|tracking_id)", re.IGNORECASE)
_CELL_HEADER = re.compile(r"(cell|barcode|sample|spot)", re.IGNORECASE)

#: Names of each side that are looked at.
_SAMPLE = 2000


def genes_are_rows(rows: Sequence[str], columns: Sequence[str], corner: str = "") -> bool | None:
    """Whether the names of the rows are genes; ``None`` if neither side is clear.

    Parameters
    ----------
    corner
        Name of the column that holds the row names.
    """
    of_rows, of_columns = _evidence(rows), _evidence(columns)
    if abs(of_rows - of_columns) > 0.02:
        return of_rows > of_columns
    if _GENE_HEADER.search(corner) or _CELL_HEADER.search(corner):
        return bool(_GENE_HEADER.search(corner))
    return None


def _evidence(names: Sequence[str]) -> float:
    """Share of names that are surely genes, less the share of those that are surely cells: -1 to 1."""
    step = max(1, len(names) // _SAMPLE)
    sample = [name.strip() for name in names[::step]]
    if not sample:
        return 0.0
    genes = sum(bool(_ENSEMBL.match(name)) or bool(_TYPICAL.match(name.upper())) for name in sample)
    cells = sum(bool(_CELL.fullmatch(name)) for name in sample)
    return (genes - cells) / len(sample)
