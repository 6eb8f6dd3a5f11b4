"""The embedded model on cells it never saw, each score beside its baseline and ceiling.

    python benchmarks/embedded_model.py --data-dir FOLDER [--model DIR] [--out FILE.json]

The held-out cells are those of the training file's splits. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

import cell2sen as c2s
from cell2sen import pipeline
from cell2sen.pairs import Cells, barcode
from cell2sen.train import read_config

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent.parent


def log_normalised(adata: ad.AnnData) -> ad.AnnData:
    one = adata.copy()
    sc.pp.normalize_total(one, target_sum=1e4)
    sc.pp.log1p(one)
    return one


def interval(correct: np.ndarray, draws: int = 1000) -> list[float]:
    """95 % bootstrap interval over cells."""
    generator = np.random.default_rng(0)
    means = [correct[generator.integers(0, len(correct), len(correct))].mean() for _ in range(draws)]
    return [round(float(value), 4) for value in np.quantile(means, [0.025, 0.975])]


def expected_calibration_error(probability: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    which = np.minimum((probability * bins).astype(int), bins - 1)
    return float(
        sum(abs(probability[which == b].mean() - correct[which == b].mean()) * (which == b).mean() for b in set(which))
    )


def split(config, name: str, base: Path) -> tuple[ad.AnnData, np.ndarray]:
    """The file with its obs, and which of its cells were held out."""
    data = next(one for one in config.data if one.file.startswith(name))
    cells = Cells(data, base, "upper")
    return ad.read_h5ad(base / data.file), cells.test


def annotation(config, base: Path, backend) -> dict:
    adata, test = split(config, "pbmc3k", base)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    labels = sorted(set(truth))
    held = adata[test].copy()
    c2s.tl.annotate(held, labels, model=backend, progress=False)
    probabilities = held.obsm["cell2sen_cell_type_probabilities"]
    found = np.array(labels)[probabilities.argmax(axis=1)]
    right = found == truth[test]
    log = log_normalised(adata)
    variable = log.copy()
    sc.pp.highly_variable_genes(variable[~test], n_top_genes=2000)
    genes = sc.pp.highly_variable_genes(log[~test], n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    x = log.X.toarray()[:, genes]
    baseline = LogisticRegression(C=0.1, max_iter=2000).fit(x[~test], truth[~test]).predict(x[test])
    other = np.array([hash_half(name) for name in held.obs_names])
    return {
        "data": "pbmc3k, 20 % of the cells held out", "n": int(test.sum()),
        "accuracy": round(accuracy_score(truth[test], found), 4), "interval": interval(right),
        "macro_f1": round(f1_score(truth[test], found, average="macro"), 4),
        "ece_scored_half": round(expected_calibration_error(probabilities.max(1)[other], right[other]), 4),
        "logistic_regression": {
            "accuracy": round(accuracy_score(truth[test], baseline), 4),
            "macro_f1": round(f1_score(truth[test], baseline, average="macro"), 4),
        },
        "majority": round(float(np.mean(truth[test] == max(labels, key=list(truth[~test]).count))), 4),
    }  # fmt: skip


def hash_half(name: str) -> bool:
    """The half of the held-out cells on which probabilities are scored; the other half calibrates them."""
    import hashlib

    return hashlib.blake2b(barcode(name).encode()).digest()[0] % 2 == 1


def embeddings(config, base: Path, backend) -> dict:
    adata, test = split(config, "pbmc3k", base)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    c2s.tl.embed(adata, model=backend, progress=False)
    log = log_normalised(adata)
    pca = PCA(50, random_state=0).fit(log[~test].X.toarray()).transform(log.X.toarray())
    result = {"data": "pbmc3k: neighbours among training cells, scored on held-out cells", "n": int(test.sum())}
    for name, vectors in (("cell2sen", adata.obsm["X_cell2sen"]), ("pca_50", pca)):
        found = KNeighborsClassifier(10).fit(vectors[~test], truth[~test]).predict(vectors[test])
        result[name] = {
            "knn_accuracy": round(accuracy_score(truth[test], found), 4),
            "silhouette": round(float(silhouette_score(vectors[test], truth[test])), 4),
        }
    return result


def response(config, base: Path, backend) -> dict:
    """IFN-beta on held-out cells of types seen in training: correlation of the mean change, by cell type."""
    adata, test = split(config, "kang_ifnb", base)
    log = log_normalised(adata)
    stimulated = np.asarray(adata.obs["condition"] == "IFN-beta")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    result: dict = {"data": "kang, held-out cells, IFN-beta", "by_type": {}}
    for kind in ("CD14+ Monocytes", "CD4 T cells", "B cells", "NK cells"):
        control = adata[test & ~stimulated & (types == kind)].copy()
        if control.n_obs < 5:
            continue
        predicted = c2s.tl.perturb(control, "IFN-beta", model=backend, progress=False)
        mean = lambda rows: np.asarray(log[rows].X.mean(axis=0)).ravel()  # noqa: E731
        true = mean(test & stimulated & (types == kind)) - mean(test & ~stimulated & (types == kind))
        place = {gene.upper(): number for number, gene in enumerate(adata.var_names)}
        order = [place[gene] for gene in predicted.var_names]
        change = np.asarray(predicted.layers["delta"].mean(axis=0)).ravel()
        train = ~test
        shift = mean(train & stimulated & (types == kind)) - mean(train & ~stimulated & (types == kind))
        others = np.mean(
            [
                mean(train & stimulated & (types == o)) - mean(train & ~stimulated & (types == o))
                for o in set(types) - {kind}
            ],
            axis=0,
        )
        rows = np.flatnonzero(test & stimulated & (types == kind))
        half = mean(rows[::2]) - mean(test & ~stimulated & (types == kind))
        other_half = mean(rows[1::2]) - mean(test & ~stimulated & (types == kind))
        result["by_type"][kind] = {
            "n_control": int(control.n_obs),
            "pearson_change": round(float(np.corrcoef(change, true[order])[0, 1]), 4),
            "mean_shift_of_this_type": round(float(np.corrcoef(shift[order], true[order])[0, 1]), 4),
            "mean_shift_of_other_types": round(float(np.corrcoef(others[order], true[order])[0, 1]), 4),
            "no_change": 0.0,
            "ceiling_half_against_half": round(float(np.corrcoef(half, other_half)[0, 1]), 4),
            "rises_most": list(predicted.var_names[np.argsort(-change)[:6]]),
        }
    return result


def generation(config, base: Path, backend) -> dict:
    """k-NN labels of drawn cells, on training cells, beside that of real held-out cells."""
    adata, test = split(config, "pbmc3k", base)
    names = next(one for one in config.data if one.file.startswith("pbmc3k")).labels
    truth = adata.obs["cell_type"].astype(str).map(names).to_numpy()
    drawn = c2s.tl.generate(sorted(set(truth)), n=20, genes=adata, model=backend, progress=False)
    session = pipeline.start(adata, "generate", {"model": backend, "progress": False})
    lists = session.sentences.gene_lists(session.length)
    real = pipeline.expression(lists, session.sentences.symbols, session.sentences.fit).toarray()
    neighbours = KNeighborsClassifier(10).fit(real[~test], truth[~test])
    return {
        "data": "pbmc3k: 20 drawn cells of each type, nearest training cells, sentences of the same length",
        "knn_accuracy": round(float(np.mean(neighbours.predict(drawn.X.toarray()) == drawn.obs["cell_type"])), 4),
        "real_held_out_cells": round(float(np.mean(neighbours.predict(real[test]) == truth[test])), 4),
        "validity": round(float(drawn.obs["validity"].mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipes" / "nano.yaml")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=["annotation", "embeddings", "response", "generation"])
    arguments = parser.parse_args()
    config = read_config(arguments.recipe)
    backend = pipeline.load_model({"model": arguments.model, "progress": False})
    result = {"benchmark": "embedded_model", "weights": backend.model.provenance()["weights_sha256"]}
    for job in (annotation, embeddings, response, generation):
        if job.__name__ in arguments.only:
            started = time.perf_counter()
            result[job.__name__] = job(config, arguments.data_dir, backend)
            result[job.__name__]["seconds"] = round(time.perf_counter() - started, 1)
            sys.stderr.write(json.dumps(result[job.__name__], indent=1) + "\n")
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
