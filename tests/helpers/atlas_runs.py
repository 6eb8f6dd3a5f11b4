"""Bytes of the shards of a run."""

from __future__ import annotations

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Shards and manifest, by name."""
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.glob("shards/*/*.parquet")}
    return found | {"manifest": (folder / "manifest.json").read_bytes()}


def shard(folder: Path, number: int) -> Path:
    return folder / "shards" / "000" / f"{number:06d}.parquet"
