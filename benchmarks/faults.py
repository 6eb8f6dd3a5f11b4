"""Faults of a run in shards: random kills, a full disk, changed and damaged files, clock and locale.

    python benchmarks/faults.py WORK [--kills 50] [--seed 0] [--only kills] [--files CELLS.h5ad ...]

Each case ends with the bytes of an undisturbed run after the same command again, or with a refusal that names the
cause; the table has a row per case, and the exit code is 1 if one does neither. Without --files the inputs are made
here: counts of 3 files. The backend is the fake one, so that a case takes seconds: what is tested is the files.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen import atlas
from cell2sen.atlas import worker
from cell2sen.atlas.verbs import Result
from cell2sen.backend import Backend

#: Seconds that a shard takes longer, so that kills meet work.
SLOWER = 0.05

#: One worker in a process of its own.
PROGRAM = """
import sys
from cell2sen import atlas
state = atlas.run(sys.argv[1], index=int(sys.argv[2]), count=int(sys.argv[3]), progress=False)
sys.exit(0 if state.finished else 1)
"""


def make_inputs(folder: Path, n_files: int = 3, n_cells: int = 120) -> list[Path]:
    """Counts of cells over 200 genes of the embedded model."""
    from cell2sen.model import resolve

    genes = list((resolve().genes or ())[:200])
    files = []
    for number in range(n_files):
        generator = np.random.default_rng(number)
        counts = sp.csr_matrix(generator.poisson(0.7, size=(n_cells, len(genes))).astype(np.float32))
        obs = pd.DataFrame(index=[f"{number}-{cell}" for cell in range(n_cells)])
        adata = anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes))
        adata.uns["organism"] = "Homo sapiens"
        files.append(folder / f"input{number}.h5ad")
        adata.write_h5ad(files[-1])
    return files


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of the shards and of the manifest."""
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.glob("shards/*/*.parquet")}
    return found | {"manifest": (folder / "manifest.json").read_bytes()}


class Cases:
    """Cases over one set of inputs, and what became of each."""

    def __init__(self, work: Path, files: list[Path], seed: int) -> None:
        self.work, self.files, self.random = work, files, random.Random(seed)
        self.rows: list[tuple[str, int, int, str]] = []
        self.expected: dict[str, bytes] = {}
        folder = self.plan("undisturbed")
        atlas.run(folder, progress=False)
        self.expected = contents(folder)

    def plan(self, name: str, **settings: object) -> Path:
        folder = self.work / name
        values = {"backend": "fake", "shard_cells": 10, "max_genes": 40, "progress": False} | settings
        atlas.plan("embed", folder, self.files, **values)
        return folder

    def same(self, folder: Path) -> bool:
        """Whether a run has the bytes of the undisturbed one after one more run."""
        return atlas.run(folder, progress=False).finished and contents(folder) == self.expected

    def add(self, name: str, n: int, good: int, remark: str) -> None:
        self.rows.append((name, n, good, remark))
        print(f"{name}: {good} of {n}: {remark}", flush=True)

    def worker(self, folder: Path, index: int = 0, count: int = 1, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, str(folder), str(index), str(count)]
        return subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def fork(self, folder: Path, index: int, count: int) -> int:
        """A worker in a fork of this process, so that its start takes no time; its number."""
        process = os.fork()
        if process:
            return process
        try:
            compute = worker.Worker._compute

            def slower(self: worker.Worker, number: int, backend: Backend) -> Result:
                time.sleep(SLOWER)
                return compute(self, number, backend)

            worker.Worker._compute = slower  # type: ignore[method-assign]
            atlas.run(folder, index=index, count=count, progress=False)
        finally:
            os._exit(0)

    def kills(self, n: int, workers: int) -> None:
        """`kill -9` at random times, of the only worker or of each of several, until nothing is left."""
        done = starts = runs = good = 0
        while done < n:
            folder = self.plan(f"killed{workers}-{runs}")
            while done < n and not atlas.status(folder).finished:
                processes = [self.fork(folder, index, workers) for index in range(workers)]
                starts += 1
                for process in processes:
                    time.sleep(self.random.uniform(0, 4 * SLOWER))
                    if os.waitpid(process, os.WNOHANG) == (0, 0):
                        os.kill(process, signal.SIGKILL)
                        os.waitpid(process, 0)
                        done += 1
            runs += 1
            good += self.same(folder)
        self.add(f"kill -9 of {workers} worker{'s' if workers > 1 else ''}", done, done if good == runs else 0,
                 f"{runs} runs over {starts} starts, bytes equal in {good}")  # fmt: skip

    def driver(self, n: int) -> None:
        """`kill -9` of the process that started two workers."""
        good = left = 0
        for number in range(n):
            folder = self.plan(f"driver{number}")
            process = subprocess.Popen(
                [sys.executable, "-m", "cell2sen", "run", str(folder), "--workers", "2", "-q"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while not list(folder.glob("shards/*/*.parquet")) and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            good += self.same(folder)
            left += bool(atlas.status(folder).leftovers)
        self.add("kill -9 of the driver", n, good, f"workers ended by themselves, left-overs in {left} runs")

    def refused(self, name: str, act: Callable[[Path], Callable[[], object]], words: str, **settings: object) -> None:
        """A fault that is refused with its cause, and is gone after it was undone."""
        folder = self.plan(name.replace(" ", "-"), **settings)
        undo = act(folder)
        try:
            state = atlas.run(folder, progress=False)
            message = "; ".join(dict.fromkeys(state.failed.values())) or "; ".join(state.damaged.values())
            refused = not state.finished
        except (ValueError, OSError) as error:
            message, refused = str(error), True
        undo()
        ended = self.same(folder)
        good = refused and words in message and ended
        self.add(name, 1, int(good), f"“{' '.join(message.split())[:150]}”, then bytes equal: {ended}")

    def changed_input(self) -> None:
        def act(folder: Path) -> Callable[[], object]:
            file = self.files[1]
            before = file.read_bytes()
            content = bytearray(before)
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
            return lambda: file.write_bytes(before)

        self.refused("input changed by one bit", act, "was changed after the plan was made")

    def missing_input(self) -> None:
        def act(folder: Path) -> Callable[[], object]:
            file = self.files[2]
            moved = file.with_suffix(".away")
            file.rename(moved)
            return lambda: moved.rename(file)

        self.refused("input gone", act, "is gone")

    def damaged_shards(self, n: int) -> None:
        """A flipped bit anywhere in a shard, or a cut one, is found; the shard is made again."""
        found = ended = 0
        folder = self.plan("damaged")
        atlas.run(folder, progress=False)
        shards = sorted(folder.glob("shards/*/*.parquet"))
        for number in range(n):
            file = self.random.choice(shards)
            content = bytearray(file.read_bytes())
            if number % 5 == 4:
                file.write_bytes(content[: self.random.randrange(len(content))])
            else:
                content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
                file.write_bytes(content)
            damaged = atlas.status(folder, verify=True, clean=True).damaged
            found += bool(damaged) and str(file) in next(iter(damaged.values()))
            ended += self.same(folder)
        self.add("damaged shard", n, min(found, ended), f"{found} found and named, {ended} made again with equal bytes")

    def other_plan(self) -> None:
        folder = self.plan("other")
        try:
            self.plan("other", pooling="last")
            message = ""
        except ValueError as error:
            message = str(error)
        good = "has another plan" in message and "pooling" in message and self.same(folder)
        self.add("another plan in the folder", 1, int(good), f"“{message[:150]}”")

    def read_only(self) -> None:
        """A file system that is read-only, or a folder without permission where none can be mounted."""
        place = self.work / "fixed"
        place.mkdir()
        mounted = self._mount(place, "8m")
        folder = self.plan("fixed/run")
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        else:
            folder.chmod(0o555)
        try:
            atlas.run(folder, progress=False)
            message = ""
        except OSError as error:
            message = str(error)
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        folder.chmod(0o755)
        good = ("ermission" in message or "Read-only" in message) and self.same(folder)
        if mounted:
            subprocess.run(["umount", str(place)], check=False)
        self.add("read-only output", 1, int(good), f"“{message[:60]}”, then bytes equal: {good}")

    def _mount(self, place: Path, size: str) -> bool:
        """Mount a small file system in memory; False where that is not allowed."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        return (
            shutil.which("mount") is not None
            and not subprocess.run(command, check=False, capture_output=True).returncode
        )

    def full_disk(self) -> None:
        """A disk that is full in the middle: a small file system, or an error by a fake where none can be mounted."""
        place = self.work / "small"
        place.mkdir()
        mounted = self._mount(place, "160k")
        if mounted:
            try:
                folder = self.plan("small/run")
                try:
                    atlas.run(folder, progress=False)
                    message, done = "", 0
                except OSError as error:
                    message, done = str(error), atlas.status(folder).done
                left = atlas.status(folder).leftovers
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                good = "No space left" in message and not left and self.same(folder)
            finally:
                subprocess.run(["umount", str(place)], check=False)
            how = "tmpfs of 160 kB"
        else:
            from cell2sen.atlas import shards

            folder = self.plan("full")
            publish = shards.publish

            def full(file: Path, content: bytes) -> None:
                if len(list(folder.glob("shards/*/*.parquet"))) >= 5:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
                publish(file, content)

            shards.publish = full
            try:
                atlas.run(folder, progress=False)
                message, done = "", 0
            except OSError as error:
                message, done = str(error), atlas.status(folder).done
            finally:
                shards.publish = publish
            good = "No space left" in message and self.same(folder)
            how = "an error of writing by a fake, since no tmpfs can be mounted here"
        self.add("full disk", 1, int(good), f"{how}: “{message[:80]}”, {done} shards kept, then bytes equal: {good}")

    def surroundings(self) -> None:
        """Other clocks, time zones, locales, encodings, hash seeds, threads and working folders."""
        cases = [
            {"TZ": "Asia/Kathmandu", "LC_ALL": "C"},
            {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
            {"LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "1"},
            {"PYTHONUTF8": "0", "LC_ALL": "POSIX", "PYTHONHASHSEED": "77"},
            {"OMP_NUM_THREADS": "2", "TZ": "UTC+14"},
        ]
        good = 0
        for number, variables in enumerate(cases):
            folder = self.plan(f"surroundings{number}")
            os.utime(folder / "plan.json", (0, 0))  # a clock that was wrong
            process = self.worker(folder, **variables)
            _, error = process.communicate()
            if process.returncode:
                print(error.decode()[-400:])
            good += self.same(folder)
        self.add("clock, locale, hash seed, threads", len(cases), good, "bytes equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the runs, made if it does not exist")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="inputs, shards, plan, disk, surroundings, kills, driver")
    parser.add_argument("--files", type=Path, nargs="+", help="files of cells; they are copied first")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=options.work, prefix="faults-"))
    (work / "inputs").mkdir()
    if options.files:
        files = [Path(shutil.copy(file, work / "inputs")) for file in options.files]
    else:
        files = make_inputs(work / "inputs")
    started = time.monotonic()
    cases = Cases(work, files, options.seed)
    groups: dict[str, Callable[[], None]] = {
        "inputs": lambda: (cases.changed_input(), cases.missing_input())[0],
        "shards": lambda: cases.damaged_shards(max(5, options.kills // 5)),
        "plan": cases.other_plan,
        "disk": lambda: (cases.full_disk(), cases.read_only())[0],
        "surroundings": cases.surroundings,
        "kills": lambda: (cases.kills(options.kills // 2, 1), cases.kills(options.kills // 2, 2))[0],
        "driver": lambda: cases.driver(max(1, options.kills // 16)),
    }
    for name, group in groups.items():
        if not options.only or name in options.only:
            group()
    print(f"\n{time.monotonic() - started:.0f} s\n\n| fault | times | as it should | what happened |")
    print("| --- | --- | --- | --- |")
    for name, n, good, remark in cases.rows:
        print(f"| {name} | {n} | {good} | {remark} |")
    sys.exit(0 if all(n == good for _, n, good, _ in cases.rows) else 1)


if __name__ == "__main__":
    main()
