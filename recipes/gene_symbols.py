"""Build the table of gene symbols that the package carries: approved and former symbols of human and mouse genes.

    python recipes/gene_symbols.py --hgnc hgnc_complete_set.txt --mgi MRK_List1.rpt --year 2025

``--hgnc``
    ``hgnc_complete_set.txt`` of https://www.genenames.org/download (CC0), or a CSV of alias and approved symbol.
``--mgi``
    ``MRK_List1.rpt`` of https://www.informatics.jax.org/downloads/reports, with withdrawn symbols (MGI: CC BY 4.0), or
    a CSV with a column ``symbol`` (such as that of GENCODE): former mouse symbols are then those of the human gene
    of the same symbol, written as mouse symbols are.
``--ncbi``
    ``Mus_musculus.gene_info`` of https://ftp.ncbi.nlm.nih.gov/gene/DATA/GENE_INFO (public domain), of any year: symbols
    and synonyms of mouse genes. The packaged table has those of 22 February 2016, from the copy in the tests of
    goatools 1.6.9 (PyPI), of which only the facts were taken.
``--year``
    Year of the files; models record it.
``--out``
    Default: the table of this checkout.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

OUT = Path(__file__).parents[1] / "src" / "cell2sen" / "data" / "genes" / "gene_symbols.txt.gz"

#: What a word of a cell sentence can be; HGNC's aliases also have descriptions.
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{1,23}")

#: Names that a spreadsheet has changed, which HGNC lists as aliases, and numbers.
MANGLED = re.compile(r"\d+|\d{1,2}-(MAR|SEP|DEC)|(MAR|SEP|DEC)-\d{1,2}", re.IGNORECASE)

#: Symbols that were renamed as a family: the former one belongs to this gene, whatever else has it as alias.
FAMILIES = (("SEPT", "SEPTIN"), ("MARCH", "MARCHF"), ("MARC", "MTARC"))

#: Predicted mouse genes have a number for a name, which was never changed.
NUMBERED = re.compile(r"Gm\d+")

Names = dict[str, set[str]]


def main() -> None:
    """Read the files named on the command line and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hgnc", type=Path, required=True)
    parser.add_argument("--mgi", type=Path, required=True)
    parser.add_argument("--ncbi", type=Path)
    parser.add_argument("--ncbi-year", default="any year")
    parser.add_argument("--year", required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    human = human_names(arguments.hgnc)
    mouse, source = mouse_names(arguments.mgi, human)
    if arguments.ncbi:
        add_names_of_ncbi(mouse, arguments.ncbi)
        source += f"; symbols and synonyms of NCBI Gene ({arguments.ncbi_year}), public domain"
    header = [
        f"year {arguments.year}",
        "Homo sapiens: HGNC (genenames.org), approved symbols, former symbols and aliases, CC0",
        f"Mus musculus: {source}",
        "a line has a gene's approved symbol, its former symbols and aliases; built by recipes/gene_symbols.py",
    ]
    write(arguments.out, header, {"Homo sapiens": human, "Mus musculus": mouse})
    size = arguments.out.stat().st_size
    print(f"{len(human):,} human and {len(mouse):,} mouse genes → {arguments.out} ({size:,} bytes)")  # noqa: T201


def write(out: Path, header: list[str], organisms: Mapping[str, Names]) -> None:
    """Write the table: comments, then for each organism a line ``>organism`` and a line per gene."""
    lines = [f"# {line}" for line in header]
    for organism, names in organisms.items():
        lines.append(f">{organism}")
        for symbol in sorted(names):
            lines.append(" ".join([symbol, *(name for name in sorted(names[symbol]) if not MANGLED.fullmatch(name))]))
    out.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", compresslevel=9, mtime=0))


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table with a header, separated by commas (.csv) or tabs; names of columns in lower case."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text), delimiter="," if ".csv" in path.suffixes else "\t")
    header = [name.strip().lower().replace(" ", "_") for name in next(reader)]
    for values in reader:
        yield dict(zip(header, values, strict=False))


def human_names(path: Path) -> Names:
    """Approved human symbols and their former symbols and aliases."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows(path):
        symbol = row.get("approved_symbol") or row.get("symbol", "")
        if not WORD.fullmatch(symbol) or row.get("status", "Approved") != "Approved":
            continue
        others = [row.get("alias", ""), *row.get("prev_symbol", "").split("|"), *row.get("alias_symbol", "").split("|")]
        names[symbol] |= {name for name in others if WORD.fullmatch(name) and name != symbol}
    _settle_families(names)
    return dict(names)


def _settle_families(names: Names) -> None:
    for before, after in FAMILIES:
        for symbol in [symbol for symbol in names if re.fullmatch(after + r"\d+", symbol)]:
            former = before + symbol.removeprefix(after)
            for other in names:
                names[other].discard(former)
            names[symbol].add(former)


def mouse_names(path: Path, human: Names) -> tuple[Names, str]:
    """Approved mouse symbols and their former symbols, and where these come from."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    withdrawn = False
    for row in rows(path):
        symbol = row.get("current_marker_symbol,_if_withdrawn") or row.get("current_marker_symbol") or ""
        name = row.get("marker_symbol") or row.get("symbol", "")
        withdrawn |= bool(symbol)
        symbol = symbol or name
        if not WORD.fullmatch(symbol) or NUMBERED.fullmatch(symbol) or symbol.startswith("ENSMUSG"):
            continue
        others = [name, *row.get("marker_synonyms_(pipe-separated)", "").split("|")]
        names[symbol] |= {other for other in others if WORD.fullmatch(other) and other != symbol}
    if withdrawn:
        return dict(names), "MGI (informatics.jax.org), CC BY 4.0"
    _add_names_of_human_genes(names, human)
    return dict(names), "GENCODE; former symbols of the human gene of the same symbol"


def _add_names_of_human_genes(mouse: Names, human: Names) -> None:
    same: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in mouse:
        same[symbol.upper()].append(symbol)
    genes_of: defaultdict[str, set[str]] = defaultdict(set)
    for symbol, others in human.items():
        for other in others:
            genes_of[other.upper()].add(symbol)
    approved = {symbol.upper() for symbol in human}
    for symbol, others in human.items():
        symbol = re.sub(r"^H1-(\d+)$", r"H1F\1", symbol)  # linker histones, which mouse has as H1f2
        if len(same[symbol.upper()]) == 1:
            free = {
                other for other in others
                if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]+", other)
                and len(genes_of[other.upper()]) == 1 and other.upper() not in approved and not same.get(other.upper())
            }  # fmt: skip
            mouse[same[symbol.upper()][0]] |= {other.capitalize() for other in free}


def add_names_of_ncbi(mouse: Names, path: Path) -> None:
    """Add symbols and synonyms of NCBI's mouse genes that belong to one gene and are no approved symbol in any case."""
    genes_of: defaultdict[str, set[str]] = defaultdict(set)
    for symbol, others in mouse.items():
        for other in others:
            genes_of[other.upper()].add(symbol)
    claims: defaultdict[str, set[str]] = defaultdict(set)  # in upper case → genes, also those that are not in `mouse`
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows(path):
        symbol = row["symbol"]
        renamed = genes_of.get(symbol.upper(), set())
        gene = symbol if symbol in mouse or len(renamed) != 1 else next(iter(renamed))
        for name in {symbol, *row["synonyms"].split("|")} - {"-"}:
            claims[name.upper()].add(gene)
            spellings[name.upper()].add(name)
    approved = {symbol.upper() for symbol in mouse}
    for name, genes in claims.items():
        gene = next(iter(genes))
        if len(genes | genes_of.get(name, set())) == 1 and gene in mouse and name not in approved:
            mouse[gene] |= {spelling for spelling in spellings[name] if WORD.fullmatch(spelling)}


if __name__ == "__main__":
    main()
