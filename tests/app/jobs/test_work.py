from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from cells import fake
from pages import wait

from cell2sen import tl
from cell2sen.app.frames import Answer
from cell2sen.app.page import Page


def test_annotation_is_that_of_the_tool(page: Page, adata: anndata.AnnData, finish: Callable[..., Answer]) -> None:
    values, _ = finish(page, "annotate", range(20), threshold=0.6)
    whole = adata.copy()
    tl.annotate(whole, threshold=0.6, model=page.work.backend, progress=False)
    expected = whole.obs["cell2sen_cell_type"][:20].value_counts()
    assert values["counts"] == {name: n for name, n in expected.items() if n}
    assert values["n_unknown"] == values["counts"].get("unknown", 0) > 0
    means = tl.probabilities(whole)[:20].mean()
    assert dict(values["means"]) == pytest.approx(means.to_dict())
    assert page.ask("column", {"name": values["column"]})[0]["kind"] == "label"
    assert page.ask("column", {"name": values["score"]})[0]["n"] == 20


def test_response_of_some_rows_is_that_in_the_file(
    page: Page, adata: anndata.AnnData, finish: Callable[..., Answer]
) -> None:
    rows = range(0, 20)
    settings: dict[str, Any] = {"perturbation": "IFN-beta", "column": "condition", "control": "control", "n": 0}
    values, arrays = finish(page, "perturb", rows, **settings, treated="IFN-beta", label="cell_type")
    predicted = tl.perturb(adata, "IFN-beta", control=(), model=page.work.backend, progress=False)
    chosen = [row for row in rows if adata.obs["condition"].iloc[row] == "control"]
    expected = predicted[chosen].layers["delta"].toarray().mean(axis=0)
    np.testing.assert_allclose(arrays["predicted"], expected, atol=1e-6)
    assert (values["n_cells"], values["n_candidates"], values["readout"]) == (10, 10, "expected")
    assert values["genes"] == predicted.var["symbol"].tolist()
    drawn, _ = finish(page, "perturb", rows, **{**settings, "n": 4})
    assert (drawn["n_cells"], drawn["n_candidates"]) == (4, 10)
    assert "measured" not in drawn


def test_transfer_from_the_other_cells_or_a_file(
    page: Page, adata: anndata.AnnData, tmp_path: Path, finish: Callable[..., Answer]
) -> None:
    values, _ = finish(page, "transfer", range(6), column="cell_type")
    assert set(values["counts"]) <= {"B", "T", "NK"}
    assert values["column"] == "transferred_cell_type"
    adata.write_h5ad(tmp_path / "reference.h5ad")
    other = Page(adata[:10].copy(), reference=tmp_path / "reference.h5ad", label="donor", model=fake())
    values, _ = finish(other, "transfer", range(5))
    assert set(values["counts"]) <= {"d0", "d1"}
    assert list(tmp_path.iterdir()) == [tmp_path / "reference.h5ad"]
    other.close()


def test_attention_embeddings_maps_and_questions(
    page: Page, finish: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cell2sen.app.jobs.maps.MIN_CELLS", 1000)  # UMAP is compiled for half a minute
    values, arrays = finish(page, "attention", [3], row=3)
    embedded = page.work.subset(np.array([3]))
    tl.embed(embedded, attention_for=[0], model=page.work.backend, progress=False)
    weights = embedded.uns["cell2sen"]["attention"]["c3"]["map"].mean(axis=0)
    received = np.array([weights[at + 1 :, at].mean() if at + 1 < len(weights) else 0 for at in range(len(weights))])
    np.testing.assert_allclose(arrays["attention"], received / received.max(), rtol=1e-5)
    assert len(values["genes"]) == len(received)
    assert finish(page, "pca")[0]["map"] == "X_pca_page"
    assert finish(page, "embed")[0]["map"] == "X_pca_cell2sen"
    assert {"X_pca_page", "X_pca_cell2sen"} <= set(page.ask("about")[0]["maps"])
    assert page.results.anndata().obsm["X_cell2sen"].shape == (60, 16)
    answer, _ = finish(page, "ask", question="Which cells are these?")
    assert answer["question"] == "Which cells are these?"
    assert len(answer["cells"]) == 10


@pytest.mark.parametrize(
    ("work", "settings", "message"),
    [
        ("annotate", {"labels": "only one"}, "at least two"),
        ("perturb", {"perturbation": "made up"}, "not trained on"),
        ("perturb", {"perturbation": "IFN-beta", "column": "condition", "control": "mock"}, "none of the 20 selected"),
        ("perturb", {"perturbation": "IFN-beta", "column": "no", "control": "mock"}, "no column 'no'"),
        ("transfer", {"column": "no"}, "choose the column"),
    ],
)
def test_failed_jobs_have_messages(page: Page, work: str, settings: dict[str, Any], message: str) -> None:
    body = {"work": work, "settings": settings}
    number = page.ask("start", body, {"rows": np.arange(20)})[0]["job"]
    wait(page, number)
    status = page.ask("status", {"job": number})[0]
    assert status["state"] == "failed"
    assert message in status["message"]


def test_layers_raw_and_backed_files_are_read(
    adata: anndata.AnnData, tmp_path: Path, finish: Callable[..., Answer]
) -> None:
    expected, _ = finish(Page(adata, model=fake()), "annotate", range(5))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    counts = adata.X.copy()
    adata.layers["counts"], adata.raw = counts, adata.copy()
    adata.X = counts * 0.37 + counts.multiply(counts > 3) * 2
    for options in ({"layer": "counts"}, {"use_raw": True}):
        page = Page(adata, model=fake(), **options)
        values, _ = finish(page, "annotate", range(5))
        assert values["means"] == expected["means"]
        assert page.results.shown.uns["cell2sen"]["annotate"]["matrix"] == {"layer": "counts"}.get(*options, "raw.X")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert finish(Page(backed, model=fake()), "annotate", range(5))[0]["means"] == expected["means"]
    backed.file.close()
