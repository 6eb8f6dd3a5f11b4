"""Draws: shares of cells, random templates, controls of the same context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.task import Task, Template
from cell2sen.training.config.data import Augmentation
from cell2sen.training.examples.draws import ChosenCells, Draw, control_pairs, sources


def drawn(folder: Path, number: int = 0, held_out: bool = False, **entry: Any) -> Draw:
    return Draw(cells_of(folder, **entry), number, held_out, Augmentation(), [0, number, 1])


@pytest.mark.parametrize("held_out", [False, True])
def test_the_last_draw_of_a_fraction_is_a_random_share_of_the_training_cells(many_cells: Path, held_out: bool) -> None:
    settings = {"tasks": {"annotate": 1.25}, "cell_type": "cell_type", "split": {"test": 0.5}}
    whole, last = (drawn(many_cells, number, held_out, **settings) for number in (0, 1))
    assert len(whole.rows("annotate")) == 120
    rows = last.rows("annotate")
    assert set(rows) <= set(last.side)
    assert len(rows) == 120 if held_out else 15 < len(rows) < 45


def test_templates_are_drawn_where_there_are_several(many_cells: Path) -> None:
    templates = tuple(Template(prompt=f"{letter}: {{genes}}:", answer=" {x}.") for letter in "ABC")
    draw = drawn(many_cells)
    several = Task(name="x", answer="label", target="x", templates=templates)
    assert {draw.variant(several) for _ in range(40)} == {0, 1, 2}
    state = draw.generator.bit_generator.state
    assert draw.variant(Task(name="x", answer="label", target="x", templates=templates[:1])) == 0
    assert draw.generator.bit_generator.state == state, "one template needs no random number"


def test_controls_are_of_the_same_context_and_side(many_cells: Path) -> None:
    perturbation = {"column": "condition", "context": ["cell_type"]}
    draw = drawn(many_cells, perturbation=perturbation, split={"test": 0.3})
    cells, context = draw.cells, draw.cells.contexts()
    rows = draw.side[:60]
    partners = list(control_pairs(cells, draw, rows))
    assert [cell for _, cell in partners] == [row for row in rows if not cells.is_control(row)]
    for control, cell in partners:
        assert cells.is_control(control)
        assert context[control] == context[cell]
        assert control in draw.side
    assert list(sources(cells, tasks.load("annotate"), draw, rows[:3])) == [(row, row) for row in rows[:3]]


def test_prompts_have_the_genes_of_the_source_and_the_name_of_the_cell(many_cells: Path) -> None:
    draw = drawn(many_cells)
    chosen = ChosenCells(draw)
    chosen.add(4, 9, {"perturbation": "IL-2"}, 0, 5)
    [prompt] = chosen.prompts(tasks.load("perturb"), 7)
    assert tuple(prompt.genes) == tuple(draw.sentences.gene_lists(7)[4])
    assert (prompt.key, prompt.answer_genes) == (draw.cells.names[9], 5)
    assert np.array_equal(draw.sentences.names, draw.cells.names)
