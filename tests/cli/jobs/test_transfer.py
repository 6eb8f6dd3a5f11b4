"""The command transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import anndata
import numpy as np
import pandas as pd
import pytest
from command import Run, digest
from typed_cells import typed

from cell2sen.cli.jobs import transfer
from cell2sen.inference.transfer.classifiers import METHODS
from cell2sen.inference.transfer.features import FEATURES
from cell2sen.inference.transfer.labels import MODEL

KEY = "transferred_cell_type"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    typed(24, seed=1).write_h5ad(tmp_path / "query.h5ad")
    typed(60, seed=2).write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path / "query.h5ad", tmp_path / "reference.h5ad"


def test_menus_are_those_of_the_package() -> None:
    assert get_args(transfer.Classifier) == ("auto", *METHODS, MODEL)
    assert get_args(transfer.Features) == ("auto", *FEATURES)


@pytest.mark.filterwarnings("ignore")
def test_labels_in_a_file(run: Run, files: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    before = [digest(file) for file in files]
    done = run("transfer", *files, "out.h5ad", "--label", "cell_type", "-m", model, "--json", "-q")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert summary["n_cells"] == 24
    assert summary["counts"] == read.obs[f"{KEY}_majority_voting"].value_counts().to_dict()
    assert read.obsm["X_cell2sen_shared"].shape == (24, 32)
    assert read.obsm[f"{KEY}_probabilities"].shape == (24, 3)
    assert [digest(file) for file in files] == before
    assert len(list(tmp_path.glob("reference.h5ad.*.npz"))) == 1
    again = run("transfer", *files, "out.csv", "--label", "cell_type", "-m", model, "--no-majority-voting")
    assert again.code == 0, again.err
    assert "on held-out reference cells" in again.err
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    ends = ("score", "distance", "unseen", "in_reference", "ontology_term_id")
    assert set(table) == {KEY, *(f"{KEY}_{end}" for end in ends)}
    np.testing.assert_allclose(table[f"{KEY}_score"], read.obs[f"{KEY}_score"], rtol=1e-6)


def test_errors_are_one_line(run: Run, files: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    done = run("transfer", *files, "out.h5ad", "--label", "type", "-m", model, "-q", "--no-cache")
    assert done.code == 1
    assert "reference.obs has no column 'type'" in done.err
    assert not (tmp_path / "out.h5ad").exists()
    done = run("transfer", *files, files[1], "--label", "cell_type", "-m", model, "-q")
    assert done.code == 1
    assert "is the input file" in done.err


def test_supporting_genes(run: Run, files: tuple[Path, Path], model: str, tmp_path: Path) -> None:
    options = ("--labels", "B cell; T cell", "-m", model, "-q", "--n-genes", "3")
    done = run("supporting-genes", files[0], "out.csv", "--groupby", "donor", "--n-cells", "2", *options, "--json")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(json.loads(done.out)["groups"]) == table["group"].unique().tolist() == ["d0", "d1", "d2", "d3"]
    pytest.importorskip("matplotlib")
    name = anndata.read_h5ad(files[0]).obs_names[3]
    done = run("supporting-genes", files[0], "out.png", "--cell", name, *options)
    assert done.code == 0, done.err
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert run("supporting-genes", files[0], "out.csv", *options).code == 1
