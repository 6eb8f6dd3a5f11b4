"""The layout of the repository: tests mirror modules, files and folders stay small.

Exceptions are listed with their reason. Lists of gaps only become shorter: a gap that is closed must leave its list.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "cell2sen", ROOT / "tests"
PAGE = ROOT / "docs" / "reference" / "files.md"
FOLDERS = sorted({path.parent for path in SOURCE.rglob("*.py")})
FILES = sorted([*SOURCE.rglob("*.py"), *TESTS.rglob("*.py")])

MAX_LINES, MAX_MODULES, MAX_WIDTH = 500, 10, 144

#: Modules and folders of `src/cell2sen`, in the order in which docs/reference/files.md lists them: faces
#: and contracts, then the way of the data.
TOP_MODULES = ("helical.py", "task.py", "prompt.py", "answer.py", "model.py", "backend.py")
TOP_FOLDERS = (
    "tl", "pl", "data", "sentences", "tasks", "engine", "backends", "checkpoints", "inference", "evaluation",
    "training", "atlas", "app", "cli", "nano",
)  # fmt: skip

#: Test file → what it tests instead of one module.
NO_MODULE = {
    "test_package.py": "the package as a whole: public names, wheel",
    "test_layout.py": "the repository",
    "test_changed_files.py": "files as people have them, from opening to sentences",
    "test_docs.py": "README.md, CONTRIBUTING.md, docs/: pages that run, names in the reference",
    "test_site.py": "docs/: notebooks and extensions; packaging/",
    "test_benchmarks.py": "benchmarks/",
    "test_recipes.py": "recipes/",
    "test_real_models.py": "all layers, with a real small language model",
}
#: Module → where it is tested instead.
NO_TEST_FILE = {
    "backend.py": "the contract: helpers/backend_contract.py, called for every backend in tests/backends",
    "engine/decoding/constraint.py": "the contract of test_guide.py and test_loop.py",
    "inference/counts/measured_cells.py": "tl/test_cells_counts.py",
    "inference/screen/run.py": "tl/test_screen.py",
    "inference/screen/kinds.py": "tl/test_screen.py",
    "inference/screen/cells.py": "tl/test_screen.py",
    "inference/screen/readouts.py": "tl/test_screen.py",
}

#: Gaps, to be closed.
MODULES_WITHOUT_TEST: set[str] = set()
TESTS_WITHOUT_MODULE: set[str] = set()
CROWDED: dict[str, int] = {}
TOO_LONG: set[str] = set()
REPEATED = {"pair", "where"}


def files_of_tests() -> set[Path]:
    return {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}


def module_of(test: Path) -> Path:
    """The module with the longest name that the file's name begins with: ``test_tl_perturb.py`` tests ``tl.py``.

    ``tasks/test_tasks.py`` tests ``tasks/__init__.py``.
    """
    words = test.stem.removeprefix("test_").split("_")
    names = [test.with_name("_".join(words[:n]) + ".py") for n in range(len(words), 0, -1)]
    if words == [test.parent.name]:
        names.append(test.with_name("__init__.py"))
    return next((name for name in names if (SOURCE / name).is_file()), names[0])


def definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a file, without those inside them."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_every_module_has_a_test_file_of_its_name() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    with_code = {path.relative_to(SOURCE) for path in modules if definitions(path)}
    missing = {str(path) for path in with_code - {module_of(test) for test in files_of_tests()}}
    assert missing == MODULES_WITHOUT_TEST | set(NO_TEST_FILE)


def test_every_test_file_has_a_module_of_its_name() -> None:
    strays = {str(test) for test in files_of_tests() if not (SOURCE / module_of(test)).is_file()}
    assert strays == TESTS_WITHOUT_MODULE | set(NO_MODULE)


def test_no_file_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    longer = {str(path.relative_to(TESTS)) for path, length in lengths.items() if length > MAX_LINES}
    assert longer == TOO_LONG


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_no_folder_is_crowded(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    limit = CROWDED.get(str(folder.relative_to(SOURCE)), MAX_MODULES)
    assert len(modules) <= limit, f"{folder.name} has {len(modules)} modules, at most {limit}: {sorted(modules)}"
    assert (folder / "__init__.py").is_file()


def test_the_package_shows_its_folders_and_contracts() -> None:
    paths = {path for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert {path.name for path in paths if path.is_dir()} == set(TOP_FOLDERS)
    assert {path.name for path in paths if path.is_file()} == {*TOP_MODULES, "__init__.py", "__main__.py", "py.typed"}


def test_nothing_is_written_twice_in_the_tests() -> None:
    """Fixtures, functions and classes that several files need are in a conftest.py or in helpers/."""
    bodies: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for node in definitions(path):
            bodies.setdefault(ast.dump(ast.Module(body=node.body, type_ignores=[])), []).append(node.name)
    assert {name for names in bodies.values() if len(names) > 1 for name in names} == REPEATED


# -- the list of files


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("``", "")


def entries(folder: Path) -> list[tuple[str, str]]:
    """Name, indented, and first line of all modules and folders in `folder`, the modules first."""
    depth = len(folder.relative_to(SOURCE).parts)
    modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    folders = sorted(path.parent for path in folder.glob("*/__init__.py"))
    if folder == SOURCE:
        modules = [SOURCE / name for name in TOP_MODULES]
        folders = [SOURCE / name for name in TOP_FOLDERS if (SOURCE / name / "__init__.py").is_file()]
    rows = [("  " * depth + path.name, first_line(path)) for path in modules]
    for path in folders:
        rows += [("  " * depth + path.name + "/", first_line(path / "__init__.py")), *entries(path)]
    return rows


def tree() -> str:
    rows = [*entries(SOURCE), ("nano/", "Embedded model: weights, tokenizer, model card.")]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:<{width}}{line}\n" for name, line in rows)


def page_with_tree() -> str:
    """The page with the present list of files in its last block."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.rindex("```text\n")] + f"```text\n{tree()}```\n"


def test_the_page_lists_all_files() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_with_tree(), "`make tree` writes the list"


def test_first_lines_fit_the_list() -> None:
    assert max(map(len, tree().splitlines())) <= MAX_WIDTH


if __name__ == "__main__":
    PAGE.write_text(page_with_tree(), encoding="utf-8")
