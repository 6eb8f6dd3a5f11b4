"""Fingerprints: a change of any kind gives another one, a copy the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cells import cells

from cell2sen.atlas import fingerprints
from cell2sen.model import Model, resolve


@pytest.mark.parametrize("number", [0, 1])
def test_a_copy_has_the_same_and_a_changed_file_another(files: list[Path], tmp_path: Path, number: int) -> None:
    copy = tmp_path / files[number].name
    (shutil.copytree if number else shutil.copy)(files[number], copy)
    before = fingerprints.of_input(copy)
    assert before == fingerprints.of_input(files[number])
    file = max(copy.rglob("*"), key=lambda path: path.stat().st_size) if number else copy
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert fingerprints.of_input(copy) != before


def test_of_large_files_blocks_and_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 10)
    monkeypatch.setattr(fingerprints, "_BLOCK", 16)
    monkeypatch.setattr(fingerprints, "_N_BLOCKS", 2)
    adata = cells(5)
    adata.write_h5ad(tmp_path / "a.h5ad")
    before = fingerprints.of_input(tmp_path / "a.h5ad")
    adata.obs_names = [*adata.obs_names[:4], "c9"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert fingerprints.of_input(tmp_path / "a.h5ad") != before


def test_of_model(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    assert fingerprints.of_model(resolve(model)) == fingerprints.of_model(resolve(str(tmp_path / "copy")))
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        fingerprints.of_model(Model(name="x", path="nobody/nothing"))
