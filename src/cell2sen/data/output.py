"""Output files: complete under their final name, or not there at all."""

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
def complete(path: str | Path, *inputs: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name if the block ends without an error, and vanishes otherwise.

    Parameters
    ----------
    inputs
        Files that must not be overwritten.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        `path` is an input, its folder does not exist or may not be written to. Raised before the block runs, so that no
        work is lost.
    OSError
        The disk is full.
    """
    path = Path(path)
    if any(Path(one).exists() and path.exists() and path.samefile(one) for one in inputs):
        raise ValueError(f"{path} is the input file, which is never changed; choose another name for the output")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write {path.name} to; make it first")
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
        # HDF5 notices a full disk when it closes a file, and h5py then raises this.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_results(file: Path, out: Path, adata: AnnData, *, obsm: str) -> None:
    """A copy of `file` with the results in obs, ``obsm[obsm]`` and uns. All else is copied as it is, and never read."""
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
