"""Pictures of docs/how-to/plots.md, on blood cells of scanpy: ``python docs/images/draw.py [DATA_DIR] [PART …]``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import scanpy as sc
from anndata import AnnData
from PIL import Image

import cell2sen as c2s

FOLDER = Path(__file__).parent

#: Most bytes of a picture, and dots per inch.
MAX_BYTES, DPI = 60_000, 85


def save(name: str, axes: object) -> None:
    """A small picture."""
    first = axes[0] if isinstance(axes, list) else axes
    path = FOLDER / f"{name}.png"
    first.figure.savefig(path, dpi=DPI, bbox_inches="tight")  # type: ignore[attr-defined]
    Image.open(path).convert("RGB").save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")


def scores(adata: object) -> pd.DataFrame:
    """Silhouette width of the labels and accuracy of the nearest neighbour, of two representations."""
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    labels = adata.obs["bulk_labels"].astype(str)  # type: ignore[attr-defined]
    rows = {}
    for name, key in (("PCA", "X_pca"), ("cell2sen", "X_cell2sen")):
        points = adata.obsm[key]  # type: ignore[attr-defined]
        accuracy = cross_val_score(KNeighborsClassifier(10), points, labels, cv=3).mean()
        rows[name] = {"silhouette": silhouette_score(points, labels), "10-NN accuracy": accuracy}
    return pd.DataFrame(rows).T


def cells() -> AnnData:
    """Every fifth of the 700 cells, ln(1 + CP10k)."""
    scaled = sc.datasets.pbmc68k_reduced()
    adata = scaled.raw.to_adata()
    adata.obsm = scaled.obsm
    return adata[::5].copy()


def labels() -> None:
    """Cells by predicted types; given and predicted labels."""
    pl, adata = c2s.pl, cells()
    c2s.tl.annotate(adata, progress=False)
    save("embedding", pl.embedding(adata, ["cell2sen_cell_type", "LYZ"]))
    save("confusion", pl.confusion(adata, "bulk_labels"))
    save("probabilities", pl.probabilities(adata, "louvain", n_labels=12))
    save("composition", pl.composition(adata, "louvain", "cell2sen_cell_type"))


def genes() -> None:
    """Sentences and attention."""
    pl, adata = c2s.pl, cells()
    groups = ["CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
    save("sentence", pl.sentence(adata, groupby="bulk_labels", groups=groups, n=24))
    first = adata[:1].copy()
    c2s.tl.embed(first, attention_for=[0], progress=False)
    save("sentence_attention", pl.sentence(first, first.obs_names[0], color="attention", n=40))
    save("attention", pl.attention(first, first.obs_names[0], n=20))


def responses() -> None:
    """Predicted responses of 20 monocytes."""
    adata = cells()
    monocytes = adata[adata.obs["bulk_labels"] == "CD14+ Monocyte"][:20].copy()
    predicted = c2s.tl.perturb(monocytes, "IFN-beta", progress=False)
    save("top_changes", c2s.pl.top_changes(predicted))
    save("volcano", c2s.pl.volcano(predicted))


def tables() -> None:
    """Scores of representations, ranked genes."""
    adata = cells()
    c2s.tl.embed(adata, progress=False)
    save("metrics", c2s.pl.metrics(scores(adata)))
    sc.tl.rank_genes_groups(adata, "bulk_labels", groups=["CD14+ Monocyte"], method="t-test")
    ranked = sc.get.rank_genes_groups_df(adata, "CD14+ Monocyte").set_index("names")
    highlight = ["LYZ", "CD79A"]
    save("screen", c2s.pl.screen(ranked, "scores", highlight=highlight, title="genes of CD14+ monocytes"))


def measured(folder: Path) -> None:
    """A measured response (Kang et al. 2018): 20 controls beside all CD14+ monocytes."""
    real = sc.read_h5ad(folder / "kang_ifnb_2000x9015.h5ad")
    real = real[real.obs["cell_type"] == "CD14+ Monocytes"].copy()
    controls = real[real.obs["condition"] == "control"][:20].copy()
    predicted = c2s.tl.perturb(controls, "IFN-beta", progress=False)
    save("response", c2s.pl.response(predicted, real, column="condition"))


def tissue(folder: Path) -> None:
    """A tissue (Ståhl et al. 2016)."""
    adata = sc.read_h5ad(folder / "spatial_mouse_olfactory_bulb_260x15928.h5ad")
    save("spatial", c2s.pl.spatial(adata, "layer", size=60))


def main(parts: Sequence[str]) -> None:
    """Draw all pictures, or parts of them; those of other data with their folder."""
    mpl.use("Agg")
    warnings.simplefilter("ignore")
    folder = next((Path(part) for part in parts if Path(part).is_dir()), None)
    chosen = [part for part in parts if not Path(part).is_dir()]
    for draw in (labels, genes, responses, tables):
        if not chosen or draw.__name__ in chosen:
            draw()
    for draw_from in (measured, tissue):
        if folder is not None and (not chosen or draw_from.__name__ in chosen):
            draw_from(folder)
    sys.stdout.write(f"{len(list(FOLDER.glob('*.png')))} pictures in {FOLDER}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
