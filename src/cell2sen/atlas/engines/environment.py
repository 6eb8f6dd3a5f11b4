"""Engines that start workers: SLURM arrays, torchrun and local processes, by their variables; a SLURM script."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path


def place_of_worker(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Number of this worker and number of all workers, from the variables of SLURM or torchrun; ``None`` without them.

    A worker's number is where it begins, not what it does: one that is lost holds nobody up.

    Parameters
    ----------
    environment
        Variables; ``None``: those of this process.
    """
    values = os.environ if environment is None else environment

    def number(name: str, default: int) -> int:
        text = values.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else default

    task = number("SLURM_ARRAY_TASK_ID", -1)
    tasks = max(1, number("SLURM_NTASKS", 1)) if "SLURM_PROCID" in values else 1
    if task >= 0 or tasks > 1:
        step = max(1, number("SLURM_ARRAY_TASK_STEP", 1))
        place = (task - number("SLURM_ARRAY_TASK_MIN", 0)) // step if task >= 0 else 0
        count = max(number("SLURM_ARRAY_TASK_COUNT", 1), place + 1)
        return place * tasks + number("SLURM_PROCID", 0), count * tasks
    if number("WORLD_SIZE", 0) > 0 and "RANK" in values:
        return number("RANK", 0), number("WORLD_SIZE", 1)
    return None


def device_of_worker(device: str, environment: Mapping[str, str] | None = None) -> str:
    """Device of this worker: with ``"auto"`` under torchrun the GPU of its local rank, if the machine has several."""
    values = os.environ if environment is None else environment
    rank = values.get("LOCAL_RANK", "")
    if device == "auto" and rank.isdigit() and n_gpus(values) > int(rank) and n_gpus(values) > 1:
        return f"cuda:{rank}"
    return device


def n_gpus(environment: Mapping[str, str] | None = None) -> int:
    """NVIDIA GPUs that this process may use, without loading PyTorch."""
    values = os.environ if environment is None else environment
    if (visible := values.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def environment_of_process(index: int, count: int, device: str) -> dict[str, str]:
    """Variables of one of `count` local workers: its GPU, or its share of the cores."""
    values = dict(os.environ)
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        values.pop(name, None)  # they are of the process that starts these
    gpus = n_gpus()
    if device == "auto" and gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(number) for number in range(gpus)] if visible is None else visible.split(",")
        values["CUDA_VISIBLE_DEVICES"] = names[index % gpus].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    values.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    return values


def slurm_script(folder: str | Path, *, tasks: int = 16, gpus: int = 1, hours: int = 12, cores: int = 4) -> str:
    """Script of a SLURM array that works on a plan until nothing is left.

    Tasks that are preempted are queued again, and any task finishes what others left: ``--array=7`` alone is right
    after a failure.

    Parameters
    ----------
    tasks, gpus, cores, hours
        Tasks of the array, GPUs and cores of each, and their time limit.
    """
    place = Path(folder).absolute()
    request = f"#SBATCH --gres=gpu:{gpus}\n" if gpus else ""
    start = f"srun --ntasks={gpus} --gpus-per-task=1 " if gpus > 1 else ""
    several = f"#SBATCH --ntasks={gpus}\n" if gpus > 1 else ""
    return (
        "#!/bin/bash\n"
        f"#SBATCH --job-name=cell2sen-{place.name}\n"
        f"#SBATCH --array=0-{max(1, tasks) - 1}\n"
        f"{several}{request}"
        f"#SBATCH --cpus-per-task={cores}\n"
        f"#SBATCH --time={hours}:00:00\n"
        "#SBATCH --requeue\n"
        f"#SBATCH --output={place}/slurm-%A_%a.log\n"
        "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK\n"
        f"exec {start}{shlex.quote(sys.executable)} -m cell2sen run {shlex.quote(str(place))}\n"
    )
