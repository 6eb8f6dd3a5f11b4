"""Runs: the same bytes whatever happens on the way, or a refusal that names the cause."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from atlas_runs import contents, shard

from cell2sen import atlas
from cell2sen.atlas import shards, worker
from cell2sen.atlas.worker import Worker

SOURCE = str(Path(worker.__file__).parents[2])


def test_a_run_continues_with_the_same_bytes(planned) -> None:
    (first, _), (second, plan) = planned("embed", "one"), planned("embed", "two")
    assert atlas.run(first, progress=False).finished
    Worker(second, plan).do(3)
    half = atlas.status(second)
    assert (half.done, half.cells_done, half.finished) == (1, 5, False)
    assert atlas.run(second, progress=False).finished
    assert contents(first) == contents(second)


@pytest.mark.parametrize("count", [2, 3])
def test_any_worker_finishes_everything(planned, count) -> None:
    (first, _), (second, _) = planned("embed", "one"), planned("embed", "two")
    atlas.run(first, progress=False)
    assert atlas.run(second, index=count - 1, count=count, progress=False).finished
    assert contents(first) == contents(second)


@pytest.mark.slow
def test_a_killed_process_leaves_whole_shards(planned) -> None:
    (first, _), (second, _) = planned("embed", "one"), planned("embed", "two")
    atlas.run(first, progress=False)
    program = (
        "import os, sys, signal; from cell2sen.atlas import shards, running; publish = shards.publish; n = [0]\n"
        "def dying(file, content):\n"
        "    n[0] += 1\n"
        "    if n[0] == 3:\n"
        "        (file.parent / '.000002.parquet.part').write_bytes(content[:100])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    publish(file, content)\n"
        "shards.publish = dying; running.run(sys.argv[1], progress=False)"
    )
    values = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", program, str(second)], env=values, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert atlas.status(second).leftovers == 1
    assert atlas.run(second, progress=False).finished
    assert contents(first) == contents(second)


def test_a_shard_of_another_plan_is_refused(planned) -> None:
    (first, _), (second, _) = planned("embed", "one"), planned("embed", "two", pooling="last")
    atlas.run(first, progress=False)
    shard(second, 0).parent.mkdir(parents=True)
    shard(second, 0).write_bytes(shard(first, 0).read_bytes())
    with pytest.raises(shards.Damaged, match="belongs to another plan"):
        atlas.run(second, progress=False)


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(planned, monkeypatch) -> None:
    folder, _ = planned("embed")
    publish, written = shards.publish, []

    def full(file: Path, content: bytes) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        written.append(file)
        publish(file, content)

    monkeypatch.setattr(shards, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        atlas.run(folder, progress=False)
    assert atlas.status(folder).done == 2
    monkeypatch.undo()
    assert atlas.run(folder, progress=False).finished


def test_other_versions_are_a_warning_or_refused(planned, monkeypatch, caplog) -> None:
    folder, _ = planned("embed")
    monkeypatch.setattr(worker.importlib.metadata, "version", lambda name: "0.0")
    with pytest.raises(ValueError, match=r"other versions than the plan: anndata 0.0 \(planned"):
        atlas.run(folder, strict=True, progress=False)
    status = atlas.run(folder, progress=False)
    assert status.finished
    assert status.environments[0]["versions"]["numpy"] == "0.0"


def test_progress_counts_cells_and_rate(planned) -> None:
    seen: list[Any] = []
    folder, _ = planned("embed")
    atlas.run(folder, progress=lambda *values: seen.append(values))
    assert seen[0] == ("embed", 0, 20)
    assert seen[-1] == ("embed", 20, 20)
