"""The command space: graph and regions, questions, a score."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import pytest
from cells import checkpoint
from command import Run
from sections import NICHES, section


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    section().write_h5ad(tmp_path / "cells.h5ad")
    checkpoint(tmp_path / "model", niche=dict.fromkeys(NICHES, 9), recipe={"max_genes": 6})
    return tmp_path


def test_from_file_to_score(run: Run, folder: Path) -> None:
    cells, split, model = (str(folder / name) for name in ("cells.h5ad", "split.h5ad", "model"))
    done = run("space", cells, split, "--radius", "1.6", "--held-out", "0.25")
    assert done.code == 0, done.err
    stored = anndata.read_h5ad(split)
    assert set(stored.obs["region"]) == {"training", "held out", "margin"}
    only = ["--only", "region=held out", "--model", model, "-q", "--json"]
    for task in ("same_neighbourhood", "same_niche", "neighbour", "niche"):
        out = str(folder / f"{task}.h5ad")
        extra = ["--niche", "layer"] if task == "same_niche" else []
        done = run("space", split, out, "--task", task, *extra, *only)
        assert done.code == 0, done.err
        result = json.loads(done.out)
        assert result["n_rows"] == anndata.read_h5ad(out).n_obs
    samples = str(folder / "same_niche.h5ad")
    scores = run("evaluate", samples, samples, "--label", "truth", "--allow-leaks", "-q").out
    assert "accuracy" in scores


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--task", "same_niche", "--radius", "2"], "needs --niche"),
        (["--only", "layer"], "COLUMN=VALUE"),
        (["--only", "layer=moon"], "no cell has 'moon'"),
    ],
)
def test_refused(run: Run, folder: Path, arguments: list[str], match: str) -> None:
    done = run("space", str(folder / "cells.h5ad"), str(folder / "out.h5ad"), *arguments)
    assert done.code == 1
    assert match in done.err
    assert not (folder / "out.h5ad").exists()
