"""Write the corpus of a small model that captions cells, answers questions on them and sums up samples.

    python recipes/text.py cells.h5ad FOLDER --label cell_type --ontology cell_ontology_terms.csv.gz \
        --names names.csv --metadata condition --sample donor --sample condition --gene-sets sets.gmt
    cell2sen train recipes/text.yaml MODEL --data-dir FOLDER
    cell2sen ask cells.h5ad "What type are these cells?" --cells cell_type=B --model MODEL

``--ontology``
    Table with the columns ``label``, ``definition`` and ``synonyms`` (separated by ``|``), such as one made from the
    Cell Ontology (https://obofoundry.org/ontology/cl, CC BY 4.0).
``--names``
    Optional CSV without a header: label of the file, label of the ontology.
``--metadata``
    obs columns of which texts and questions are made; may be repeated.
``--sample``
    obs columns whose values all cells of a sample share; may be repeated. Summaries are of samples.
``--gene-sets``
    Optional GMT file. A question is which of these sets cells express more than others.
``--where``
    COLUMN=VALUE of obs: only these cells have texts.

The folder gets ``text.h5ad``: the cells with the obs columns ``type``, ``part``, ``caption``, ``sample``, ``summary``,
and ``question_0``, ``answer_0``, … for each of several questions, from which ``recipes/text.yaml`` trains. Texts are
made from ontology definitions, names of gene sets, obs, and the genes that cells of one type and metadata express more
than the others, found in the training cells alone. Held-out cells (``part``) are those that ``split: {by: cell}`` of a
training holds out with the same share and seed. Cells without a label in the ontology have no text.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.genes.gene_sets import read_gmt
from cell2sen.data.names.labels import normalise_label
from cell2sen.data.obs import text_column
from cell2sen.data.output import complete_file
from cell2sen.data.splits import held_out_cells

#: Type and metadata of cells; ``None`` where unknown.
Kind = tuple[str | None, ...]

#: Training cells of a kind whose genes and gene set are named, at least; genes that are named.
MIN_CELLS, N_GENES = 5, 4


def terms(path: Path) -> dict[str, tuple[str, str]]:
    """Normalised label or synonym → label and first sentence of the definition."""
    table = pd.read_csv(path, dtype=str).fillna("")
    found: dict[str, tuple[str, str]] = {}
    for column in ("label", "synonyms"):  # labels win over synonyms
        for row in table[table["definition"] != ""].to_dict("records"):
            for name in row[column].split("|"):
                if name:
                    found.setdefault(normalise_label(name), (row["label"], first_sentence(row["definition"])))
    return found


def first_sentence(text: str) -> str:
    """The first sentence of a definition, in one line."""
    line = " ".join(text.split())
    return line.split(". ")[0].rstrip(".") + "."


def set_names(names: Sequence[str]) -> dict[str, str]:
    """Name of a gene set → its name in texts: in small letters, without a first word that all have."""
    words = {name: name.replace("_", " ").lower().split() for name in names}
    common = len(words) > 1 and len({found[0] for found in words.values()}) == 1 and min(map(len, words.values())) > 1
    return {name: " ".join(found[1:] if common else found) for name, found in words.items()}


class Profiles:
    """Genes and gene sets that groups of cells express more than other groups.

    Parameters
    ----------
    values
        ln(1 + CP10k), float32 CSR (cells, genes).
    symbols
        Symbol of each column.
    groups
        Group of each cell; cells with ``None`` are in none.
    use
        Cells that are looked at, bool (cells,).
    """

    def __init__(
        self, values: sp.csr_matrix, symbols: Sequence[str], groups: Sequence[Kind | None], use: NDArray[np.bool_]
    ) -> None:
        rows_of: dict[Kind, list[int]] = {}
        for row, group in enumerate(groups):
            if group is not None and use[row]:
                rows_of.setdefault(group, []).append(row)
        self.symbols = list(symbols)
        self.groups = {
            group: n for n, group in enumerate(group for group, rows in rows_of.items() if len(rows) >= MIN_CELLS)
        }
        means = np.zeros((len(self.groups), len(symbols)))
        for group, place in self.groups.items():
            means[place] = np.asarray(values[np.array(rows_of[group])].mean(axis=0)).ravel()
        self.above = means - means.mean(axis=0) if len(means) else means
        self.scaled = self.above / (means.std(axis=0) + 0.1) if len(means) else means

    def genes(self, group: Kind | None) -> str | None:
        """The genes with the highest mean above that of all groups; ``None`` with fewer than two groups."""
        if group not in self.groups or len(self.groups) < 2:
            return None
        order = np.argsort(-self.above[self.groups[group]], kind="stable")[:N_GENES]
        return ", ".join(self.symbols[gene] for gene in order)

    def gene_set(self, group: Kind | None, sets: Mapping[str, Sequence[str]]) -> str | None:
        """The gene set whose genes have the highest mean of standardised values."""
        column = {symbol: place for place, symbol in enumerate(self.symbols)}
        members = {name: [column[gene] for gene in genes if gene in column] for name, genes in sets.items()}
        members = {name: places for name, places in members.items() if len(places) >= MIN_CELLS}
        if group not in self.groups or len(self.groups) < 2 or not members:
            return None
        scores = [self.scaled[self.groups[group], places].mean() for places in members.values()]
        return list(members)[int(np.argmax(scores))]


def described(metadata: Mapping[str, str | None]) -> str:
    """Metadata in brackets."""
    known = [f"{name} {value}" for name, value in metadata.items() if value is not None]
    return f" ({', '.join(known)})" if known else ""


def questions(
    label: str, definition: str, metadata: Mapping[str, str | None], genes: str | None, gene_set: str | None
) -> list[tuple[str, str | None]]:
    """Questions on cells of a kind, with answers; ``None`` where there is none."""
    return [
        ("What type are these cells?", f"They are of the type {label}."),
        ("What is known of cells of this type?", definition),
        ("Which genes do these cells express more than others?", genes and f"They express {genes}."),
        ("Which set of genes do these cells express more than others?", gene_set and f"They express {gene_set}."),
        *(
            (f"What is the {name} of these cells?", value and f"Their {name} is {value}.")
            for name, value in metadata.items()
        ),
    ]


def summary(labels: Sequence[str], organism: str, shared: Mapping[str, str | None], genes: str | None) -> str:
    """Summary of a sample from its metadata and the types of its cells, the most frequent ones first."""
    types = [label for label, _ in Counter(labels).most_common(3)]
    text = f"A sample of {organism} cells{described(shared)}. Its most frequent types are {'; '.join(types)}."
    return f"{text} Compared with other samples, its cells express {genes}." if genes else text


def main() -> None:
    """Read the cells and tables, and write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--ontology", required=True, type=Path)
    for option in ("--names", "--gene-sets"):
        parser.add_argument(option, type=Path)
    for option in ("--metadata", "--sample"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("--where", metavar="COLUMN=VALUE", type=lambda text: text.split("=", 1))
    parser.add_argument("--test", type=float, default=0.2, help="share of the cells that is held out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    adata = anndata.read_h5ad(given.cells)
    for name, values in columns(adata, given).items():
        adata.obs[name] = pd.Categorical(values)
    given.folder.mkdir(parents=True, exist_ok=True)
    with complete_file(given.folder / "text.h5ad", given.cells) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def columns(adata: Any, given: argparse.Namespace) -> dict[str, NDArray[Any]]:
    """Columns of the corpus, object (cells,) each."""
    n, obs = adata.n_obs, adata.obs
    part = held_out_cells(obs, by="cell", share=given.test, seed=given.seed)
    found = text_column(obs, given.label)
    if given.where:
        found = found.copy()
        found[text_column(obs, given.where[0]) != given.where[1]] = None
    term_of = named_terms(found, given.ontology, given.names)
    metadata = {name: text_column(obs, name) for name in given.metadata}
    sample_by = [text_column(obs, name) for name in given.sample]
    kinds: list[Kind | None] = [None] * n
    samples: list[Kind | None] = [None] * n
    for row in range(n):
        if found[row] in term_of:
            kinds[row] = (term_of[found[row]][0], *(values[row] for values in metadata.values()))
            own = tuple(values[row] for values in sample_by)
            samples[row] = None if None in own else own
    with Expression.open(adata) as expression:
        organisms, values, symbols = expression.organism(), expression.ln_cp10k(), expression.symbols
    sets = read_gmt(given.gene_sets) if given.gene_sets else {}
    short, definitions = set_names(list(sets)), dict(term_of.values())
    of_kinds, of_samples = (Profiles(values, symbols, groups, ~part) for groups in (kinds, samples))
    made: dict[str, NDArray[Any]] = {"part": np.where(part, "held out", "training").astype(object)}

    def write(name: str, rows: Sequence[int], text: str | None) -> None:
        made.setdefault(name, np.full(n, None, dtype=object))[np.array(rows)] = text

    for kind, rows in rows_of_groups(kinds).items():
        label, definition = str(kind[0]), definitions[str(kind[0])]
        known, genes = dict(zip(metadata, kind[1:], strict=True)), of_kinds.genes(kind)
        best = short.get(of_kinds.gene_set(kind, sets) or "")
        expressed = f" They express {genes}." if genes else ""
        write("type", rows, label)
        write("caption", rows, f"Cells of the type {label}{described(known)}. {definition}{expressed}")
        for number, (question, answer) in enumerate(questions(label, definition, known, genes, best)):
            write(f"question_{number}", rows, question if answer else None)
            write(f"answer_{number}", rows, answer)
    for sample, rows in rows_of_groups(samples).items():
        shared = {name: values[rows[0]] for name, values in metadata.items() if len(set(values[rows])) == 1}
        learned = [str(kinds[row][0]) for row in rows if not part[row]]  # type: ignore[index]
        if learned:
            write("sample", rows, " ".join(map(str, sample)))
            write("summary", rows, summary(learned, organisms[rows[0]], shared, of_samples.genes(sample)))
    return made


def rows_of_groups(groups: Sequence[Kind | None]) -> dict[Kind, list[int]]:
    """Cells of each group."""
    rows: dict[Kind, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            rows.setdefault(group, []).append(row)
    return rows


def named_terms(labels: NDArray[Any], ontology: Path, names: Path | None) -> dict[str, tuple[str, str]]:
    """Label of the file → label and definition of the ontology; labels without one are reported."""
    known = terms(ontology)
    other: dict[str, str] = dict(pd.read_csv(names, header=None, dtype=str).itertuples(index=False)) if names else {}
    found = {label: known.get(normalise_label(other.get(label, label))) for label in set(labels) - {None}}
    term_of = {label: term for label, term in found.items() if term is not None}
    logging.info("%d of %d cells have a label of the ontology", sum(label in term_of for label in labels), len(labels))
    if missing := sorted(set(found) - set(term_of)):
        logging.warning("not in the ontology: %s; --names maps labels of the file to those of the ontology", missing)
    if not term_of:
        raise SystemExit("no label of the cells is in the ontology")
    return term_of


if __name__ == "__main__":
    main()
