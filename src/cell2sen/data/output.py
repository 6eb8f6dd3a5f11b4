"""Output files and folders that appear complete under their final name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cell2sen.data.files.formats import is_zarr, locate
from cell2sen.data.files.frames import text_of
from cell2sen.data.files.opening import is_plain_h5ad, read_anndata

if TYPE_CHECKING:
    from anndata import AnnData


@contextlib.contextmanager
def complete_file(path: str | Path, *inputs: str | Path) -> Iterator[Path]:
    """Temporary path beside `path`, renamed to `path` if the block ends without an error, else removed.

    Parameters
    ----------
    inputs
        Files that must not be overwritten.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        `path` is an input or a folder, its folder does not exist or may not be written to. Raised before the block
        runs, so that no work is lost.
    OSError
        The disk is full.
    """
    path = Path(path)
    for file in inputs:
        _refuse_input(path, file)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    folder = _require_folder_of(path)
    try:
        remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(f"no permission to write to {folder}; choose another output") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except RuntimeError as error:
        if f"errno = {errno.ENOSPC}," not in str(error):
            raise
        # HDF5 reports a full disk when it closes a file, which h5py raises as a RuntimeError.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Temporary folder beside `path`, renamed to `path` if the block ends without an error, else removed.

    Raises
    ------
    FileNotFoundError
        The folder of `path` does not exist.
    """
    _require_folder_of(path)
    remove_stale(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):  # safetensors writes files that only their owner may read
            file.chmod(0o755 if file.is_dir() else 0o644)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _require_folder_of(path: Path) -> Path:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write {path.name} to; create it first")
    return folder


def remove_stale(path: Path) -> None:
    """Remove temporary files and folders of `path` whose process was killed. Those of other machines stay."""
    for temporary in path.absolute().parent.glob(glob.escape(_prefix(path, process="")) + "*"):
        process = temporary.name.removeprefix(_prefix(path, process="")).split(".")[0]
        if process == _process() or _is_running(process):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _prefix(path: Path, process: str | None = None) -> str:
    """Beginning of the names of temporary files: the output, this machine, this process and when it started."""
    process = f"{_process()}." if process is None else process
    return f".{path.name[:100]}.{_machine()}.{process}"


@lru_cache(maxsize=1)
def _machine() -> str:
    """Name of the machine or container, in which the number of a process is unique."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError, ValueError):
        parts.append(Path("/etc/machine-id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))  # numbers of processes are those of a container
    return hashlib.blake2b("|".join(parts).encode(), digest_size=4).hexdigest()


def _process() -> str:
    return f"{os.getpid()}-{_start_time(os.getpid())}"


def _is_running(process: str) -> bool:
    """Whether a process still runs: its number may belong to another one that started later."""
    number, _, start = process.partition("-")
    if not number.isdecimal() or os.name != "posix":
        return True
    try:
        os.kill(int(number), 0)  # sends no signal
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return _start_time(int(number)) == start


def _start_time(process: int) -> str:
    """When a process started, in ticks since the machine did; 0 where the system does not tell."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[19]
    return "0"


def _refuse_input(path: Path, file: str | Path) -> None:
    """Raise a ValueError if an output is an input, or a file inside of one."""
    try:
        given = locate(file).file
    except FileNotFoundError:
        return
    if path.exists() and path.samefile(given):
        raise ValueError(f"{path} is the input file, which is never changed; choose another name for the output")
    if given.is_dir() and is_zarr(given) and given.resolve() in path.resolve().parents:
        raise ValueError(f"{path} is inside of the input {given}, which is never changed; choose another folder")


def write_results(
    file: str | Path,
    out: Path,
    adata: AnnData,
    *,
    obsm: str | Sequence[str] = (),
    obs: Sequence[str] = (),
    obsp: Sequence[str] = (),
    uns: str | Sequence[str] = "cell2sen",
) -> None:
    """Copy of `file` at `out` as .h5ad, with results: columns of obs, keys of obsm, obsp and uns.

    Of an .h5ad in today's layout the rest is copied unread; files of other formats are read and written whole.
    """
    import h5py
    from anndata.io import write_elem

    keys = [obsm] if isinstance(obsm, str) else list(obsm)
    records = [uns] if isinstance(uns, str) else list(uns)
    if not is_plain_h5ad(file):
        whole = read_anndata(file)
        for column in obs:
            whole.obs[column] = adata.obs[column].values
        for key in keys:
            whole.obsm[key] = adata.obsm[key]
        for key in obsp:
            whole.obsp[key] = adata.obsp[key]
        for key in records:
            whole.uns[key] = adata.uns[key]
        whole.write_h5ad(out, compression="gzip")
        return
    shutil.copyfile(file, out)
    with h5py.File(out, "r+") as target:
        for group in ("obsm", "obsp", "uns"):
            if group not in target:
                write_elem(target, group, {})
        stored = target["obs"]
        for column in obs:
            write_elem(stored, column, adata.obs[column].values)
        if obs:
            order = [str(text_of(name)) for name in stored.attrs.get("column-order", ())]
            stored.attrs["column-order"] = np.array([*dict.fromkeys([*order, *obs])], dtype=h5py.string_dtype())
        for key in keys:
            write_elem(target, f"obsm/{key}", adata.obsm[key])
        for key in obsp:
            write_elem(target, f"obsp/{key}", adata.obsp[key])
        for key in records:
            write_elem(target, f"uns/{key}", adata.uns[key])
