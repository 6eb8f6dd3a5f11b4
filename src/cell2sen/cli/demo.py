"""The main job on real cells, offline: check, embed, annotate, predict, and a figure."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from cell2sen import pl, tl
from cell2sen.data.output import complete
from cell2sen.inference.check import check
from cell2sen.inference.session import load_model

if TYPE_CHECKING:
    from anndata import AnnData

#: What the file calls a type → what the embedded model calls it. Used for the sentence in the summary only.
SAME = {
    "CD14+ Monocyte": ("CD14+ monocyte", "FCGR3A+ monocyte"),
    "CD19+ B": ("B cell",),
    "CD56+ NK": ("NK cell",),
    "Dendritic": ("dendritic cell",),
    "CD8+ Cytotoxic T": ("CD8 T cell",),
    "CD8+/CD45RA+ Naive Cytotoxic": ("CD8 T cell",),
    "CD4+/CD45RO+ Memory": ("CD4 T cell", "memory CD4 T cell", "naive CD4 T cell"),
    "CD4+/CD25 T Reg": ("CD4 T cell", "memory CD4 T cell", "naive CD4 T cell"),
    "CD4+/CD45RA+/CD25- Naive T": ("CD4 T cell", "memory CD4 T cell", "naive CD4 T cell"),
}
LABELS = (
    "CD4 T cell", "CD8 T cell", "B cell", "NK cell", "CD14+ monocyte", "FCGR3A+ monocyte", "dendritic cell",
    "megakaryocyte",
)  # fmt: skip


def run(out: Path, *, progress: bool = True) -> None:
    """Run the demo and write ``cells.h5ad``, ``ifn_beta.h5ad`` and ``figure.png`` into the folder `out`."""
    try:
        import matplotlib as mpl
        import scanpy as sc
    except ImportError as error:
        raise ImportError("the demo needs scanpy and matplotlib: pip install 'cell2sen[demo]'") from error
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sc.datasets.pbmc68k_reduced()
    say = typer.echo
    say("cell2sen demo: 700 human blood cells (scanpy.datasets.pbmc68k_reduced), the embedded model, no network\n")
    say("1  check     cell2sen.check(adata, use_raw=True)")
    say("\n".join("   " + line for line in check(adata, use_raw=True).text.splitlines()) + "\n")
    backend = load_model({"progress": progress})
    say('2  embed     cell2sen.tl.embed(adata, use_raw=True)  →  adata.obsm["X_cell2sen"]')
    tl.embed(adata, model=backend, use_raw=True, progress=progress)
    say('3  annotate  cell2sen.tl.annotate(adata, labels=[…], use_raw=True)  →  adata.obs["cell2sen_cell_type"]')
    tl.annotate(adata, LABELS, model=backend, use_raw=True, threshold=0.5, progress=progress)
    agree = np.array([given in SAME and found in SAME[given] for given, found in _pairs(adata)])
    comparable = np.array([given in SAME for given, _ in _pairs(adata)])
    guess = adata.obs["bulk_labels"].value_counts(normalize=True).iloc[0]
    sure = np.asarray(adata.obs["cell2sen_cell_type"] != "unknown")
    right = agree[comparable & sure].mean() if (comparable & sure).any() else 0.0
    say(
        f"   {int(sure.sum())} of {adata.n_obs} cells are labelled (the others are less than 50 % sure); the label "
        f"agrees with the one given in {right:.0%} of them\n   (always the most frequent given type: {guess:.0%}). The "
        "given labels are themselves noisy: they were transferred from sorted cells."
    )
    say('4  perturb   cell2sen.tl.perturb(adata, "IFN-beta", use_raw=True)  →  a new AnnData with X, control and delta')
    monocytes = adata.obs["cell2sen_cell_type"].isin(["CD14+ monocyte", "FCGR3A+ monocyte"])
    chosen = np.flatnonzero(np.asarray(monocytes))[:60]
    control, kind = (adata[chosen], "monocytes") if len(chosen) >= 10 else (adata[:60], "cells of all types")
    predicted = tl.perturb(control, "IFN-beta", model=backend, use_raw=True, progress=progress)
    top = pl.mean_change(predicted).nlargest(8)
    say(
        f"   {predicted.n_obs} {kind}; predicted to rise most: {', '.join(map(str, top.index))}\n"
        "   (a demonstration: the mean change of other cells still predicts better, see the model card)\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X_cell2sen", key_added="cell2sen_neighbors", random_state=0)
        theirs = np.array(adata.obsm["X_umap"])
        sc.tl.umap(adata, neighbors_key="cell2sen_neighbors", random_state=0)
        adata.obsm["X_cell2sen_umap"], adata.obsm["X_umap"] = np.array(adata.obsm["X_umap"]), theirs
        _figure(adata, predicted, out / "figure.png")
        for name, one in (("cells.h5ad", adata), ("ifn_beta.h5ad", predicted)):
            with complete(out / name) as temporary:
                one.write_h5ad(temporary, compression="gzip")
    say(
        f"results in {out}/: cells.h5ad (everything above), ifn_beta.h5ad (predicted cells), figure.png\n\n"
        "next, with your own file:\n"
        "   cell2sen check my.h5ad\n"
        "   cell2sen embed my.h5ad embedded.h5ad\n"
        '   cell2sen annotate my.h5ad labelled.h5ad --labels "T cell; B cell; monocyte"\n'
        "   cell2sen perturb my.h5ad ifn_beta.h5ad --perturbation IFN-beta\n"
        "What the embedded model was trained on and what it cannot do: see src/cell2sen/nano/README.md, its model card."
    )


def _pairs(adata: AnnData) -> list[tuple[str, str]]:
    obs = adata.obs
    return list(zip(obs["bulk_labels"].astype(str), obs["cell2sen_cell_type"].astype(str), strict=True))


def _figure(adata: AnnData, predicted: AnnData, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(17, 5.2), width_ratios=(1, 1, 0.7), layout="constrained")
    pl.embedding(adata, "bulk_labels", basis="X_cell2sen_umap", ax=axes[0], title="given label")
    pl.embedding(adata, "cell2sen_cell_type", basis="X_cell2sen_umap", ax=axes[1], title="label by cell2sen")
    pl.top_changes(predicted, ax=axes[2], title="IFN-beta, predicted change")
    figure.suptitle("UMAP of cell2sen embeddings, 700 blood cells", fontsize=11)
    with complete(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
