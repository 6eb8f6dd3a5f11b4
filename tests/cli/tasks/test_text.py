"""ask, caption, interpret: answers on stdout, files, a model that declines."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import pandas as pd
from command import Run, digest, names

from cell2sen import tl

QUICK = ("--max-new-tokens", "6", "--max-genes", "5", "--quiet")


def with_clusters(file: Path) -> Path:
    adata = anndata.read_h5ad(file)
    adata.obs["cluster"] = [str(row % 2) for row in range(adata.n_obs)]
    adata.write_h5ad(file)
    return file


def test_ask(run: Run, file: Path, text_model: str, tmp_path: Path) -> None:
    before = digest(with_clusters(file))
    arguments = ("ask", file, "What are these?", "--cells", "cluster=1", "-m", text_model, *QUICK)
    done = run(*arguments, "--out", "out.h5ad", "--json")
    assert done.code == 0, done.err
    [answer] = json.loads(done.out)["texts"]
    expected = tl.ask(
        anndata.read_h5ad(file),
        "What are these?",
        cells={"cluster": "1"},
        model=text_model,
        max_new_tokens=6,
        max_genes=5,
        progress=False,
    )
    assert answer["text"] == expected["text"].iloc[0]
    assert answer["n_cells"] == 3
    assert digest(file) == before
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.uns["cell2sen"]["ask"]["question"] == "What are these?"
    assert written.obs["cell2sen_answer"].notna().sum() == 3
    both = run(*arguments, "--cells", "cluster=0", "--json")
    assert json.loads(both.out)["texts"][0]["n_cells"] == 6
    plain = run(*arguments)
    assert "(3 cells): " in plain.out
    assert names(tmp_path) == {"in.h5ad", "out.h5ad", "model"}


def test_caption_and_interpret(run: Run, file: Path, text_model: str, tmp_path: Path) -> None:
    with_clusters(file)
    done = run("caption", file, "--cluster", "cluster", "-m", text_model, "-o", "out.csv", *QUICK)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out.csv", index_col="sample", keep_default_na=False)
    assert table["cluster"].tolist() == [0, 1]
    assert (table["n_cells"] == 2).all()
    adata = anndata.read_h5ad(file)
    adata.obs["donor"] = "d"
    adata.write_h5ad(file)
    done = run("interpret", file, "--sample-by", "donor", "--n-cells", "5", "-m", text_model, *QUICK)
    assert done.code == 0, done.err
    assert "(5 cells): " in done.out


def test_refused(run: Run, file: Path) -> None:
    for arguments, match in (
        (("ask", file, "Why?"), "nano was not trained to write text"),
        (("ask", file, "Why?", "--cells", "cluster"), "--cells takes COLUMN=VALUE"),
        (("ask", file, "Why?", "--cells", "=3"), "--cells takes COLUMN=VALUE"),
        (("caption", file), "name the obs column of the clusters"),
        (("interpret", file), "name the obs columns that define samples"),
        (("ask", file, "Why?", "--out", "out.txt"), "must end in .h5ad or .csv"),
    ):
        done = run(*arguments)
        assert done.code == 1
        assert match in done.err
