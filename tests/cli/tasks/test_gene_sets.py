"""The commands name-gene-sets and list-gene-sets."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cells import GENES
from command import Run

from cell2sen.data.genes.gene_sets import read_gmt, write_gmt


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    write_gmt(tmp_path / "sets.gmt", {"A_B": GENES[:4], "C": GENES[4:10]})
    return tmp_path / "sets.gmt"


@pytest.mark.slow
def test_commands(run: Run, sets: Path, model: str, tmp_path: Path) -> None:
    done = run("name-gene-sets", sets, "named.csv", "-m", model, "--name", "T cell; B cell", "-q", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"file": "named.csv", "n_sets": 2}
    named = pd.read_csv(tmp_path / "named.csv", index_col=0)
    assert named.index.tolist() == ["A_B", "C"]
    assert set(named["name"]) <= {"T cell", "B cell"}
    done = run("list-gene-sets", "listed.gmt", "--like", sets, "-m", model)
    assert done.code == 0, done.err
    assert "2 gene sets, 100.0% of their words are valid genes" in done.err
    assert [len(genes) for genes in read_gmt(tmp_path / "listed.gmt").values()] == [4, 6]
    ad.AnnData(np.eye(12, dtype=np.float32) + 1, var=pd.DataFrame(index=GENES[:12])).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "genes.txt").write_text("\n".join(GENES[:12]))
    for file in ("cells.h5ad", "genes.txt"):
        done = run(
            "list-gene-sets", "of.csv", "--name", "A", "--n-genes", "12", "--genes", tmp_path / file, "-m", model
        )
        assert done.code == 0, done.err
        assert set(pd.read_csv(tmp_path / "of.csv", index_col=0).loc["A", "genes"].split()) == set(GENES[:12])
        (tmp_path / "of.csv").unlink()
    done = run("evaluate", "listed.gmt", sets, "--task", "list_gene_set", "--table", "scores.csv")
    assert done.code == 0, done.err
    assert "set_overlap" in done.out


def test_errors(run: Run, sets: Path) -> None:
    assert "name the sets to list" in run("list-gene-sets", "out.gmt").err
    assert "not both" in run("list-gene-sets", "out.gmt", "--like", sets, "--name", "x").err
    declined = run("name-gene-sets", sets, "out.csv")
    assert declined.code == 1
    assert "cannot do name_gene_set: pass a model that was trained on gene sets" in declined.err
