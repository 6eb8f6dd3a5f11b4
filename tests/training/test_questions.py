"""Questions of reinforcement learning: prompts of controls, and the real cells that they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells

from cell2sen import tasks
from cell2sen.training.cells import Augmentation, Cells, Split, TrainingData
from cell2sen.training.questions import Question, mean_sentence, questions

LENGTHS = {"perturb": 12, "generate": 10, "annotate": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("questions")
    training_cells.write(made / "cells.h5ad")
    return made


def cells(folder: Path, *names: str, **changes: Any) -> Cells:
    values = {"cell_type": "cell_type", "perturbation": "condition", "context": ("cell_type",)} | changes
    data = TrainingData(file="cells.h5ad", tasks=names, split=Split(test=0.3), **values)
    return Cells(data, folder, "upper")


def ask(one: Cells, held_out: bool = False, truth: str = "mean", draw: int = 0) -> list[Question]:
    worded = {name: tasks.load(name) for name in one.data.tasks}
    return list(
        questions(one, worded, draw=draw, held_out=held_out, lengths=LENGTHS, augmentation=Augmentation(), seed=0,
                  truth=truth)
    )  # fmt: skip


def log_mean(folder: Path, names: np.ndarray) -> dict[str, float]:
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    counts = adata[names].X.toarray()
    values = np.log10(1 + 1e4 * counts / counts.sum(1, keepdims=True)).mean(0)
    return dict(zip(adata.var_names, values, strict=True))


def test_mean_sentence_is_the_order_of_the_mean(folder: Path) -> None:
    one = cells(folder, "perturb")
    rows = [3, 5, 8, 13]
    values = log_mean(folder, one.obs.index[rows])
    found = [values[gene] for gene in mean_sentence(one, rows)]
    assert found == sorted(found, reverse=True)
    assert len(found) == sum(value > 0 for value in values.values())


@pytest.mark.parametrize("held_out", [False, True])
def test_truth_is_the_mean_of_the_same_side_context_and_perturbation(folder: Path, held_out: bool) -> None:
    one = cells(folder, "perturb")
    obs, asked = one.obs, ask(one, held_out)
    side = one.test == held_out
    assert len(asked) == np.sum(side & (obs["condition"] != "control"))
    for question in asked:
        cell = obs.loc[question.prompt.key]
        same = side & (obs["cell_type"] == cell["cell_type"]).to_numpy()
        for sentence, condition in ((question.truth, cell["condition"]), (question.control, "control")):
            values = log_mean(folder, obs.index[same & (obs["condition"] == condition).to_numpy()])
            assert [values[g] for g in sentence] == sorted(values.values(), reverse=True)[: len(sentence)]
        assert question.prompt.answer_genes == len(question.prompt.genes) == len(question.truth) <= 12
        assert f"perturbation: {cell['condition']}." in question.prompt.text


def test_truth_of_a_single_cell(folder: Path) -> None:
    one = cells(folder, "perturb")
    written = {tuple(sentence[:12]) for sentence in one.sentences(0, Augmentation(), 0)}
    for question in ask(one, truth="cell"):
        assert (*question.truth,) in {sentence[: len(question.truth)] for sentence in written}
        assert question.control[: len(question.prompt.genes)] == question.prompt.genes


def test_cells_of_a_type_are_asked_for_without_a_control(folder: Path) -> None:
    one = cells(folder, "generate", "perturb", draws={"generate": 2})
    asked = ask(one)
    generated = [question for question in asked if question.task == "generate"]
    assert len(generated) == np.sum(~one.test & (one.obs["condition"] == "control"))
    assert {question.control for question in generated} == {()}
    assert all(
        question.prompt.genes == () and question.prompt.answer_genes == len(question.truth) == 10
        for question in generated
    )
    assert {question.task for question in ask(one, draw=1)} == {"generate"}


def test_labels_have_no_reward(folder: Path) -> None:
    with pytest.raises(ValueError, match="task 'annotate' answers with a label"):
        ask(cells(folder, "annotate"))
