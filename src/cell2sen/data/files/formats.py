"""Format of a file or folder, recognised by its content; what cannot be read is refused with a way to convert it."""

from __future__ import annotations

import lzma
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from cell2sen.data.names.text_files import compression, encoding_of, open_unpacked

Format = Literal["hdf5", "zarr", "zipped zarr", "mtx", "table"]

#: Files that mark the root of a zarr group, of format 2 and 3.
ZARR_MARKS = (".zgroup", "zarr.json", ".zmetadata")

#: Bytes of the beginning of a file that are looked at.
_HEAD = 2**16
#: Maximum bytes of the first lines of a table.
_MAX_HEAD = 2**26

_DOWNLOAD = "download it again, and look at its first lines"
_PYTHON_TABLE = (
    'in Python, anndata.AnnData(pandas.{read}("{name}"{options})).write_h5ad("{stem}.h5ad") turns it into .h5ad, '
    "if its rows are cells and its index holds their names (.T turns it, .set_index(COLUMN) names the rows)"
)
_R_OBJECT = (
    'in R, anndataR::write_h5ad({read}("{name}"){close}, "{stem}.h5ad") turns a Seurat object or SingleCellExperiment '
    "into .h5ad"
)

#: First bytes → name of a format that is not read, and what to do.
_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet table", _PYTHON_TABLE.replace("{read}", "read_parquet").replace("{options}", "")),
    (b"ARROW1", "a Feather (Arrow) table", _PYTHON_TABLE.replace("{read}", "read_feather").replace("{options}", "")),
    (b"FEA1", "a Feather table", _PYTHON_TABLE.replace("{read}", "read_feather").replace("{options}", "")),
    (b"RDX", "an R workspace (.RData)", _R_OBJECT.replace("{read}", "get(load").replace("{close}", ")")),
    (b"RDA", "an R workspace (.RData)", _R_OBJECT.replace("{read}", "get(load").replace("{close}", ")")),
    (b"X\n\x00\x00\x00", "an R object (.rds)", _R_OBJECT.replace("{read}", "readRDS").replace("{close}", "")),
    (b"B\n\x02\x00\x00", "an R object (.rds)", _R_OBJECT.replace("{read}", "readRDS").replace("{close}", "")),
    (b"B\n\x03\x00\x00", "an R object (.rds)", _R_OBJECT.replace("{read}", "readRDS").replace("{close}", "")),
    (b"A\n2\n", "an R object (.rds)", _R_OBJECT.replace("{read}", "readRDS").replace("{close}", "")),
    (b"A\n3\n", "an R object (.rds)", _R_OBJECT.replace("{read}", "readRDS").replace("{close}", "")),
    (b"\x0b\x0e\x0a\x0c", "an R object (.qs)", _R_OBJECT.replace("{read}", "qs::qread").replace("{close}", "")),
    (
        b"\x93NUMPY",
        "a NumPy array without names of cells and genes",
        'in Python, anndata.AnnData(numpy.load("{name}"), obs=OBS, var=VAR).write_h5ad("{stem}.h5ad") adds them',
    ),
    (
        b"\xd0\xcf\x11\xe0",
        "an old Excel file (.xls)",
        _PYTHON_TABLE.replace("{read}", "read_excel").replace("{options}", ", index_col=0"),
    ),
    (b"MATLAB", "a MATLAB file", "write its matrix with the names of cells and genes as a .csv table"),
    (b"SQLite", "an SQLite database", "export its matrix with the names of cells and genes as a .csv table"),
    (b"%PDF", "a PDF document", "pass the data instead"),
    (b"BAM\x01", "aligned reads (BAM)", "pass the matrix of counts that was computed from them"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it, and pass a file of it"),
    (b"Rar!", "a RAR archive", "unpack it, and pass a file of it"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", 'unpack it first: zstd -d "{name}"'),
    (b"\x89PNG", "a picture", "pass the data instead"),
    (b"\xff\xd8\xff", "a picture", "pass the data instead"),
)

#: First characters of a text → what it is, and what to do.
_REFUSED_TEXTS: tuple[tuple[str, str, str], ...] = (
    (r"version https://git-lfs", "a git-LFS pointer, not the data", 'fetch the data: git lfs pull --include "{name}"'),
    (r"\S*annex/objects/", "a git-annex pointer, not the data", 'fetch the data: git annex get "{name}"'),
    (r"(?s)(md5: .*)?outs:\s*\n\s*- ", "a DVC pointer, not the data", "fetch the data: dvc pull"),
    (r"(?i)<(!doctype html|html|head|body)", "a web page (HTML) instead of data", _DOWNLOAD),
    (r"<", "an XML text instead of data, perhaps the error message of a server", _DOWNLOAD),
    (r"[{\[]", "a JSON text instead of data, perhaps the error message of a server", _DOWNLOAD),
    (r"@\S+.*\n[ACGTN.]+\r?\n\+", "sequencing reads (FASTQ)", "pass the matrix of counts that was computed from them"),
)


@dataclass(frozen=True)
class Location:
    """Place of a matrix: a file or folder, and the name of a group inside of it."""

    file: Path
    inside: str = ""

    def __str__(self) -> str:
        return str(self.file / self.inside) if self.inside else str(self.file)


def locate(path: str | Path) -> Location:
    """The file or store of a path, which may go on inside of it: ``cells.h5mu/rna``, ``sample.h5/GRCh38``.

    Raises
    ------
    FileNotFoundError
        No such file.
    """
    path = Path(path)
    if path.exists():
        return Location(path)
    for parent in path.parents:
        if parent.is_file() or (parent.is_dir() and is_zarr(parent)):
            return Location(parent, path.relative_to(parent).as_posix())
        if parent.is_dir():
            break
    if re.match(r"[A-Za-z][A-Za-z0-9+]+:/", str(path)):
        raise FileNotFoundError(f"{path} is an address; download the file and pass its path")
    raise FileNotFoundError(f"there is no file {path}")


def is_binary(file: Path) -> bool:
    """Whether a file is no text."""
    with file.open("rb") as stream:
        return decoded(stream.read(_HEAD)) is None


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr group."""
    return any((folder / mark).is_file() for mark in ZARR_MARKS)


def mtx_files(folder: Path) -> list[Path]:
    """Matrix Market files of a folder."""
    return sorted(path for path in folder.iterdir() if re.search(r"\.mtx(\.gz)?$", path.name.lower()))


def recognise(file: Path) -> Format:
    """Format of an existing file or folder.

    Raises
    ------
    ValueError
        The format is not read; the message names it and how to convert it.
    """
    if file.is_dir():
        return _of_folder(file)
    if not file.is_file():
        raise ValueError(f"{file} is no regular file but a pipe or device: write it to a file on the disk first")
    with file.open("rb") as stream:
        head = head_of(stream)
    if not head:
        raise ValueError(f"{file} is empty (0 bytes): a copy or download was interrupted; fetch it again")
    if _is_hdf5(file, head):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(file)
    if compression(file) is None:
        return _of_head(file, head)
    with open_unpacked(file) as unpacked:
        return _of_packed(file, unpacked, {"gzip": "gunzip", "bz2": "bunzip2", "xz": "unxz"}[str(compression(file))])


def head_of(stream: BinaryIO) -> bytes:
    """The first bytes of a file; of a text at least three lines, since one may name many thousand genes."""
    head = stream.read(_HEAD)
    if head.count(b"\n") < 3 and decoded(head) is not None:
        while head.count(b"\n") < 3 and len(head) < _MAX_HEAD and (more := stream.read(2**22)):
            head += more
    return head


def refuse(file: Path, name: str, remedy: str) -> NoReturn:
    """Raise a ValueError for a format that is not read; ``{name}`` and ``{stem}`` in `remedy` are those of the file."""
    stem = file.name.split(".")[0] or "cells"
    raise ValueError(f"{file} is {name}: {remedy.replace('{name}', file.name).replace('{stem}', stem)}")


def _is_hdf5(file: Path, head: bytes) -> bool:
    signature = b"\x89HDF\r\n\x1a\n"
    # A block of a user's own, such as MuData's, may come first; its size is a power of two.
    return any(head[start : start + 8] == signature for start in (0, 512, 1024, 2048, 4096, 8192))


def _of_folder(folder: Path) -> Format:
    if is_zarr(folder):
        return "zarr"
    if mtx_files(folder):
        return "mtx"
    names = {path.name for path in folder.iterdir()}
    if "__tiledb_group.tdb" in names or "__group" in names:
        refuse(
            folder,
            "a TileDB-SOMA store",
            'in Python, tiledbsoma.io.to_h5ad(tiledbsoma.open("{name}"), "{stem}.h5ad", "RNA") turns it into .h5ad',
        )
    if {"assays.h5", "se.rds"} <= names:
        refuse(
            folder,
            "a SummarizedExperiment of R (HDF5Array)",
            'in R, zellkonverter::writeH5AD(HDF5Array::loadHDF5SummarizedExperiment("{name}"), "{stem}.h5ad") '
            "turns it into .h5ad",
        )
    inner = _inside(folder)
    hint = f"; pass a file or folder inside of it, such as {', '.join(inner)}" if inner else ""
    files = ", ".join(sorted(names)[:5]) or "nothing"
    raise ValueError(
        f"{folder} is a directory, but no zarr store and no folder with matrix.mtx (it contains {files}){hint}"
    )


def _inside(folder: Path) -> list[str]:
    """Some files and folders inside of a folder that may hold a matrix."""
    found: list[str] = []
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(pattern))[:1000]:
            is_store = path.is_dir() and (is_zarr(path) or bool(mtx_files(path)))
            if is_store or path.suffix in (".h5ad", ".h5", ".h5mu", ".loom"):
                found.append(str(path))
        if found:
            break
    return found[:4]


def _of_zip(file: Path) -> Format:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is a damaged zip archive ({error}): fetch it again") from error
    if any(Path(name).name in ZARR_MARKS for name in names):
        return "zipped zarr"
    if any(name.startswith("xl/") for name in names):
        refuse(
            file,
            "an Excel file (.xlsx)",
            _PYTHON_TABLE.replace("{read}", "read_excel").replace("{options}", ", index_col=0"),
        )
    if names and all(name.endswith(".npy") for name in names):
        refuse(
            file,
            "a NumPy archive (.npz) without names of cells and genes",
            'in Python, anndata.AnnData(scipy.sparse.load_npz("{name}"), obs=OBS, var=VAR).write_h5ad("{stem}.h5ad") '
            "adds them",
        )
    if any(name.endswith("data.pkl") for name in names):
        refuse(file, "a PyTorch file", "pass the AnnData file of the cells instead")
    refuse(file, f"a zip archive with {', '.join(names[:3]) or 'nothing'}", 'unpack it first: unzip "{name}"')


def _of_packed(file: Path, unpacked: BinaryIO, command: str) -> Format:
    try:
        head = head_of(unpacked)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{file} is compressed and damaged ({error}): fetch it again") from error
    if not head:
        raise ValueError(f"{file} is compressed and holds nothing: fetch it again")
    if _is_hdf5(file, head):
        packed = file.suffix in (".gz", ".bz2", ".xz")
        target = "" if packed else " -c > unpacked.h5ad <"
        refuse(file, "a compressed HDF5 file", f'unpack it first: {command}{target} "{{name}}"')
    if head[257:262] == b"ustar":
        refuse(file, "a tar archive", 'unpack it first: tar xf "{name}"')
    return _of_head(file, head)


def _of_head(file: Path, head: bytes) -> Format:
    """Format of a file by its (unpacked) first bytes."""
    for magic, name, remedy in _REFUSED:
        if head.startswith(magic):
            refuse(file, name, remedy)
    if head[257:262] == b"ustar":
        refuse(file, "a tar archive", 'unpack it first: tar xf "{name}"')
    if re.match(rb"\x80[\x02-\x05]", head):
        refuse(
            file,
            "a Python pickle, which is never read since it can run any code",
            "write an .h5ad file (adata.write_h5ad) where it was made",
        )
    text = decoded(head)
    if text is None:
        refuse(file, "of no known format", "pass an .h5ad file; in Python, adata.write_h5ad writes one")
    start = text.lstrip()
    for pattern, name, remedy in _REFUSED_TEXTS:
        if re.match(pattern, start):
            refuse(file, name, remedy)
    if start.startswith("%%MatrixMarket"):
        return "mtx"
    if not delimiter(text):
        refuse(
            file,
            f"a text, but no table of numbers (it begins with {start[:40]!r})",
            "pass an .h5ad file, or a table with the names of genes in the first row or column",
        )
    return "table"


def decoded(head: bytes) -> str | None:
    """Text of the first bytes of a file; ``None`` if they are no text."""
    encoding = encoding_of(head)
    if not encoding.startswith("utf-8"):
        return head[: len(head) // 4 * 4].decode(encoding, errors="replace")
    if b"\x00" in head:
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 4:  # a character that the end of the head divides
            return head[: error.start].decode("utf-8-sig")
        text = head.decode("latin-1")
        return None if re.search(r"[\x01-\x08\x0e-\x1f]", text) else text


def delimiter(text: str) -> str | None:
    """Delimiter of the columns of a table, by its first two lines; ``None`` if there is none."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")][:2]
    if len(lines) < 2:
        return None
    # Of the header: decimal commas and spaces are in the lines below it.
    counts = {sign: lines[0].count(sign) for sign in ("\t", ",", ";") if all(sign in line for line in lines)}
    return max(counts, key=lambda sign: counts[sign]) if counts else " " if all(" " in line for line in lines) else None
