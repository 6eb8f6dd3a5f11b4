from __future__ import annotations

import json

import pytest

from cell2sen import tasks
from cell2sen.inference import templates as module
from cell2sen.inference.templates import as_mapping, choose_templates
from cell2sen.model import Model, resolve

ANNOTATE, EMBED, GENERATE, PERTURB = map(tasks.load, ("annotate", "embed", "generate", "perturb"))
OWN = Model(name="own", path="nowhere")
PUBLISHED = resolve("gemma-2-2b")


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


def test_tasks_that_the_package_lacks(package, caplog):
    assert choose_templates(PERTURB, PUBLISHED) is PERTURB
    assert "cell2sentence has no templates of this task; pass the original ones as templates=FILE" in caplog.text
    with pytest.raises(
        ValueError, match=r"no templates for task 'perturb', only for \['annotate', 'embed', 'generate'\]"
    ):
        choose_templates(PERTURB, PUBLISHED, "cell2sentence")


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
