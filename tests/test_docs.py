"""Documentation that runs: blocks of README.md, CONTRIBUTING.md and docs/.

Each page is one program in an empty folder, without a network. Rules for its fenced blocks:

* ``python``: executed, in one namespace per page. Hidden preparation: ``<!-- invisible-code-block: python -->``.
* ``console``: each line ``$ cell2sen …`` is executed. Lines below it, if there are any, must be its output:
  ``...`` is any text, and white space does not count. Other commands are not executed.
* ``python no-run`` and ``console no-run``: not executed.
* ``diff``: in CONTRIBUTING.md, applied to a copy of the package, then tried out.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if page.is_file()]
#: Folders of docs/ that the site's build writes.
WRITTEN = {"_build", "api", "commands"}
PAGES += sorted(page for page in (ROOT / "docs").rglob("*.md") if not WRITTEN & set(page.parts))
FENCES = {"", "python", "python no-run", "console", "console no-run"}
FENCES |= {"text", "diff", "json", "yaml", "toml", "bibtex", "mermaid", "{eval-rst}"}


def test_each_row_of_the_inputs_names_its_test() -> None:
    rows = re.findall(
        r"^\| (?!---)(.*) \|$", (ROOT / "docs" / "how-to" / "input.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    named = [row.rsplit(" | ", 1)[1] for row in rows if not row.endswith("| test")]
    assert len(named) > 35
    for name in named:
        file, function = name.split("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("module", ["cell2sen", "cell2sen.tl", "cell2sen.pl", "cell2sen.training"])
def test_the_reference_names_every_public_name(module: str) -> None:
    page = ROOT / "docs" / "reference" / f"{ {'cell2sen': 'python'}.get(module, module.rpartition('.')[2]) }.md"
    names = set(re.findall(r"^   (\w+)$|`(?:cell2sen\.)?(\w+)`", page.read_text(encoding="utf-8"), re.M))
    assert {*importlib.import_module(module).__all__} <= {name for pair in names for name in pair}


def test_every_page_is_in_a_table_of_contents() -> None:
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs") and page.name != "index.md":
            index = (page.parent / "index.md").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(page.stem)}$", index, re.M), (
                f"{page.relative_to(ROOT)} is in no toctree of its folder's index.md"
            )


def commands(block: str) -> Iterator[tuple[int, str, str]]:
    """Line in the block, command and shown output of each ``$`` prompt; a trailing backslash continues a command."""
    lines = re.sub(r"\\\n\s*", lambda match: "\0" * match[0].count("\n"), block).splitlines()
    at, prompts = 0, []
    for line in lines:
        if line.startswith("$ "):
            prompts.append([at, line[2:].replace("\0", " "), ""])
        elif prompts:
            prompts[-1][2] += line + "\n"
        at += 1 + line.count("\0")
    for at, command, output in prompts:
        yield at, command, output.strip("\n")


def run_console(example: Example) -> None:
    for at, command, expected in commands(example.parsed):
        words = shlex.split(command, comments=True)
        if not words or words[0] != "cell2sen":
            continue
        from cell2sen.cli import main

        place = f"{example.path}:{example.line + 1 + at}: $ {command}"
        capture = example.namespace["capture"]
        capture.readouterr()
        sys.argv = words
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            error.add_note(f"in {place}")
            raise
        output = capture.readouterr()
        if code:
            raise AssertionError(f"{place}\nexit status {code}\n{output.out}{output.err}")
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if expected.strip() and not doctest.OutputChecker().check_output(expected, output.out.strip(), options):
            raise AssertionError(f"{place}\nshown:\n{expected}\n\nprinted:\n{output.out}")


@pytest.fixture
def empty_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no network."""
    connect = socket.socket.connect

    def no_network(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise OSError(f"the documentation needs no network, but something connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page: Path, capture: Any) -> int:
    parsers = [PythonCodeBlockParser(future_imports=["annotations"]), CodeBlockParser("console", run_console)]
    document = Sybil(parsers=parsers, path=str(page.parent)).parse(page)
    document.namespace.update(__name__="__main__", capture=capture)
    examples = list(document.examples())
    for example in examples:
        try:
            example.evaluate()
        except BaseException as error:
            error.add_note(f"in the block at {page}:{example.line}")
            raise
    return len(examples)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.slow
def test_page_runs(page: Path, empty_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_has_only_known_blocks(page: Path) -> None:
    fences = re.findall(r"^[ \t]*(`{3,}|~{3,})(.*)$", page.read_text(encoding="utf-8"), re.M)
    unknown = {info.strip() for _, info in fences} - FENCES
    assert not unknown, f"{page.name}: fences {sorted(unknown)}; available: {sorted(FENCES)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


class TestRunner:
    """The runner itself: a page that is wrong must fail, at its line."""

    def page(self, folder: Path, text: str) -> Path:
        path = folder / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    def test_blocks_share_a_namespace_and_failures_name_their_line(self, empty_world: Path) -> None:
        page = self.page(empty_world, "```python\nx = 1\n```\n\n```python\nassert x == 1\nassert x == 2\n```\n")
        with pytest.raises(AssertionError) as caught:
            run_page(page, None)
        assert caught.traceback[-1].lineno + 1 == 7
        assert caught.value.__notes__ == [f"in the block at {page}:5"]

    def test_no_run_blocks_are_left_out(self, empty_world: Path) -> None:
        assert run_page(self.page(empty_world, "```python no-run\nraise SystemExit\n```\n"), None) == 0

    def test_network_is_off(self, empty_world: Path) -> None:
        text = "```python\nimport socket\nsocket.create_connection(('127.0.0.1', 9))\n```\n"
        with pytest.raises(OSError, match="needs no network"):
            run_page(self.page(empty_world, text), None)

    def test_console_output_is_compared(self, empty_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
        good = "```console\n$ make demo\n$ cell2sen \\\n    --help  # what there is\n...Usage: cell2sen ...\n```\n"
        assert run_page(self.page(empty_world, good), capsys) == 1
        with pytest.raises(AssertionError, match=r"page\.md:2: \$ cell2sen --help\nshown:\nUsage: other"):
            run_page(self.page(empty_world, "```console\n$ cell2sen --help\nUsage: other\n```\n"), capsys)

    def test_failing_command_is_named(self, empty_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(AssertionError, match=r"page\.md:3: \$ cell2sen no-such-verb\nexit status"):
            run_page(self.page(empty_world, "```console\n$ ls\n$ cell2sen no-such-verb\n```\n"), capsys)


# File that a diff of CONTRIBUTING.md changes → what must hold in a copy of the package with this diff.
PROMISES = {
    "src/cell2sen/tasks/phase.py": """
        from cell2sen import tasks
        assert "phase" in tasks.names()
        task = tasks.load("phase")
        assert task.name == "phase" and task.target == "phase" and task.slots == set()
        prompt = task.prompt(genes=["CD3D", "IL7R"])
        assert "the 2 most" in prompt.text and "CD3D IL7R." in prompt.text and not prompt.text[-1].isspace()
        assert task.parse(task.complete(phase="G1")) == "G1"
    """,
    "src/cell2sen/backends/bag.py": """
        from cell2sen import backend, backends, model, tasks
        assert "bag" in backends.names()
        bag = backends.load(model.Model(name="none", path="none"), "bag")
        prompts = [tasks.load("embed").prompt(genes=genes) for genes in (["CD3D", "IL7R"], ["CD3D"], [])]
        embeddings = bag.embed(prompts, pooling="genes")
        assert embeddings.vectors.sum(axis=1).tolist() == [2, 1, 0]
        assert embeddings.genes_used.tolist() == [2, 1, 0]
        try:
            bag.score(prompts, [" B cell."])
        except backend.Unsupported as refusal:
            assert "use transformers" in str(refusal)
        else:
            raise AssertionError("score must be refused")
    """,
    "src/cell2sen/evaluation/metrics/labels.py": """
        from cell2sen.evaluation import metrics
        metric = metrics.get("matthews")
        assert metric.higher_is_better and metric.summary.startswith("Matthews correlation")
        assert metric.function(["B", "T", "T"], ["B", "T", "T"]) == metric.perfect
        assert abs(metric.function(["B", "T", "B", "T"], ["B", "B", "T", "T"])) < 1e-12
    """,
    "src/cell2sen/evaluation/scoring/baselines/cells.py": """
        import anndata, numpy, pandas
        from cell2sen import evaluate
        from cell2sen.evaluation.scoring.baselines.method import methods
        (median,) = [method for method in methods("perturb") if method.name == "median_of_perturbed"]
        assert median.role == "baseline" and median.summary.startswith("the median of the means")
        obs = pandas.DataFrame({"perturbation": numpy.repeat(["control", "a", "b", "c"], 20)}).rename(str)
        counts = numpy.random.default_rng(0).poisson(3.0, (80, 30)).astype("float32")
        real = anndata.AnnData(counts, obs=obs, var=pandas.DataFrame(index=[f"G{gene}" for gene in range(30)]))
        predicted = anndata.AnnData(counts[20:] + 1, obs=obs[20:], var=real.var)
        scores = evaluate(predicted, real, metrics=["pearson", "e_distance"], resamples=0).scores
        values = scores.loc[scores["method"] == "median_of_perturbed", "value"]
        assert len(values) > 0 and values.notna().all()
    """,
}


def contributing_diffs() -> dict[str, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, re.M | re.S)
    return {re.search(r"^\+\+\+ b/(\S+)$", diff, re.M)[1]: diff for diff in diffs}


def test_every_diff_of_contributing_is_applied() -> None:
    assert set(contributing_diffs()) == set(PROMISES)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(PROMISES))
def test_contributing_diff_applies_and_works(path: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    apply = ["git", "apply", "--whitespace=error", "-"]
    # Outside of any repository, whatever folder the tests run in.
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(apply, cwd=tmp_path, input=contributing_diffs()[path], text=True, check=True, env=outside)
    program = textwrap.dedent(PROMISES[path])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    style = [sys.executable, "-m", "ruff", "check", "--no-cache", path]
    checked = subprocess.run(style, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
