from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import cells, fake, log_normalised

from cell2sen.app.frames import Answer
from cell2sen.app.page import N_SHOWN, Page

ROWS = {"rows": np.array([5, 1, 3, 3], dtype=np.uint32)}


def test_about_tells_what_there_is(page: Page) -> None:
    about, _ = page.ask("about")
    assert (about["name"], about["n_cells"], about["n_genes"]) == ("cells.h5ad", 60, 50)
    assert about["first_colour"] == "cell_type"
    assert {column["name"]: column["kind"] for column in about["columns"]} == {
        "donor": "label", "cell_type": "label", "condition": "label", "score": "number",
    }  # fmt: skip
    assert about["maps"] == ["X_umap"]
    assert about["model"]["perturbations"] == ["IFN-beta"]
    assert (about["contrast"]["column"], about["contrast"]["control"]) == ("condition", "control")


def test_what_a_map_is_coloured_by(page: Page, adata: anndata.AnnData) -> None:
    _, points = page.ask("points", {"map": "X_umap"})
    np.testing.assert_array_equal(points["x"], adata.obsm["X_umap"][:, 0].astype(np.float32))
    labels, codes = page.ask("column", {"name": "cell_type"})
    assert (labels["names"], labels["counts"]) == (["B", "NK", "T"], [20, 20, 20])
    assert len(set(labels["colours"])) == 3
    assert codes["codes"][:3].tolist() == [0, 2, 1]
    numbers, values = page.ask("column", {"name": "score"})
    assert (numbers["low"], numbers["high"], numbers["n"]) == (0, 59, 60)
    assert numbers["clip"] == pytest.approx(np.percentile(values["values"], 99))
    symbol = page.ask("genes", {"prefix": "cd3"})[0]["names"][0]
    assert symbol == "CD3D"
    expected = log_normalised(adata)[:, list(adata.var_names).index(symbol)]
    np.testing.assert_allclose(page.ask("gene", {"symbol": symbol})[1]["values"], expected, rtol=1e-5)
    assert page.ask("genes", {"prefix": "nothing"})[0]["names"] == []


def test_sentences_are_drawn_evenly_and_compared(page: Page) -> None:
    answer, _ = page.ask("sentences", {"seed": 0}, {"rows": np.arange(40, dtype=np.uint32)})
    assert (answer["n"], answer["n_others"], len(answer["cells"])) == (40, 20, N_SHOWN)
    drawn = [cell["row"] for cell in answer["cells"]]
    assert drawn != list(range(N_SHOWN))  # the first cells are no sample
    assert page.ask("sentences", {"seed": 0}, {"rows": np.arange(40)[::-1]})[0] == answer
    sentences = [set(page.cells.genes_of(row)) for row in range(60)]
    for gene, (own, rest, place, other) in answer["genes"].items():
        assert own == pytest.approx(np.mean([gene in s for s in sentences[:40]]), abs=1e-4)
        assert rest == pytest.approx(np.mean([gene in s for s in sentences[40:]]), abs=1e-4)
        places = [page.cells.genes_of(row).index(gene) + 1 if gene in sentences[row] else 101 for row in range(60)]
        assert (place, other) == pytest.approx((np.mean(places[:40]), np.mean(places[40:])), abs=1e-3)
    against, _ = page.ask("sentences", {}, {**ROWS, "others": np.array([7], dtype=np.uint32)})
    assert (against["n"], against["n_others"]) == (3, 1)


def test_comparison_of_two_groups(page: Page, adata: anndata.AnnData) -> None:
    values, arrays = page.ask("compare", {}, {"a": np.arange(10), "b": np.arange(5, 30)})
    assert (values["n_a"], values["n_b"], values["shared"]) == (10, 25, 5)
    expression = pd.DataFrame(log_normalised(adata), columns=adata.var_names)[values["genes"]]
    np.testing.assert_allclose(arrays["mean_a"], expression[:10].mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(arrays["mean_b"], expression[5:30].mean(), rtol=1e-4, atol=1e-6)
    shares = [np.mean([gene in page.cells.genes_of(row) for row in range(10)]) for gene in values["genes"]]
    np.testing.assert_allclose(arrays["share_a"], shares, rtol=1e-6)


@pytest.mark.parametrize(
    ("verb", "body", "arrays", "message"),
    [
        ("__class__", {}, {}, "no verb '__class__'"),
        ("points", {"map": "X_pca"}, {}, "no map 'X_pca'"),
        ("column", {"name": "no"}, {}, "no column 'no'"),
        ("gene", {"symbol": "no"}, {}, "no gene 'no'"),
        ("sentences", {}, {}, "no cells are selected"),
        ("sentences", {}, {"rows": np.array([60])}, "row 60 is beyond the 60 cells"),
        ("compare", {}, {"a": np.array([1])}, "no cells are selected"),
        ("figure", {"map": "X_umap", "format": "exe"}, {}, "no pictures as 'exe'"),
        ("start", {"work": "rm"}, ROWS, "no job 'rm'"),
        ("start", {"work": "annotate"}, {}, "no cells are selected"),
        ("start", {"work": "perturb", "settings": {"perturbation": " "}}, ROWS, "name the perturbation"),
        ("start", {"work": "ask"}, ROWS, "write a question"),
        ("status", {"job": 7}, {}, "no job 7"),
        ("result", {"job": "../7"}, {}, "job must be a number"),
        ("cancel", {"job": True}, {}, "job must be a number"),
    ],
)
def test_mistakes_have_messages(page: Page, verb: str, body: dict[str, Any], arrays: Any, message: str) -> None:
    with pytest.raises((KeyError, ValueError), match=message):
        page.ask(verb, body, arrays)


def test_results_tell_their_selection(page: Page, finish: Callable[..., Answer]) -> None:
    values, _ = finish(page, "annotate", [4, 5])
    assert values["selection"] == {"id": 1, "n": 2, "text": "test"}
    assert values["n_selected"] == 2


def test_many_labels_missing_values_and_repeated_genes() -> None:
    adata = cells(600)
    adata.obs["lists"] = [[row] for row in range(600)]
    adata.obs["label"] = [f"label {row % 300}" if row % 7 else None for row in range(600)]
    names = list(adata.var_names)
    adata.var_names = [names[0], names[0], *names[2:]]
    adata.obsm["X_umap"] = np.where(np.arange(1200).reshape(600, 2) < 4, np.nan, 1.0)
    page = Page(adata, model=fake())
    assert [column["name"] for column in page.ask("about")[0]["columns"]] == ["donor", "label"]
    labels, arrays = page.ask("column", {"name": "label"})
    assert len(labels["names"]) == 300
    assert sum(colour is not None for colour in labels["colours"]) == 60
    assert (arrays["codes"] < 0).sum() == sum(row % 7 == 0 for row in range(600))
    assert np.isnan(page.ask("points", {"map": "X_umap"})[1]["x"][0])
    assert page.ask("gene", {"symbol": names[0]})[1]["values"].shape == (600,)
    assert len(page.ask("compare", {}, {"a": [1], "b": [2]})[0]["genes"]) == len(names) - 1


def test_too_many_cells_and_half_a_reference_are_refused(
    adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cell2sen.app.page.MAX_CELLS", 10)
    with pytest.raises(ValueError, match="60 cells are more than"):
        Page(adata)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="belong together"):
        Page(adata, label="cell_type")
