"""Checkpoints fetched from copies, mirrors and a hub on this machine, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hub
import pytest
from cells import checkpoint
from command import names

from cell2sen.checkpoints import fetch, verify
from cell2sen.checkpoints.lock import read_lock
from cell2sen.model import KNOWN, LOCK_FILE, resolve


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkpoint(tmp_path_factory.mktemp("fetched") / "model")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("# Card")
    return folder


def test_a_copy_is_complete_and_locked(original: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, float, int]] = []
    copy = fetch(original, tmp_path / "copy", progress=lambda *call: calls.append(call))
    assert names(copy) == names(original) - {"pytorch_model.bin"} | {LOCK_FILE}
    verify(copy)
    assert calls[-1][1] == calls[-1][2]
    again = fetch(copy, tmp_path / "again", locked=copy / LOCK_FILE, progress=False)
    assert (again / LOCK_FILE).read_bytes() == (copy / LOCK_FILE).read_bytes(), "name and revision are kept"
    assert fetch(original, copy, progress=False) == copy, "it is there already"
    with pytest.raises(ValueError, match="is the checkpoint itself"):
        fetch(copy, copy, progress=False)


def test_a_changed_copy_is_refused(original: Path, tmp_path: Path) -> None:
    copy = fetch(original, tmp_path / "copy", progress=False)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file of .*cell2sen\.lock\.json: expected"):
        fetch(copy, tmp_path / "third", progress=False)
    with pytest.raises(ValueError, match=r"its bytes differ"):
        fetch(original, copy, progress=False)
    assert names(tmp_path) == {"copy"}, "nothing is left"


def test_a_mirror_keeps_what_a_published_checkpoint_needs(original: Path, tmp_path: Path) -> None:
    known = KNOWN["gemma-2-2b"]
    shutil.copytree(original, tmp_path / "disk" / known.path)
    (tmp_path / "disk" / known.path / "cell2sen.json").unlink()
    model = fetch("gemma-2-2b", tmp_path / "any-name", mirror=tmp_path / "disk", progress=False)
    found = resolve(model)
    assert (found.name, found.recipe, found.stop) == (known.name, known.recipe, known.stop)
    assert found.wording == "cell2sentence"
    with pytest.raises(
        FileNotFoundError, match=r"has no gemma-2-27b: it needs a folder vandijklab/C2S-Scale-Gemma-2-27B"
    ):
        fetch("gemma-2-27b", tmp_path / "other", mirror=tmp_path / "disk", progress=False)
    with pytest.raises(ValueError, match="holds gemma-2-2b, not pythia-1b"):
        fetch("pythia-1b", model, mirror=tmp_path / "disk", progress=False)


def test_folders_that_are_no_checkpoints(original: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(original, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="pickled ones"):
        fetch(pickled, tmp_path / "copy", progress=False)
    (pickled / "config.json").unlink()
    with pytest.raises(ValueError, match=r"it lacks config\.json"):
        fetch(pickled, tmp_path / "copy", progress=False)
    with pytest.raises(ValueError, match="exists and has no lock file"):
        fetch(original, pickled, progress=False)


def command(endpoint: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "cell2sen", "fetch", *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_download_from_a_hub(original: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    with hub.serve(original, "lab/model", broken="model.safetensors") as (address, asked):
        options = ("lab/model", "--to", str(target), "--json")
        found = command(address, *options, home=tmp_path / "home")
        if found.returncode:  # the library may try again by itself
            assert not target.exists()
            found = command(address, *options, home=tmp_path / "home")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["revision"] == hub.COMMIT
        assert "pytorch_model.bin" not in asked
        n_asked = len(asked)
        assert command(address, *options, home=tmp_path / "home").returncode == 0
        assert len(asked) == n_asked, "it is there already"
    assert names(target) == names(original) - {"pytorch_model.bin"} | {LOCK_FILE}
    assert (target / "model.safetensors").read_bytes() == (original / "model.safetensors").read_bytes()
    assert read_lock(target / LOCK_FILE).revision == hub.COMMIT
    assert names(tmp_path) - {"home"} == {"model"}, "no parts are left"


def test_other_bytes_than_the_hub_names_are_refused(original: Path, tmp_path: Path) -> None:
    with hub.serve(original, "lab/model", forged="model.safetensors") as (address, _):
        found = command(address, "lab/model", "--to", str(tmp_path / "model"), home=tmp_path / "home")
        assert found.returncode == 1
        assert "model.safetensors" in found.stderr
        assert not (tmp_path / "model").exists()
        missing = command(address, "lab/other", "--to", str(tmp_path / "model"), home=tmp_path / "home")
        assert "the hub has no lab/other, revision main" in missing.stderr
    unreachable = command(address, "lab/model", "--to", str(tmp_path / "model"), home=tmp_path / "home")
    assert "the hub cannot be reached" in unreachable.stderr
    assert "--mirror FOLDER" in unreachable.stderr
