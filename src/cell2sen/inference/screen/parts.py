"""Finished parts of a screen in a folder, from which it continues after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.output import complete_file


class Parts:
    """Arrays of finished parts. Each file's name is a hash of all that its numbers depend on.

    Parameters
    ----------
    folder
        Folder of the files, made if it does not exist; ``None`` keeps nothing.
    fingerprint
        What the numbers of all parts depend on: plain values and arrays.
    """

    def __init__(self, folder: str | Path | None, fingerprint: Sequence[Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._digest = _hash(fingerprint)
        self.n_read = 0
        if self._folder is not None:
            if self._folder.exists() and not self._folder.is_dir():
                raise ValueError(f"resume must be a folder, {self._folder} is a file")
            self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: Sequence[Any], compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of one part, read from its file or computed and written."""
        if self._folder is None:
            return compute()
        file = self._folder / f"{_hash([self._digest, *key])}.npy"
        if file.is_file():
            self.n_read += 1
            return np.asarray(np.load(file, allow_pickle=False))
        values = compute()
        with complete_file(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
        return values


def _hash(values: Sequence[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()
