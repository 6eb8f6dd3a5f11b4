"""Locks of checkpoints: any changed byte, missing or added file is refused, with its name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from cells import checkpoint

import cell2sen as c2s
from cell2sen.checkpoints.lock import lock, read_lock, require_locked, verify
from cell2sen.inference.session import load_model
from cell2sen.model import LOCK_FILE, resolve


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkpoint(tmp_path_factory.mktemp("locked") / "model")
    lock(folder, name="model", revision="abc").write(folder / LOCK_FILE)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_hashes_are_those_of_the_files(original: Path) -> None:
    found = read_lock(original / LOCK_FILE)
    assert found.revision == "abc"
    expected = {
        path.name: {"size": len(path.read_bytes()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in original.iterdir()
        if path.name != LOCK_FILE
    }
    assert found.files == expected
    assert found.size == sum(path.stat().st_size for path in original.iterdir() if path.name != LOCK_FILE)


def test_every_file_is_compared(copy: Path) -> None:
    verify(copy)
    for name in read_lock(copy / LOCK_FILE).files:
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1  # one bit
        (copy / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not the file that was locked"):
            verify(copy)
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    verify(copy)


def test_missing_and_added_files(copy: Path) -> None:
    (copy / "notes.txt.md").write_text("of no consequence")
    (copy / ".hidden").mkdir()
    verify(copy)
    (copy / "responses.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"responses\.npz, which the lock does not list"):
        verify(copy)
    (copy / "responses.npz").unlink()
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors of its lock"):
        verify(copy)


def test_the_option_of_all_verbs(copy: Path) -> None:
    loaded = load_model({"model": copy, "locked": True, "progress": False})
    assert loaded.model.path == str(copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was locked \(model, revision abc\)"):
        load_model({"model": copy, "locked": True, "progress": False})
    load_model({"model": copy, "progress": False})  # without the option it is not read twice
    (copy / LOCK_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="has no lock file"):
        load_model({"model": copy, "locked": True, "progress": False})
    with pytest.raises(ValueError, match="locked models are directories, 'gemma-2-2b' is an id of the hub"):
        require_locked(resolve("gemma-2-2b"))


def test_the_embedded_model_is_under_lock() -> None:
    # After a training of it: python -c "from cell2sen.checkpoints import lock; …" writes the lock again.
    path = Path(c2s.model.KNOWN["nano"].path)
    try:
        verify(path)
    except (ValueError, FileNotFoundError) as error:
        error.add_note("write it again: cell2sen.checkpoints.lock(path, name='nano').write(path / LOCK_FILE)")
        raise


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "name": "x", "files": {"a": {"size": 1}}}'])
def test_files_that_are_no_locks(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(ValueError, match=r"lock\.json is no lock file of a checkpoint"):
        read_lock(tmp_path / "lock.json")
