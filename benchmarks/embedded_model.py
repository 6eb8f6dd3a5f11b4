"""Scores of the embedded model on held-out cells, beside baselines and ceilings.

    python benchmarks/embedded_model.py --data-dir FOLDER [--model DIR] [--out FILE.json]

Held-out cells are those of the training file's splits. Intervals (keys that end in ``_95``) are 95 % bootstrap
intervals over cells: held-out cells, drawn cells, and of responses both the control and the treated cells, of the
difference from the simple method (the change of the type, or of the other replicates, in training). Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from scipy.stats import kendalltau
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, silhouette_samples
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import cell2sen as c2s
from cell2sen.evaluation.metrics.distributions import scfid
from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.inference.session import load_model, start
from cell2sen.training import read_config
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_calibration import calibrates

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent.parent


def log_normalised(adata: ad.AnnData) -> ad.AnnData:
    """A copy with ln(1 + CP10k)."""
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    return log


def interval(score: Callable[..., float], *sizes: int, draws: int = 500) -> list[float]:
    """95 % bootstrap interval of ``score(rows, ...)``, with resampled rows of each group of cells."""
    generator = np.random.default_rng(0)
    values = [score(*(generator.integers(0, size, size) for size in sizes)) for _ in range(draws)]
    return [round(float(value), 4) for value in np.quantile(values, [0.025, 0.975])]


def mean_with_interval(name: str, values: np.ndarray) -> dict:
    """Mean over cells under `name`, and its interval."""
    return {name: round(float(values.mean()), 4), f"{name}_95": interval(lambda rows: values[rows].mean(), len(values))}


def f1_with_interval(truth: np.ndarray, predicted: np.ndarray) -> dict:
    """Macro F1 and its interval."""

    def score(rows: np.ndarray) -> float:
        return f1_score(truth[rows], predicted[rows], average="macro")

    return {"macro_f1": round(score(np.arange(len(truth))), 4), "macro_f1_95": interval(score, len(truth))}


def split(config, name: str, base: Path) -> tuple[ad.AnnData, np.ndarray]:
    """The file whose name begins with `name`, and its held-out cells."""
    data = next(file for file in config.data.files if file.file.startswith(name))
    cells = TrainingCells(data, base, "upper")
    return ad.read_h5ad(base / data.file), cells.test


def annotation(config, base: Path, backend) -> dict:
    """Cell types of held-out cells, beside logistic regression on variable genes and the most frequent type."""
    adata, test = split(config, "pbmc3k", base)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    labels = sorted(set(truth))
    held = adata[test].copy()
    c2s.tl.annotate(held, labels, model=backend, progress=False)
    probabilities = held.obsm["cell2sen_cell_type_probabilities"].to_numpy()
    predicted = np.array(labels)[probabilities.argmax(axis=1)]
    correct = predicted == truth[test]
    log = log_normalised(adata)
    genes = sc.pp.highly_variable_genes(log[~test], n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
    values = log.X.toarray()[:, genes]
    baseline = LogisticRegression(C=0.1, max_iter=2000).fit(values[~test], truth[~test]).predict(values[test])
    scored = np.array([not calibrates(name) for name in held.obs_names])  # the temperature was fitted on the other half
    right, certainty = correct[scored].astype(float), probabilities.max(1)[scored]
    return {
        "data": "pbmc3k, 20 % of the cells held out", "n": int(test.sum()),
        **mean_with_interval("accuracy", correct.astype(float)), **f1_with_interval(truth[test], predicted),
        "ece_scored_half": round(calibration_error(right, certainty), 4),
        "ece_scored_half_95": interval(lambda rows: calibration_error(right[rows], certainty[rows]), len(right)),
        "logistic_regression": {
            **mean_with_interval("accuracy", (truth[test] == baseline).astype(float)),
            **f1_with_interval(truth[test], baseline),
        },
        "majority": round(float(np.mean(truth[test] == max(labels, key=list(truth[~test]).count))), 4),
    }  # fmt: skip


def embeddings(config, base: Path, backend) -> dict:
    """Nearest-neighbour accuracy and silhouette of cell types in the embedding, beside 50 principal components."""
    adata, test = split(config, "pbmc3k", base)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    c2s.tl.embed(adata, model=backend, progress=False)
    log = log_normalised(adata)
    pca = PCA(50, random_state=0).fit(log[~test].X.toarray()).transform(log.X.toarray())
    result = {"data": "pbmc3k: neighbours among training cells, scored on held-out cells", "n": int(test.sum())}
    for name, vectors in (("cell2sen", adata.obsm["X_cell2sen"]), ("pca_50", pca)):
        predicted = KNeighborsClassifier(10).fit(vectors[~test], truth[~test]).predict(vectors[test])
        result[name] = {
            **mean_with_interval("knn_accuracy", (predicted == truth[test]).astype(float)),
            **mean_with_interval("silhouette", silhouette_samples(vectors[test], truth[test])),
        }
    return result


def changes(adata: ad.AnnData, control: ad.AnnData, perturbation: str, backend, measured: bool = True) -> np.ndarray:
    """Predicted change of each control cell, float64 (cells, genes of the file); 0 for genes that are not predicted."""
    predicted = c2s.tl.perturb(control, perturbation, model=backend, progress=False, measured=measured)
    place = {gene.upper(): number for number, gene in enumerate(adata.var_names)}
    delta = predicted.layers["delta"]
    change = np.zeros((control.n_obs, adata.n_vars))
    change[:, [place[gene.upper()] for gene in predicted.var_names]] = (
        delta.toarray() if hasattr(delta, "toarray") else delta
    )
    return change


def agreement(control: np.ndarray, true: np.ndarray, change: np.ndarray) -> dict:
    """Correlation of predicted and true mean change, share of the 100 largest whose direction is right;
    top-200 overlap and Kendall's tau of the mean expression after."""
    largest = np.argsort(-np.abs(true))[:100]
    after, real = np.maximum(control + change, 0), control + true
    best = {"predicted": set(np.argsort(-after)[:200]), "real": set(np.argsort(-real)[:200])}
    shown = sorted(best["real"])
    return {
        "pearson_change": round(float(np.corrcoef(change, true)[0, 1]), 4) if change.any() else 0.0,
        "right_direction_100": float((np.sign(change) == np.sign(true))[largest].mean()),
        "overlap_200": len(best["predicted"] & best["real"]) / 200,
        "kendall_top_200": round(float(kendalltau(after[shown], real[shown]).statistic), 4),
    }


def with_differences(control: np.ndarray, treated: np.ndarray, change: np.ndarray, simple: np.ndarray) -> dict:
    """:func:`agreement` of a prediction, and intervals of its difference from that of a simple method.

    The same control and treated cells are drawn for both: with fewer different cells the truth is noisier, so that each
    agreement alone is lower in every draw.

    Parameters
    ----------
    control, treated
        Expression, (cells, genes).
    change
        Predicted change of each control cell, (cells, genes).
    simple
        Change by the simple method, (genes,).
    """

    def score(rows: np.ndarray, others: np.ndarray) -> tuple[dict, dict]:
        before = control[rows].mean(axis=0)
        true = treated[others].mean(axis=0) - before
        return agreement(before, true, change[rows].mean(axis=0)), agreement(before, true, simple)

    generator, sizes = np.random.default_rng(0), (len(control), len(treated))
    found, _ = score(*map(np.arange, sizes))
    drawn = [score(*(generator.integers(0, size, size) for size in sizes)) for _ in range(200)]
    limits = {
        f"{name}_difference_95": np.quantile([own[name] - other[name] for own, other in drawn], [0.025, 0.975])
        .round(4)
        .tolist()
        for name in found
    }
    return found | limits


def response(config, base: Path, backend) -> dict:
    """Mean change after IFN-beta in held-out cells, by cell type; all types were trained on."""
    adata, test = split(config, "kang_ifnb", base)
    log = log_normalised(adata)
    stimulated = np.asarray(adata.obs["condition"] == "IFN-beta")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    result: dict = {"data": "kang, held-out cells, IFN-beta", "by_type": {}}
    mean = lambda rows: np.asarray(log[rows].X.mean(axis=0)).ravel()  # noqa: E731
    train = ~test
    for kind in ("CD14+ Monocytes", "CD4 T cells", "B cells", "NK cells"):
        own = types == kind
        control = adata[test & ~stimulated & own].copy()
        before, true = mean(test & ~stimulated & own), mean(test & stimulated & own) - mean(test & ~stimulated & own)
        values = [log[test & own & (stimulated == treated)].X.toarray() for treated in (False, True)]
        shift = mean(train & stimulated & own) - mean(train & ~stimulated & own)
        change = changes(adata, control, "IFN-beta", backend)
        rows = np.flatnonzero(test & stimulated & own)
        half, other_half = mean(rows[::2]) - before, mean(rows[1::2]) - before
        result["by_type"][kind] = {
            "n_control": int(control.n_obs), "n_treated": len(rows),
            "model": with_differences(*values, change, shift),
            "model_alone": agreement(
                before, true, changes(adata, control, "IFN-beta", backend, measured=False).mean(axis=0)
            ),
            "mean_change_of_this_type_in_training": agreement(before, true, shift),
            "no_change": agreement(before, true, np.zeros_like(true)),
            "ceiling_half_against_half": agreement(before, other_half, half),
            "rises_most": list(adata.var_names[np.argsort(-change.mean(axis=0))[:6]]),
        }  # fmt: skip
    return result


def knockouts(config, base: Path, backend) -> dict:
    """Knock-outs in the held-out replicate: direction of change of interferon-gamma genes, and correlation."""
    adata, test = split(config, "papalexi", base)
    log = log_normalised(adata).X.toarray()
    perturbation = adata.obs["perturbation"].astype(str).to_numpy()
    sets = (line.split("\t") for line in (base / "hallmark_v7.0_human.gmt").read_text().splitlines())
    targets = next(set(line[2:]) for line in sets if line[0] == "HALLMARK_INTERFERON_GAMMA_RESPONSE")
    listed = np.array([gene in targets for gene in adata.var_names])
    result: dict = {"data": "papalexi, replicate rep_3 held out", "by_knockout": {}}
    control = adata[test & (perturbation == "control")].copy()
    control = control[np.random.default_rng(0).permutation(control.n_obs)[:200]].copy()
    for gene in ("STAT1", "IFNGR1", "IFNGR2", "JAK2"):
        sides = {}
        for name, side in (("held_out", test), ("training", ~test)):
            with_it, without = side & (perturbation == gene), side & (perturbation == "control")
            error = np.sqrt(log[with_it].var(axis=0) / with_it.sum() + log[without].var(axis=0) / without.sum())
            sides[name] = log[with_it].mean(axis=0) - log[without].mean(axis=0), error
        true, error = sides["held_out"]
        clear = listed & (np.abs(true) > 3 * error)
        by_cell = changes(adata, control, f"{gene} knock-out", backend)
        change = by_cell.mean(axis=0)
        alone = changes(adata, control, f"{gene} knock-out", backend, measured=False).mean(axis=0)
        with_it, without = (log[test & (perturbation == name)] for name in (gene, "control"))

        def difference(
            cells: np.ndarray, treated: np.ndarray, controls: np.ndarray, predicted: np.ndarray = by_cell,
            own: np.ndarray = with_it, others: np.ndarray = without, simple: np.ndarray = sides["training"][0],
        ) -> float:  # fmt: skip
            real = own[treated].mean(axis=0) - others[controls].mean(axis=0)
            return float(np.corrcoef(predicted[cells].mean(axis=0), real)[0, 1] - np.corrcoef(simple, real)[0, 1])

        direction = {
            name: round(float((np.sign(predicted) == np.sign(true))[clear].mean()), 4)
            for name, predicted in (
                ("model", change), ("alone", alone), ("training", sides["training"][0]),
                ("down", -np.ones_like(true)),
            )
        }  # fmt: skip
        result["by_knockout"][gene] = {
            "n_cells": int((test & (perturbation == gene)).sum()), "n_clear_targets": int(clear.sum()),
            "right_direction": direction["model"],
            "pearson_change": round(float(np.corrcoef(change, true)[0, 1]), 4),
            "pearson_change_difference_95": interval(
                difference, len(by_cell), len(with_it), len(without), draws=200
            ),
            "model_alone": {
                "right_direction": direction["alone"],
                "pearson_change": round(float(np.corrcoef(alone, true)[0, 1]), 4),
            },
            "training_replicates": {
                "right_direction": direction["training"],
                "pearson_change": round(float(np.corrcoef(sides["training"][0], true)[0, 1]), 4),
            },
            "always_down": direction["down"],
        }  # fmt: skip
    return result


#: Candidates and temperatures of drawn cells.
DRAWS = ((1, 1.0), (8, 1.0), (8, 0.8))


def generation(config, base: Path, backend) -> dict:
    """Generated cells beside copies of training cells: label of the nearest held-out cells, shared genes, scFID.

    scFID is that of the held-out cells of the same types, in 20 principal components of training cells. Memorisation:
    the smallest distance of a cell to a training cell, among drawn cells and among held-out ones.
    """
    adata, test = split(config, "pbmc3k", base)
    names = next(file for file in config.data.files if file.file.startswith("pbmc3k")).cell_type.names
    truth = adata.obs["cell_type"].astype(str).map(names).to_numpy()
    types, each = sorted(set(truth)), 20
    session = start(adata, "generate", {"model": backend, "progress": False})
    lists = session.sentences.gene_names(session.length)
    real = session.expression(lists).toarray()
    neighbours = KNeighborsClassifier(10).fit(real[test], truth[test])
    nearest = NearestNeighbors(n_neighbors=1).fit(real[~test])
    components = PCA(20, random_state=0).fit(real[~test])
    generator = np.random.default_rng(0)
    copied = np.concatenate([generator.choice(np.flatnonzero(~test & (truth == kind)), each) for kind in types])
    reference = np.concatenate([generator.choice(np.flatnonzero(test & (truth == kind)), each) for kind in types])

    def scores(sentences: list[set[str]], expression: np.ndarray, kinds: np.ndarray) -> dict:
        shares = []
        for genes, kind in zip(sentences, kinds, strict=True):
            others = generator.choice(np.flatnonzero(test & (truth == kind)), 20)
            both = [len(genes & set(lists[other])) / min(len(genes), len(lists[other])) for other in others]
            shares.append(np.mean(both))
        return {
            **mean_with_interval("knn_accuracy", (neighbours.predict(expression) == kinds).astype(float)),
            **mean_with_interval("gene_overlap", np.array(shares)),
            "scfid": round(scfid(components.transform(real[reference]), components.transform(expression)), 2),
        }

    result = {
        "data": f"pbmc3k: {each} drawn cells of each type beside held-out cells, sentences of the same length",
        "chance": round(1 / len(types), 4),
        "copies_of_training_cells": scores([set(lists[row]) for row in copied], real[copied], truth[copied]),
        "held_out_cells_nearest_training_cell": round(float(nearest.kneighbors(real[test])[0].min()), 3),
    }
    for candidates, temperature in DRAWS:
        settings = {"candidates": candidates, "temperature": temperature}
        drawn = c2s.tl.generate(types, n=each, genes=adata, model=backend, progress=False, **settings)
        label = drawn.obs["cell_type"].astype(str).to_numpy()
        found = scores([set(sentence.split()) for sentence in drawn.obs["sentence"]], drawn.X.toarray(), label)
        found["nearest_training_cell"] = round(float(nearest.kneighbors(drawn.X.toarray())[0].min()), 3)
        found["validity"] = round(float(drawn.obs["validity"].mean()), 4)
        result[f"{candidates} candidates, temperature {temperature}"] = found
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipes" / "nano.yaml")
    parser.add_argument("--out", type=Path)
    jobs = (annotation, embeddings, response, knockouts, generation)
    parser.add_argument("--only", nargs="*", default=[job.__name__ for job in jobs])
    arguments = parser.parse_args()
    config = read_config(arguments.recipe)
    backend = load_model({"model": arguments.model, "progress": False})
    result = {"benchmark": "embedded_model", "weights": backend.model.provenance()["weights_sha256"]}
    for job in jobs:
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
