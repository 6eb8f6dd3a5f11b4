"""Status: what is done, failed or damaged."""

from __future__ import annotations

import os

import pytest
from atlas_runs import contents, shard

from cell2sen import atlas
from cell2sen.atlas import shards
from cell2sen.atlas.plan_file import Plan


def test_a_damaged_shard_is_refused_found_and_made_again(planned) -> None:
    folder, plan = planned("embed")
    atlas.run(folder, progress=False)
    before, file = contents(folder), shard(folder, 1)
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)
    assert list(atlas.status(folder, verify=True).damaged) == [1]
    with pytest.raises(shards.Damaged, match=r"000001\.parquet is"):
        atlas.collect(folder, folder.with_suffix(".h5ad"), progress=False)
    file.write_bytes(bytes(content[:-9]))
    with pytest.raises(shards.Damaged, match=r"damaged \(.*--verify --clean"):
        atlas.run(folder, progress=False)
    assert list(atlas.status(folder, verify=True, clean=True).damaged) == [1]
    assert atlas.run(folder, progress=False).finished
    assert contents(folder) == before
    assert Plan.read(folder).id == plan.id


def test_left_overs_of_killed_writers_are_removed_after_an_hour(planned) -> None:
    folder, _ = planned("embed")
    atlas.run(folder, progress=False)
    for name, age in ((".000001.parquet.old", 7200), (".000002.parquet.new", 0)):
        file = shard(folder, 0).with_name(name)
        file.write_bytes(b"")
        stamp = file.stat().st_mtime - age
        os.utime(file, (stamp, stamp))
    assert atlas.status(folder).leftovers == 2
    assert atlas.status(folder, clean=True).leftovers == 1
    assert "1 temporary files" in str(atlas.status(folder))


def test_mixtures_of_machines_are_named(planned, monkeypatch) -> None:
    from cell2sen.atlas import worker

    folder, plan = planned("embed")
    worker.Worker(folder, plan).do(0)
    monkeypatch.setattr(worker, "_processor", lambda: "Another CPU")
    status = atlas.run(folder, progress=False)
    assert [(each["shards"], each["device"]) for each in status.environments] in (
        [(1, "cpu"), (4, "cpu")],
        [(4, "cpu"), (1, "cpu")],
    )
    assert "several kinds of machines" in str(status)
    assert "4 on Another CPU" in str(status)
