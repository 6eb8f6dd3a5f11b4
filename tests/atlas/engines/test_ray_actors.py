"""Ray: actors, lost and restarted; a cluster of two nodes that loses one."""

from __future__ import annotations

from typing import Any

import pytest
from atlas_runs import contents

from cell2sen import atlas
from cell2sen.atlas.engines import ray_actors


class _Lost(Exception):
    """Of an actor that died."""


class _Remote:
    """Actors without Ray: every third call is lost with its actor."""

    exceptions = type("exceptions", (), {"RayActorError": _Lost})

    def __init__(self) -> None:
        self.calls = 0

    def wait(self, calls: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Any) -> str | None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise _Lost
        return call.compute()


class _Call:
    def __init__(self, do: Any, number: int) -> None:
        self.do, self.number = do, number

    def compute(self) -> str | None:
        return self.do(self.number)


class _Handle:
    """Handle of an actor whose calls are computed when they are fetched."""

    def __init__(self, folder: Any) -> None:
        actor = ray_actors._Actor(str(folder), "cpu", True)
        self.do = type("do", (), {"remote": staticmethod(lambda number: _Call(actor.do, number))})


def test_a_lost_shard_is_given_out_again(planned) -> None:
    (first, plan), (second, _) = planned("embed", "one"), planned("embed", "two")
    atlas.run(first, progress=False)
    reported: list[tuple[int, bool]] = []
    ray_actors._dispatch(
        _Remote(), [_Handle(second), _Handle(second)], list(range(len(plan.shards))), lambda *v: reported.append(v)
    )  # type: ignore[arg-type]
    assert sorted(reported) == [(number, False) for number in range(5)]
    assert atlas.run(second, progress=False).finished
    assert contents(first) == contents(second)


def test_without_ray_the_extra_is_named(planned, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    folder, _ = planned("embed")
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[ray\]'"):
        atlas.run(folder, ray="local", progress=False)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node(planned, monkeypatch) -> None:
    """Two nodes on this machine; the one that does the work is removed in the middle."""
    import threading
    import time
    from pathlib import Path

    import cell2sen

    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(cell2sen.__file__).parents[1]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (first, _), (second, _) = planned("embed", "one", shard_cells=1), planned("embed", "two", shard_cells=1)
    atlas.run(first, progress=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)

        def lose() -> None:
            while atlas.status(second).done < 3:
                time.sleep(0.1)
            cluster.remove_node(node, allow_graceful=False)

        watch = threading.Thread(target=lose, daemon=True)
        watch.start()
        assert atlas.run(second, ray="auto", workers=2, progress=False).finished
        watch.join(30)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert contents(first) == contents(second)
