"""The command export."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from command import Run


def test_a_submission_is_written_and_broken_rules_are_errors(run: Run, tmp_path: Path) -> None:
    obs = pd.DataFrame({"perturbation": ["A", "A", "B"]}, index=["x", "y", "z"])
    counts = np.arange(6, dtype=np.float32).reshape(3, 2)
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=["G1", "G2"])).write_h5ad(tmp_path / "predicted.h5ad")
    (tmp_path / "genes.txt").write_text("G2\nG1\n")
    (tmp_path / "cells.csv").write_text("target,n_cells\nA,2\nB,1\n")
    files = ["predicted.h5ad", "out.h5ad", "--genes", "genes.txt", "--cells", "cells.csv"]
    done = run("export", "vcc", *files)
    assert done.code == 0, done.err
    assert "3 cells of 2 targets × 2 genes" in done.err
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(written.var_names) == ["G2", "G1"]
    np.testing.assert_array_equal(written[written.obs["target"] == "B"].X.toarray(), [[5, 4]])
    (tmp_path / "cells.csv").write_text("target,n_cells\nA,9\n")
    (tmp_path / "out.h5ad").unlink()
    refused = run("export", "vcc", *files)
    assert refused.code == 1
    assert "needs 9 cells, found 2" in refused.err
    assert not (tmp_path / "out.h5ad").exists()
    (tmp_path / "cells.csv").write_text("gene,n\nA,9\n")
    assert "['n_cells', 'target'] is missing" in run("export", "vcc", *files).err
