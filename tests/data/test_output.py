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

import pytest

from cell2sen.data.output import complete_file, complete_folder


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
