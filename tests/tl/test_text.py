"""Tools with text as answer: what is returned and stored, cells that are chosen, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import GENES, cells, fake

import cell2sen as c2s
from cell2sen.tl.text import chosen_cells


def donors(n: int = 24) -> anndata.AnnData:
    adata = cells(n)
    adata.obs["donor"] = pd.Categorical([f"d/{row % 2}" if row < n - 2 else None for row in range(n)])
    adata.obs["cluster"] = [row % 3 for row in range(n)]
    return adata


def model(text: str = "They express CD4, GNLY and IFNG.") -> Any:
    backend = fake()
    backend.seen = []

    def generate(prompts: Any, sampling: Any, genes: Any = None) -> list[str]:
        backend.seen.append((prompts, sampling))
        return [f"{text} {prompt.key}" for prompt in prompts]

    backend.generate = generate
    return backend


def test_ask(tmp_path: Path) -> None:
    adata, backend = donors(), model()
    counts = adata.X.toarray()
    counts[:, GENES.index("GNLY")] = 0
    counts[:, GENES.index("CD4")] = 1
    adata.X = counts
    table = c2s.tl.ask(adata, " Which  cells?", cells={"cluster": 1}, sample_by="donor", n_cells=3, model=backend)
    [(prompts, sampling)] = backend.seen
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 30, 0.9)
    assert all("Question: Which cells?\nAnswer:" in prompt.text for prompt in prompts)
    assert table["donor"].tolist() == ["d/1", "d/0"]
    assert table["question"].unique().tolist() == ["Which cells?"]
    assert (table["present"] == "CD4").all()
    assert (table["absent"] == "GNLY").all()
    assert (table["unmeasured"] == "IFNG").all()
    for name, row in table.iterrows():
        read = row["cells"].split("\t")
        assert read[0] == name
        assert len(read) == row["n_cells"] == 3
        assert set(adata.obs.loc[read, "cluster"]) == {1}
        assert set(adata.obs.loc[read, "donor"]) == {row["donor"]}
        assert set(adata.obs.loc[read, "cell2sen_answer"]) == {row["text"]}
        assert set(adata.obs.loc[read, "cell2sen_answer_sample"]) == {name}
    assert adata.obs["cell2sen_answer"].notna().sum() == 6
    record = adata.uns["cell2sen"]["ask"]
    pd.testing.assert_frame_equal(record["texts"], table)
    assert (record["n_cells"], record["question"], record["top_k"]) == (3, "Which cells?", 30)
    adata.write_h5ad(tmp_path / "asked.h5ad")
    read_again = anndata.read_h5ad(tmp_path / "asked.h5ad").uns["cell2sen"]["ask"]["texts"]
    assert read_again["text"].tolist() == table["text"].tolist()


def test_caption_and_interpret() -> None:
    adata, backend = donors(), model()
    captions = c2s.tl.caption(adata, "cluster", n_samples=2, model=backend)
    assert captions["cluster"].tolist() == ["0", "0", "1", "1", "2", "2"]
    assert (captions["n_cells"] == 2).all()
    assert len({cell for names in captions["cells"] for cell in names.split("\t")}) == 12
    summaries = c2s.tl.interpret(adata, ["donor"], n_cells=6, model=backend)
    assert (summaries["n_cells"] == 6).all()
    assert len(summaries) == 2
    assert {"cell2sen_caption", "cell2sen_summary"} <= set(adata.obs)
    assert {"caption", "interpret"} <= set(adata.uns["cell2sen"])


@pytest.mark.parametrize("case", ["batch", "order", "others"])
def test_a_text_depends_on_its_cells_alone(case: str) -> None:
    import tiny

    backend, adata = tiny.backend(), donors()
    options: Any = {"n_cells": 3, "max_genes": 5, "max_new_tokens": 8, "model": backend, "progress": False}
    table = c2s.tl.ask(adata, "Why?", sample_by="donor", **options)
    if case == "batch":
        other = c2s.tl.ask(adata, "Why?", sample_by="donor", batch_size=1, **options)
    elif case == "order":
        other = c2s.tl.ask(adata[::-1].copy(), "Why?", sample_by="donor", **options)
    else:
        other = c2s.tl.ask(adata[adata.obs["donor"] == "d/1"].copy(), "Why?", sample_by="donor", **options)
    shared = [name for name in table.index if name in other.index]
    assert len(shared) == (1 if case == "others" else 2)
    pd.testing.assert_frame_equal(table.loc[shared], other.loc[shared])


def test_the_embedded_model_declines() -> None:
    for ask in (
        lambda adata: c2s.tl.ask(adata, "Why?"),
        lambda adata: c2s.tl.caption(adata, "cluster"),
        lambda adata: c2s.tl.interpret(adata, "donor"),
    ):
        with pytest.raises(c2s.Unsupported, match="nano was not trained to write text"):
            ask(donors())


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        ({"cluster": 1, "donor": "d/0"}, [4, 10, 16]),
        (["c3", "c5"], [3, 5]),
        ([0, -1], [0, 23]),
        (np.arange(24) > 20, [21, 22, 23]),
    ],
)
def test_chosen_cells(chosen: Any, rows: list[int]) -> None:
    assert np.flatnonzero(chosen_cells(donors(), chosen)).tolist() == rows


@pytest.mark.parametrize(
    ("chosen", "error", "match"),
    [
        ({"cluster": 9}, ValueError, r"no cell has cluster = '9'; there are \['0', '1', '2'\]"),
        ({"leiden": 9}, KeyError, "has no column 'leiden'"),
        (["x"], KeyError, r"no cells \['x'\]"),
        ([99], ValueError, "from 0 to 23"),
        ([True], ValueError, "one entry per cell"),
        ([], ValueError, "chooses none"),
    ],
)
def test_cells_that_are_not_there(chosen: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        c2s.tl.ask(donors(), "Why?", cells=chosen, model=model())


def test_refused() -> None:
    with pytest.raises(ValueError, match="question must be a text"):
        c2s.tl.ask(donors(), " ", model=model())
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        c2s.tl.caption(donors(), "cluster", n_samples=0, model=model())
    with pytest.raises(KeyError, match="has no column 'leiden'"):
        c2s.tl.caption(donors(), "leiden", model=model())
