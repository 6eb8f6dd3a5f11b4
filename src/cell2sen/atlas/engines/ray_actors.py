"""Ray: actors that compute shards, restarted where they or their node are lost."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from cell2sen.atlas import shards
from cell2sen.atlas.plan_file import Plan
from cell2sen.atlas.worker import Line, Worker
from cell2sen.data.progress import Progress, Report

logger = logging.getLogger(__name__)

#: Times that a shard is begun again after the loss of an actor, before the run goes on without it.
_RETRIES = 5


def run_ray(
    folder: Path,
    plan: Plan,
    *,
    address: str,
    actors: int = 1,
    gpus: float = 0,
    cores: float = 1,
    device: str = "auto",
    offline: bool = True,
    progress: bool | Report = True,
) -> None:
    """Compute the shards that are left with Ray actors. Each writes its shards itself; no data goes through Ray.

    Parameters
    ----------
    folder
        Folder of the plan, which all nodes see under this path.
    address
        Of a cluster, ``"auto"``, or ``"local"`` for one in this process.
    actors
        Actors; each loads the model once.
    gpus, cores
        GPUs (also a fraction) and cores of an actor.

    Raises
    ------
    ImportError
        Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("runs on Ray need it: pip install 'cell2sen[ray]'") from error
    left = shards.left_to_do(folder, plan)
    if not left:
        return
    own = not ray.is_initialized()
    if own:
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
        )
    try:
        actor = ray.remote(max_restarts=-1, max_task_retries=0, num_gpus=gpus, num_cpus=cores)(_Actor)
        pool = [actor.remote(str(folder), device, offline) for _ in range(min(actors, len(left)))]
        with Progress(plan.n_cells, plan.verb, "cell", show=progress, done=shards.cells_done(plan, left)) as bar:
            _dispatch(ray, pool, left, Line(plan, bar))
    finally:
        if own:
            ray.shutdown()


def _dispatch(ray: Any, pool: list[Any], left: list[int], line: Line) -> None:
    """Give each free actor the next shard; a shard whose actor was lost goes to the front again.

    A lost actor gets no shard before it answers: without a node to restart it on it never does, and the others go on.
    """
    waiting, idle = list(left), list(pool)
    lost: dict[int, int] = {}
    running: dict[Any, tuple[Any, int | None]] = {}
    while waiting or any(number is not None for _, number in running.values()):
        while waiting and idle:
            actor, number = idle.pop(), waiting.pop(0)
            running[actor.do.remote(number)] = (actor, number)
        if not running:
            for number in waiting:
                logger.error("shard %d was not computed: all actors are lost", number)
                line(number, True)
            return
        ready, _ = ray.wait(list(running), num_returns=1)
        actor, done = running.pop(ready[0])
        try:
            failed = ray.get(ready[0])
        except ray.exceptions.RayActorError as error:
            if done is None:
                logger.error("an actor is lost for good: %s", error)
                continue
            running[actor.ready.options(max_task_retries=-1).remote()] = (actor, None)
            lost[done] = lost.get(done, 0) + 1
            if lost[done] <= _RETRIES:
                waiting.insert(0, done)
            else:
                logger.error("shard %d was lost with its actor %d times: %s", done, lost[done], error)
                line(done, True)
            continue
        idle.append(actor)
        if done is not None:
            line(done, failed is not None)


class _Actor:
    """A worker in a process of Ray."""

    def __init__(self, folder: str, device: str, offline: bool) -> None:
        place = Path(folder)
        self._worker = Worker(place, Plan.read(place), device=device, offline=offline)

    def ready(self) -> None:
        """Answer, once the actor runs again."""

    def do(self, number: int) -> str | None:
        """Error of a shard, ``None`` if it is there."""
        if shards.shard_file(self._worker.folder, number).exists():
            return None
        return self._worker.do(number)
