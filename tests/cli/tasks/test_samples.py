"""The command generate-sample."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
from command import Run

from cell2sen import tl


def test_generate_sample(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    options = ("--n", "2", "--n-genes", "4", "--genes", file, "-m", model)
    done = run("generate-sample", "out.h5ad", "--cell-types", "B cell; NK cell", *options)
    assert done.code == 0, done.err
    assert "2 samples of 2 cells, 100.0% of their words are valid genes → out.h5ad" in done.err
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = tl.generate_sample(
        cell_types=["B cell", "NK cell"], n=2, n_genes=4, genes=anndata.read_h5ad(file), model=model, progress=False
    )
    assert written.obs["sentence"].tolist() == expected.obs["sentence"].tolist()
    np.testing.assert_allclose(written.X.toarray(), expected.X.toarray())
    (tmp_path / "abstract.txt").write_bytes("\ufeffWe studied\r\nblood.\r\n".encode())  # as editors save it
    done = run("generate-sample", "more.h5ad", "--abstract", "abstract.txt", "--n-cells", "2", *options)
    assert done.code == 0, done.err
    assert anndata.read_h5ad(tmp_path / "more.h5ad").uns["cell2sen"]["generate"]["abstract"] == "We studied blood."


def test_refused(run: Run) -> None:
    done = run("generate-sample", "out.h5ad", "--tissue", "blood", "--raw")
    assert done.code == 1
    assert "describe the file of --genes" in done.err
    done = run("generate-sample", "out.h5ad", "--tissue", "blood", "--cell-types", "B cell")
    assert done.code == 1
    assert "one of tissue, cell_types and abstract" in done.err
