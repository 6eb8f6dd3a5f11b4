"""Unlabelled cells: views that depend on the cell alone, prompts of embeddings, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import tiny
import training_cells
from cells import GENES, cells, fake

from cell2sen.inference.session import start
from cell2sen.sentences.sentences import Sentences
from cell2sen.training.adaptation import unlabelled_cells
from cell2sen.training.adaptation.unlabelled_cells import Reader, UnlabelledCells


def everything(symbols: Any) -> Any:
    return np.ones(len(symbols), dtype=bool)


def opened(source: Any, **options: Any) -> UnlabelledCells:
    return UnlabelledCells(source, fake().model, everything, {"progress": False, **options})


def lists(sentences: Sentences) -> dict[str, list[str]]:
    return dict(zip(map(str, sentences.names), map(list, sentences.gene_lists(None)), strict=True))


def test_a_view_depends_on_the_cell_and_the_draw(tmp_path: Path) -> None:
    own = opened(training_cells.write(tmp_path / "cells.h5ad"))
    profile = own.profile()
    rows = np.arange(20)
    view, again = own.view(rows, 3, profile), own.view(rows, 3, profile)
    assert lists(view) == lists(again)
    part = lists(own.view(np.array([2, 7, 19]), 3, profile))
    # Panels are those of the draw, so a part of the cells has the same ones.
    assert part == {name: genes for name, genes in lists(view).items() if name in part}
    other = lists(own.view(rows, 4, profile))
    assert sum(other[name] == genes for name, genes in lists(view).items()) < 5


def test_cells_that_would_lose_all_genes_are_as_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = opened(training_cells.write(tmp_path / "cells.h5ad"))
    monkeypatch.setattr(unlabelled_cells, "augmented", lambda counts, *_, **__: sp.csr_matrix(counts.shape))
    view = own.view(np.arange(5), 0, own.profile())
    assert [set(genes) for genes in lists(view).values()] == [
        {own.symbols[gene] for gene in own.matrix[row].indices} for row in range(5)
    ]


def test_a_file_and_an_object_are_the_same_cells_and_stay_as_they_are(tmp_path: Path) -> None:
    adata = cells(70)
    before = adata.X.toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    content = (tmp_path / "cells.h5ad").read_bytes()
    one, other = opened(adata), opened(tmp_path / "cells.h5ad")
    assert one.symbols == other.symbols
    np.testing.assert_array_equal(one.test, other.test)
    assert lists(one.view(np.arange(9), 1, one.profile())) == lists(other.view(np.arange(9), 1, other.profile()))
    np.testing.assert_array_equal(adata.X.toarray(), before)
    assert (tmp_path / "cells.h5ad").read_bytes() == content
    assert (one.data.file, other.data.file) == ("cells in memory", "cells.h5ad")


def test_prompts_are_those_of_an_embedding() -> None:
    adata, backend = cells(60), tiny.backend(model=fake(lengths={"annotate": 9}).model)
    options: Any = {"progress": False, "context": ["donor"]}
    own = UnlabelledCells(adata, backend.model, backend.known_genes, options)
    session = start(adata, "embed", {**options, "model": backend})
    reader = Reader(model=backend.model, tokens=backend.tokens, context_tokens=tiny.CONTEXT, options=options)
    rows = np.arange(len(own.names))
    part = session.sentences[np.array([list(session.sentences.names).index(name) for name in own.names])]
    part.obs["donor"] = list(own.obs["donor"])
    found = reader.read(part)
    prompts = session.prompts([list(session.sentences.names).index(name) for name in own.names], length=session.length)
    for row, prompt in zip(found, prompts, strict=True):
        assert backend.tokens.text(row.ids.tolist()) == prompt.text
    assert len(found) == len(rows)


def test_too_few_cells_and_unknown_genes() -> None:
    with pytest.raises(ValueError, match="at least 50 cells with genes that fake can write, found 49 of 49"):
        opened(cells(49))
    with pytest.raises(ValueError, match="can write none of the"):
        UnlabelledCells(cells(60), fake().model, lambda symbols: ~everything(symbols), {})


def test_of_many_cells_a_random_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled_cells, "MAX_CELLS", 60)
    own = opened(cells(90, genes=GENES))
    assert (own.n_cells, len(own.names), own.matrix.shape[0]) == (90, 60, 60)
    whole = cells(90, genes=GENES)
    assert own.names != list(whole.obs_names[:60])
    row = list(whole.obs_names).index(own.names[7])
    assert own.matrix[7].sum() == whole.X[row].sum()
