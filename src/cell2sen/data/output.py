"""Output files and folders that appear complete under their final name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

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
    if any(Path(file).exists() and path.exists() and path.samefile(file) for file in inputs):
        raise ValueError(f"{path} is the input file, which is never changed; choose another name for the output")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write {path.name} to; create it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=folder)
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
    """Temporary folder beside `path`, renamed to `path` if the block ends without an error, else removed."""
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):  # safetensors writes files that only their owner may read
            file.chmod(0o755 if file.is_dir() else 0o644)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_results(file: Path, out: Path, adata: AnnData, *, obsm: str) -> None:
    """Copy of `file` at `out` with the results in obs, ``obsm[obsm]`` and ``uns["cell2sen"]``; the rest is not read.

    Results of a .zarr store are written with the whole of `adata`.
    """
    import h5py
    from anndata.io import write_elem

    if file.suffix == ".zarr":
        adata.write_h5ad(out, compression="gzip")
        return
    shutil.copyfile(file, out)
    with h5py.File(out, "r+") as target:
        for group in ("obsm", "uns"):
            if group not in target:
                write_elem(target, group, {})
        write_elem(target, "obs", adata.obs)
        write_elem(target, f"obsm/{obsm}", adata.obsm[obsm])
        write_elem(target, "uns/cell2sen", adata.uns["cell2sen"])
