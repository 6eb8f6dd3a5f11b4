"""Fingerprints: hashes of input files, stores and models, by which a change is found before work is done."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cell2sen.data.files.formats import locate
from cell2sen.data.files.rows import StoredRows, open_rows
from cell2sen.model import Model

#: Files up to this size are hashed whole, larger ones by blocks that are spread evenly over them.
WHOLE_BYTES = 2**28
_BLOCK, _N_BLOCKS = 2**20, 64


def of_file(file: Path, *, whole: bool = False) -> str:
    """sha256 of a file: of its size and content, of large files of its size and 64 blocks of 1 MB.

    Parameters
    ----------
    whole
        Hash all of a large file, too.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with file.open("rb") as stream:
        if whole or size <= WHOLE_BYTES:
            while block := stream.read(_BLOCK):
                digest.update(block)
        else:
            for place in np.linspace(0, size - _BLOCK, _N_BLOCKS).astype(np.int64).tolist():
                stream.seek(place)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def of_path(path: Path, *, whole: bool = False) -> str:
    """The same of a file, or of all files of a folder with their names."""
    if path.is_file():
        return of_file(path, whole=whole)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()}\n{of_file(file, whole=whole)}\n".encode())
    return digest.hexdigest()


def of_input(path: str | Path, *, layer: str | None = None, use_raw: bool = False) -> str:
    """Fingerprint of a file of cells: its bytes, and of large files the names of all cells and genes, too."""
    place = locate(path)
    digest = hashlib.sha256(f"{place.inside}\n{of_path(place.file)}\n".encode())
    if _size(place.file) > WHOLE_BYTES:
        with open_rows(path, layer=layer, use_raw=use_raw) as stored:
            _add_names(digest, stored)
    return digest.hexdigest()


def _add_names(digest: hashlib._Hash, stored: StoredRows) -> None:
    digest.update("\n".join(map(str, stored.var.index)).encode())
    for start in range(0, stored.n_obs, 2**18):
        names = stored.table((), start, min(start + 2**18, stored.n_obs)).index
        digest.update("\n".join(map(str, names)).encode())
    group = getattr(stored.matrix, "group", None)
    if group is not None and "indptr" in group:
        digest.update(np.asarray(group["indptr"][:], dtype=np.int64).tobytes())


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def of_model(model: Model) -> str:
    """sha256 over all files of a checkpoint, whole; that of its names for one that is not on this machine.

    Raises
    ------
    FileNotFoundError
        The checkpoint is not on this machine; the message has the command that downloads it.
    """
    folder = folder_of(model)
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja", ".npz"):
            digest.update(f"{file.relative_to(folder).as_posix()}\n{of_file(file, whole=True)}\n".encode())
    return digest.hexdigest()


def folder_of(model: Model) -> Path:
    """Folder with the files of a checkpoint: its own, or that in the cache of the hub."""
    if model.is_local:
        return Path(model.path)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    if not isinstance(cached, str):
        raise FileNotFoundError(
            f"{model.path} is not on this machine, and a plan needs the hash of its weights: hf download {model.path}"
        )
    return Path(cached).parent
