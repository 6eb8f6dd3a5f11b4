from __future__ import annotations

import numpy as np
import pytest
import tiny

from cell2sen.backend import Backend
from cell2sen.inference.annotate import choose_labels
from cell2sen.prompt import Prompt
from cell2sen.task import Task, Template

TYPES = Task(
    name="types",
    answer="labels",
    target="cell_type",
    cells=(1, 20),
    templates=(
        Template(
            prompt="{cells}Types:",
            cell="Cell {number}: {genes}.\n",
            answer="{cells}",
            answer_cell="\nCell {number}: {cell_type}.",
        ),
    ),
)
LABELS = ["T cell", "B cell", "NK cell"]


@pytest.mark.parametrize("n_cells", [1, 2, 20])
def test_labels_equal_those_behind_plain_text(any_backend: Backend, n_cells: int) -> None:
    cells = {f"c{cell}": tuple(tiny.GENES[cell : cell + 2]) for cell in range(n_cells)}
    prompts = [
        TYPES.prompt(cells=cells, key="sample"),
        TYPES.prompt(cells={**cells, "c0": ("CD4", "LYZ")}, key="other"),
    ]
    names, scores = choose_labels(any_backend, TYPES, prompts, LABELS, n_cells=n_cells)
    assert scores.shape == (2, n_cells, 3)
    np.testing.assert_allclose(np.exp(scores).sum(axis=2), 1)
    for prompt, labels, score in zip(prompts, names, scores, strict=True):
        text = prompt.text
        for number, label in enumerate(labels):
            text += f"{'.' if number else ''}\nCell {number + 1}:"
            [plain] = any_backend.score([Prompt.of_cell(text)], [f" {name}." for name in LABELS])
            assert LABELS[int(plain.argmax())] == label
            np.testing.assert_allclose(score[number], plain - np.logaddexp.reduce(plain), rtol=1e-4, atol=1e-4)
            text += f" {label}"
        assert TYPES.parse(text.partition("Types:")[2]) == labels
