"""tl.name_gene_sets and tl.list_gene_sets: tables."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from cells import GENES, fake

from cell2sen import tl


def test_tables(tmp_path) -> None:
    sets = {"X_Y": GENES[:6], "Z": GENES[3:30]}
    (tmp_path / "sets.gmt").write_text("".join(f"{name}\t\t" + "\t".join(genes) + "\n" for name, genes in sets.items()))
    named = tl.name_gene_sets(tmp_path / "sets.gmt", model=fake(), max_genes=10)
    assert named.index.tolist() == ["X_Y", "Z"]
    assert named["n_genes"].tolist() == [6, 27]
    assert named["n_used"].tolist() == [6, 10]
    assert named.attrs["cell2sen"]["name_gene_set"]["task"]["name"] == "name_gene_set"
    pd.testing.assert_frame_equal(named, tl.name_gene_sets(sets, model=fake(), max_genes=10))
    chosen = tl.name_gene_sets(sets, names="a; b", model=fake())
    assert set(chosen["name"]) <= {"a", "b"}
    listed = tl.list_gene_sets("X_Y; Z", genes=GENES, n_genes=4, model=fake())
    assert [genes == " ".join(sorted(genes.split())) for genes in listed["genes"]] == [True, True]
    assert listed["n_genes"].tolist() == [4, 4]
    assert listed["validity"].tolist() == [1, 1]
    cells = ad.AnnData(np.ones((2, 5), dtype=np.float32), var=pd.DataFrame(index=GENES[:5]))
    of_cells = tl.list_gene_sets("X_Y", genes=cells, n_genes=5, scale="counts", model=fake())
    assert of_cells.loc["X_Y", "genes"].split() == sorted(GENES[:5])
    free = tl.list_gene_sets(["X"], genes=GENES, guided=False, max_new_tokens=5, model=fake())
    assert free.loc["X", ["n_genes", "n_unknown", "n_repeated"]].sum() == 5
