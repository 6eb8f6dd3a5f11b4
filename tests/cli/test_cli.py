from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from cells import LABELS, cells
from command import Run, digest, names

COMMANDS = [
    "check", "sentences", "embed", "annotate", "perturb", "generate", "generate-sample", "ask", "caption", "interpret",
    "plan", "run", "status", "collect", "train", "evaluate", "fetch", "models", "demo",
]  # fmt: skip
CHOICE = ";".join(LABELS)


def test_all_commands_are_listed(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert "Usage" in done.out
    assert "--json" in done.out or command == "demo"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embedd"], "No such command 'embedd'"),
        (["embed"], "Missing argument"),
        (["embed", "a", "--x"], "No such option: --x"),
        (["embed", "a", "b", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["embed", "a", "b", "--pooling", "x"], "Invalid value for '--pooling'"),
        (["embed", "a", "b", "--dtype", "x"], "Invalid value for '--dtype'"),
        (["check", "a", "--quantize", "2bit"], "Invalid value for '--quantize'"),
        (["sentences", "a", "b", "--ties", "coin"], "Invalid value for '--ties'"),
        (["evaluate", "a", "b", "--scale", "x"], "Invalid value for '--scale'"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert not done.out
    assert "Usage" in done.err
    assert words in " ".join(done.err.replace("│", " ").split())


# -- errors


def not_hdf5(path: Path) -> None:
    path.write_text("no")


def not_anndata(path: Path) -> None:
    with h5py.File(path, "w") as opened:
        opened["x"] = [1]


def without_genes(path: Path) -> None:
    cells()[:, :0].copy().write_h5ad(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (None, "there is no file"),
        (not_hdf5, "no table of numbers"),
        (not_anndata, "no AnnData: it has no obs and var, only ['x']"),
        (without_genes, "6 cells and 0 genes"),
        (Path.mkdir, "is a directory"),
    ],
)
@pytest.mark.parametrize("verb", [["embed"], ["annotate", "--labels", CHOICE], ["perturb", "-p", "IFN-beta"]])
def test_files_that_cannot_be_read(
    run: Run,
    model: str,
    tmp_path: Path,
    verb: list[str],
    make: Callable[[Path], None] | None,
    words: str,
) -> None:
    if make is not None:
        make(tmp_path / "bad.h5ad")
    before = names(tmp_path)
    done = run(verb[0], "bad.h5ad", "out.h5ad", *verb[1:], "-m", model)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "{in}", "{in}"], "is the input file, which is never changed"),
        (["embed", "{in}", "out.txt"], "must end in .h5ad or .npy"),
        (["embed", "{in}", "no/out.h5ad"], "there is no folder"),
        (["embed", "{in}", "out.h5ad", "-m", "nono"], "no model 'nono'"),
        (["embed", "{in}", "out.h5ad", "-m", "gemma-2-2b"], "cell2sen fetch vandijklab/C2S-Scale-Gemma-2-2B"),
        (["embed", "{in}", "out.h5ad", "--layer", "x"], "no 'x'; available: ['counts']"),
        (["annotate", "{in}", "out.csv", "--labels", "B cell"], "at least two"),
        (["sentences", "{in}", "out.csv", "--keep", "x"], "no column 'x'; available"),
        (["generate", "out.h5ad", "-t", "B cell", "--n-genes", "9999"], "to choose from"),
    ],
)
def test_one_clear_line(
    run: Run, file: Path, model: str, tmp_path: Path, arguments: list[str], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = digest(file)
    arguments = [str(file) if word == "{in}" else word for word in arguments]
    if "-m" not in arguments:
        arguments += ["-m", model]
    done = run(*arguments)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert "Traceback" not in done.err
    assert digest(file) == before
    assert names(tmp_path) == {"in.h5ad"}


def test_full_disk(run: Run, file: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.h5ad").write_text("before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    done = run("embed", file, "out.h5ad", "-m", model, "-q")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert (tmp_path / "out.h5ad").read_text() == "before"
    assert names(tmp_path) == {"in.h5ad", "out.h5ad"}


def test_really_full_disk(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        for verb in (["embed"], ["perturb", "-p", "IFN-beta", "--n-genes", 3]):
            done = run(verb[0], file, disk / "out.h5ad", *verb[1:], "-m", model, "-q")
            assert done.code == 1
            assert "No space left" in done.err
            assert "Traceback" not in done.err
            assert names(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- in a process of its own

SLOW = """
import sys, time
import cell2sen.tl
def embed(*_, **__):
    print("working", flush=True)
    time.sleep(600)
cell2sen.tl.embed = embed
from cell2sen.cli import main
sys.argv = ["cell2sen", "embed", "in.h5ad", "out.h5ad"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_interrupted_run_leaves_nothing(file: Path, tmp_path: Path, number: int, code: int) -> None:
    before = digest(file)
    # Started in the background, as by a script, a process ignores Ctrl-C, and so would its children.
    ignored = signal.signal(number, signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(number, ignored)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    assert len(names(tmp_path)) == 2  # the temporary file
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=300)  # a busy machine
    assert time.monotonic() - started < 200
    assert process.returncode == code
    assert "Traceback" not in err
    assert ("interrupted; nothing was written" in err) == (number == signal.SIGINT)
    assert names(tmp_path) == {"in.h5ad"}
    assert digest(file) == before


@pytest.mark.slow
def test_installed_command(file: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cell2sen")
    if not program.exists():
        pytest.skip("the package is not installed")
    arguments = [program, "sentences", "in.h5ad", "out.txt", "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_cells"] == 6
    assert "6 sentences" not in done.stderr  # the summary is on stdout
    assert "Warning" not in done.stderr
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 6
