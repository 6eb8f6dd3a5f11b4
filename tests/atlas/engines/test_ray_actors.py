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
    """Actors without Ray: every third shard is lost with its actor, which comes back if it may."""

    exceptions = type("exceptions", (), {"RayActorError": _Lost})

    def __init__(self, restarts: bool = True) -> None:
        self.calls, self.restarts = 0, restarts

    def wait(self, calls: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Any) -> str | None:
        if call.number is None:
            if not self.restarts:
                raise _Lost
            return None
        self.calls += 1
        if self.calls % 3 == 0:
            raise _Lost
        return call.do(call.number)


class _Call:
    def __init__(self, do: Any, number: int | None) -> None:
        self.do, self.number = do, number


class _Handle:
    """Handle of an actor whose calls are computed when they are fetched."""

    def __init__(self, folder: Any) -> None:
        actor = ray_actors._Actor(str(folder), "cpu", True)
        self.do = type("do", (), {"remote": staticmethod(lambda number: _Call(actor.do, number))})
        again = type("ready", (), {"remote": staticmethod(lambda: _Call(actor.ready, None))})
        self.ready = type("ready", (), {"options": staticmethod(lambda **_: again)})


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


def test_without_actors_the_run_ends(planned) -> None:
    folder, _ = planned("embed")
    reported: list[tuple[int, bool]] = []
    ray_actors._dispatch(_Remote(False), [_Handle(folder)], [0, 1, 2, 3], lambda *v: reported.append(v))  # type: ignore[arg-type]
    assert reported == [(0, False), (1, False), (2, True), (3, True)]


def test_without_ray_the_extra_is_named(planned, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    folder, _ = planned("embed")
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[ray\]'"):
        atlas.run(folder, ray="local", progress=False)


@pytest.mark.slow
def test_a_cluster_that_loses_a_node(planned, tmp_path, monkeypatch) -> None:
    """Two nodes on this machine; one of them is removed in the middle of the work."""
    import threading
    import time
    from pathlib import Path

    from cells import cells

    import cell2sen

    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray._private import services
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(cell2sen.__file__).parents[1]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: beside other processes workers would starve
    find = services.get_node

    def patient(*args: Any) -> Any:
        """Ray waits 30 s for a node that starts, which is not enough beside other work."""
        for _ in range(300):
            try:
                return find(*args)
            except RuntimeError:
                time.sleep(1)
        return find(*args)

    monkeypatch.setattr(services, "get_node", patient)
    cells(150).write_h5ad(tmp_path / "cells.h5ad")
    inputs = [tmp_path / "cells.h5ad"]
    (first, _), (second, _) = (planned("embed", name, inputs, shard_cells=1) for name in ("one", "two"))
    atlas.run(first, progress=False)
    memory = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**memory, "include_dashboard": False})
    left: list[int] = []
    try:
        node = cluster.add_node(**memory)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        assert sum(found["Alive"] for found in ray.nodes()) == 2

        def lose() -> None:
            while atlas.status(second).done < 3:
                time.sleep(0.1)
            cluster.remove_node(node, allow_graceful=False)
            left.append(150 - atlas.status(second).done)

        watch = threading.Thread(target=lose, daemon=True)
        watch.start()
        assert atlas.run(second, ray="auto", workers=2, progress=False).finished
        watch.join(60)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert left[0] > 0, "the node was lost after the work"
    assert contents(first) == contents(second)
