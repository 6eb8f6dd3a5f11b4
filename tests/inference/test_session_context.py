"""Metadata in prompts: values of obs columns, missing ones as nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata_objects import QUIET, PromptRecorder
from cells import cells, fake
from sessions import begin

import cell2sen as c2s
from cell2sen.backends.fake import FakeBackend
from cell2sen.prompt import Prompt, context_line

TISSUES = ["lung", None, "NA", np.nan, "", "bone  marrow."]


def adata_with_tissue() -> Any:
    adata = cells()
    adata.obs["tissue"] = TISSUES
    adata.obs["donor_id"] = ["d1", "d2", None, "nan", "d5", "d6"]
    return adata


def texts(context: Any = None, task: str = "embed") -> list[str]:
    with begin(task, adata_with_tissue(), context=context) as session:
        return [prompt.text for prompt in session.prompts(np.arange(6), length=5)]


def test_missing_values_are_written_as_nothing() -> None:
    plain = texts()
    assert texts(()) == plain
    lines = ["Known of this cell: tissue: lung.\n", "", "", "", "", "Known of this cell: tissue: bone marrow.\n"]
    assert texts("tissue") == [line + text for line, text in zip(lines, plain, strict=True)]
    both = texts(["tissue", "donor_id"])
    assert both[0] == "Known of this cell: tissue: lung; donor id: d1.\n" + plain[0]
    assert both[1] == "Known of this cell: donor id: d2.\n" + plain[1]
    assert both[2:4] == plain[2:4], "an absent slot gives exactly the plain prompt"
    assert not any("nan" in text.lower() or "none" in text.lower() for text in both)
    given = texts({"tissue": "lung", "disease": None})
    assert given == ["Known of this cell: tissue: lung.\n" + text for text in plain]


def test_absent_slots_change_no_result_in_any_verb() -> None:
    empty = cells()
    empty.obs["tissue"] = [None, "NA", np.nan, "", "nan", "  "]
    for verb, arguments in (
        ("embed", {}),
        ("annotate", {"labels": ["B cell", "NK cell"]}),
        ("perturb", {"perturbation": "IFN-beta"}),
    ):
        results = []
        for context in (None, ["tissue"]):
            adata, recorder = empty.copy(), PromptRecorder()
            getattr(c2s.tl, verb)(adata, model=recorder.backend, context=context or (), **arguments, **QUIET)
            results.append([prompt.text for prompt in recorder.prompts])
        assert results[0] == results[1]
        assert results[0]


def test_slots_are_recorded(tmp_path: Path) -> None:
    adata = adata_with_tissue()
    c2s.tl.embed(adata, model=fake(), context=["tissue", "donor_id"], **QUIET)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    record = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["cell2sen"]["embed"]["context"]
    assert record["slots"].tolist() == ["tissue", "donor_id"]
    assert record["n_cells"].tolist() == [2, 4]
    adata.obs["tissue"] = adata.obs["tissue"].astype("category")
    adata.obs["age"] = [1.0, np.nan, 3.0, 4.0, np.nan, 6.0]
    adata.obs["treated"] = [True, False, None, True, pd.NA, False]
    slots = ["age", "tissue", "treated"]
    c2s.tl.annotate(adata, ["B cell", "NK cell"], model=fake(), context=slots, **QUIET)
    assert adata.uns["cell2sen"]["annotate"]["context"]["n_cells"].tolist() == [4, 2, 4]
    perturbed = c2s.tl.perturb(adata, "IFN-beta", model=fake(), context=slots, **QUIET)
    assert perturbed.uns["cell2sen"]["perturb"]["context"]["n_cells"].tolist() == [4, 2, 4]
    c2s.tl.embed(adata, model=fake(), **QUIET)
    assert "context" not in adata.uns["cell2sen"]["embed"]
    made = c2s.tl.generate(
        "B cell", n=1, n_genes=3, genes=["CD4", "B2M", "LYZ"], model=fake(), context={"tissue": "lung"}
    )
    assert made.uns["cell2sen"]["generate"]["context"]["values"].tolist() == ["lung"]


def test_generated_cells_have_the_given_context() -> None:
    recorder = PromptRecorder()
    arguments: Any = {"n": 1, "n_genes": 3, "genes": ["CD4", "B2M", "LYZ"], "model": recorder.backend}
    c2s.tl.generate("B cell", context={"tissue": "lung", "donor": "NA"}, **arguments)
    c2s.tl.generate("B cell", context={"tissue": None}, **arguments)
    c2s.tl.generate("B cell", **arguments)
    known, absent, plain = [prompt.text for prompt in recorder.prompts]
    assert known == "Known of this cell: tissue: lung.\n" + plain
    assert absent == plain
    with pytest.raises(ValueError, match=r"must be \{name: value\}"):
        c2s.tl.generate("B cell", context=["tissue"], **arguments)


def test_samples_have_what_their_cells_share() -> None:
    with begin("tissue", adata_with_tissue(), context=["donor", "donor_id"]) as session:
        [prompt] = session.prompts([np.array([0, 2, 4])], length=4)
    assert prompt.text.startswith("Known of this cell: donor: d0.\n")


def test_values_in_braces_stay_as_they_are() -> None:
    prompt = Prompt(segments=(context_line({"text": "has {n_genes} genes"}), "{n_genes} genes"), answer_genes=7)
    assert prompt.text == "Known of this cell: text: has {n_genes} genes.\n7 genes"


def test_contexts_that_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError, match="no column 'organ'; available"):
        texts("organ")
    with pytest.raises(ValueError, match="predicts 'tissue', which must not be in the prompt"):
        texts("tissue", "label:tissue")
    model = replace(fake(context={"donor_id": 5}).model, wording="checkpoint", metadata={"templates": {"embed": []}})
    with (
        caplog.at_level(logging.WARNING),
        begin("embed", adata_with_tissue(), model=FakeBackend(model), context="tissue"),
    ):
        assert "was not trained with 'tissue' in its prompts, but with genes alone" in caplog.text


def test_a_model_that_was_trained_with_context_needs_it(caplog: pytest.LogCaptureFixture) -> None:
    trained: dict[str, Any] = {
        "templates": {
            "annotate": [{"prompt": "{genes} is", "answer": " {cell_type}."}],
            "label:tissue": [{"prompt": "{genes} is", "answer": " {tissue}."}],
        },
        "training": {"data": {"context": ["tissue", "donor_id"], "augmentation": {"context_dropout": 0.0}}},
        "context": {"tissue": 9, "donor_id": 9},
    }
    backend = fake(**trained)
    for context, task, missing in (
        (None, "annotate", "'tissue', 'donor_id'"),
        ("donor_id", "annotate", "'tissue'"),
        (None, "label:tissue", "'donor_id'"),
        (["tissue", "donor_id"], "annotate", ""),
        ("donor_id", "label:tissue", ""),
    ):
        caplog.clear()
        with begin(task, adata_with_tissue(), model=backend, context=context):
            pass
        expected = f"fake was trained with {missing} in all prompts, these are without: pass them as context="
        assert (expected in caplog.text) == bool(missing)
        assert ("was trained with" in caplog.text) == bool(missing)
    trained["training"]["data"]["augmentation"]["context_dropout"] = 0.3
    caplog.clear()
    with begin("annotate", adata_with_tissue(), model=fake(**trained)):
        assert "was trained with" not in caplog.text
