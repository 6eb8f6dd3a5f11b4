"""Write the corpus of a small model that captions cells and answers questions on them.

    python recipes/text.py cells.h5ad FOLDER --label cell_type --ontology cell_ontology_terms.csv.gz \
        --names names.csv --donor donor --gene-sets sets.gmt
    cell2sen train recipes/text.yaml MODEL --data-dir FOLDER
    cell2sen ask cells.h5ad "What type are these cells?" --cells cell_type=B --model MODEL

``--ontology``
    Table with the columns ``label``, ``definition`` and ``synonyms`` (separated by ``|``), such as one made from the
    Cell Ontology (https://obofoundry.org/ontology/cl, CC BY 4.0).
``--names``
    Optional CSV without a header: label of the file, label of the ontology.
``--gene-sets``
    Optional GMT file. A question on each cell type is which of these sets its cells express most.
``--donor``, ``--tissue``
    Optional obs columns for the summaries of samples.

The folder gets ``text.h5ad``: the cells with the obs columns ``type``, ``caption``, ``sample``, ``summary``, and
``question_0``, ``answer_0``, … for each of several questions, from which ``recipes/text.yaml`` trains. Texts are made
from ontology definitions, names of gene sets, and obs. Cells without a label in the ontology have no text.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.data.expression import Expression
from cell2sen.data.genes.gene_sets import read_gmt
from cell2sen.data.names.labels import normalise_label
from cell2sen.data.obs import text_column
from cell2sen.data.output import complete_file

#: Questions on each type of cells; the last one only with gene sets.
N_QUESTIONS = 4


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


def best_sets(
    expression: Expression, labels: Sequence[str | None], sets: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Label → gene set whose genes its cells express most above the mean of labels (mean of standardised values)."""
    values = sp.csr_matrix(expression.ln_cp10k())
    names = sorted({label for label in labels if label is not None})
    means = np.stack(
        [np.asarray(values[np.array([label == name for label in labels])].mean(axis=0)).ravel() for name in names]
    )
    scaled = (means - means.mean(axis=0)) / (means.std(axis=0) + 0.1)
    column = {symbol: place for place, symbol in enumerate(expression.symbols)}
    members = {name: [column[gene] for gene in genes if gene in column] for name, genes in sets.items()}
    members = {name: places for name, places in members.items() if len(places) >= 5}
    if not members:
        return {}
    scores = np.stack([scaled[:, places].mean(axis=1) for places in members.values()], axis=1)
    return {name: list(members)[best] for name, best in zip(names, scores.argmax(axis=1), strict=True)}


def questions(label: str, definition: str, gene_set: str | None) -> list[tuple[str, str]]:
    """Questions on cells of a type, with answers."""
    pairs = [
        ("What type are these cells?", f"They are of the type {label}."),
        ("What is known of cells of this type?", definition),
        ("Describe these cells.", f"These cells are of the type {label}. {definition}"),
    ]
    if gene_set:
        name = gene_set.replace("_", " ")
        pairs.append(("Which set of genes do these cells express more than others?", f"They express {name}."))
    return pairs


def summary(labels: Sequence[str], organism: str, tissue: str | None) -> str:
    """Summary of a sample from the types of its cells, the most frequent ones first."""
    counts = Counter(labels).most_common(4)
    types = ", ".join(f"{label} ({count / len(labels):.0%})" for label, count in counts)
    source = f" from {tissue}" if tissue else ""
    return f"A sample of {organism} cells{source}. Its most frequent types are {types}."


def main() -> None:
    """Read the cells and tables, and write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--ontology", required=True, type=Path)
    for option in ("--names", "--gene-sets"):
        parser.add_argument(option, type=Path)
    for option in ("--donor", "--tissue"):
        parser.add_argument(option)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    adata = anndata.read_h5ad(given.cells)
    names: dict[str, str] = (
        dict(pd.read_csv(given.names, header=None, dtype=str).itertuples(index=False)) if given.names else {}
    )
    known, found = terms(given.ontology), text_column(adata.obs, given.label)
    described = [None if label is None else known.get(normalise_label(names.get(label, label))) for label in found]
    missing = sorted({str(label) for label, term in zip(found, described, strict=True) if label and term is None})
    n_described = sum(term is not None for term in described)
    logging.info("%d of %d cells have a label of the ontology", n_described, len(found))
    if missing:
        logging.warning("not in the ontology: %s; --names maps labels of the file to those of the ontology", missing)
    labels = [None if term is None else term[0] for term in described]
    sets: dict[str, str] = {}
    with Expression.open(adata) as expression:
        organisms = expression.organism()
        if given.gene_sets:
            sets = best_sets(expression, labels, read_gmt(given.gene_sets))
    columns: dict[str, list[str | None]] = {"type": labels, "caption": []}
    for term in described:
        columns["caption"].append(None if term is None else f"Cells of the type {term[0]}: {term[1]}")
        pairs = [] if term is None else questions(*term, sets.get(term[0]))
        for number in range(N_QUESTIONS):
            question, answer = pairs[number] if number < len(pairs) else (None, None)
            columns.setdefault(f"question_{number}", []).append(question)
            columns.setdefault(f"answer_{number}", []).append(answer)
    texts = pd.DataFrame(columns, index=adata.obs_names)
    tissues = text_column(adata.obs, given.tissue) if given.tissue else np.full(len(found), None, dtype=object)
    donors = text_column(adata.obs, given.donor) if given.donor else np.full(len(found), "all", dtype=object)
    samples = [
        None if donor is None else f"{donor} {tissue or ''}".strip()
        for donor, tissue in zip(donors, tissues, strict=True)
    ]
    texts["sample"] = samples
    for sample in {sample for sample in samples if sample is not None}:
        rows = [row for row, name in enumerate(samples) if name == sample and labels[row] is not None]
        if rows:
            text = summary([str(labels[row]) for row in rows], organisms[rows[0]], tissues[rows[0]])
            texts.loc[adata.obs_names[rows], "summary"] = text
    for column in texts:
        adata.obs[column] = pd.Categorical(texts[column])
    given.folder.mkdir(parents=True, exist_ok=True)
    with complete_file(given.folder / "text.h5ad", given.cells) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


if __name__ == "__main__":
    main()
