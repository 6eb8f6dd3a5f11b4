"""Lock file of a checkpoint directory: size and SHA-256 of every file, and the check of a directory against it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cell2sen.data.output import complete_file
from cell2sen.model import LOCK_FILE, Model

FORMAT = 1

#: Endings of files that change what a model computes: one that is not in the lock must not lie beside the weights.
COUNTED = (".safetensors", ".json", ".jinja", ".model", ".npz", ".txt")

#: Bytes that are hashed at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Hashes of the files of a checkpoint, and where they are from."""

    name: str
    """Known name, hub id, or name of the directory or file that it was made from."""

    revision: str = ""
    """Commit of the hub; empty for other sources."""

    files: Mapping[str, Mapping[str, Any]]
    """Path within the directory → ``size`` in bytes and ``sha256``, in the order of the paths."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())

    def write(self, file: Path) -> None:
        """Write the lock as JSON."""
        with complete_file(file) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")


def lock(
    directory: str | Path, *, name: str = "", revision: str = "", report: Callable[[int], Any] | None = None
) -> Lock:
    """Hashes of the files of a directory. Hidden files and the lock file itself are left out.

    Parameters
    ----------
    name, revision
        Where the files are from, see :class:`Lock`.
    report
        Called with the number of bytes of each block that was hashed.

    Raises
    ------
    FileNotFoundError
        There is no such directory, or it is empty.
    """
    directory = Path(directory)
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path, report)}
        for path in sorted(_files(directory))
    }
    if not files:
        raise FileNotFoundError(f"there are no files of a checkpoint in {directory}")
    return Lock(name=name or directory.name, revision=revision, files=files)


def read_lock(file: str | Path) -> Lock:
    """Lock of a file that :meth:`Lock.write` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no lock file, or one of a later format.
    """
    file = Path(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("its format is not known to this version")
        found = Lock(**values)
        if not all(set(entry) == {"size", "sha256"} for entry in found.files.values()):
            raise ValueError("an entry has no size and sha256")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is no lock file of a checkpoint: {error}") from error
    return found


def verify(directory: str | Path, expected: Lock | str | Path | None = None) -> Lock:
    """Check that a directory holds exactly the files of a lock.

    Sizes are compared before the first file is hashed. Files that cannot change a result, such as notes, may be added.

    Parameters
    ----------
    directory
        Folder of a checkpoint.
    expected
        A lock, or the file of one; by default the lock file in the directory.

    Returns
    -------
    The lock.

    Raises
    ------
    FileNotFoundError
        There is no lock file, or a file is missing.
    ValueError
        A file has other bytes, or one was added that would be read.
    """
    directory = Path(directory)
    if expected is None:
        expected = directory / LOCK_FILE
        if not expected.is_file():
            raise FileNotFoundError(
                f"{directory} has no lock file ({LOCK_FILE}); cell2sen fetch writes one: "
                f"cell2sen fetch {directory} --to COPY"
            )
    wanted = expected if isinstance(expected, Lock) else read_lock(expected)
    present = {path.relative_to(directory).as_posix(): path for path in _files(directory)}
    if missing := sorted(set(wanted.files) - set(present)):
        raise FileNotFoundError(f"{directory} lacks {_some(missing)} of its lock; fetch it again")
    if added := sorted(name for name in set(present) - set(wanted.files) if name.endswith(COUNTED)):
        raise ValueError(f"{directory} has {_some(added)}, which the lock does not list; remove it, or lock a new copy")
    sizes = {name: present[name].stat().st_size for name in wanted.files}
    changed = [name for name, entry in wanted.files.items() if sizes[name] != entry["size"]]
    changed = changed or [name for name, entry in wanted.files.items() if sha256(present[name]) != entry["sha256"]]
    if changed:
        raise ValueError(
            f"{directory}: {_some(changed)} is not the file that was locked ({wanted.name}"
            f"{f', revision {wanted.revision}' if wanted.revision else ''}): its bytes differ; fetch it again"
        )
    return wanted


def require_locked(model: Model) -> None:
    """Check a model's directory against its lock file, before its weights are loaded.

    Raises
    ------
    ValueError
        The model is no directory, or a byte of it differs.
    FileNotFoundError
        It has no lock file, or lacks a file.
    """
    if not model.is_local:
        raise ValueError(
            f"locked models are directories, {model.name!r} is an id of the hub: cell2sen fetch {model.name} --to "
            f"DIRECTORY, then --model DIRECTORY"
        )
    verify(model.path)


def sha256(file: Path, report: Callable[[int], Any] | None = None) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if report is not None:
                report(len(block))
    return digest.hexdigest()


def _files(directory: Path) -> Iterator[Path]:
    """All files but hidden ones, those of hidden folders, Python's caches and the lock file."""
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no directory {directory}")
    for path in directory.rglob("*"):
        parts = path.relative_to(directory).parts
        if path.is_file() and not any(part.startswith((".", "__")) for part in parts) and parts != (LOCK_FILE,):
            yield path


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
