"""Output files and folders: complete under their name, or not there at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from containers import assert_same, counts, write_legacy, write_loom, write_mudata, zip_folder

from cell2sen.data import output
from cell2sen.data.files.opening import open_anndata
from cell2sen.data.output import complete_file, complete_folder, remove_stale, write_results


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_complete_file_appears_under_its_name(tmp_path: Path) -> None:
    with complete_file(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        assert not (tmp_path / "out.txt").exists()
    assert (tmp_path / "out.txt").read_text() == "whole"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_broken_run_keeps_the_earlier_file(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "out.txt").write_text("before")

    def run() -> None:
        with complete_file(tmp_path / "out.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        run()
    assert (tmp_path / "out.txt").read_text() == "before"
    assert names(tmp_path) == ["out.txt"]


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with complete_file(tmp_path / "out") as temporary:
        temporary.write_text("x")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("spelling", ["in.h5ad", "folder/../in.h5ad", "link.h5ad", "hard.h5ad"])
def test_input_is_never_overwritten(tmp_path: Path, spelling: str) -> None:
    source = tmp_path / "in.h5ad"
    source.write_text("data")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.h5ad").symlink_to(source)
    os.link(source, tmp_path / "hard.h5ad")
    with pytest.raises(ValueError, match="is the input file"), complete_file(tmp_path / spelling, source):
        raise AssertionError("the work must not begin")
    assert source.read_text() == "data"


def test_impossible_paths_are_refused_before_the_work(tmp_path: Path) -> None:
    for path, error, match in (
        (tmp_path / "no" / "out", FileNotFoundError, "no folder"),
        (tmp_path, ValueError, "is a folder"),
    ):
        with pytest.raises(error, match=match), complete_file(path):
            raise AssertionError("the work must not begin")
    with pytest.raises(FileNotFoundError, match="no folder"), complete_folder(tmp_path / "no" / "out"):
        raise AssertionError("the work must not begin")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError, match="no permission to write"), complete_file(tmp_path / "out"):
        raise AssertionError("the work must not begin")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skips tests that may not mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = sys.platform == "linux" and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_the_earlier_file(small_disk: Path) -> None:
    (small_disk / "out.bin").write_text("before")

    def run() -> None:
        with complete_file(small_disk / "out.bin") as temporary:
            temporary.write_bytes(bytes(1 << 20))

    with pytest.raises(OSError, match="No space left"):
        run()
    assert (small_disk / "out.bin").read_text() == "before"
    assert names(small_disk) == ["out.bin"]


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    def fill() -> None:
        with complete_folder(tmp_path / "out") as folder:
            (folder / "file").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert list(tmp_path.iterdir()) == []
    with complete_folder(tmp_path / "out") as folder:
        (folder / "file").touch(mode=0o600)
    assert (tmp_path / "out" / "file").stat().st_mode & 0o777 == 0o644


# --- Temporary files of killed runs

KILLED = """
import os, signal, sys
from pathlib import Path
from cell2sen.data.output import complete_file, complete_folder
with complete_file(sys.argv[1]), complete_folder(Path(sys.argv[2])):
    print("working", flush=True)
    sys.stdin.readline()
"""


def test_the_next_run_removes_what_a_killed_one_left_and_not_what_a_living_one_uses(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "out.h5ad"), str(tmp_path / "model")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
        assert len(names(tmp_path)) == 4
        killed, living = processes
        killed.kill()
        killed.communicate()
        (tmp_path / "other.h5ad").touch()
        with complete_file(tmp_path / "out.h5ad") as temporary:
            temporary.write_text("whole")
            assert len(names(tmp_path)) == 5  # ours, the two of the living run, the folder of the killed one, the other
        with complete_folder(tmp_path / "model") as folder:
            (folder / "weights").touch()
        assert len(names(tmp_path)) == 5
        left = [name for name in names(tmp_path) if name.startswith(".")]
        assert len(left) == 2
        assert all(f".{living.pid}-" in name for name in left)
        living.communicate("\n", timeout=30)
        assert living.returncode != 0  # the folder "model" was there by then
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    remove_stale(tmp_path / "out.h5ad")
    remove_stale(tmp_path / "model")
    assert names(tmp_path) == ["model", "other.h5ad", "out.h5ad"]


def test_a_number_that_another_process_has_by_now_is_stale(tmp_path: Path) -> None:
    mine, machine = output._process(), output._machine()
    number, _, start = mine.partition("-")
    stale = tmp_path / f".out.{machine}.{number}-{int(start) + 1}.abc"
    others = [
        tmp_path / f".out.{machine}.{mine}.abc",  # a second output of this process
        tmp_path / f".out.{'0' * 8}.{number}-{start}.abc",  # another machine
        tmp_path / ".out.csv",
        tmp_path / f".out.{machine}.text.abc",
    ]
    for file in (stale, *others):
        file.touch()
    remove_stale(tmp_path / "out")
    assert names(tmp_path) == sorted(file.name for file in others)


def test_long_names_have_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 240 + ".h5ad")
    with complete_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


# --- Inputs and results


def test_no_output_inside_of_an_input(tmp_path: Path) -> None:
    counts().write_zarr(tmp_path / "store")
    write_mudata(tmp_path / "x.h5ad", {"rna": counts()})
    for path, source, message in (
        (tmp_path / "store" / "out.h5ad", tmp_path / "store", "inside of the input"),
        (tmp_path / "x.h5ad", tmp_path / "x.h5ad" / "rna", "is the input file"),
    ):
        with pytest.raises(ValueError, match=message), complete_file(path, source):
            raise AssertionError("the work must not begin")


def with_everything() -> anndata.AnnData:
    adata = counts()
    adata.obsm["X_pca"], adata.uns["note"] = np.ones((5, 2)), "kept"
    adata.layers["double"] = adata.X * 2
    adata.raw = adata.copy()
    return adata


@pytest.mark.parametrize("container", ["h5ad", "old", "zarr", "zip", "mu", "loom", "csv"])
def test_results_are_written_with_the_rest_of_the_file(container: str, tmp_path: Path) -> None:
    path = tmp_path / "in"
    writers = {
        "h5ad": lambda: with_everything().write_h5ad(path),
        "old": lambda: write_legacy(path, counts(), raw=True),
        "zarr": lambda: with_everything().write_zarr(path),
        "zip": lambda: (with_everything().write_zarr(tmp_path / "s"), zip_folder(tmp_path / "s", path)),
        "mu": lambda: write_mudata(path, {"rna": with_everything(), "prot": counts()[:, :2].copy()}),
        "loom": lambda: write_loom(path, counts()),
        "csv": lambda: counts().to_df().to_csv(path),
    }
    writers[container]()
    before = [file.read_bytes() for file in sorted([path, *path.rglob("*")]) if file.is_file()]
    with open_anndata(path) as adata:
        adata.obs["label"] = pd.Categorical(["a", "b", "a", "b", "a"])
        adata.obs["score"] = np.arange(5.0)
        adata.obs["sample"] = np.array(["s", "t", "s", "t", "s"], dtype=object)
        adata.obsm["probabilities"] = pd.DataFrame({"a": np.ones(5)}, index=adata.obs_names)
        adata.uns["cell2sen"] = {"key": "label"}
        write_results(path, tmp_path / "out.h5ad", adata, obsm="probabilities", obs=["label", "score", "sample"])
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert_same(written, counts())
    assert written.obs["label"].tolist() == ["a", "b", "a", "b", "a"]
    assert written.obs["score"].tolist() == [0, 1, 2, 3, 4]
    assert written.obs["sample"].tolist() == ["s", "t", "s", "t", "s"]
    assert written.obsm["probabilities"]["a"].tolist() == [1] * 5
    assert written.uns["cell2sen"] == {"key": "label"}
    if container != "csv":
        assert written.obs["kind"].tolist() == counts().obs["kind"].tolist()
    if container in ("h5ad", "zarr", "zip", "mu"):
        assert written.uns["note"] == "kept"
        assert written.obsm["X_pca"].tolist() == [[1, 1]] * 5
        np.testing.assert_array_equal(written.layers["double"].toarray(), counts().X.toarray() * 2)
        np.testing.assert_array_equal(written.raw.X.toarray(), counts().X.toarray())
    assert [file.read_bytes() for file in sorted([path, *path.rglob("*")]) if file.is_file()] == before


def test_results_replace_those_of_an_earlier_run_and_keep_its_record(tmp_path: Path) -> None:
    adata = counts()
    adata.obs["label"] = "old"
    adata.uns["cell2sen"] = {"embed": {"key": "X_cell2sen"}}
    adata.write_h5ad(tmp_path / "in.h5ad")
    with open_anndata(tmp_path / "in.h5ad") as opened:
        opened.obs["label"] = pd.Categorical(["new"] * 5)
        opened.obsm["p"] = np.ones((5, 1))
        opened.uns["cell2sen"] = {**opened.uns["cell2sen"], "annotate": {"key": "label"}}
        write_results(tmp_path / "in.h5ad", tmp_path / "out.h5ad", opened, obsm="p", obs=["label"])
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["label"].tolist() == ["new"] * 5
    assert written.obs.columns.tolist() == ["kind", "label"]
    assert set(written.uns["cell2sen"]) == {"embed", "annotate"}
