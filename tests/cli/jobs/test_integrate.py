"""The command integrate."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from command import Run, digest
from typed_cells import typed

pytest.importorskip("igraph")
pytest.importorskip("harmonypy")


def test_results_in_a_file(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "in.h5ad"
    typed(48, seed=1).write_h5ad(file)
    before = digest(file)
    done = run("integrate", file, "out.h5ad", "--batch", "donor", "-m", model, "--json", "-q")
    assert done.code == 0, done.err
    summary, read = json.loads(done.out), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert digest(file) == before
    assert summary["batches"] == {"donor": dict.fromkeys(["d0", "d1", "d2", "d3"], 12)}
    assert summary["n_clusters"] == read.obs["leiden"].nunique()
    assert {"X_cell2sen", "X_cell2sen_harmony", "X_umap"} == set(read.obsm)
    assert set(read.obsp) == {"connectivities", "distances"}
    assert read.uns["neighbors"]["params"]["use_rep"] == "X_cell2sen_harmony"
    assert np.isfinite(read.obsm["X_umap"]).all()
    again = run("integrate", "out.h5ad", "again.h5ad", "--use-rep", "X_cell2sen")
    assert again.code == 0, again.err
    assert "no batches corrected (--batch)" in again.err
    assert "X_cell2sen_scaled" in anndata.read_h5ad(tmp_path / "again.h5ad").obsm


def test_errors_name_the_flag(run: Run, model: str, tmp_path: Path) -> None:
    typed(40, seed=1).write_h5ad(tmp_path / "in.h5ad")
    done = run("integrate", "in.h5ad", "out.h5ad", "--use-rep", "X_scvi", "-q")
    assert done.code == 1
    assert "--use-rep" in done.err
    assert not (tmp_path / "out.h5ad").exists()
