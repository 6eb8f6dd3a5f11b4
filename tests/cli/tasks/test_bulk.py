"""The commands pseudobulk and compose."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import cells
from command import Run, digest

from cell2sen import tl


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    adata = cells(40)
    adata.obs["cell_type"] = [("B", "T")[row % 2] for row in range(40)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_pseudobulk(run: Run, labelled: Path, tmp_path: Path) -> None:
    before = digest(labelled)
    done = run("pseudobulk", labelled, "bulk.h5ad", "--by", "cell_type", "--by", "donor", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"file": "bulk.h5ad", "n_samples": 2, "n_cells": 40}
    expected = tl.pseudobulk(labelled, ["cell_type", "donor"])
    assert np.array_equal(anndata.read_h5ad(tmp_path / "bulk.h5ad").X.toarray(), expected.X.toarray())
    assert digest(labelled) == before
    failed = run("pseudobulk", labelled, "no.h5ad")
    assert failed.code == 1
    assert "at least one obs column" in failed.err
    assert not (tmp_path / "no.h5ad").exists()


@pytest.mark.slow
def test_compose(run: Run, labelled: Path, model: str, tmp_path: Path) -> None:
    samples = tl.pseudobulk(labelled, "cell_type")
    pd.DataFrame(samples.X.toarray().T, index=samples.var_names, columns=samples.obs_names).to_csv(
        tmp_path / "bulk.csv"
    )
    done = run("compose", "bulk.csv", labelled, "shares.csv", "-m", model, "--n-mixtures", 10, "-q", "--json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)["nearest"]) == {"B", "T"}
    table = pd.read_csv(tmp_path / "shares.csv")
    assert table.groupby("sample")["share"].sum().tolist() == pytest.approx([1, 1])
    best = table.loc[table.groupby("sample")["similarity"].idxmax()].set_index("sample")["population"]
    assert best.to_dict() == {"B": "B", "T": "T"}
