"""Shards: Parquet files with checksums that exist complete or not at all; failures, and what is left to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cell2sen.atlas.plan_file import Plan
from cell2sen.data.output import complete_file

MANIFEST_FILE = "manifest.json"

#: Shards in a folder.
_PER_FOLDER = 1000


class Damaged(ValueError):
    """Error for a shard that cannot be read, or that is not of the plan."""


def shard_file(folder: Path, number: int) -> Path:
    """File of a shard."""
    return folder / "shards" / f"{number // _PER_FOLDER:03d}" / f"{number:06d}.parquet"


def failure_file(folder: Path, number: int) -> Path:
    """File with the last error of a shard."""
    return folder / "failed" / f"{number:06d}.txt"


def genes_file(folder: Path, number: int) -> Path:
    """File with the genes of the predictions of an input."""
    return folder / "genes" / f"{number:06d}.parquet"


def to_bytes(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """A table as Parquet with zstd and page checksums. Equal tables have equal bytes.

    Parameters
    ----------
    metadata
        Plain values for the schema.
    """
    texts = {key: json.dumps(value, ensure_ascii=True) for key, value in metadata.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(texts), sink, compression="zstd", write_page_checksum=True, row_group_size=2**20
    )
    return bytes(sink.getvalue())


def publish(file: Path, content: bytes) -> None:
    """Write a file that appears complete under its name, also after a loss of power; the last of several writers wins.

    Raises
    ------
    OSError
        The disk is full, or the folder may not be written to. Nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(file) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if os.name == "posix":
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no such call for folders
                os.fsync(folder)
        finally:
            os.close(folder)


def metadata_of(file: Path) -> dict[str, Any]:
    """Plain values in the schema of a shard, from its last bytes alone.

    Raises
    ------
    Damaged
        It is not complete, or its end is damaged.
    """
    try:
        texts = pq.read_schema(file).metadata or {}
        return {key.decode(): json.loads(value) for key, value in texts.items() if not key.startswith(b"ARROW")}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise Damaged(_damage(file, error)) from error


def read_shard(file: Path, plan: Plan, number: int) -> tuple[pa.Table, dict[str, Any]]:
    """Table and metadata of a shard, after a check of all checksums.

    Raises
    ------
    Damaged
        A byte was changed, or it belongs to another plan.
    """
    metadata = check_shard(file, plan, number)
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise Damaged(_damage(file, error)) from error
    return table, metadata


def check_shard(file: Path, plan: Plan, number: int) -> dict[str, Any]:
    """Metadata of a shard of this plan; see :func:`read_shard`. Its values are not read."""
    metadata = metadata_of(file)
    if metadata.get("plan") != plan.id:
        raise Damaged(
            f"{file} belongs to another plan ({str(metadata.get('plan'))[:12]}, not {plan.id[:12]}): remove it"
        )
    if metadata.get("shard") != number:
        raise Damaged(f"{file} has the content of shard {metadata.get('shard')}: remove it, and run again")
    return metadata


def finished(folder: Path, plan: Plan) -> set[int]:
    """Numbers of the shards that are there. Only names are read."""
    found = set()
    for part in sorted({number // _PER_FOLDER for number in range(len(plan.shards))}):
        directory = shard_file(folder, part * _PER_FOLDER).parent
        if directory.is_dir():
            found |= {int(file.stem) for file in directory.glob("[0-9]*.parquet")}
    return {number for number in found if number < len(plan.shards)}


def left_to_do(folder: Path, plan: Plan) -> list[int]:
    """Numbers of the shards that are not there; those that are must be of this plan and complete."""
    done = finished(folder, plan)
    for number in sorted(done):
        check_shard(shard_file(folder, number), plan, number)
    return [number for number in range(len(plan.shards)) if number not in done]


def cells_done(plan: Plan, left: list[int]) -> int:
    """Cells that are done."""
    return plan.n_cells - sum(plan.shards[number][2] - plan.shards[number][1] for number in left)


def failures(folder: Path) -> dict[int, str]:
    """Shard → its last error."""
    found = {}
    for file in sorted((folder / "failed").glob("[0-9]*.txt")):
        with contextlib.suppress(FileNotFoundError):  # a worker has made it since
            found[int(file.stem)] = file.read_text(encoding="utf-8")
    return found


def failure_times(folder: Path) -> dict[int, int]:
    """Shard → when its last error was written, in nanoseconds."""
    found = {}
    for file in (folder / "failed").glob("[0-9]*.txt"):
        with contextlib.suppress(FileNotFoundError):
            found[int(file.stem)] = file.stat().st_mtime_ns
    return found


def cause(error: str) -> str:
    """Last line of an error, for people."""
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def leftovers(folder: Path) -> list[Path]:
    """Temporary files of writers that were killed, or that still write."""
    places = [folder, folder / "failed", folder / "genes", *(folder / "shards").glob("*")]
    return sorted(file for place in places if place.is_dir() for file in place.glob(".*") if file.is_file())


def write_manifest(folder: Path, plan: Plan) -> dict[str, Any]:
    """Sizes and hashes of all shards of a finished run, and one hash over them.

    Raises
    ------
    Damaged
        A shard cannot be read.
    """
    rows, whole = [], hashlib.sha256()
    environments: dict[str, int] = {}
    for number in range(len(plan.shards)):
        file = shard_file(folder, number)
        metadata = check_shard(file, plan, number)
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        whole.update(digest.encode())
        rows.append({"shard": number, "rows": metadata["rows"], "bytes": len(content), "sha256": digest})
        environment = json.dumps(metadata["environment"], sort_keys=True)
        environments[environment] = environments.get(environment, 0) + 1
    manifest = {
        "plan": plan.id,
        "sha256": whole.hexdigest(),
        "rows": sum(int(row["rows"]) for row in rows),
        "environments": [{"shards": n, **json.loads(text)} for text, n in sorted(environments.items())],
        "shards": rows,
    }
    publish(folder / MANIFEST_FILE, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return manifest


def read_manifest(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The manifest of a finished run; ``None`` if there is none.

    Raises
    ------
    Damaged
        It is of another plan, or no JSON.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{file} cannot be read ({error}): remove it, and run again") from error
    if manifest.get("plan") != plan.id:
        raise Damaged(f"{file} is of another plan: remove it, and run again")
    return manifest


def sha256(file: Path) -> str:
    """Hash of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damage(file: Path, error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{file} is damaged ({text}): remove it (cell2sen status {file.parents[2]} --verify --clean), and run again"
