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
    if prompt.genes:
        assert ("Cell 1: CD4 LYZ." if task.reads_samples else "Cell sentence: CD4 LYZ.") in prompt.text
        assert (" 2 most expressed genes" if task.reads_samples else "Below are the 2 ") in prompt.text
    for template in task.templates:
        assert template.answer.startswith(" ")
        assert template.answer.endswith(".")
        assert template.prompt == template.prompt.strip()


def test_one_template_decides_embeddings():
    """With a random template per cell, vectors would differ by their wording."""
    assert len(tasks.load("embed").templates) == 1
    assert tasks.load("embed").templates == tasks.load("annotate").templates
    assert tasks.load("embed").answer == "none"
