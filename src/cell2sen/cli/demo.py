"""The command demo: check, embed, annotate and perturb 700 blood cells."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cell2sen.cli.options import Quiet

if TYPE_CHECKING:
    from anndata import AnnData

#: Label in the file → labels of the embedded model for the same cells; for the printed agreement only.
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
    "CD4 T cell",
    "CD8 T cell",
    "B cell",
    "NK cell",
    "CD14+ monocyte",
    "FCGR3A+ monocyte",
    "dendritic cell",
    "megakaryocyte",
)

NEXT = """
next, with your own file:
   cell2sen check my.h5ad
   cell2sen embed my.h5ad embedded.h5ad      then, in Python: sc.pp.neighbors(adata, use_rep="X_cell2sen")
   cell2sen annotate my.h5ad labelled.h5ad --labels "T cell; B cell; monocyte"
   cell2sen perturb my.h5ad ifn_beta.h5ad --perturbation IFN-beta
What the embedded model was trained on and what it cannot do: see its model card, src/cell2sen/nano/README.md."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("cell2sen-demo"), quiet: Quiet = False
) -> None:
    """Check, embed, annotate and perturb 700 real blood cells, offline."""
    run(out, progress=not quiet)


def run(out: Path, *, progress: bool = True) -> None:
    """Write ``cells.h5ad``, ``ifn_beta.h5ad`` and ``figure.png`` into the folder `out`, and a summary on stdout."""
    try:
        import matplotlib as mpl
        import scanpy as sc
    except ImportError as error:
        raise ImportError("the demo needs scanpy and matplotlib: pip install 'cell2sen[demo]'") from error
    import cell2sen
    from cell2sen.inference.session import load_model

    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sc.datasets.pbmc68k_reduced()
    echo = typer.echo
    echo("cell2sen demo: 700 human blood cells (scanpy.datasets.pbmc68k_reduced), the embedded model, offline\n")
    echo("1  check     cell2sen.check(adata, use_raw=True)")
    echo("\n".join("   " + line for line in cell2sen.check(adata, use_raw=True).text.splitlines()) + "\n")
    options: dict[str, Any] = {"model": load_model({"progress": progress}), "use_raw": True, "progress": progress}
    echo('2  embed     cell2sen.tl.embed(adata, use_raw=True)  →  adata.obsm["X_cell2sen"]')
    cell2sen.tl.embed(adata, **options)
    echo('3  annotate  cell2sen.tl.annotate(adata, labels=[…], use_raw=True)  →  adata.obs["cell2sen_cell_type"]')
    cell2sen.tl.annotate(adata, LABELS, threshold=0.5, **options)
    echo(_agreement(adata))
    echo(
        '4  perturb   cell2sen.tl.perturb(adata, "IFN-beta", use_raw=True)  →  a new AnnData with X, control and delta'
    )
    monocytes = adata[adata.obs["cell2sen_cell_type"].isin(["CD14+ monocyte", "FCGR3A+ monocyte"])]
    control, kind = (monocytes, "monocytes") if monocytes.n_obs >= 10 else (adata, "cells of all types")
    predicted = cell2sen.tl.perturb(control[:60], "IFN-beta", **options)
    top = cell2sen.pl.mean_change(predicted).nlargest(8)
    echo(
        f"   {predicted.n_obs} {kind}; largest predicted increase: {', '.join(map(str, top.index))}\n"
        "   (a demonstration: the mean change of other cells still predicts better, see the model card)\n"
    )
    _write(adata, predicted, out)
    echo(f"results in {out}/: cells.h5ad (everything above), ifn_beta.h5ad (predicted cells), figure.png\n{NEXT}")


def _agreement(adata: AnnData) -> str:
    """Text on the agreement of the labels with those of the file."""
    labels = list(zip(adata.obs["bulk_labels"].astype(str), adata.obs["cell2sen_cell_type"].astype(str), strict=True))
    n_labelled = sum(predicted != "unknown" for _, predicted in labels)
    same = [predicted in SAME[label] for label, predicted in labels if label in SAME and predicted != "unknown"]
    share = sum(same) / len(same) if same else 0.0
    majority = adata.obs["bulk_labels"].value_counts(normalize=True).iloc[0]
    return (
        f"   {n_labelled} of {adata.n_obs} cells have a label with a probability of at least 50 %; it agrees with the "
        f"label of the file\n   in {share:.0%} of them (the most frequent label of the file for every cell: "
        f"{majority:.0%}).\n   The labels of the file are themselves noisy: they were transferred from sorted cells."
    )


def _write(adata: AnnData, predicted: AnnData, out: Path) -> None:
    import numpy as np
    import scanpy as sc

    from cell2sen.data.output import complete_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X_cell2sen", key_added="cell2sen_neighbors", random_state=0)
        umap_of_file = np.array(adata.obsm["X_umap"])
        sc.tl.umap(adata, neighbors_key="cell2sen_neighbors", random_state=0)
        adata.obsm["X_cell2sen_umap"], adata.obsm["X_umap"] = np.array(adata.obsm["X_umap"]), umap_of_file
        _figure(adata, predicted, out / "figure.png")
        for name, cells in (("cells.h5ad", adata), ("ifn_beta.h5ad", predicted)):
            with complete_file(out / name) as temporary:
                cells.write_h5ad(temporary, compression="gzip")


def _palette(adata: AnnData) -> dict[str, str]:
    """Colour of each label of both panels: that of the first label of the model for the same cells."""
    from cell2sen import pl

    names = dict.fromkeys(SAME.get(name, (name,))[0] for name in map(str, adata.obs["bulk_labels"].cat.categories))
    colours = pl.category_colours(dict.fromkeys([*names, *LABELS]))
    return colours | {name: colours[labels[0]] for name, labels in SAME.items()}


def _figure(adata: AnnData, predicted: AnnData, path: Path) -> None:
    import matplotlib.pyplot as plt

    from cell2sen import pl
    from cell2sen.data.output import complete_file

    figure, axes = plt.subplots(1, 3, figsize=(17, 5.2), width_ratios=(1, 1, 0.7), layout="constrained")
    pl.embedding(
        adata,
        ["bulk_labels", "cell2sen_cell_type"],
        basis="X_cell2sen_umap",
        palette=_palette(adata),
        title=["label of the file", "label by cell2sen (same type, same colour)"],
        ax=axes[:2],
    )
    pl.top_changes(predicted, ax=axes[2], title="IFN-beta, predicted change")
    figure.suptitle("UMAP of cell2sen embeddings, 700 blood cells", fontsize=11)
    with complete_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
