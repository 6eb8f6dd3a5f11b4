"""Labels of the ten nearest cells of the same file: by the network's embedding, gene ranks, both, and PCA.

    python benchmarks/neighbours.py DATA_DIR [--model nano] [--cells 400] [--size 256] [--weights 0.5 2] [--held-out]
    python benchmarks/neighbours.py DATA_DIR --adapt MINUTES [--steps N] [--set temperature=0.2] [--only mouse_cortex]

The gene part (:mod:`cell2sen.training.release.fit_gene_part`) is fitted here, to training cells of the recipe without
the measured file, so that a model without one can be measured. With --weights it counts more or less. The
network may have (see its card); "embed" is what `tl.embed` returns, with the gene part of the model, whose training
may have had the file, too. PCA (50 components of ln(1 + CP10k) of the 2,000 most variable genes) is fitted to
all cells of the file itself. Prints one JSON line for each file: leave-one-out accuracy, Euclidean distance, and the
95 % interval over cells of the difference between both parts and PCA.

With --held-out the neighbours are all cells of the file, and only those are scored that the training held out.

With --adapt the model is first adapted to all cells of the file, without their labels (:func:`cell2sen.adapt`), and the
line has the network before and after, the gene part that is then fitted to the same cells, and both together; of
pbmc3k also the accuracy of its labels before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import cell2sen as c2s
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.gene_part import Scaling
from cell2sen.inference.session import load_model, start
from cell2sen.training import read_config
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_density import DensityCells
from cell2sen.training.release.fit_gene_part import gene_part_of, network_vectors

HERE = Path(__file__).parent.parent

#: Measured files and their column of labels; of pbmc3k the held-out cells.
FILES = {
    "pbmc3k": "cell_type", "kang_ifnb": "cell_type", "pancreas": "cell_type", "mouse_cortex": "cell_type",
    "mouse_lung": "cell_type", "spatial_lung_tumour": "cell_type",
}  # fmt: skip
K = 10


def correct(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether most of the ten nearest other cells have the label of a cell, bool (cells,)."""
    others = NearestNeighbors(n_neighbors=K + 1).fit(vectors).kneighbors(return_distance=False)[:, :K]
    names, codes = np.unique(labels, return_inverse=True)
    votes = np.stack([(codes[others] == code).sum(axis=1) for code in range(len(names))], axis=1)
    return np.asarray(votes.argmax(axis=1) == codes)


def interval(difference: np.ndarray) -> list[float]:
    """95 % bootstrap interval of a mean over cells."""
    generator = np.random.default_rng(0)
    means = [difference[generator.integers(0, len(difference), len(difference))].mean() for _ in range(1000)]
    return [round(float(value), 3) for value in np.quantile(means, [0.025, 0.975])]


def principal_components(adata: ad.AnnData, rows: np.ndarray) -> np.ndarray:
    """50 principal components of some cells, fitted to all cells of the file."""
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    if log.n_vars > 2000:
        log = log[:, sc.pp.highly_variable_genes(log, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()]
    values = log.X.toarray() if hasattr(log.X, "toarray") else np.asarray(log.X)
    return PCA(50, random_state=0).fit(values).transform(values[rows])


def named(path: Path, prefix: str) -> str:
    """Name of the measured file that begins so."""
    return next(file.name for file in sorted(path.glob("*.h5ad")) if file.name.startswith(prefix))


def rows_of(adata: ad.AnnData, labels: np.ndarray, n_cells: int, test: np.ndarray | None, seed: int) -> np.ndarray:
    """Random labelled cells with genes, of the held-out ones if `test` is given, ascending."""
    usable = ~np.isin(labels, ["nan", "unknown", "None"]) & (np.asarray((adata.X > 0).sum(axis=1)).ravel() > 0)
    if test is not None:
        usable &= test
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:n_cells])


def label_accuracy(adata: ad.AnnData, truth: np.ndarray, model: str) -> float:
    """Share of cells that a model labels correctly among the labels of these cells."""
    found = c2s.tl.annotate(adata, sorted(set(truth)), model=model, copy=True, progress=False)
    return round(float((found.obs["cell2sen_cell_type"].astype(str).to_numpy() == truth).mean()), 3)


def adaptation(prefix: str, arguments: argparse.Namespace, config: object) -> dict[str, object]:
    """Neighbours before and after an adaptation to all cells of a file, beside PCA of them."""
    name = named(arguments.data_dir, prefix)
    adata = ad.read_h5ad(arguments.data_dir / name)
    labels = adata.obs[FILES[prefix]].astype(str).to_numpy()
    entry = next(file for file in config.data.files if file.file == name)
    trained = TrainingCells(entry, arguments.data_dir, "upper") if prefix == "pbmc3k" else None
    rows = rows_of(adata, labels, arguments.cells, None if trained is None else trained.test, seed=0)
    components, chosen, labels = principal_components(adata, rows), adata[rows].copy(), labels[rows]
    settings = {key: float(value) if "." in value else int(value) for key, value in arguments.set}
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "adapted")
        given = {"steps": arguments.steps} if arguments.steps else {"minutes": arguments.adapt}
        model = c2s.adapt(adata, out, model=arguments.model, settings=settings, progress=False, **given)

        def vectors_of(of: str, parts: str | None) -> np.ndarray:
            return c2s.tl.embed(chosen, model=of, parts=parts, copy=True, progress=False).obsm["X_cell2sen"]

        before, after = vectors_of(arguments.model, "network"), vectors_of(out, None)
        adapted, own = after[:, : before.shape[1]], after[:, before.shape[1] :]
        vectors = {"network": before, "adapted": adapted}
        if own.shape[1]:
            vectors |= {"own_genes": own, "network_and_genes": np.hstack([Scaling.of(before)(before), own])}
            vectors["adapted_and_genes"] = after
        vectors["pca_50"] = components
        accuracies = {}
        if trained is not None:
            truth = trained.label[rows].astype(str)
            accuracies = {"labels_before": label_accuracy(chosen, truth, arguments.model)}
            accuracies["labels_after"] = label_accuracy(chosen, truth, out)
    found = {kind: correct(each, labels) for kind, each in vectors.items()}
    best = found.get("adapted_and_genes", found["adapted"]).astype(float)
    return {
        "file": prefix,
        "n": len(rows),
        "settings": settings,
        "steps": model.metadata["adaptation"]["steps"],
        "losses": model.metadata["adaptation"]["losses"],
        **{kind: round(float(each.mean()), 3) for kind, each in found.items()},
        "adapted_minus_network": interval(found["adapted"].astype(float) - found["network"]),
        "result_minus_pca": interval(best - found["pca_50"]),
        **accuracies,
    }


def pair(text: str) -> tuple[str, str]:
    """Key and value of ``KEY=VALUE``."""
    key, _, value = text.partition("=")
    return key, value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipes" / "nano-first.yaml")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="of the gene part, times its own")
    parser.add_argument("--held-out", action="store_true", help="score the held-out cells among all cells")
    parser.add_argument("--only", nargs="*", default=list(FILES))
    parser.add_argument("--adapt", type=float, help="minutes of an adaptation to the cells of the file")
    parser.add_argument("--steps", type=int, help="steps of the adaptation, instead of its minutes")
    parser.add_argument("--set", type=pair, nargs="*", default=[], help="KEY=VALUE of the adaptation's settings")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.adapt or arguments.steps:
        for prefix in arguments.only:
            line = adaptation(prefix, arguments, read_config(arguments.recipe))
            print(json.dumps({"benchmark": "neighbours", **line}), flush=True)
        return
    backend = load_model({"model": arguments.model, "progress": False})
    genes = list(backend.model.genes)
    config = read_config(arguments.recipe)
    cells = {file.file: TrainingCells(file, arguments.data_dir, "upper") for file in config.data.files}
    for file in cells.values():
        file.keep_genes(lambda symbols: np.isin(symbols, genes))
    parts = {name: DensityCells.of(file, genes, number, 0) for number, (name, file) in enumerate(cells.items())}
    embedded = {name: network_vectors(file, backend) for name, file in cells.items()}
    for prefix in arguments.only:
        name = next(file for file in cells if file.startswith(prefix))
        adata = ad.read_h5ad(arguments.data_dir / name)
        labels = adata.obs[FILES[prefix]].astype(str).to_numpy()
        test = cells[name].test
        n_cells = adata.n_obs if arguments.held_out else arguments.cells
        # Another seed than that of the splits, which would draw cells of one side only.
        side = test if prefix == "pbmc3k" and not arguments.held_out else None
        rows = rows_of(adata, labels, n_cells, side, seed=1)
        scored = test[rows] if arguments.held_out else np.ones(len(rows), dtype=bool)
        components = principal_components(adata, rows)
        adata, labels = adata[rows].copy(), labels[rows]
        session = start(adata, "embed", {"model": backend, "progress": False})
        network = embed_cells(session).vectors
        others = DensityCells.together([part for each, part in parts.items() if each != name])
        scaling = Scaling.of(np.concatenate([each for file, each in embedded.items() if file != name]))
        part = gene_part_of(others, genes, arguments.size, scaling)
        genes_alone, scaled = part.vectors(session.sentences, None), part.network(network)
        vectors = {
            "network": network,
            "genes": genes_alone,
            "both": np.hstack([scaled, genes_alone]),
            "embed": c2s.tl.embed(adata, model=backend, copy=True, progress=False).obsm["X_cell2sen"],
            **{f"both_{weight}": np.hstack([scaled, weight * genes_alone]) for weight in arguments.weights},
            "pca_50": components,
        }
        found = {kind: correct(each, labels)[scored] for kind, each in vectors.items()}
        result = {kind: round(float(each.mean()), 3) for kind, each in found.items()}
        differences = {kind: interval(found[kind].astype(float) - found["pca_50"]) for kind in ("both", "embed")}
        limits = {f"{kind}_minus_pca": limits for kind, limits in differences.items()}
        line = {"n": int(scored.sum()), "labels": len(set(labels)), **result, **limits}
        print(json.dumps({"benchmark": "neighbours", "file": prefix, **line}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
