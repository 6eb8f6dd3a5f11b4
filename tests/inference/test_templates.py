from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset

from cell2sen import tasks
from cell2sen.inference import templates as module
from cell2sen.inference.templates import as_mapping, choose_templates
from cell2sen.model import Model, resolve

ANNOTATE, EMBED, GENERATE, PERTURB = map(tasks.load, ("annotate", "embed", "generate", "perturb"))
OWN = Model(name="own", path="nowhere")
PUBLISHED = resolve("gemma-2-2b")


#: Task → the name that the authors' formatter has for it.
AUTHORS_TASKS = {
    "annotate": "cell_type_prediction",
    "embed": "cell_type_prediction",
    "generate": "cell_type_generation",
    "interpret": "natural_language_interpretation",
    "sample_from_tissue": "tissue_conditional_generation",
    "tissue": "tissue_prediction",
}


def authors_formatter():
    """Module of the installed package that writes prompts; the package itself, which needs more, is not imported."""
    spec = importlib.util.find_spec("cell2sentence")
    if spec is None:
        pytest.skip("cell2sentence is not installed: pip install --no-deps cell2sentence")
    file = Path(spec.submodule_search_locations[0]) / "prompt_formatter.py"
    found = importlib.util.spec_from_file_location("authors_formatter", file)
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.fixture(autouse=True)
def no_warning_so_far(monkeypatch):
    monkeypatch.setattr(module, "_warned", set())


@pytest.fixture
def not_installed(monkeypatch):
    monkeypatch.setattr(module, "package_is_installed", lambda: False)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same name and form; importing it would fail the test."""
    prompts = tmp_path / "cell2sentence" / "prompts"
    prompts.mkdir(parents=True)
    (tmp_path / "cell2sentence" / "__init__.py").write_text("raise RuntimeError('was imported')")
    name = "single_cell_cell_type_{}_prompts.json".format
    (prompts / name("prediction")).write_text(
        json.dumps(
            {
                "model_input": ["Of {organism}, {num_genes} words: {cell_sentence}. So: ", "{cell_sentence} is a:"],
                "response": ["{cell_type}."],
            }
        )
    )
    (prompts / name("conditional_generation")).write_text(
        json.dumps(
            {"model_input": ["{num_genes} words of {cell_type} in {organism}:"], "response": ["{cell_sentence}."]}
        )
    )
    multi = {
        "multi_cell_tissue_prediction_prompts": (
            "{num_cells} of {organism}, {num_genes}:\n{multi_cell_sentences}.\nSo: ",
            "{tissue}.",
        ),
        "multi_cell_tissue_conditional_generation": (
            "{num_cells} of {tissue}, {num_genes} in {organism}:\n",
            "{multi_cell_sentences}.",
        ),
        "multi_cell_natural_lang_interpretation_prompts": (
            "{num_cells}, {num_genes}, {organism}\n{multi_cell_sentences}.\nIt: ",
            "{abstract}.",
        ),
    }
    for file, (prompt, response) in multi.items():
        (prompts / f"{file}.json").write_text(json.dumps({"model_input": [prompt], "response": [response]}))
    monkeypatch.syspath_prepend(str(tmp_path))
    return prompts


def test_templates_of_this_project(caplog):
    for templates in (None, "cell2sen"):
        assert choose_templates(ANNOTATE, OWN, templates) is ANNOTATE
    assert not caplog.records


def test_published_checkpoints_use_the_templates_of_their_package(package, caplog):
    annotate = choose_templates(ANNOTATE, PUBLISHED)
    assert annotate.source == "cell2sentence"
    assert len(annotate.templates) == 2
    prompt = annotate.prompt(genes=("CD4", "LYZ"), organism="human")
    assert prompt.text == "Of Homo sapiens, 2 words: CD4 LYZ. So:"
    assert prompt.genes == ("CD4", "LYZ")
    assert annotate.complete(cell_type="B cells") == " B cells."
    embed = choose_templates(EMBED, PUBLISHED)
    assert (embed.name, embed.answer) == ("embed", "none")
    assert embed.prompt(genes=("CD4", "LYZ")).text == prompt.text
    generate = choose_templates(GENERATE, PUBLISHED)
    assert generate.prompt(cell_type="B cells", answer_genes=9).text == "9 words of B cells in Homo sapiens:"
    assert generate.complete(sentence="A B") == " A B."
    assert not caplog.records
    # Other models use them with templates= only.
    assert choose_templates(ANNOTATE, OWN, "cell2sentence") == annotate
    assert choose_templates(ANNOTATE, OWN) is ANNOTATE


def test_one_warning_per_model_when_templates_differ(not_installed, caplog):
    for _ in range(2):
        assert choose_templates(ANNOTATE, PUBLISHED) is ANNOTATE
    assert len(caplog.records) == 1
    assert "gemma-2-2b was trained with other templates" in caplog.text
    assert "pip install --no-deps" in caplog.text
    choose_templates(ANNOTATE, resolve("pythia-1b"))
    assert len(caplog.records) == 2


def test_samples_in_the_form_of_the_package(package):
    cells = {"a": ("CD4", "LYZ"), "b": ("B2M", "CD4")}
    tissue = choose_templates(tasks.load("tissue"), OWN, "cell2sentence")
    expected = "2 of Homo sapiens, 2:\nCell 1:\nCD4 LYZ.\nCell 2:\nB2M CD4.\n.\nSo:"
    assert tissue.prompt(cells=cells).text == expected
    assert tissue.complete(tissue="lung") == " lung."
    interpret = choose_templates(tasks.load("interpret"), OWN, "cell2sentence")
    assert interpret.complete(summary="Blood") == " Blood."
    sample = choose_templates(tasks.load("sample_from_tissue"), OWN, "cell2sentence")
    answer = sample.complete(n_cells=2, sentence=list(cells.values()))
    assert answer == " Cell 1:\nCD4 LYZ.\nCell 2:\nB2M CD4.\n."
    assert [parsed.genes for parsed in sample.parse(answer, {"CD4", "LYZ", "B2M"})] == list(cells.values())
    assert sample.openings(2) == [" Cell 1:\n", ".\nCell 2:\n", ".\n."]


def test_tasks_that_the_package_lacks(package, caplog):
    assert choose_templates(PERTURB, PUBLISHED) is PERTURB
    assert "cell2sentence has no templates of this task; pass the original ones as templates=FILE" in caplog.text
    for _ in range(2):
        assert choose_templates(PERTURB, OWN, "cell2sentence") is PERTURB
    [_, record] = caplog.records
    available = "annotate, embed, generate, interpret, sample_from_tissue, tissue"
    assert f"no templates of task 'perturb', only of {available}: those of cell2sen are used" in record.getMessage()
    assert "pass others as templates={'perturb': [" in record.getMessage()
    # A checkpoint keeps those that it was trained with.
    metadata = {"templates": {"perturb": [{**as_mapping(PERTURB)[0], "prompt": "Mine {genes} {perturbation}:"}]}}
    model = Model(name="mine", path="nowhere", wording="checkpoint", metadata=metadata)
    assert choose_templates(PERTURB, model, "cell2sentence").source == "checkpoint"


def test_named_templates_for_single_tasks(package):
    mapping = {"tissue": "cell2sentence", "annotate": "cell2sen"}
    assert choose_templates(tasks.load("tissue"), OWN, mapping).source == "cell2sentence"
    assert choose_templates(ANNOTATE, PUBLISHED, mapping) is ANNOTATE
    assert choose_templates(GENERATE, OWN, mapping) is GENERATE


@pytest.mark.parametrize("name", sorted(module.PACKAGE_FILES))
def test_installed_package_writes_the_same_texts(name, monkeypatch):
    """Each template of the real package, beside the texts that its own formatter writes."""
    formatter = authors_formatter()
    chosen = choose_templates(tasks.load(name), OWN, "cell2sentence")
    genes = [("CD4", "LYZ", "B2M"), ("MALAT1", "CD4", "LYZ"), ("B2M", "CD3D", "CD4")]
    values = {"cell_type": "B cell", "tissue": "lung", "abstract": "Blood of donors"}
    cells = [{"cell_sentence": " ".join(each), "organism": "Mus musculus", **values} for each in genes]
    kind = AUTHORS_TASKS[name]
    sample = {"multi_cell_groupings": [0, 1, 2], "organism": "Mus musculus", **values}
    for variant in range(len(chosen.templates)):
        monkeypatch.setattr(formatter.random, "choice", lambda prompts, at=variant: prompts[at])
        if chosen.templates[0].cell or chosen.templates[0].answer_cell:
            writer = formatter.C2SMultiCellPromptFormatter(task=kind, top_k_genes=3)
            [row] = writer.format_hf_ds(Dataset.from_list(cells), Dataset.from_list([sample]))
            of_cells = {f"cell {number}": each for number, each in enumerate(genes)}
        else:
            writer = formatter.C2SPromptFormatter(task=kind, top_k_genes=3)
            [row] = writer.format_hf_ds(Dataset.from_list(cells[:1]))
            of_cells = {"cell 0": genes[0]}
        slots = {slot: values[slot] for slot in chosen.slots}
        given = of_cells if chosen.reads_cells else dict.fromkeys(of_cells, ())
        whole = {"cells": given} if chosen.cells else {"genes": given.get("cell 0", ())}
        prompt = chosen.prompt(**whole, organism="mouse", variant=variant, answer_genes=3, **slots)
        assert prompt.text == row["model_input"].rstrip()
        if name == "embed":
            continue
        answers = {"sentence": genes if chosen.cells else genes[0], "summary": values["abstract"]}
        target = str(chosen.target)
        filled = {target: answers.get(target, values.get(target))}
        assert chosen.complete(variant=variant, n_cells=len(of_cells), **filled) == " " + row["response"]
    assert len(chosen.templates) >= 10


def test_every_file_of_the_installed_package_is_mapped():
    folder = Path(authors_formatter().__file__).parent / "prompts"
    assert {file.name for file in folder.glob("*.json")} == set(module.PACKAGE_FILES.values())


def test_table_of_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "wording.md"
    rows = re.findall(r"^\| (`.+?`) \| `(\w+\.json)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = {task: file for names, file in rows for task in re.findall(r"`(\w+)`", names)}
    assert listed == dict(module.PACKAGE_FILES)


def test_other_templates_for_a_published_checkpoint_warn(package, caplog):
    assert choose_templates(ANNOTATE, PUBLISHED, "cell2sen") is ANNOTATE
    assert "trained with other templates" in caplog.text


def test_package_is_not_installed(not_installed):
    with pytest.raises(ImportError, match="pip install --no-deps"):
        choose_templates(ANNOTATE, OWN, "cell2sentence")


@pytest.mark.parametrize("content", ["[]", "no JSON", '{"model_input": ["{cell_sentence}"]}', None])
def test_package_of_another_version(package, content):
    file = package / "single_cell_cell_type_prediction_prompts.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ValueError, match=r"another way than version 1\.2.*use templates='cell2sen'"):
        choose_templates(ANNOTATE, PUBLISHED)


def test_file_of_the_user(tmp_path, caplog):
    mapping = {"annotate": [{"prompt": "Which? {genes}:", "answer": " {cell_type}!"}]}
    file = tmp_path / "templates.json"
    file.write_text(json.dumps(mapping), encoding="utf-8")
    for templates, source in ((str(file), str(file)), (file, str(file)), (mapping, "user")):
        for task in (ANNOTATE, EMBED):  # the embedding prompt is the cell type prompt
            chosen = choose_templates(task, OWN, templates)
            assert chosen.prompt(genes=("A", "B")).text == "Which? A B:"
            assert chosen.source == source
            assert chosen.answer == task.answer
    assert not caplog.records
    for _ in range(2):
        assert choose_templates(PERTURB, OWN, mapping) is PERTURB
    assert len(caplog.records) == 1
    assert "none for task 'perturb', only for ['annotate']" in caplog.text


def test_embedding_prompt_of_its_own():
    mapping = {"annotate": [{"prompt": "A {genes}:", "answer": " {cell_type}."}], "embed": [{"prompt": "E {genes}:"}]}
    assert choose_templates(EMBED, OWN, mapping).prompt(genes=("A",)).text == "E A:"


def test_templates_of_a_checkpoint(caplog):
    metadata = {"templates": {"annotate": [{"prompt": "Mine: {genes}:", "answer": " {cell_type}."}]}}
    model = Model(name="mine", path="nowhere", wording="checkpoint", metadata=metadata)
    assert choose_templates(ANNOTATE, model).prompt(genes=("A",)).text == "Mine: A:"
    assert choose_templates(ANNOTATE, model).source == "checkpoint"
    assert choose_templates(ANNOTATE, model, "cell2sen") is ANNOTATE
    assert not caplog.records
    assert choose_templates(PERTURB, model) is PERTURB


@pytest.mark.parametrize("task", [ANNOTATE, EMBED, GENERATE, PERTURB])
def test_templates_survive_a_checkpoint(task):
    stored = json.loads(json.dumps({task.name: as_mapping(task)}))
    assert choose_templates(task, OWN, stored).templates == task.templates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold .*found a list"),
        ('{"annotate": "{genes}"}', "must be a list of"),
        ('{"annotate": [{"answer": "x"}]}', "must be a list of.*prompt"),
        ('{"annotate": [{"prompt": "no genes", "answer": " {cell_type}."}]}', r"lacks the slots \['genes'\]"),
        ('{"annotate": [{"prompt": "{genes} {tissue}", "answer": " {cell_type}."}]}', r"unknown slots \['tissue'\]"),
    ],
)
def test_wrong_files(tmp_path, content, message):
    (tmp_path / "templates.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        choose_templates(ANNOTATE, OWN, tmp_path / "templates.json")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'cell2sen', 'cell2sentence' or a JSON file, found '.*no.json'"):
        choose_templates(ANNOTATE, OWN, tmp_path / "no.json")


def test_blocks_of_samples_are_stored_and_read_back():
    tissue = tasks.load("tissue")
    [stored] = as_mapping(tissue)
    assert set(stored) == {"prompt", "answer", "cell"}
    model = Model(name="m", path="m", wording="checkpoint", metadata={"templates": {"tissue": [stored]}})
    assert choose_templates(tissue, model).templates == tissue.templates


def test_a_task_that_the_checkpoint_was_not_trained_on_warns_once(caplog):
    metadata = {"templates": {"annotate": as_mapping(ANNOTATE)}}
    model = Model(name="mine", path="nowhere", wording="checkpoint", metadata=metadata)
    for task in (ANNOTATE, EMBED, tasks.load("tissue"), tasks.load("tissue")):
        choose_templates(task, model)
    [record] = caplog.records
    assert "mine was not trained on task 'tissue', only on annotate: its answers are guesses" in record.getMessage()
