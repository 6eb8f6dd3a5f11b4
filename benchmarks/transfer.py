"""Labels of a reference beside a logistic regression and CellTypist, per cell and after a vote; unseen types.

    python benchmarks/transfer.py query.h5ad reference.h5ad cell_type --names names.json --python typist/bin/python

--names maps spellings of both files to common ones. CellTypist is trained on the reference with its own settings, in
the environment of --python: version 1.7.1 fails with scikit-learn 1.8 and later, so it needs one of its own. --left-out
takes each type out of the reference in turn and measures whether its cells stand out (AUROC).
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cell2sen as c2s

#: Trains CellTypist on one file and annotates another, both log-normalised, and writes a table of labels.
CELLTYPIST = """
import sys, warnings; warnings.simplefilter("ignore")
import anndata, celltypist
query, reference, out = (sys.argv[1], sys.argv[2], sys.argv[3])
query, reference = anndata.read_h5ad(query), anndata.read_h5ad(reference)
model = celltypist.train(reference, labels="label", n_jobs=1, max_iter=200, check_expression=False)
found = celltypist.annotate(query, model=model, majority_voting=True)
found.predicted_labels[["predicted_labels", "majority_voting"]].to_csv(out)
"""


def read(file: Path, label: str, names: dict[str, str], symbols: str | None, keep: str | None) -> anndata.AnnData:
    adata = anndata.read_h5ad(file)
    if symbols and symbols in adata.var:
        adata.var_names = adata.var[symbols].astype(str)
        adata.var_names_make_unique()
    for rule in (keep or "").split(";"):
        column, _, value = rule.partition("=")
        if column in adata.obs:
            adata = adata[adata.obs[column].astype(str) == value].copy()
    adata.obs["label"] = [names.get(str(name), str(name)) for name in adata.obs[label]]
    adata.X = sp.csr_matrix(adata.X)
    return adata


def common(adata: anndata.AnnData, genes: list[str]) -> anndata.AnnData:
    """ln(1 + CP10k) over the genes of both files."""
    import scanpy as sc

    adata = adata[:, genes].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def voted(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    table = pd.DataFrame({"cluster": clusters, "label": labels})
    return table.groupby("cluster")["label"].transform(lambda part: part.value_counts().index[0]).to_numpy()


def celltypist(query: anndata.AnnData, reference: anndata.AnnData, python: str) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("query.h5ad", "reference.h5ad", "out.csv")]
        query.write_h5ad(files[0])
        reference.write_h5ad(files[1])
        done = subprocess.run([python, "-c", CELLTYPIST, *map(str, files)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return pd.read_csv(files[2], index_col=0, dtype=str)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("label", help="obs column of both files")
    parser.add_argument("--names", type=Path, help="JSON: spelling of a label -> common name")
    parser.add_argument("--symbols", help="var column with gene symbols, where a file has it")
    parser.add_argument("--keep", help="COLUMN=VALUE of the query; several separated by semicolons")
    parser.add_argument("--held-out-by", help="obs column of the reference with donors")
    parser.add_argument("--python", help="interpreter with CellTypist")
    parser.add_argument("--left-out", action="store_true", help="take each type out of the reference in turn")
    parser.add_argument("--cells", type=int, default=3000, help="at most these of each file, drawn at random")
    parser.add_argument("--hidden-layer", type=int, default=-1, help="vectors after this layer")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("cell2sen").setLevel(logging.ERROR)
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score, roc_auc_score

    names = json.loads(args.names.read_text()) if args.names else {}
    query = read(args.query, args.label, names, args.symbols, args.keep)
    reference = read(args.reference, args.label, names, args.symbols, None)
    rng = np.random.default_rng(0)
    query, reference = (side[np.sort(rng.permutation(side.n_obs)[: args.cells])].copy() for side in (query, reference))
    truth = query.obs["label"].to_numpy()

    def report(name: str, labels: object) -> None:
        found = np.asarray(labels).astype(str)
        score = f1_score(truth, found, average="macro", labels=sorted(set(truth)), zero_division=0)
        print(f"{name:34s} accuracy {np.mean(found == truth):.3f}  macro F1 {score:.3f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:  # keeps the embeddings of the reference
        print(f"{args.query.name} <- {args.reference.name}: {query.shape} <- {reference.shape}")
        started, cpu, key = time.perf_counter(), time.process_time(), "transferred_label"
        options = {"hidden_layer": args.hidden_layer, "cache": folder, "progress": False}
        c2s.tl.transfer(query, reference, "label", held_out_by=args.held_out_by, **options)
        record = query.uns["cell2sen"]["transfer"]
        print(record["candidates"].round(3).to_string())
        report(f"transfer ({record['classifier']} on {record['features']})", query.obs[key])
        report("  after its vote", query.obs[f"{key}_majority_voting"])
        seconds = f"{time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        print(f"  {seconds}; mean probability {query.obs[f'{key}_score'].mean():.3f}")
        clusters = query.obs[f"{key}_cluster"].astype(str).to_numpy()
        genes = sorted(set(query.var_names) & set(reference.var_names))
        first, second = common(query, genes), common(reference, genes)
        second = second[second.obs["label"].map(second.obs["label"].value_counts()) >= 3].copy()
        dense = second.X.toarray()
        chosen = np.argsort(-dense.var(axis=0), kind="stable")[:2000]
        model = LogisticRegression(C=0.1, max_iter=300).fit(dense[:, chosen], second.obs["label"])
        labels = model.predict(first.X.toarray()[:, chosen])
        report("logistic regression, 2,000 genes", labels)
        report("  after a vote of the same clusters", voted(clusters, labels))
        if args.python:
            try:
                table = celltypist(first, second, args.python).loc[query.obs_names]
                report("CellTypist", table["predicted_labels"])
                report("  after its own vote", table["majority_voting"])
                report("  after a vote of the same clusters", voted(clusters, table["predicted_labels"].to_numpy()))
            except RuntimeError as error:
                print(f"no row CellTypist: {error}")
        shared = sorted(set(truth) & set(reference.obs["label"])) if args.left_out else []
        known = np.isin(truth, reference.obs["label"])
        areas = []
        for left in shared:
            is_new = truth == left
            if is_new.sum() < 5:
                continue
            rest = reference[reference.obs["label"] != left].copy()
            again = c2s.tl.transfer(query, rest, "label", majority_voting=False, copy=True, **options)
            dense_rest = second.obs["label"].to_numpy() != left
            model = LogisticRegression(C=0.1, max_iter=300)
            model.fit(dense[dense_rest][:, chosen], second.obs["label"][dense_rest])
            doubt = 1 - model.predict_proba(first.X.toarray()[:, chosen]).max(axis=1)
            values = {
                "unseen": again.obs[f"{key}_unseen"], "distance": again.obs[f"{key}_distance"],
                "1 - probability": 1 - again.obs[f"{key}_score"], "logistic regression": doubt,
            }  # fmt: skip
            areas.append({name: roc_auc_score(is_new[known], np.asarray(v)[known]) for name, v in values.items()})
            row = "  ".join(f"{name} {value:.3f}" for name, value in areas[-1].items())
            print(f"left out {left} ({is_new.sum()} cells): AUROC {row}", flush=True)
        if areas:
            print("mean AUROC", pd.DataFrame(areas).mean().round(3).to_dict())


if __name__ == "__main__":
    main()
