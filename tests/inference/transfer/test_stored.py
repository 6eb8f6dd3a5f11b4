"""Embeddings of a reference in files beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from cells import GENES, cells, fake
from sessions import begin

from cell2sen.inference.embed import embed_cells
from cell2sen.inference.transfer.stored import stored_embeddings


def test_vectors_come_back(tmp_path: Path) -> None:
    session = begin()
    stored = stored_embeddings(session, tmp_path, "r.h5ad")
    assert stored.read() is None
    vectors = embed_cells(session).vectors
    stored.write(vectors)
    np.testing.assert_array_equal(stored_embeddings(begin(), tmp_path, "r.h5ad").read(), vectors)
    assert [path.name for path in tmp_path.iterdir()] == [stored.file.name]
    assert stored.file.name.startswith("r.h5ad.")


def test_all_that_changes_embeddings_changes_the_file(tmp_path: Path) -> None:
    other = cells()
    other.X = other.X.copy()
    other.X[0, 0] += 40
    sessions = [
        begin(),
        begin(data=other),
        begin(data=cells(5)),
        begin(data=cells(genes=GENES[:-3])),
        begin(max_genes=3),
        begin(model=fake(lengths={"annotate": 4})),
        begin(context={"tissue": "blood"}),
        begin(organism="Mus musculus"),
    ]
    files = {stored_embeddings(session, tmp_path, "r").file for session in sessions}
    files.add(stored_embeddings(begin(), tmp_path, "r", hidden_layer=1).file)
    assert len(files) == len(sessions) + 1


def test_names_do_not_change_it(tmp_path: Path) -> None:
    other = cells()
    other.obs_names = [f"x{number}" for number in range(6)]
    files = {stored_embeddings(session, tmp_path, "r").file for session in (begin(), begin(data=other))}
    assert len(files) == 1


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_damaged_files_are_not_used(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stored = stored_embeddings(begin(), tmp_path, "r")
    stored.file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert stored.read() is None
    assert "embedded again" in caplog.text


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    stored = stored_embeddings(begin(), tmp_path, "r")
    with stored.file.open("wb") as stream:
        np.savez(stream, vectors=np.array([{}], dtype=object))
    assert stored.read() is None


def test_a_folder_that_cannot_be_written_to_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = stored_embeddings(begin(), tmp_path, "r")
    tmp_path.joinpath("gone").mkdir()
    missing = stored_embeddings(begin(), tmp_path / "gone", "r")
    (tmp_path / "gone").rmdir()
    with caplog.at_level(logging.WARNING):
        missing.write(np.zeros((6, 2), dtype=np.float32))
    assert "were not stored" in caplog.text
    assert not stored.file.exists()
    with pytest.raises(FileNotFoundError, match="create it first"):
        stored_embeddings(begin(), tmp_path / "gone", "r")
