"""Example pictures of docs/plots.md: ``python docs/images/draw.py [DATA_DIR]``, on 700 blood cells of scanpy."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import scanpy as sc
from PIL import Image

import cell2sen as c2s

FOLDER = Path(__file__).parent

#: Most bytes of a picture, and dots per inch.
MAX_BYTES, DPI = 60_000, 75


def save(name: str, axes: object) -> None:
    """A picture with 64 colours."""
    first = axes[0] if isinstance(axes, list) else axes
    path = FOLDER / f"{name}.png"
    first.figure.savefig(path, dpi=DPI, bbox_inches="tight")  # type: ignore[attr-defined]
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
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


def _of_other_data(folder: Path) -> None:
    """A measured response (Kang et al. 2018) and a tissue (Ståhl et al. 2016)."""
    real = sc.read_h5ad(folder / "kang_ifnb_2000x9015.h5ad")
    real = real[real.obs["cell_type"] == "CD14+ Monocytes"].copy()
    predicted = c2s.tl.perturb(real, "IFN-beta", progress=False)
    save("response", c2s.pl.response(predicted, real, column="condition"))
    tissue = sc.read_h5ad(folder / "spatial_mouse_olfactory_bulb_260x15928.h5ad")
    save("spatial", c2s.pl.spatial(tissue, ["layer", "Penk"], size=22))


def main(data_dir: Path | None = None) -> None:
    """Draw all pictures; those of other data only with their folder."""
    mpl.use("Agg")
    warnings.simplefilter("ignore")
    pl, tl = c2s.pl, c2s.tl
    scaled = sc.datasets.pbmc68k_reduced()
    adata = scaled.raw.to_adata()
    adata.obsm = scaled.obsm
    tl.embed(adata, attention_for=[0], progress=False)
    tl.annotate(adata, progress=False)
    monocytes = adata[adata.obs["bulk_labels"] == "CD14+ Monocyte"]
    predicted = tl.perturb(monocytes[:60].copy(), "IFN-beta", progress=False)
    cell = adata.obs_names[0]
    save("embedding", pl.embedding(adata, ["cell2sen_cell_type", "LYZ"]))
    save("confusion", pl.confusion(adata, "bulk_labels"))
    save("probabilities", pl.probabilities(adata, "louvain", n_labels=12))
    save("composition", pl.composition(adata, "louvain", "cell2sen_cell_type"))
    save("sentence", pl.sentence(adata, groupby="bulk_labels", groups=["CD14+ Monocyte", "CD19+ B", "CD56+ NK"], n=24))
    save("sentence_attention", pl.sentence(adata, cell, color="attention", n=40))
    save("attention", pl.attention(adata, cell, n=20))
    save("top_changes", pl.top_changes(predicted))
    save("volcano", pl.volcano(predicted))
    save("metrics", pl.metrics(scores(adata)))
    sc.tl.rank_genes_groups(adata, "bulk_labels", groups=["CD14+ Monocyte"], method="t-test")
    genes = sc.get.rank_genes_groups_df(adata, "CD14+ Monocyte").set_index("names")
    axes = pl.screen(genes, "scores", highlight=["CD14", "MS4A1"], title="genes of CD14+ monocytes")
    save("screen", axes)
    if data_dir is not None:
        _of_other_data(data_dir)
    sys.stdout.write(f"{len(list(FOLDER.glob('*.png')))} pictures in {FOLDER}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
