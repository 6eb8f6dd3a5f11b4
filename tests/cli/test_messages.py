from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Run

from cell2sen.cli import messages

OPTIONS = (
    "labels", "use_raw", "raw", "symbols", "gene_table", "perturbation_column", "control", "sample_by", "n_genes",
    "max_genes", "online", "nearest", "all_cells", "from_scratch", "hidden_size",
)  # fmt: skip


@pytest.mark.parametrize(
    ("python", "shown"),
    [
        ("pass symbols= (a column of var) or gene_table=", "pass --symbols (a column of var) or --gene-table"),
        ("pass the names to choose from as labels=[...]", "pass the names to choose from as --labels"),
        ("With sample_by='donor', control='ctrl'", "With --sample-by 'donor', --control 'ctrl'"),
        ("so n_genes=300 has no effect: set max_genes=300", "so --n-genes 300 has no effect: set --max-genes 300"),
        ("control=() predicts all cells", "--all-cells predicts all cells"),
        ("use_raw=True", "--raw"),
        ("offline=False downloads it", "--online downloads it"),
        ("k=5 nearest", "--nearest 5 nearest"),
        ("name the obs columns (sample_by=)", "name the obs columns (--sample-by)"),
        ("hidden_size= needs from_scratch=", "--hidden-size needs --from-scratch"),
        ('sc.pp.neighbors(adata, use_rep="X_cell2sen")', 'sc.pp.neighbors(adata, use_rep="X_cell2sen")'),
        ("--context takes NAME=VALUE, found 'a=b'", "--context takes NAME=VALUE, found 'a=b'"),
        ("other=3 and my.labels=2", "other=3 and my.labels=2"),
    ],
)  # fmt: skip
def test_messages_have_the_flags_of_the_command(python: str, shown: str) -> None:
    flags = messages.Flags()
    assert flags.in_text(python) == python
    flags.use(OPTIONS)
    assert flags.in_text(python) == shown


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    with messages.on_stderr():
        yield logging.getLogger("cell2sen.module")


def test_each_line_is_written_once(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        logger.info("%d genes", 7)
        logger.warning("look: labels=")
    logger.info("%d genes", 8)
    assert capsys.readouterr().err.splitlines() == ["7 genes", "warning: look: labels=", "8 genes"]
    assert messages.HANDLER.warnings == ["look: labels="]


def test_quiet_is_errors_only(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    messages.HANDLER.is_quiet = True
    logger.info("a")
    logger.warning("b")
    logger.error("c")
    assert capsys.readouterr().err == "error: c\n"
    assert messages.HANDLER.warnings == ["b", "c"]


def test_libraries_give_no_warnings_and_everything_is_restored() -> None:
    package = logging.getLogger("cell2sen")
    before = package.level, package.propagate, list(package.handlers)
    with messages.on_stderr():
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="anndata.core")
        with pytest.warns(UserWarning, match="ours"):
            warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="cell2sen.data")
    assert (package.level, package.propagate, list(package.handlers)) == before


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_quiet_commands_are_silent(run: Run, file: Path, model: str, options: list[str]) -> None:
    done = run("embed", file, "out.npy", "-m", model, "-q", *options)
    assert (done.code, done.err) == (0, "")
    assert bool(done.out) == bool(options)


def test_a_newcomer_sees_what_is_next(run: Run, file: Path, model: str) -> None:
    done = run("embed", file, "out.h5ad", "-m", model)
    assert done.err.endswith(
        '6 cells × 32 dimensions → out.h5ad\n'
        'next: sc.pp.neighbors(adata, use_rep="X_cell2sen"), then sc.tl.umap(adata) or sc.tl.leiden(adata)\n'
    )  # fmt: skip
    assert len(done.err.splitlines()) == len(set(done.err.splitlines()))


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(messages.__file__).parents[2])
    variables = {**os.environ, "PYTHONPATH": source, **environment}
    return subprocess.run(
        [sys.executable, "-m", "cell2sen", *arguments], env=variables, capture_output=True, text=True, check=False
    )


def test_python_m_and_versions_of_the_stack() -> None:
    import importlib.metadata

    done = python("--version")
    first, second = done.stdout.splitlines()
    assert first.startswith("cell2sen ")
    for package in ("torch", "transformers", "anndata"):
        assert f"{package} {importlib.metadata.version(package)}" in second


def test_completion() -> None:
    done = python(_CELL2SEN_COMPLETE="complete_bash", COMP_WORDS="cell2sen an", COMP_CWORD="1")
    assert done.stdout.split() == ["annotate"]
    script = python("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_CELL2SEN_COMPLETE=complete_bash" in script.stdout
