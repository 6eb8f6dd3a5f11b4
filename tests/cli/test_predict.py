from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cells import GENES, LABELS, cells, checkpoint

from cell2sen import cli, tl

COMMANDS = ["check", "sentences", "embed", "annotate", "perturb", "generate", "train", "evaluate", "models", "demo"]
CHOICE = ";".join(LABELS)


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoint(tmp_path_factory.mktemp("models") / "tiny", genes=GENES))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    adata = cells()
    adata.obs["perturbation"] = ["IFN-beta", None, "IFN-beta", None, "IL-6", ""]
    adata.uns["kept"] = {"numbers": np.arange(3), "text": "as it was"}
    adata.obsm["X_other"] = np.ones((6, 2))
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Done]]:
    """The command line in this process, with its exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger("cell2sen").level

    def command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cell2sen", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as done:
            code = done.code
        return Done(int(code or 0), *capfd.readouterr())

    yield command
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("cell2sen").setLevel(level)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- help


def test_all_commands_are_listed(run: Callable[..., Done]) -> None:
    found = run("--help")
    assert found.code == 0
    assert all(command in found.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Callable[..., Done], command: str) -> None:
    found = run(command, "--help")
    assert found.code == 0
    assert "Usage" in found.out
    assert "--json" in found.out or command == "demo"


@pytest.mark.parametrize(
    "arguments", [["embedd"], ["embed"], ["embed", "a", "b", "--batch-size", "0"], ["embed", "a", "--x"]]
)
def test_wrong_usage(run: Callable[..., Done], arguments: list[str]) -> None:
    found = run(*arguments)
    assert found.code == 2
    assert not found.out
    assert "Usage" in found.err


# -- the verbs: results in files, JSON on stdout, words on stderr


def test_embed(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    before = digest(file)
    found = run("embed", file, "out.h5ad", "--model", model, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out) == {"file": "out.h5ad", "n_cells": 6, "n_dimensions": 32, "key": "X_cell2sen"}
    assert "cell sentences" in found.err  # progress
    assert digest(file) == before
    written, expected = anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(file)
    tl.embed(expected, model=model, progress=False)
    np.testing.assert_allclose(written.obsm["X_cell2sen"], expected.obsm["X_cell2sen"], rtol=1e-5, atol=1e-6)
    assert written.uns["cell2sen"]["embed"]["model"]["name"] == "tiny"
    vectors = run("embed", file, "out.npy", "--model", model, "--quiet")
    assert (vectors.code, vectors.out) == (0, "")
    assert "cell sentences:" not in vectors.err
    assert "6 cells × 32 dimensions → out.npy" in vectors.err
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), written.obsm["X_cell2sen"])
    assert names(tmp_path) == {"in.h5ad", "out.h5ad", "out.npy"}


def test_everything_else_in_the_file_stays(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    assert run("embed", file, "one.h5ad", "-m", model, "-q").code == 0
    assert run("annotate", "one.h5ad", "two.h5ad", "-m", model, "-q", "--labels", CHOICE).code == 0
    assert run("annotate", "two.h5ad", "three.h5ad", "-m", model, "-q", "--labels", "T cell; B cell").code == 0
    before, after = anndata.read_h5ad(file), anndata.read_h5ad(tmp_path / "three.h5ad")
    assert (before.X != after.X).nnz == 0
    assert (before.layers["counts"] != after.layers["counts"]).nnz == 0
    assert (before.raw.X != after.raw.X).nnz == 0
    assert after.uns["kept"]["numbers"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(after.obsm["X_other"], before.obsm["X_other"])
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert set(after.uns["cell2sen"]) == {"embed", "annotate"}
    assert set(after.obs["cell2sen_cell_type"]) <= {"T cell", "B cell"}


def test_what_is_no_part_of_anndata_is_copied(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["of_another_tool"] = np.arange(4)
        del opened["obsm"]
    assert run("embed", file, "out.h5ad", "-m", model, "-q").code == 0
    with h5py.File(tmp_path / "out.h5ad") as opened:
        assert opened["of_another_tool"][:].tolist() == [0, 1, 2, 3]
        assert opened["obsm/X_cell2sen"].shape == (6, 32)


def test_annotate_to_a_table(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join([*LABELS, "", ""]))
    found = run(
        "annotate", file, "out.csv", "-m", model, "--labels-file", "labels.txt", "--threshold", "0.5", "--json", "-q"
    )
    assert found.code == 0, found.err
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    assert table.index.tolist() == [f"c{row}" for row in range(6)]
    assert set(table.columns) == {"cell2sen_cell_type", "cell2sen_cell_type_score"}
    assert json.loads(found.out)["counts"] == table["cell2sen_cell_type"].value_counts().to_dict()
    both = run("annotate", file, "out.csv", "-m", model, "--labels-file", "labels.txt", "--labels", CHOICE)
    assert (both.code, "not both" in both.err) == (1, True)


def test_annotate_takes_the_labels_of_the_model(
    run: Callable[..., Done], file: Path, model: str, tmp_path: Path
) -> None:
    assert run("annotate", file, "out.h5ad", "-m", model, "-q").code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS


def test_perturb(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    found = run(
        "perturb", file, "out.h5ad", "-m", model, "--perturbation-column", "perturbation", "--n-genes", 5, "--json"
    )
    assert found.code == 0, found.err
    assert json.loads(found.out) == {"file": "out.h5ad", "n_cells": 3, "validity": 1.0}
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["perturbation"].tolist() == ["IFN-beta", "IFN-beta", "IL-6"]
    assert set(written.layers) == {"control", "delta"}
    for wrong in ([], ["-p", "IFN-beta", "--perturbation-column", "perturbation"]):
        refused = run("perturb", file, "no.h5ad", "-m", model, *wrong)
        assert refused.code == 1
        assert "either --perturbation or --perturbation-column" in refused.err
    menu = run("perturb", file, "no.h5ad", "-m", model, "--perturbation-column", "pert")
    assert "no column 'pert'; available: ['donor', 'perturbation']" in menu.err
    assert names(tmp_path) == {"in.h5ad", "out.h5ad"}


def test_generate(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    found = run("generate", "out.h5ad", "-t", "B cell", "-t", "NK cell", "-n", 2, "--n-genes", 4, "-m", model, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["n_cells"] == 4
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs["cell_type"].tolist() == ["B cell"] * 2 + ["NK cell"] * 2
    same = run("generate", "two.h5ad", "-t", "B cell", "-n", 1, "--genes", file, "--n-genes", 4, "-m", model, "-q")
    assert same.code == 0, same.err
    assert run("generate", "in.h5ad", "-t", "B cell", "--genes", file, "-m", model).code == 1


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".txt"])
def test_sentences(run: Callable[..., Done], file: Path, tmp_path: Path, suffix: str) -> None:
    out, columns = (
        f"out{suffix}",
        ["cell_sentence", "fit_parameters", "organism", "perturbations", "cell_name", "donor"],
    )
    options = ["--perturbation-column", "perturbation", "--keep", "donor", "--max-genes", 7]
    found = run("sentences", file, out, *options, "--json", "-q")
    assert found.code == 0, found.err
    assert json.loads(found.out) == {"file": out, "n_cells": 6, "mean_genes": 7.0}
    assert "%|" not in found.err  # no progress bar
    if suffix == ".txt":
        lines = (tmp_path / out).read_text().splitlines()
    else:
        read: dict[str, Callable[[Path], Any]] = {
            ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True), ".csv": pd.read_csv
        }  # fmt: skip
        table = read[suffix](tmp_path / out)
        assert list(table.columns) == columns
        assert table["perturbations"].isna().tolist() == [False, True, False, True, False, True]
        lines = table["cell_sentence"].tolist()
    assert [len(line.split()) for line in lines] == [7] * 6


def test_zarr(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    anndata.read_h5ad(file).write_zarr(tmp_path / "in.zarr")
    assert run("embed", "in.zarr", "one.npy", "-m", model, "-q").code == 0
    assert run("embed", file, "two.npy", "-m", model, "-q").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"))
    assert run("annotate", "in.zarr", "out.h5ad", "-m", model, "-q", "--labels", CHOICE).code == 0
    assert "cell2sen_cell_type" in anndata.read_h5ad(tmp_path / "out.h5ad").obs


def test_models(run: Callable[..., Done]) -> None:
    listed = json.loads(run("models", "--json").out)
    assert {"nano", "gemma-2-27b", "pythia-410m"} <= {one["name"] for one in listed}
    assert all(one["licence"] and one["where"] for one in listed)
    assert "gemma-2-2b" in run("models").out


def test_check(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    text = run("check", file, "-m", model)
    assert text.code == 0
    assert text.out.rstrip().endswith("ready")
    machine = run("check", file, "-m", model, "--json", "--quiet")
    assert machine.code == 0
    assert json.loads(machine.out)["n_cells"] == 6
    broken = cells()
    broken.X = -broken.X
    broken.write_h5ad(tmp_path / "broken.h5ad")
    for arguments in (["broken.h5ad"], ["nowhere.h5ad"]):
        found = run("check", *arguments, "-m", model, "--json")
        assert found.code == 1
        assert json.loads(found.out)["ok"] is False


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
        (not_hdf5, "not a readable .h5ad"),
        (not_anndata, "no AnnData: it has no obs and var, only ['x']"),
        (without_genes, "6 cells and 0 genes"),
        (Path.mkdir, "is a directory"),
    ],
)
@pytest.mark.parametrize("verb", [["embed"], ["annotate", "--labels", CHOICE], ["perturb", "-p", "IFN-beta"]])
def test_files_that_cannot_be_read(
    run: Callable[..., Done],
    model: str,
    tmp_path: Path,
    verb: list[str],
    make: Callable[[Path], None] | None,
    words: str,
) -> None:
    if make is not None:
        make(tmp_path / "bad.h5ad")
    before = names(tmp_path)
    found = run(verb[0], "bad.h5ad", "out.h5ad", *verb[1:], "-m", model)
    assert (found.code, found.out) == (1, "")
    assert words in found.err
    assert "Traceback" not in found.err
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "{in}", "{in}"], "is the input file, which is never changed"),
        (["embed", "{in}", "out.txt"], "must end in .h5ad or .npy"),
        (["embed", "{in}", "no/out.h5ad"], "there is no folder"),
        (["embed", "{in}", "out.h5ad", "-m", "nono"], "no model 'nono'"),
        (["embed", "{in}", "out.h5ad", "-m", "gemma-2-2b"], "hf download vandijklab/C2S-Scale-Gemma-2-2B"),
        (["embed", "{in}", "out.h5ad", "--layer", "x"], "no 'x'; available: ['counts']"),
        (["embed", "{in}", "out.h5ad", "--pooling", "x"], "available: ['mean', 'genes', 'last']"),
        (["embed", "{in}", "out.h5ad", "--dtype", "x"], "--dtype must be one of auto, float32"),
        (["check", "{in}", "--quantize", "2bit"], "--quantize must be one of 4bit, 8bit"),
        (["annotate", "{in}", "out.csv", "--labels", "B cell"], "at least two"),
        (["sentences", "{in}", "out.csv", "--ties", "coin"], "ties must be one of"),
        (["sentences", "{in}", "out.csv", "--keep", "x"], "no column 'x'; available"),
        (["generate", "out.h5ad", "-t", "B cell", "--n-genes", "9999"], "to choose from"),
    ],
)
def test_one_clear_line(
    run: Callable[..., Done], file: Path, model: str, tmp_path: Path, arguments: list[str], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = digest(file)
    arguments = [str(file) if one == "{in}" else one for one in arguments]
    if "-m" not in arguments:
        arguments += ["-m", model]
    found = run(*arguments)
    assert (found.code, found.out) == (1, "")
    assert words in found.err
    assert "Traceback" not in found.err
    assert digest(file) == before
    assert names(tmp_path) == {"in.h5ad"}


def test_full_disk(
    run: Callable[..., Done], file: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.h5ad").write_text("before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    found = run("embed", file, "out.h5ad", "-m", model, "-q")
    assert found.code == 1
    assert "No space left on device" in found.err
    assert (tmp_path / "out.h5ad").read_text() == "before"
    assert names(tmp_path) == {"in.h5ad", "out.h5ad"}


def test_really_full_disk(run: Callable[..., Done], file: Path, model: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        for verb in (["embed"], ["perturb", "-p", "IFN-beta", "--n-genes", 3]):
            found = run(verb[0], file, disk / "out.h5ad", *verb[1:], "-m", model, "-q")
            assert found.code == 1
            assert "No space left" in found.err
            assert "Traceback" not in found.err
            assert names(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- in a process of its own

SLOW = """
import sys, time
import cell2sen.tl
def embed(*_, **__):
    print("working", flush=True)
    time.sleep(60)
cell2sen.tl.embed = embed
from cell2sen.cli import main
sys.argv = ["cell2sen", "embed", "in.h5ad", "out.h5ad"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_nothing(file: Path, tmp_path: Path, number: int, code: int) -> None:
    before = digest(file)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    assert len(names(tmp_path)) == 2  # the temporary file
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert process.returncode == code
    assert "Traceback" not in err
    assert ("interrupted; nothing was written" in err) == (number == signal.SIGINT)
    assert names(tmp_path) == {"in.h5ad"}
    assert digest(file) == before


def test_installed_command(file: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("cell2sen")
    if not program.exists():
        pytest.skip("the package is not installed")
    arguments = [program, "sentences", "in.h5ad", "out.txt", "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_cells"] == 6
    assert "cell sentences" in done.stderr
    assert "Warning" not in done.stderr
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 6
