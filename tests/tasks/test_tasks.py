"""Tasks: the menu, and what every task must have."""

from __future__ import annotations

from pathlib import Path

import pytest

from cell2sen import tasks
from cell2sen.task import Template

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
        ("label:self", "self", "self_of_cell"),
        ("label:Genes", "Genes", "Genes_of_cell"),
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


@pytest.mark.parametrize(
    ("name", "ending", "answer"),
    [
        ("joint:tissue+sex", "The tissue and sex of this cell are:", " {tissue}; {sex}."),
        (
            "joint:donor.state+donor_state+number:age",
            "The donor state, donor state and age of this cell are:",
            " {donor_state}; {donor_state_2}; {age}.",
        ),
        (r"joint:CD4\+ share+a/b", "The CD4+ share and a/b of this cell are:", " {CD4_share}; {a_b}."),
        (
            "joint:label:number:x+organism",
            "The number:x and organism of this cell are:",
            " {number_x}; {organism_of_cell}.",
        ),
    ],
)
def test_several_columns_make_a_task(name, ending, answer):
    task = tasks.load(name)
    assert task.name == name
    assert (task.answer, task.column, task.target) == ("joint", None, None)
    assert task.is_of_columns
    assert tasks.is_of_columns(name)
    assert task.templates[0].answer == answer
    assert task.prompt(genes=GENES, organism="mouse").text.endswith(f"Cell sentence: CD4 LYZ.\n{ending}")
    assert tasks.load(tasks.joint_name([part.name for part in task.parts])) == task
    values = {part.target: f"value {number}" for number, part in enumerate(task.answered)}
    written = task.complete(**values)
    assert task.parse(written) == tuple(values.values())
    assert task.parse("another text") == ()


def test_parts_of_a_joint_answer_in_the_order_of_a_template():
    task = tasks.load("joint:tissue+sex")
    other = task.reworded([Template(prompt="{genes}: sex and tissue?", answer=" {sex} in {tissue}.")], "user")
    assert [part.column for part in other.answered] == ["sex", "tissue"]
    assert other.openings() == [" ", " in ", "."]
    assert other.parse(" female in T cell; blood.") == ("female", "T cell; blood")
    assert tasks.load("label:sex").answered == (tasks.load("label:sex"),)


@pytest.mark.parametrize("name", ["joint:", "joint:tissue", "joint:tissue+tissue", "joint:tissue+ "])
def test_joint_answers_need_two_columns(name):
    with pytest.raises(ValueError, match="two different columns or more, found 'joint:"):
        tasks.load(name)
