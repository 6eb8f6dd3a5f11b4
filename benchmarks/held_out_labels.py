"""Labels and embeddings of held-out cells by several models, one line for each model and file: to compare trainings.

    python benchmarks/held_out_labels.py DATA_DIR MODEL [MODEL ...] [--files pbmc3k kang_ifnb mouse_cortex]

Held-out cells are those of the recipe's splits, and the labels to choose from those of the file. Accuracy with a 95 %
interval over cells, macro F1, and the share of cells whose ten nearest training cells by the embedding have their type.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import embedded_model
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

import cell2sen as c2s
from cell2sen.inference.session import load_model
from cell2sen.training import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--files", nargs="+", default=["pbmc3k", "kang_ifnb", "mouse_cortex"])
    parser.add_argument("--recipe", type=Path, default=embedded_model.HERE / "recipes" / "nano.yaml")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    config = read_config(arguments.recipe)
    for model in arguments.models:
        backend = load_model({"model": model, "progress": False})
        for stem in arguments.files:
            adata, test = embedded_model.split(config, stem, arguments.data_dir)
            learned = next(file for file in config.data.files if file.file.startswith(stem)).cell_type
            used = np.ones(adata.n_obs, dtype=bool)
            for column, value in (learned.where or {}).items():
                used &= (adata.obs[column].astype(str) == str(value)).to_numpy()
            given = adata.obs[learned.column].astype(str).map(lambda name, names=learned.names: names.get(name, name))
            truth = given.astype(str).to_numpy()
            used &= given.notna().to_numpy()
            sides = [adata[used & side].copy() for side in (~test, test)]
            known, true = (truth[used & side] for side in (~test, test))
            c2s.tl.annotate(sides[1], sorted(set(true)), model=backend, progress=False)
            predicted = sides[1].obs["cell2sen_cell_type"].astype(str).to_numpy()
            for side in sides:
                c2s.tl.embed(side, model=backend, progress=False)
            nearest = KNeighborsClassifier(10).fit(sides[0].obsm["X_cell2sen"], known)
            line = {
                "model": model, "file": stem, "n": len(true),
                **embedded_model.mean_with_interval("accuracy", (predicted == true).astype(float)),
                **embedded_model.f1_with_interval(true, predicted),
                "nearest_training_cells": round(float(nearest.score(sides[1].obsm["X_cell2sen"], true)), 4),
            }  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
