"""The documentation site: notebooks and extensions; files for releases that repeat the project's metadata."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from cell2sen.cli import app

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))

#: A notebook is looked at in a browser and kept in the repository.
MAX_BYTES = 400_000


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "extensions" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_executed_from_top_to_bottom(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert notebook.stat().st_size < MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        source = re.sub(r'(max_steps(?:=|": ))\d+', r"\g<1>2", "".join(cell["source"]))  # trainings of two steps
        exec(compile(source, f"{notebook.name}[{number}]", "exec"), namespace)


def test_command_page_has_every_argument_and_option() -> None:
    command = typer.main.get_command(app).commands["annotate"]
    page = extension("commands").page_of("annotate", command)
    assert page.startswith("# annotate\n\n```text\ncell2sen annotate FILE OUT [OPTIONS]\n```\n")
    for parameter in command.params:
        for flag in parameter.opts:
            assert f"`{flag}`" in page or f"`{flag.upper()}`" in page
    assert re.search(r"^\| `--threshold` \| .* \| number, ≥ 0, ≤ 1 \| ", page, re.M)
    assert re.search(r"^\| `--model`, `-m` \| .* \| text \| `nano` \|$", page, re.M)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](how-to/train.md#rewards)", "[a](how-to/train.md#rewards)"),
        ("[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("[a](../src/cell2sen/nano/README.md#data)", "[a](reference/model-card.md#data)"),
        ("[a](../recipes/nano.yaml)", "[a](../recipes/nano.yaml)"),
        ("[a](../tests)", "a"),
        ("[a](https://example.org)", "[a](https://example.org)"),
        ("[a](#b)", "[a](#b)"),
    ],
)
def test_links_that_leave_the_pages(link: str, expected: str) -> None:
    page = ROOT / "docs" / "index.md"
    assert extension("outside").site_links(link, page, page, ROOT) == expected


def test_links_of_a_file_that_is_shown_as_a_page() -> None:
    links = extension("outside").site_links
    text = links("[a](docs/how-to/input.md)", ROOT / "CHANGELOG.md", ROOT / "docs" / "changelog.md", ROOT)
    assert text == "[a](how-to/input.md)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\nFirst sentence. Second.", "First sentence."),
        ("# Title\n\n```python\nx\n\ny = 1.\n```\n\n| a |\n\nSee [this](page.md): more.", "See this: more."),
        ("# Title", ""),
    ],
)
def test_first_sentence_of_a_page(text: str, expected: str) -> None:
    assert extension("llms").first_sentence(text) == expected


def test_list_of_functions_has_every_tool() -> None:
    text = extension("llms").public_names()
    assert "\n## cell2sen.tl.annotate(adata: " in text
    assert "Cell embeddings, written to ``obsm``." in text


def test_conda_recipe_has_the_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load((ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    expected = {re.sub(r"^torch\b", "pytorch", line) for line in project["dependencies"]}
    found = {line.replace(" ", "") for line in recipe["requirements"]["run"]}
    assert found == {*expected, "python" + project["requires-python"]}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == citation["version"]
