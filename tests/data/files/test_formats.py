"""Formats: recognised by content, and what cannot be read is refused with a remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from containers import counts

from cell2sen.data.files.formats import (
    Location,
    decoded,
    delimiter,
    is_binary,
    is_zarr,
    locate,
    mtx_files,
    recognise,
    refuse,
)


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name in names:
            packed.writestr(name, "x")
    return buffer.getvalue()


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(100)
REFUSED = {
    "empty": (b"", "is empty.*fetch it again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git-LFS pointer.*lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s1234--0123.h5ad\n", "git-annex pointer.*annex get"),
    "dvc": (b"outs:\n- md5: abc\n  path: x.h5ad\n", "DVC pointer.*dvc pull"),
    "html": (b"\n <!DOCTYPE html><html><head><title>404</title>", "web page.*download it again"),
    "html_upper": (b"<HTML><BODY>Sign in</BODY></HTML>", "web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML.*download it again"),
    "json": (b'{"message": "not found"}', "JSON.*download it again"),
    "gz_hdf5": (gzip.compress(HDF5), "compressed HDF5.*gunzip"),
    "xz_hdf5": (lzma.compress(HDF5), "compressed HDF5.*unxz"),
    "bz2_hdf5": (bz2.compress(HDF5), "compressed HDF5.*bunzip2"),
    "gz_broken": (gzip.compress(HDF5)[:15], "damaged.*fetch it again"),
    "gz_empty": (gzip.compress(b""), "holds nothing"),
    "tar": (tar("matrix.mtx"), "tar archive.*tar xf"),
    "tar_gz": (gzip.compress(tar("matrix.mtx")), "tar archive.*tar xf"),
    "rds_gz": (gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04"), r"R object.*write_h5ad\(readRDS\(.rds_gz"),
    "rds_xz": (lzma.compress(b"X\n\x00\x00\x00\x03"), "R object"),
    "rds_plain": (b"X\n\x00\x00\x00\x02\x00", "R object"),
    "rdata": (gzip.compress(b"RDX3\nX\n\x00\x00"), r"R workspace.*get\(load\(.rdata"),
    "parquet": (b"PAR1\x15\x04", r"Parquet.*read_parquet\(.parquet"),
    "feather": (b"ARROW1\x00\x00", "Feather.*read_feather"),
    "xlsx": (archive("[Content_Types].xml", "xl/workbook.xml"), "Excel.*read_excel.*index_col=0"),
    "npz": (archive("data.npy", "indices.npy"), "npz.*load_npz"),
    "npy": (b"\x93NUMPY\x01\x00", "NumPy array.*numpy.load"),
    "zip": (archive("readme.txt"), "zip archive with readme.txt.*unzip"),
    "zip_broken": (archive("a")[:30], "damaged zip.*fetch it again"),
    "pickle": (pickle.dumps({"a": 1}), "pickle, which is never read"),
    "fastq": (b"@SRR1\nACGT\n+\nIIII\n", "sequencing reads"),
    "binary": (b"\x00\x01\x02\x03" * 20, "no known format.*write_h5ad"),
    "words": (b"packed\n", "no table of numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("suffix", ["", ".h5ad", ".csv.gz"])
def test_what_cannot_be_read_is_named_with_a_remedy(name: str, suffix: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    file = tmp_path / f"{name}{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){name}{suffix} is .*{message.split('.*')[-1]}") as error:
        recognise(file)
    for part in message.split(".*")[:-1]:
        assert part.replace("\\", "") in str(error.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HDF5, "hdf5"),
        (bytes(512) + HDF5, "hdf5"),
        (b"MuData (format-version=0.1.0)".ljust(512, b"\x00") + HDF5, "hdf5"),
        (archive(".zgroup", "X/.zarray"), "zipped zarr"),
        (archive("top/zarr.json"), "zipped zarr"),
        (b"%%MatrixMarket matrix coordinate integer general\n", "mtx"),
        (gzip.compress(b"%%MatrixMarket matrix coordinate integer general\n", mtime=0), "mtx"),
        (b",A,B\nc1,1,2\n", "table"),
        (b"\xef\xbb\xbfcell\tA\nc1\t1\n", "table"),
        ("cell\tA\nc1\t1\n".encode("utf-16"), "table"),
        (gzip.compress(b"A B\nc1 1 2\n", mtime=0), "table"),
        ("cell,Größe\nc1,1\n".encode("latin-1"), "table"),
    ],
)
def test_formats_that_are_read_under_any_name(content: bytes, kind: str, tmp_path: Path) -> None:
    for name in ("cells.h5ad", "cells"):
        (tmp_path / name).write_bytes(content)
        assert recognise(tmp_path / name) == kind


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no zarr store and no folder with matrix.mtx \(it contains nothing\)"):
        recognise(tmp_path)
    outs = tmp_path / "outs" / "filtered_feature_bc_matrix"
    outs.mkdir(parents=True)
    (outs / "matrix.mtx.gz").write_bytes(gzip.compress(b"%%MatrixMarket"))
    assert recognise(outs) == "mtx"
    assert mtx_files(outs) == [outs / "matrix.mtx.gz"]
    with pytest.raises(ValueError, match=r"pass a file or folder inside of it, such as .*filtered_feature_bc_matrix"):
        recognise(tmp_path)
    counts().write_zarr(tmp_path / "store")
    assert recognise(tmp_path / "store") == "zarr"
    assert is_zarr(tmp_path / "store")
    assert not is_zarr(tmp_path)
    for name, message in (
        ("__tiledb_group.tdb", r"TileDB-SOMA.*to_h5ad\("),
        ("se.rds", "SummarizedExperiment.*writeH5AD"),
    ):
        folder = tmp_path / name.strip("_")[:3]
        folder.mkdir()
        (folder / name).touch()
        (folder / "assays.h5").touch()
        with pytest.raises(ValueError, match=message):
            recognise(folder)


def test_places_inside_of_files(tmp_path: Path) -> None:
    file = tmp_path / "x.h5mu"
    file.write_bytes(HDF5)
    assert locate(file) == Location(file)
    assert locate(str(file / "rna")) == Location(file, "rna")
    assert locate(file / "mod" / "rna") == Location(file, "mod/rna")
    assert str(locate(file / "rna")) == str(file / "rna")
    counts().write_zarr(tmp_path / "store")
    assert locate(tmp_path / "store" / "no" / "such") == Location(tmp_path / "store", "no/such")
    for missing in (tmp_path / "no.h5ad", tmp_path / "no" / "file"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            locate(missing)
    with pytest.raises(FileNotFoundError, match="is an address; download"):
        locate("https://example.org/cells.h5ad")


def test_text_and_delimiters() -> None:
    assert decoded(b"\xef\xbb\xbfa") == "a"
    assert decoded("ä".encode("utf-16")) is not None
    assert decoded(b"a\x00b") is None
    assert decoded("aä".encode()[:-1]) == "a"
    for text, sign in (("a\tb\n1\t2", "\t"), ("a;b\n1,5;2", ";"), ("a,b\n1,2", ","), ("a b\nc 1", " "), ("a\nb", None)):
        assert delimiter(f"# comment, with signs\n{text}") == sign
    assert delimiter("") is None


def test_binary_files_are_told_from_texts(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    assert not is_binary(tmp_path / "x")
    (tmp_path / "x").write_bytes(HDF5)
    assert is_binary(tmp_path / "x")


def test_a_refusal_names_the_file_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r'^dir/a.b.rds is R: read "a.b.rds" to a.h5ad$'):
        refuse(Path("dir/a.b.rds"), "R", 'read "{name}" to {stem}.h5ad')


def test_a_pipe_is_no_file_that_is_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        recognise(tmp_path / "pipe")
