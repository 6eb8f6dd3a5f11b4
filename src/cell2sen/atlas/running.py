"""Running: workers that compute shards until nothing is left, in this process or in several."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from cell2sen.atlas import shards
from cell2sen.atlas.engines.environment import device_of_worker, place_of_worker
from cell2sen.atlas.engines.processes import run_processes
from cell2sen.atlas.plan_file import Plan
from cell2sen.atlas.state import Status, status
from cell2sen.atlas.worker import DRIVER, Line, Worker, versions_here
from cell2sen.data.progress import Progress, Report

logger = logging.getLogger(__name__)


def run(
    out: str | Path,
    *,
    workers: int = 1,
    index: int | None = None,
    count: int | None = None,
    device: str = "auto",
    ray: str | None = None,
    gpus: float = 0,
    strict: bool = False,
    offline: bool = True,
    progress: bool | Report = True,
) -> Status:
    """Work on a plan until no shard is left. The same call again continues.

    Parameters
    ----------
    out
        Folder with a plan.
    workers
        Local processes: each has a GPU of its own, or its share of the cores. With `ray` its actors.
    index, count
        Number of this worker and of all: where it begins. Default: from the variables of SLURM and torchrun.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or one GPU.
    ray
        Address of a Ray cluster, ``"auto"`` or ``"local"``: actors do the work. Needs the extra ``ray``.
    gpus
        With `ray`: GPUs of each actor, also a fraction.
    strict
        Refuse to work with other versions of packages than those of the plan.

    Returns
    -------
    What is done and what failed.

    Raises
    ------
    ValueError
        The plan was changed, the model is another one, a shard is damaged or of another plan.
    OSError
        The disk is full or may not be written to. What is done is kept.
    """
    folder = Path(out)
    plan = Plan.read(folder)
    _check_versions(plan, strict)
    left = shards.left_to_do(folder, plan)
    if ray is not None:
        from cell2sen.atlas.engines.ray_actors import run_ray

        run_ray(folder, plan, address=ray, actors=workers, gpus=gpus, device=device, offline=offline, progress=progress)
    elif workers > 1 and left:
        run_processes(folder, plan, workers, device, offline, progress)
    elif left:
        place = (index or 0, count or 1) if index is not None or count is not None else place_of_worker() or (0, 1)
        worker = Worker(folder, plan, device=device_of_worker(device), offline=offline)
        with Progress(plan.n_cells, plan.verb, "cell", show=progress, done=shards.cells_done(plan, left)) as bar:
            worker.work(*place, report=Line(plan, bar))
    if not shards.left_to_do(folder, plan) and DRIVER not in os.environ and shards.read_manifest(folder, plan) is None:
        shards.write_manifest(folder, plan)
    return status(folder)


def _check_versions(plan: Plan, strict: bool) -> None:
    different = versions_here(plan)
    if not different:
        return
    text = ", ".join(f"{name} {found} (planned: {plan.versions[name]})" for name, found in different.items())
    if strict:
        raise ValueError(f"this machine has other versions than the plan: {text}; install the planned ones")
    logger.warning("this machine has other versions than the plan, results may differ in the last bits: %s", text)
