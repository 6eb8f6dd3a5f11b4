"""Integration beside other methods: a scIB table of PCA, Harmony, scVI and cell2sen.

    python benchmarks/integration.py cells.h5ad donor cell_type --out table.csv --figure table.png

Needs scib-metrics, scanpy and harmonypy (pip install 'cell2sen[integrate,scib]'); scVI is a row where scvi-tools is
installed. PCA and scVI use the 2,000 most variable genes. --fine-tuned adds rows of a model of
`cell2sen train`; train it on other donors than those of the file, or its labels are known.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import cell2sen as c2s


def pca(adata: anndata.AnnData, batch: str) -> None:
    import scanpy as sc

    sc.pp.pca(adata, n_comps=50, mask_var="highly_variable", random_state=0)
    adata.obsm["PCA"] = adata.obsm["X_pca"]


def scvi(adata: anndata.AnnData, batch: str, epochs: int | None) -> np.ndarray:
    import scvi

    scvi.settings.seed = 0
    chosen = adata[:, adata.var["highly_variable"]].copy()
    scvi.model.SCVI.setup_anndata(chosen, layer="counts", batch_key=batch)
    model = scvi.model.SCVI(chosen, n_layers=2, n_latent=30, gene_likelihood="nb")
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    return np.asarray(model.get_latent_representation())


def corrected(adata: anndata.AnnData, key: str, batch: str) -> np.ndarray:
    from cell2sen.inference.integration.harmony import batches_of, harmony

    return harmony(np.asarray(adata.obsm[key], dtype=np.float32), batches_of(adata.obs, [batch]))


def prepared(adata: anndata.AnnData, batch: str) -> anndata.AnnData:
    """Cells with genes, with ln(1 + CP10k) in X and variable genes."""
    import scanpy as sc

    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars), batch_key=batch)
    return adata


def table(args: argparse.Namespace) -> pd.DataFrame:
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    from cell2sen.inference.integration.harmony import scaled

    adata = anndata.read_h5ad(args.file)
    if args.symbols:
        adata.var_names = adata.var[args.symbols].astype(str)
        adata.var_names_make_unique()
    if args.keep:
        column, _, values = args.keep.partition("=")
        adata = adata[adata.obs[column].astype(str).isin(values.split(","))].copy()
    rng = np.random.default_rng(0)
    adata = adata[np.sort(rng.permutation(adata.n_obs)[: args.cells])].copy()
    counts = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    adata = prepared(adata, args.batch)
    seconds = {}

    def timed(name: str, run) -> None:
        started = time.perf_counter()
        adata.obsm[name] = run()
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.1f} s", flush=True)

    def embedded(model: str) -> np.ndarray:
        c2s.tl.embed(counts, model=model, progress=False)
        return scaled(counts.obsm["X_cell2sen"])  # as tl.integrate

    started = time.perf_counter()
    pca(adata, args.batch)
    seconds["PCA"] = time.perf_counter() - started
    timed("PCA + Harmony", lambda: corrected(adata, "PCA", args.batch))
    if not args.no_scvi:
        try:
            timed("scVI", lambda: scvi(adata, args.batch, args.epochs))
        except ImportError as error:
            print(f"no row scVI: {error}")
    for name, model in [("cell2sen", "nano"), *([("cell2sen fine-tuned", args.fine_tuned)] if args.fine_tuned else [])]:
        timed(name, lambda model=model: embedded(model))
        timed(f"{name} + Harmony", lambda name=name: corrected(adata, name, args.batch))
    if args.save:
        adata.write_h5ad(args.save)
    keys = list(seconds)
    many = min(np.unique(adata.obs[args.batch].astype(str), return_counts=True)[1]) >= 10
    bench = Benchmarker(
        adata,
        batch_key=args.batch,
        label_key=args.label,
        embedding_obsm_keys=keys,
        bio_conservation_metrics=BioConservation(
            nmi_ari_cluster_labels_leiden=True, nmi_ari_cluster_labels_kmeans=False
        ),
        batch_correction_metrics=BatchCorrection(kbet_per_label=many),
        pre_integrated_embedding_obsm_key="PCA",
        n_jobs=1,
        progress_bar=False,
    )
    bench.benchmark()
    scores = bench.get_results(min_max_scale=False)
    scores["seconds"] = pd.Series(seconds)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help=".h5ad with counts in X")
    parser.add_argument("batch", help="obs column with batches")
    parser.add_argument("label", help="obs column with cell types")
    parser.add_argument("--symbols", help="var column with gene symbols")
    parser.add_argument("--keep", help="COLUMN=VALUE,VALUE: only these cells")
    parser.add_argument("--cells", type=int, default=3000, help="at most these, drawn at random")
    parser.add_argument("--fine-tuned", help="folder of a fine-tuned model")
    parser.add_argument("--epochs", type=int, help="of scVI; default: its own choice")
    parser.add_argument("--no-scvi", action="store_true")
    parser.add_argument("--out", type=Path, help="table (.csv)")
    parser.add_argument("--figure", type=Path, help="picture of the table")
    parser.add_argument("--save", type=Path, help="cells with all embeddings (.h5ad)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    scores = table(args)
    print(scores.round(3).to_string())
    if args.out:
        scores.to_csv(args.out)
    if args.figure:
        c2s.pl.metrics(scores.drop(columns="seconds"), show=False, save=args.figure)


if __name__ == "__main__":
    main()
