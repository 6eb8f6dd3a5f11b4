"""Threads: work in parts, results in the order of the parts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Threads at most: from here on they wait for Python, and for memory.
_MOST = 8


def n_threads() -> int:
    """Threads to use: the CPUs of this process, or ``OMP_NUM_THREADS`` if that is less; 8 at most."""
    allowed = getattr(os, "sched_getaffinity", None)
    cpus = len(allowed(0)) if allowed else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(cpus, _MOST, int(wanted) if wanted.isdecimal() else cpus))


def in_parallel(work: Callable[..., Result], parts: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """``work(*part)`` of each part in the order of the parts, however many threads there are.

    No more parts are held at a time than there are threads, and one. NumPy and Arrow let other threads run while they
    compute. An error in a part is raised when its turn comes.
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
