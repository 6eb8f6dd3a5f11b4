"""Shards: bytes that repeat, checksums that find a changed byte."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cell2sen.atlas import shards


def a_table() -> pa.Table:
    return pa.table({"cell": [f"c{n}" for n in range(50)], "vector": [[float(n), 0.5] for n in range(50)]})


def test_equal_tables_have_equal_bytes() -> None:
    assert shards.to_bytes(a_table(), {"plan": "p"}) == shards.to_bytes(a_table(), {"plan": "p"})


def test_every_changed_byte_of_the_data_is_found(planned, tmp_path) -> None:
    _, plan = planned("embed")
    content = shards.to_bytes(a_table(), {"plan": plan.id, "shard": 0})
    file = shards.shard_file(tmp_path, 0)
    shards.publish(file, content)
    assert shards.read_shard(file, plan, 0)[0].equals(a_table())
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(4, end, 37):
        changed = bytearray(content)
        changed[place] ^= 4
        file.write_bytes(changed)
        try:
            table, _ = shards.read_shard(file, plan, 0)
        except shards.Damaged:
            continue
        assert table.equals(a_table())  # a byte that no reader looks at


def test_publish_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        shards.publish(tmp_path / "shards" / "a.parquet", b"content")
    assert not list((tmp_path / "shards").iterdir())


def test_cause_is_the_last_line() -> None:
    assert shards.cause("Traceback\n  x\nValueError: no\n\n") == "ValueError: no"
    assert shards.cause("") == "unknown"
