"""Tasks: the menu, and what every task must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen import tasks

GENES = ("CD4", "LYZ")


def test_the_menu_is_the_folder():
    folder = Path(tasks.__file__).parent
    assert tasks.names() == sorted(file.stem for file in folder.rglob("[!_]*.py"))
    assert {"embed", "annotate", "generate", "perturb"} <= set(tasks.names())
    with pytest.raises(ValueError, match=r"no task 'anotate'; available: \['annotate'"):
        tasks.load("anotate")


@pytest.mark.parametrize("name", tasks.names())
def test_every_task(name):
    task = tasks.load(name)
    assert task.name == name
    assert task.source == "cell2sen"
    assert tasks.load(task) is task
    prompt = task.prompt(genes=GENES, organism="mouse", answer_genes=5, **{slot: f"some {slot}" for slot in task.slots})
    assert "Mus musculus" in prompt.text
    assert "{" not in prompt.text
    assert prompt.text.endswith(":")
    assert all(f"some {slot}" in prompt.text for slot in task.slots)
    assert [prompt.text[start:stop] for start, stop in prompt.spans] == list(prompt.genes)
    assert bool(prompt.genes) == task.reads_cells
    if prompt.genes:
        assert ("Cell 1: CD4 LYZ." if task.reads_samples else "Cell sentence: CD4 LYZ.") in prompt.text
        assert (" 2 most expressed genes" if task.reads_samples else "Below are the 2 ") in prompt.text
    for template in task.templates:
        one = template.answer_cell if template.answer == "{cells}" else template.answer
        assert one[0].isspace()
        assert one.endswith("." if task.answer != "text" else (f"{{{task.target}}}", f"{{{task.target}}}."))
        assert template.prompt == template.prompt.strip()


def test_one_template_decides_embeddings():
    """With a random template per cell, vectors would differ by their wording."""
    assert len(tasks.load("embed").templates) == 1
    assert tasks.load("embed").templates == tasks.load("annotate").templates
    assert tasks.load("embed").answer == "none"


@pytest.mark.parametrize(
    ("name", "words", "target"),
    [
        ("label:tissue", "tissue", "tissue"),
        ("label:development_stage", "development stage", "development_stage"),
        ("label:donor state", "donor state", "donor_state"),
        ("number:dose (nM)", "dose (nM)", "dose_nM"),
        ("label:organism", "organism", "organism_of_cell"),
        ("label:a{b}.c", "a b c", "a_b_c"),
    ],
)
def test_any_column_makes_a_task(name, words, target):
    task = tasks.load(name)
    assert (task.name, task.target, task.column) == (name, target, name.partition(":")[2])
    assert task.answer == name.partition(":")[0]
    prompt = task.prompt(genes=GENES, organism="mouse")
    assert prompt.text.endswith(f"Cell sentence: CD4 LYZ.\nThe {words} of this cell is:")
    answer = task.complete(**{target: "4.5"})
    assert answer == " 4.5."
    assert task.parse(answer) == (4.5 if task.answer == "number" else "4.5")


@pytest.mark.parametrize("name", ["label:", "number: ", "label:__"])
def test_columns_without_a_name(name):
    with pytest.raises(ValueError, match="are named label:COLUMN or number:COLUMN"):
        tasks.load(name)
