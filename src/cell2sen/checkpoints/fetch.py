"""Fetch of a checkpoint into a directory under lock: from the Hugging Face hub, a mirror, a copy, or a GGUF file."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cell2sen.checkpoints.lock import Lock, lock, read_lock, sha256, verify
from cell2sen.data.output import complete_folder
from cell2sen.data.progress import Progress, Report
from cell2sen.model import LOCK_FILE, Model, resolve

#: Files of a checkpoint; pickled weights (``*.bin``, ``*.pt``), which may run code, are never fetched.
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.npy", "*.npz", "*.md", "LICENSE*", "NOTICE*")

#: Megabyte, in bytes.
_MB = 1_000_000


def fetch(
    model: str | Path,
    to: str | Path | None = None,
    *,
    revision: str | None = None,
    mirror: str | Path | None = None,
    locked: Lock | str | Path | None = None,
    progress: bool | Report = True,
) -> Path:
    """Directory of a checkpoint, complete and under lock, whose path can be used as ``model=``.

    Downloads from the Hugging Face hub (of the environment's ``HF_ENDPOINT`` and token), unless there is a `mirror` or
    the model is on this machine. A download that was interrupted goes on where it ended. The hashes that the hub gives
    are compared before the directory gets its name.

    Parameters
    ----------
    model
        Known name (``"gemma-2-2b"``), hub id (``"owner/name"``), a directory to copy, or a GGUF file, which is
        converted (:func:`cell2sen.checkpoints.gguf.convert`).
    to
        The new directory. Default: the last part of the hub id, in the current folder.
    revision
        Branch, tag or commit of the hub.
    mirror
        Folder with copies, such as a shared disk or a carried drive: holds ``owner/name``, ``name`` or the known name.
        The hub is not used.
    locked
        A lock, or the file of one; the fetched files must have its bytes.
    progress
        Show progress on stderr, or call a function with it.

    Returns
    -------
    The directory. One that is there already and agrees with its lock and `locked` is returned as it is.

    Raises
    ------
    ValueError
        No such model, a directory that holds something else, only pickled weights, or other bytes than locked.
    FileNotFoundError
        The mirror has no such checkpoint, or the folder of `to` does not exist.
    OSError
        The hub cannot be reached, or there is too little space.
    """
    if str(model).endswith(".gguf"):
        return _converted(Path(model), to, locked)
    source = resolve(model, revision=revision)
    target = Path(to) if to is not None else Path(Path(source.path).name)
    if target.exists():
        if source.is_local and target.samefile(source.path):
            raise ValueError(f"{target} is the checkpoint itself; give another directory with to= (--to)")
        return _as_it_is(target, source, locked)
    wanted = _lock_of(locked)
    if mirror is not None:
        return _copied(_in_mirror(Path(mirror), source), target, source, wanted, progress)
    if source.is_local:
        return _copied(Path(source.path), target, source, wanted, progress)
    return _downloaded(source, target, wanted, progress)


def _as_it_is(target: Path, source: Model, locked: Lock | str | Path | None) -> Path:
    """A directory that was fetched before, after a check of its bytes."""
    if not (target / LOCK_FILE).is_file():
        raise ValueError(f"{target} exists and has no lock file, so that it was not fetched; choose another to= (--to)")
    found = verify(target, locked)
    if found.name not in (source.name, source.path, Path(source.path).name) and not source.is_local:
        raise ValueError(f"{target} holds {found.name}, not {source.name}; choose another to= (--to)")
    if source.revision and found.revision and not found.revision.startswith(source.revision):
        raise ValueError(f"{target} holds revision {found.revision}, not {source.revision}; choose another to= (--to)")
    return target


def _in_mirror(mirror: Path, model: Model) -> Path:
    """Folder of a checkpoint below a mirror."""
    names = dict.fromkeys((model.path, Path(model.path).name, model.name))
    for name in names:
        if (mirror / name / "config.json").is_file():
            return mirror / name
    raise FileNotFoundError(f"the mirror {mirror} has no {model.name}: it needs a folder {' or '.join(names)}")


def _copied(folder: Path, target: Path, model: Model, wanted: Lock | None, progress: bool | Report) -> Path:
    """Copy of a directory. Its own lock file, if it has one, is compared, and its name and revision are kept."""
    own = read_lock(folder / LOCK_FILE) if (folder / LOCK_FILE).is_file() else None
    files = [path for pattern in PATTERNS for path in sorted(folder.rglob(pattern)) if path.is_file()]
    files = [path for path in dict.fromkeys(files) if not _hidden(path.relative_to(folder)) and path.name != LOCK_FILE]
    _require_weights([path.name for path in files], str(folder))
    _require_space(target, sum(path.stat().st_size for path in files))
    with complete_folder(target) as temporary:
        with Progress(sum(_megabytes(path) for path in files), "copying", "MB", show=progress) as bar:
            for path in files:
                copy = temporary / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                bar.update(_megabytes(path))
        name = own.name if own else model.name if not model.is_local else folder.name
        made = lock(temporary, name=name, revision=own.revision if own else model.revision or "")
        for expected, where in ((own, folder / LOCK_FILE), (wanted, "locked= (--lock)")):
            if expected is not None:
                _compare(made, expected, str(where))
        made.write(temporary / LOCK_FILE)
    return target


def _downloaded(model: Model, target: Path, wanted: Lock | None, progress: bool | Report) -> Path:
    """Download from the hub, by its hashes."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.absolute().parent} to write {target.name} to")
    try:
        found = huggingface_hub.HfApi().model_info(model.path, revision=model.revision, files_metadata=True)
    except GatedRepoError as error:
        raise OSError(
            f"{model.path} needs an account that has accepted its terms: hf auth login, then again. {error}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(f"the hub has no {model.path}, revision {model.revision or 'main'}: {error}") from error
    except Exception as error:  # of the HTTP library, which is not the same in all versions of the hub's
        raise OSError(
            f"the hub cannot be reached ({error}); from a copy on a disk: --mirror FOLDER with {model.path} in it"
        ) from error
    siblings = {file.rfilename: file for file in found.siblings or () if _matches(file.rfilename)}
    _require_weights(list(siblings), f"{model.path} of the hub")
    commit = str(found.sha or "")
    if wanted is not None and wanted.revision and commit and wanted.revision != commit:
        raise ValueError(
            f"the hub's {model.path} is at revision {commit}, locked is {wanted.revision}: pass it as revision= "
            "(--revision)"
        )
    _require_space(target, sum(file.size or 0 for file in siblings.values()))
    # Not a temporary folder of this process: an interrupted download of many gigabytes goes on in the next call.
    part = target.absolute().parent / f".{target.name}.part-{commit[:12]}"
    try:
        with _bars(progress is True):
            huggingface_hub.snapshot_download(
                model.path, revision=commit or model.revision, local_dir=part, allow_patterns=sorted(siblings)
            )
    except Exception as error:
        raise OSError(f"the download of {model.path} was interrupted ({error}); the same command goes on") from error
    shutil.rmtree(part / ".cache", ignore_errors=True)
    total = sum(file.size or 0 for file in siblings.values())
    with Progress(1 + total // _MB, "hashing", "MB", show=progress) as bar:
        counted = [0]

        def report(n_bytes: int) -> None:
            before, counted[0] = counted[0] // _MB, counted[0] + n_bytes
            bar.update(counted[0] // _MB - before)

        made = lock(part, name=model.name, revision=commit, report=report)
    try:
        for name, file in siblings.items():
            expected = getattr(file.lfs, "sha256", None) if file.lfs is not None else None
            if name not in made.files or (file.size is not None and made.files[name]["size"] != file.size):
                raise ValueError(f"the download of {name} is not complete; fetch again")
            if expected and made.files[name]["sha256"] != expected:
                raise ValueError(f"the bytes of {name} are not those that the hub names; fetch again")
        if wanted is not None:
            _compare(made, wanted, "locked= (--lock)")
    except ValueError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    made.write(part / LOCK_FILE)
    part.rename(target)
    return target


def _converted(file: Path, to: str | Path | None, locked: Lock | str | Path | None) -> Path:
    """Directory with the weights and the tokenizer of a GGUF file."""
    from cell2sen.checkpoints.gguf import convert

    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    target = Path(to) if to is not None else Path(file.stem)
    if target.exists():
        return _as_it_is(target, Model(name=file.name, path=file.stem), locked)
    with complete_folder(target) as temporary:
        convert(file, temporary)
        made = lock(temporary, name=file.name, revision=sha256(file)[:16])
        if (wanted := _lock_of(locked)) is not None:
            _compare(made, wanted, "locked= (--lock)")
        made.write(temporary / LOCK_FILE)
    return target


def _lock_of(locked: Lock | str | Path | None) -> Lock | None:
    return locked if locked is None or isinstance(locked, Lock) else read_lock(locked)


def _compare(made: Lock, expected: Lock, where: str) -> None:
    """Raise a ValueError if files differ from those of another lock."""
    names = sorted(set(made.files) | set(expected.files))
    if wrong := [name for name in names if _entry(made, name) != _entry(expected, name)]:
        raise ValueError(
            f"{wrong[0]} is not the file of {where}: expected {_entry(expected, wrong[0])}, "
            f"found {_entry(made, wrong[0])}" + (f"; {len(wrong) - 1} more files differ" if len(wrong) > 1 else "")
        )


def _entry(lock: Lock, name: str) -> str:
    entry: Mapping[str, Any] | None = lock.files.get(name)
    return "no such file" if entry is None else f"{entry['size']} bytes, sha256 {entry['sha256'][:16]}…"


def _require_weights(names: Sequence[str], where: str) -> None:
    if missing := [name for name in ("config.json", "tokenizer.json") if name not in names]:
        raise ValueError(f"{where} is no checkpoint that can be used: it lacks {' and '.join(missing)}")
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{where} has no weights in safetensors; pickled ones (.bin) may run code and are not read")


def _require_space(target: Path, n_bytes: int) -> None:
    folder = target.absolute().parent
    if folder.is_dir() and n_bytes > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{target} needs {n_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB left")


def _matches(name: str) -> bool:
    return not _hidden(Path(name)) and any(Path(name).match(pattern) for pattern in PATTERNS)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _megabytes(path: Path) -> int:
    return max(1, path.stat().st_size // _MB)


@contextlib.contextmanager
def _bars(show: bool) -> Iterator[None]:
    """Context with the hub's progress bars only if `show`."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    if not show:
        disable_progress_bars()
    try:
        yield
    finally:
        if not (show or were_disabled) and not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
            enable_progress_bars()
