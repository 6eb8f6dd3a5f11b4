"""Threads: parts of a work in parallel, results in order."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

#: More threads are no faster: they wait for Python's lock and for memory.
MAX_THREADS = 8


def n_threads() -> int:
    """Number of threads: CPUs of this process, or ``OMP_NUM_THREADS`` if that is less; at most 8."""
    allowed = getattr(os, "sched_getaffinity", None)
    cpus = len(allowed(0)) if allowed else os.cpu_count() or 1
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(cpus, MAX_THREADS, int(setting) if setting.isdecimal() else cpus))


def in_parallel(work: Callable[..., Result], parts: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """Results of ``work(*part)``, computed in threads, in the order of the parts.

    At most one part more than there are threads is in memory. NumPy and Arrow release Python's lock while they compute.
    An error in a part is raised in the place of its result.
    """
    workers = n_threads()
    if workers == 1:
        yield from (work(*part) for part in parts)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(work, *part))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def wait_without_spinning() -> None:
    """Let threads of OpenMP sleep while they wait, where other processes compute; for commands, before PyTorch loads.

    PyTorch's threads meet at hundreds of barriers, and by default spin there until all have come. On a core that
    another process has, the last one comes late, and the others spin away the time that it needs. On idle cores
    spinning is faster and stays, and so does a setting in the environment.
    """
    if others_running() >= 1:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def others_running() -> float:
    """Threads of this machine that compute now, without this one, from three looks in 10 ms; 0 where Linux is not."""
    counts = []
    for place in range(3):
        if place:
            time.sleep(0.005)
        try:
            counts.append(int(_load().split()[3].partition("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return 0
    return statistics.median(counts)


def _load() -> str:
    return Path("/proc/loadavg").read_text(encoding="ascii")


@contextlib.contextmanager
def kept_torch_threads() -> Iterator[None]:
    """Block after which PyTorch computes with as many threads as before.

    Parallel code of numba (neighbours and UMAP of scanpy) sets the threads of every OpenMP library in the process.
    Sums of another number of threads differ in their last bits.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch and threads and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
