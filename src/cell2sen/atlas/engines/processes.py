"""Local processes: workers of one machine, watched until they end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from cell2sen.atlas import shards
from cell2sen.atlas.engines.environment import environment_of_process
from cell2sen.atlas.plan_file import Plan
from cell2sen.atlas.worker import DRIVER, Line
from cell2sen.data.progress import Progress, Report

logger = logging.getLogger(__name__)

#: Seconds between two looks at the folder.
_PAUSE = 0.2


def run_processes(folder: Path, plan: Plan, workers: int, device: str, offline: bool, progress: bool | Report) -> None:
    """Local processes, watched until they end."""
    started = {}
    for index in range(workers):
        command = [sys.executable, "-m", "cell2sen", "run", str(folder), "--index", str(index), "--count", str(workers)]
        command += ["--device", device, "--quiet", *([] if offline else ["--online"])]
        values = environment_of_process(index, workers, device) | {DRIVER: str(os.getpid())}
        started[index] = subprocess.Popen(command, env=values, stdout=subprocess.DEVNULL)
    seen = shards.finished(folder, plan)
    failed: set[int] = set()
    left = [number for number in range(len(plan.shards)) if number not in seen]
    before = shards.failure_times(folder)
    try:
        with Progress(plan.n_cells, plan.verb, "cell", show=progress, done=shards.cells_done(plan, left)) as bar:
            line = Line(plan, bar)
            while True:
                running = [process for process in started.values() if process.poll() is None]
                now = shards.finished(folder, plan)
                for number in sorted(now - seen):
                    line(number, False)
                seen = now
                new = {number for number, at in shards.failure_times(folder).items() if at != before.get(number)}
                for number in sorted(new - failed):
                    line(number, True)
                failed |= new
                if not running:
                    break
                time.sleep(_PAUSE)
    finally:
        for process in started.values():
            if process.poll() is None:
                process.terminate()
        for process in started.values():
            process.wait()
    killed = [-process.returncode for process in started.values() if process.returncode < 0]
    if killed and len(seen) < len(plan.shards):
        logger.error(
            "%d of %d workers were killed (signal %d%s): run again for the rest",
            len(killed),
            workers,
            killed[0],
            ", perhaps for lack of memory" if killed[0] == 9 else "",
        )
