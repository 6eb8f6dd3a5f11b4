"""Prompts with references: real cells of the same side of the split, context and perturbation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.training.config.data import Augmentation, TrainingFile
from cell2sen.training.config.training_file import build
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.references import ReferencedPrompt, mean_sentence, prompts_with_references

pytestmark = pytest.mark.slow

TASKS = {name: tasks.load(name) for name in ("annotate", "generate", "perturb")}


def referenced_cells(folder: Path, *names: str, **entry: Any) -> TrainingCells:
    perturbation = {"column": "condition", "context": ["cell_type"]}
    settings = {"tasks": names, "cell_type": "cell_type", "perturbation": perturbation, "split": {"test": 0.3}}
    return cells_of(folder, **{**settings, **entry})


def prompts_of(
    cells: TrainingCells, held_out: bool = False, truth: str = "mean", draw: int = 0
) -> list[ReferencedPrompt]:
    lengths = {"perturb": 12, "generate": 10, "annotate": 10}
    options: dict[str, Any] = {"lengths": lengths, "augmentation": Augmentation(), "seed": 0, "truth": truth}
    return list(prompts_with_references(cells, TASKS, draw=draw, held_out=held_out, **options))


def log_mean(folder: Path, names: np.ndarray) -> dict[str, float]:
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    counts = adata[names].X.toarray()
    values = np.log10(1 + 1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    return dict(zip(adata.var_names, values, strict=True))


def test_mean_sentence_is_the_order_of_the_mean(folder: Path) -> None:
    cells, rows = referenced_cells(folder, "perturb"), [3, 5, 8, 13]
    values = log_mean(folder, cells.obs.index[rows])
    in_order = [values[gene] for gene in mean_sentence(cells, rows)]
    assert in_order == sorted(in_order, reverse=True)
    assert len(in_order) == sum(value > 0 for value in values.values())


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [False, True])
def test_reference_is_the_mean_of_the_same_side_context_and_perturbation(folder: Path, held_out: bool) -> None:
    cells = referenced_cells(folder, "perturb")
    obs, side = cells.obs, cells.test == held_out
    prompts = prompts_of(cells, held_out)
    assert len(prompts) == np.sum(side & (obs["condition"] != "control"))
    for prompt in prompts:
        cell = obs.loc[prompt.prompt.key]
        same = side & (obs["cell_type"] == cell["cell_type"]).to_numpy()
        for sentence, condition in ((prompt.truth, cell["condition"]), (prompt.control, "control")):
            values = log_mean(folder, obs.index[same & (obs["condition"] == condition).to_numpy()])
            assert [values[g] for g in sentence] == sorted(values.values(), reverse=True)[: len(sentence)]
        assert prompt.prompt.answer_genes == len(prompt.prompt.genes) == len(prompt.truth) <= 12
        assert f"perturbation: {cell['condition']}." in prompt.prompt.text


def test_reference_of_a_single_cell(folder: Path) -> None:
    cells = referenced_cells(folder, "perturb")
    written = {tuple(genes) for genes in cells.sentences(0, Augmentation(), 0).gene_lists(12)}
    for prompt in prompts_of(cells, truth="cell"):
        assert prompt.truth in {sentence[: len(prompt.truth)] for sentence in written}
        assert prompt.control[: len(prompt.prompt.genes)] == tuple(prompt.prompt.genes)


def test_cells_of_a_type_are_generated_without_a_control(folder: Path) -> None:
    cells = referenced_cells(folder, tasks={"generate": 2, "perturb": 1})
    prompts = [prompt for prompt in prompts_of(cells) if prompt.task == "generate"]
    assert len(prompts) == np.sum(~cells.test & (cells.obs["condition"] == "control"))
    assert {prompt.control for prompt in prompts} == {()}
    for prompt in prompts:
        assert len(prompt.prompt.genes) == 0
        assert prompt.prompt.answer_genes == len(prompt.truth) == 10
    assert {prompt.task for prompt in prompts_of(cells, draw=1)} == {"generate"}


def test_labels_have_no_reward(folder: Path) -> None:
    with pytest.raises(ValueError, match="the answer of task 'annotate' is of the kind 'label'"):
        prompts_of(referenced_cells(folder, "annotate"))


def test_prompts_have_the_context_of_their_control(folder: Path) -> None:
    settings = build(
        TrainingFile,
        {
            "file": "cells.h5ad",
            "tasks": ["perturb"],
            "perturbation": {"column": "condition", "context": ["cell_type"]},
            "split": {"test": 0.3},
        },
    )
    cells, plain = TrainingCells(settings, folder, "upper", ["donor", "cell_type"]), referenced_cells(folder, "perturb")
    with_context, without = prompts_of(cells), prompts_of(plain)
    assert len(with_context) == len(without)
    names = {
        tuple(genes): name
        for name, genes in zip(cells.names, cells.sentences(0, Augmentation(), 0).gene_lists(12), strict=True)
    }
    for prompt, bare in zip(with_context, without, strict=True):
        control = cells.obs.loc[names[tuple(prompt.prompt.genes)]]
        assert control["condition"] == "control"
        line = f"Known of this cell: donor: {control['donor']}; cell type: {control['cell_type']}.\n"
        assert prompt.prompt.text == line + bare.prompt.text
        assert prompt.truth == bare.truth
