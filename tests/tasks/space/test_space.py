"""Tasks of space: wording, answers, number of cells."""

from __future__ import annotations

import pytest

from cell2sen import tasks

CELLS = {"a": ("CD4", "LYZ"), "b": ("B2M", "CD4")}


@pytest.mark.parametrize("name", ["same_niche", "same_neighbourhood"])
def test_questions(name: str) -> None:
    task = tasks.load(name)
    assert task.space == name
    assert task.cells == (2, 20)
    prompt = task.prompt(cells=CELLS, organism="mouse")
    word = name.removeprefix("same_")
    assert prompt.text == (
        "Below are 2 Mus musculus cells of one tissue section, each with its 2 most expressed genes, strongest first.\n"
        f"Cell 1: CD4 LYZ.\nCell 2: B2M CD4.\nAre these cells of one {word}, yes or no:"
    )
    assert task.complete(**{name: "yes"}) == " yes."
    assert task.parse(" Yes.") is True


def test_neighbour() -> None:
    task = tasks.load("neighbour")
    prompt = task.prompt(cells=CELLS, answer_genes=2)
    assert prompt.text.endswith("Cell sentence of a further cell of this neighbourhood:")
    assert task.complete(sentence=("LYZ", "CD4")) == " LYZ CD4."
    assert [sentence.genes for sentence in task.parse(" LYZ CD4.", ["CD4", "LYZ"])] == [("LYZ", "CD4")]


def test_receptors() -> None:
    task = tasks.load("receptors")
    assert task.prompt(ligand="CXCL12").text.endswith("the ligand CXCL12, in alphabetical order.\nReceptors:")
    assert task.complete(receptors=("ACKR3", "CXCR4")) == " ACKR3 CXCR4."
