"""Unseen scores of cells of a file, or of a type, that the density of training cells was fitted without.

    python benchmarks/novelty.py DATA_DIR [--recipe FILE.yaml] [--model nano] [--only file type known offered]

The density is fitted to the training cells of the recipe as `cell2sen train` does
(:mod:`cell2sen.training.release.fit_density`), without a model. Known cells are those that the recipe holds out, as
they are; the density sees one half of them, the other half is scored. Unknown cells are those of the left-out file
whose label no other file has, or all cells of the left-out label. With `known` a file of known types from another
experiment is left out: its cells should be labelled.

`offered` annotates blood with labels that fit, or do not, and `none_of_these`, by a model.

Prints one JSON line for each: cells, area under the curve against known cells, share of the left-out
cells with a score of at most 0.95 and 0.99, share of the known ones with at most 0.95.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

import cell2sen as c2s
from cell2sen.inference.novelty.training_density import MAX_UNSEEN, STEPS, TrainingDensity
from cell2sen.training import read_config
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.names import exclude_held_out
from cell2sen.training.network.from_scratch import common_genes
from cell2sen.training.release.fit_density import DensityCells

HERE = Path(__file__).parent.parent

#: Files left out; types left out, which relatives of the same tissue are trained on; files of known types.
FILES = ("pancreas", "mouse_cortex", "spatial_lung_tumour", "perturbseq")
TYPES = ("B cell", "NK cell", "CD14+ monocyte", "dendritic cell", "pancreatic beta cell")
KNOWN = ("pbmc3k", "kang_ifnb", "kang_control")

KINDS = ("file", "type", "known", "offered")

#: Labels offered for blood: of other tissues; complete, in other spellings; without B cells.
OFFERED = {
    "of other tissues": ["hepatocyte", "neuron", "cardiomyocyte"],
    "other spellings": ["naive B cell", "monocyte", "T cell", "NK cell", "DC", "megakaryocyte", "platelet"],
    "without B cells": ["T cell", "NK cell", "monocyte", "DC", "megakaryocyte", "platelet"],
}

Parts = dict[str, DensityCells]


def scores(density: TrainingDensity, weights: sp.csr_matrix) -> np.ndarray:
    return np.asarray(np.interp(density.evidence(weights), density.quantiles, STEPS))


def labels(part: DensityCells) -> np.ndarray:
    return np.array([group.split("\n")[0] for group in part.groups])


def measured(cells: DensityCells, genes: tuple[str, ...], left_out: DensityCells) -> dict:
    """Density of training cells and half of the held-out ones; scores of the other half, and of left-out cells."""
    scored = cells.test & (np.arange(len(cells.test)) % 2 == 1)
    density = cells[~scored].density(genes, 0)
    assert density is not None
    known = scores(density, cells[scored & cells.as_measured].weights)
    unknown = scores(density, left_out[left_out.as_measured].weights)
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    return {
        "n": len(unknown),
        "auc": round(float(roc_auc_score(truth, np.concatenate([known, unknown]))), 3),
        **{f"labelled_at_{limit}": round(float(np.mean(unknown <= limit)), 3) for limit in (MAX_UNSEEN, 0.99)},
        "known_labelled": round(float(np.mean(known <= MAX_UNSEEN)), 3),
    }


def without_file(parts: Parts, genes: tuple[str, ...], name: str, *, known: bool) -> dict:
    """Cells of a left-out file: those with a label that other files have, or those without."""
    file = next(file for file in parts if file.startswith(name))
    others = DensityCells.together([part for each, part in parts.items() if each != file])
    return measured(others, genes, parts[file][np.isin(labels(parts[file]), labels(others)) == known])


def without_type(parts: Parts, genes: tuple[str, ...], label: str) -> dict:
    """Cells of a left-out type, in all files."""
    cells = DensityCells.together(list(parts.values()))
    own = labels(cells) == label
    return measured(cells[~own], genes, cells[own])


def offered(base: Path, name: str, labels: list[str], model: str) -> dict:
    """Cells of blood for which a model finds that none of the offered labels fits, every 20th of a file."""
    file = next(base.glob(f"{name}*.h5ad"))
    adata = ad.read_h5ad(file)[::20].copy()
    c2s.tl.annotate(adata, labels, model=model, none_of_these=True, progress=False)
    unknown = adata.obs["cell2sen_cell_type"] == c2s.tl.UNKNOWN
    named_b = adata.obs["cell_type"].astype(str).isin(["B", "B cells"])
    return {
        "n": len(adata),
        "unknown": round(float(unknown.mean()), 3),
        "b_cells": int(named_b.sum()),
        "unknown_b_cells": int((unknown & named_b).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--recipe", type=Path, default=HERE / "recipes" / "nano-first.yaml")
    parser.add_argument("--only", choices=KINDS, nargs="*", default=list(KINDS))
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("pbmc3k", "kang_ifnb") if "offered" in arguments.only else ():
        for what, names in OFFERED.items():
            result = offered(arguments.data_dir, name, names, arguments.model)
            print(json.dumps({"benchmark": "novelty", "offered": what, "name": name, **result}), flush=True)
    if arguments.only == ["offered"]:
        return
    config = read_config(arguments.recipe)
    cells = {file.file: TrainingCells(file, arguments.data_dir, "upper") for file in config.data.files}
    exclude_held_out(cells)
    scratch = config.model.from_scratch
    assert scratch is not None
    genes = common_genes(cells, scratch.tokenizer.min_cells, approved_symbols=scratch.tokenizer.approved_symbols)
    for file in cells.values():
        file.keep_genes(lambda symbols: np.isin(symbols, genes))
    parts = {name: DensityCells.of(file, genes, number, 0) for number, (name, file) in enumerate(cells.items())}
    for kind, names in (("file", FILES), ("type", TYPES), ("known", KNOWN)):
        for name in names if kind in arguments.only else ():
            if kind == "type":
                result = without_type(parts, genes, name)
            else:
                result = without_file(parts, genes, name, known=kind == "known")
            print(json.dumps({"benchmark": "novelty", "left_out": kind, "name": name, **result}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
