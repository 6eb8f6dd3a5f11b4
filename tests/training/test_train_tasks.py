"""Two steps on every task from a checkpoint that was trained on none; then every verb with the new labels."""

from __future__ import annotations

from typing import Any

import anndata
import pandas as pd
import pytest
import tiny
from cells import GENES, LABELS
from sections import tissue_of_donors

from cell2sen import tasks, tl, training
from cell2sen.model import Model

pytestmark = pytest.mark.slow

OF_CELLS = ["annotate", "identify", "niche", "generate", "perturb", "write_cell", "label:disease", "number:age"]
OF_SAMPLES = [
    "tissue", "sample_cell_types", "sample_from_tissue", "sample_from_types", "sample_from_abstract", "write_sample",
    "caption", "interpret", "ask", "same_niche", "same_neighbourhood", "neighbour",
]  # fmt: skip
COLUMNS = {
    "sample": "donor", "caption_sample": "cluster", "tissue": "tissue", "caption": "text", "summary": "abstract",
    "abstract": "abstract", "question": "question", "answer": "text", "niche": "layer",
}  # fmt: skip
OPTIONS: dict[str, Any] = {"progress": False}


def labelled() -> anndata.AnnData:
    adata = tissue_of_donors(("d1", "d2", "d3", "d4"))
    adata.obs["cell_type"] = [LABELS[row % 3] for row in range(adata.n_obs)]
    adata.obs["tissue"] = adata.obs["donor"].map({"d1": "lung", "d2": "lung", "d3": "blood", "d4": "blood"})
    adata.obs["cluster"] = adata.obs["cell_type"] + adata.obs["donor"]
    adata.obs["disease"] = ["flu" if row % 2 else None for row in range(adata.n_obs)]
    adata.obs.loc[adata.obs["cell_type"] == "B cell", "disease"] = "none"
    adata.obs["condition"] = ["control" if row % 2 else "IFN-beta" for row in range(adata.n_obs)]
    adata.obs["text"] = "Cells of the " + adata.obs["tissue"] + "."
    adata.obs["abstract"] = "We studied the " + adata.obs["tissue"] + "."
    adata.obs["question"] = "Which tissue?"
    return adata


@pytest.fixture(scope="module", params=["bytes", "spm"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("all_tasks")
    architecture = {"bytes": "gpt_neox", "spm": "gemma2"}[request.param]
    (folder / "start").mkdir()
    tiny.save(folder / "start", architecture, request.param, max_position_embeddings=4096)
    labelled().write_h5ad(folder / "cells.h5ad")
    names = [*OF_CELLS, *OF_SAMPLES]
    file = {
        "file": "cells.h5ad",
        "tasks": names,
        "cell_type": "cell_type",
        "perturbation": {"column": "condition"},
        "columns": COLUMNS,
        "matrix": {"space": {"radius": 1.1, "section": "section", "n_cells": 3}},
    }
    values = {
        "model": {"start": str(folder / "start")},
        "data": {"files": [file], "lengths": dict.fromkeys(names, 5), "context": ["donor"]},
        "optimiser": {"max_steps": 2, "batch_size": 4},
        "checkpoints": {"eval_pairs": 20, "save_dtype": "float32"},
        "card": {"score_cells": 2},
    }
    return training.train(training.from_mapping(values), folder / "model", base=folder, progress=False)


def test_all_tasks_are_in_the_metadata(trained: Model) -> None:
    assert set(trained.metadata["templates"]) == {*OF_CELLS, *OF_SAMPLES}
    assert not trained.metadata.get("failed")
    listed = {name for name in tasks.names() if tasks.load(name).answer != "none"}
    assert listed - {"name_gene_set", "list_gene_set", "receptors"} == {
        name for name in (*OF_CELLS, *OF_SAMPLES) if ":" not in name
    }, "a new task belongs into this test"


@pytest.mark.parametrize(
    ("task", "options", "answers"),
    [
        ("annotate", {}, set(LABELS)),
        ("identify", {}, {"control", "IFN-beta"}),
        ("niche", {}, {"inner", "outer"}),
        ("label:disease", {}, {"flu", "none"}),
        ("tissue", {"sample_by": "donor", "n_cells": 5}, {"lung", "blood"}),
        ("sample_cell_types", {"sample_by": "donor", "n_cells": 5}, set(LABELS)),
    ],
)
def test_labels_are_those_of_the_training(
    trained: Model, task: str, options: dict[str, Any], answers: set[str]
) -> None:
    adata = labelled()
    tl.annotate(adata, task=task, model=trained, key_added="found", context=["donor"], **options, **OPTIONS)
    assert set(adata.obs["found"].dropna()) <= answers
    assert adata.obsm["found_probabilities"].columns.isin(answers).all()


def test_numbers(trained: Model) -> None:
    adata = labelled()
    tl.annotate(adata, task="number:age", model=trained, **OPTIONS)
    assert adata.obs["cell2sen_age"].between(0, 8).all()


def test_generated_cells_and_samples(trained: Model) -> None:
    adata = labelled()
    for given in ({"tissue": "lung"}, {"cell_types": LABELS}, {"abstract": "We studied the lung."}, {}):
        made = tl.generate_sample(**given, n=1, n_genes=3, n_cells=3, genes=adata, model=trained, **OPTIONS)
        assert made.n_obs == 3
        assert made.obs["validity"].eq(1).all()
    assert tl.generate("B cell", n=2, n_genes=3, genes=adata, model=trained, **OPTIONS).n_obs == 2
    controls = adata[adata.obs["condition"] == "control"].copy()
    assert tl.perturb(controls, "IFN-beta", n_genes=3, readout="sentence", model=trained, **OPTIONS).n_obs == 18
    cells = tl.neighbour(adata, radius=1.1, section="section", n_cells=2, n_genes=3, model=trained, **OPTIONS)
    assert set(" ".join(cells.obs["sentence"]).split()) <= set(GENES)


def test_texts_and_questions(trained: Model) -> None:
    adata = labelled()
    tables: list[pd.DataFrame] = [
        tl.caption(adata, "cluster", max_new_tokens=4, model=trained, **OPTIONS),
        tl.interpret(adata, "donor", n_cells=5, max_new_tokens=4, model=trained, **OPTIONS),
        tl.ask(adata, "Which tissue?", sample_by="donor", n_cells=2, max_new_tokens=4, model=trained, **OPTIONS),
    ]
    assert [len(table) for table in tables] == [12, 4, 4]
    space: dict[str, Any] = {"radius": 1.1, "section": "section", "n_cells": 3, "model": trained, **OPTIONS}
    for asked in (tl.same_neighbourhood(adata, **space), tl.same_niche(adata, "layer", **space)):
        assert set(asked.obs["truth"]) == {"yes", "no"}
