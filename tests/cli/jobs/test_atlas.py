"""The commands plan, run, status and collect."""

from __future__ import annotations

import json

import anndata
import pytest
from cells import cells, needs_weights


@needs_weights
def test_from_plan_to_file(run, tmp_path) -> None:
    cells(5).write_h5ad(tmp_path / "cells.h5ad")
    done = run("plan", "embed", "out", "cells.h5ad", "--set", "backend=fake", "--shard-cells", 2, "--slurm", "job.sh")
    assert done.code == 0, done.err
    assert "1 files, 5 cells, 3 shards → out" in done.err
    assert "--array=0-15" in (tmp_path / "job.sh").read_text()
    done = run("run", "out")
    assert done.code == 0, done.err
    assert "embed: 3 of 3 shards, 5 of 5 cells (100 %)" in done.err
    assert "next: cell2sen collect out" in done.err
    state = json.loads(run("status", "out", "--verify", "--json").out)
    assert (state["done"], state["finished"], state["failed"]) == (3, True, {})
    assert run("collect", "out", "all.h5ad", "-q").code == 0
    assert anndata.read_h5ad(tmp_path / "all.h5ad").obsm["X_cell2sen"].shape == (5, 384)


@needs_weights
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("corpus", "out", "cells.h5ad"), "cell2sen corpus"),
        (("embed", "out", "cells.h5ad", "--device", "cpu"), "pass --device to cell2sen run"),
        (("embed", "out", "cells.h5ad", "--set", "pooling"), "--set takes NAME=VALUE"),
        (("embed", "out", "cells.h5ad", "--threshold", "0.5"), "unknown arguments ['threshold'] of embed"),
        (("embed", "out", "none.h5ad"), "there is no file"),
    ],
)
def test_refused(run, tmp_path, arguments, message) -> None:
    cells(5).write_h5ad(tmp_path / "cells.h5ad")
    done = run("plan", *arguments)
    assert done.code == 1
    assert message in done.err


@needs_weights
def test_a_run_with_failures_ends_with_1_and_names_them(run, tmp_path) -> None:
    cells(5).write_h5ad(tmp_path / "cells.h5ad")
    run("plan", "embed", "out", "cells.h5ad", "--set", "backend=fake")
    cells(5, seed=2).write_h5ad(tmp_path / "cells.h5ad")
    done = run("run", "out")
    assert done.code == 1
    assert "failed: 1 shards: ValueError: the input cells.h5ad" in done.err
    assert "again: cell2sen run out" in done.err
