"""Worker: one process that computes shards of a plan, its own first and then those that others left."""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cell2sen import backends
from cell2sen.atlas import fingerprints, shards
from cell2sen.atlas.plan_file import Plan
from cell2sen.atlas.planning import model_of
from cell2sen.atlas.verbs import VERBS, Result, Shard, kept_warnings
from cell2sen.backend import Backend
from cell2sen.data.files.formats import locate
from cell2sen.data.files.rows import StoredRows, open_rows
from cell2sen.data.progress import Progress

logger = logging.getLogger(__name__)

#: Variable with the number of the process that started a local worker: the worker ends when that is gone.
DRIVER = "CELL2SEN_DRIVER"

#: Errors of a disk, which stop a run: all shards would have them.
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class Line:
    """One line of progress: cells, their number per second, failures."""

    plan: Plan
    bar: Progress
    started: float = field(default_factory=time.monotonic)
    n_cells: int = 0
    n_failed: int = 0

    def __call__(self, number: int, failed: bool) -> None:
        """Count a shard that is done, or failed."""
        _, first, stop = self.plan.shards[number]
        self.n_failed += failed
        if not failed:
            self.n_cells += stop - first
        rate = self.n_cells / max(time.monotonic() - self.started, 1e-3)
        failures = f", {self.n_failed} shards failed" if self.n_failed else ""
        self.bar.update(0 if failed else stop - first, f"{rate:,.3g} cells/s{failures}")


class Worker:
    """One process that computes shards of a plan. The model is loaded for the first one.

    Parameters
    ----------
    folder
        Folder of the plan.
    """

    def __init__(self, folder: Path, plan: Plan, *, device: str = "auto", offline: bool = True) -> None:
        self.folder, self.plan = folder, plan
        self.device, self.offline = device, offline
        self._backend: Backend | None = None
        self._opened: tuple[int, StoredRows | None, Any] | None = None
        self._checked: dict[str, tuple[tuple[int, int], str | None]] = {}

    @property
    def backend(self) -> Backend:
        """The loaded model, after a comparison of its files with the plan."""
        if self._backend is None:
            name = str(self.plan.options.get("backend", "transformers"))
            self._backend = backends.load(
                model_of(self.plan), name, device=self.device, batch_size=self.plan.batch_size, progress=False,
                offline=self.offline,
            )  # fmt: skip
        return self._backend

    def work(self, index: int, count: int, report: Callable[[int, bool], None] = lambda *_: None) -> None:
        """Own shards first, then those that others have not finished."""
        try:
            for number in _order(self.plan, index, count):
                if shards.shard_file(self.folder, number).exists() or is_orphan():
                    continue
                report(number, self.do(number) is not None)
        finally:
            self.close()

    def do(self, number: int) -> str | None:
        """Compute and write a shard; the error that it failed with, which is kept beside the shards.

        Raises
        ------
        OSError
            The disk is full or may not be written to.
        ValueError
            The model is not that of the plan.
        """
        backend = self.backend
        failure = shards.failure_file(self.folder, number)
        try:
            with kept_warnings() as kept:
                result = self._compute(number, backend)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_DISK:
                raise
            text = "".join(traceback.format_exception(error)).strip()
            shards.publish(failure, (text + "\n").encode())
            logger.error("shard %d failed: %s", number, shards.cause(text))
            return text
        self._write(number, result, kept.texts)
        failure.unlink(missing_ok=True)
        return None

    def _compute(self, number: int, backend: Backend) -> Result:
        plan, verb = self.plan, VERBS[self.plan.verb]
        stored = None
        if plan.inputs:
            source = plan.inputs[plan.shards[number][0]]
            self._check(source.path, source.fingerprint, f"the input {source.name}")
            stored = self._open(plan.shards[number][0]) if verb.by_cells else None
        for name, file in plan.files.items():
            self._check(file["path"], file["sha256"], f"the file of {name}=", name=name)
        shard = Shard(plan=plan, number=number, backend=backend, folder=self.folder, stored=stored)
        result = verb.compute(shard)
        if plan.inputs:  # also while it was read
            self._check(source.path, source.fingerprint, f"the input {source.name}")
        return result

    def _open(self, number: int) -> StoredRows:
        if self._opened is None or self._opened[0] != number:
            self.close()
            options = self.plan.options
            context = open_rows(
                self.plan.inputs[number].path, layer=options.get("layer"), use_raw=bool(options.get("use_raw"))
            )
            self._opened = (number, context.__enter__(), context)
        stored = self._opened[1]
        assert stored is not None
        return stored

    def close(self) -> None:
        """Close the input."""
        if self._opened is not None:
            self._opened[2].__exit__(None, None, None)
            self._opened = None

    def _check(self, path: str, expected: str, what: str, name: str = "") -> None:
        """Raise a ValueError if a file is not that of the plan; hashed once, and again when its time or size change."""
        try:
            stamp = _stamp(locate(path).file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{what} is gone: {error}") from error
        known = self._checked.get(path)
        if known is None or known[0] != stamp:
            options = self.plan.options
            if not name:
                found = fingerprints.of_input(path, layer=options.get("layer"), use_raw=bool(options.get("use_raw")))
            elif name in VERBS[self.plan.verb].files and name != "gmt":
                found = fingerprints.of_input(path)
            else:
                found = fingerprints.of_path(Path(path), whole=True)
            known = self._checked[path] = (stamp, None if found == expected else found)
        if known[1] is not None:
            raise ValueError(
                f"{what} ({path}) was changed after the plan was made: put the planned file back, or make a new plan "
                "in another folder"
            )

    def _write(self, number: int, result: Result, warnings: list[str]) -> None:
        plan, file = self.plan, shards.shard_file(self.folder, number)
        if result.genes is not None:
            self._write_genes(plan.shards[number][0] if plan.inputs else 0, result)
        metadata = {
            "plan": plan.id,
            "shard": number,
            "verb": plan.verb,
            "rows": result.table.num_rows,
            "columns": result.columns,
            "record": result.record,
            "warnings": warnings,
            "environment": _environment(plan, self.backend),
        }
        shards.publish(file, shards.to_bytes(result.table, metadata))

    def _write_genes(self, number: int, result: Result) -> None:
        assert result.genes is not None
        file = shards.genes_file(self.folder, number)
        if file.exists():
            return
        table = pa.Table.from_pandas(result.genes.astype(str), preserve_index=True)
        shards.publish(file, shards.to_bytes(table, {"plan": self.plan.id, "index": table.column_names[-1]}))


def _order(plan: Plan, index: int, count: int) -> Iterator[int]:
    """Own shards, then those of the others from the end, so that two workers meet once at most."""
    n = len(plan.shards)
    index, count = index % max(count, 1), max(count, 1)
    yield from range(index, n, count)
    for step in range(1, count):
        yield from reversed(range((index + step) % count, n, count))


def is_orphan() -> bool:
    """Whether the process that started this worker is gone."""
    driver = os.environ.get(DRIVER, "")
    return driver.isdigit() and os.name == "posix" and os.getppid() != int(driver)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), hash(tuple(stat.st_mtime_ns for stat in stats))


def versions_here(plan: Plan) -> dict[str, str]:
    """Packages whose version here is not that of the plan."""
    from cell2sen import __version__

    found = {}
    for name, planned in plan.versions.items():
        here = __version__ if name == "cell2sen" else importlib.metadata.version(name)
        if here != planned:
            found[name] = here
    return found


def _environment(plan: Plan, backend: Backend) -> dict[str, Any]:
    """Kind of processor and versions: the same bytes need the same of them."""
    device = str(getattr(backend, "device", "cpu")).partition(":")[0]
    name = _processor()
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None:
        name = str(torch.cuda.get_device_name())
    return {"device": device, "processor": name, "versions": versions_here(plan)}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
