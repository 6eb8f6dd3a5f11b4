"""Jobs: long work in one thread, one after the other, with progress, messages of the package, and cancelling."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cell2sen.app.frames import Answer
from cell2sen.data.names.errors import MENDABLE, text_of
from cell2sen.data.progress import Report

State = Literal["waiting", "running", "done", "failed", "cancelled"]

#: Seconds between two reports of progress, and before the time that is left is estimated.
MIN_INTERVAL, MIN_ELAPSED = 0.1, 0.5

#: Results of finished jobs that are kept, the last ones.
MAX_RESULTS = 30

#: Arguments of Python in messages → what the page has instead.
WORDS = {"with force=True": "by ticking “names that the model does not know, too”"}


class CancelledError(Exception):
    """Error that ends cancelled work."""


def message_of(error: BaseException) -> str:
    """One line for people."""
    line = " ".join(text_of(error).split())
    for argument, words in WORDS.items():
        line = line.replace(argument, words)
    name = type(error).__name__
    return line if isinstance(error, MENDABLE) or line == name else f"{name}: {line}"


@dataclass(eq=False)
class Job:
    """One job, and how far it is."""

    number: int
    verb: str
    work: Callable[[Report], Answer]
    state: State = "waiting"
    step: str = ""
    done: float = 0.0
    total: int = 0
    seconds_left: float | None = None
    seconds: float = 0.0
    message: str = ""
    notes: list[str] = field(default_factory=list)
    result: Answer | None = None
    is_cancelled: bool = False
    version: int = 0
    """Counts changes."""

    def status(self) -> dict[str, Any]:
        """How far the job is, as plain values."""
        return {
            "job": self.number,
            "verb": self.verb,
            "state": self.state,
            "step": self.step,
            "done": self.done,
            "total": self.total,
            "seconds_left": self.seconds_left,
            "seconds": self.seconds,
            "message": self.message,
            "notes": list(self.notes),
            "version": self.version,
        }

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """A queue of jobs and the thread that does them.

    Parameters
    ----------
    listener
        Called with the status of a job whenever it changes, in the thread of the jobs.
    """

    def __init__(self, listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.listener = listener
        self._jobs: dict[int, Job] = {}
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, verb: str, work: Callable[[Report], Answer]) -> int:
        """Number of a new job, which runs when those before it are over."""
        with self._lock:
            job = Job(number=len(self._jobs) + 1, verb=verb, work=work)
            self._jobs[job.number] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cell2sen jobs", daemon=True)
                self._thread.start()
        self._waiting.put(job)
        return job.number

    def get(self, number: int) -> Job:
        """The job of a number.

        Raises
        ------
        KeyError
            There is none.
        """
        if number not in self._jobs:
            raise KeyError(f"there is no job {number}")
        return self._jobs[number]

    def cancel(self, number: int) -> None:
        """End a job: at once if it waits, else when it next reports progress. A job that is over stays as it is."""
        job = self.get(number)
        with self._lock:
            if not job.is_over:
                job.is_cancelled = True
            waits = job.state == "waiting"
            if waits:
                job.state = "cancelled"
        if waits:
            self._changed(job)

    def result(self, number: int) -> Answer:
        """Result of a job.

        Raises
        ------
        ValueError
            It has none: not done, failed, cancelled, or too long ago.
        """
        job = self.get(number)
        if job.result is None:
            raise ValueError(f"job {number} has no result: {job.message or job.state}")
        return job.result

    def close(self) -> None:
        """Cancel all jobs and end the thread."""
        for number in list(self._jobs):
            self.cancel(number)
        self._waiting.put(None)

    def _changed(self, job: Job) -> None:
        job.version += 1
        if self.listener is not None:
            self.listener(job.status())

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            with self._lock:
                if job.is_over:
                    continue
                job.state = "running"
            self._changed(job)
            self._do(job)
            self._changed(job)
            finished = [other for other in self._jobs.values() if other.result is not None]
            for old in finished[:-MAX_RESULTS]:
                old.result = None

    def _do(self, job: Job) -> None:
        started = time.monotonic()
        notes = _Notes(job)
        logger = logging.getLogger("cell2sen")
        logger.addHandler(notes)
        try:
            answer = job.work(self._report(job))
            if job.is_cancelled:
                raise CancelledError
            job.result, job.state = answer, "done"
        except CancelledError:
            job.state = "cancelled"
        except Exception as error:
            job.message, job.state = message_of(error), "failed"
            if not isinstance(error, MENDABLE):
                logger.debug("job %d", job.number, exc_info=True)
        finally:
            logger.removeHandler(notes)
            job.seconds, job.seconds_left = time.monotonic() - started, None

    def _report(self, job: Job) -> Report:
        """Function that work calls with its progress; it raises the error that cancels the job."""
        began, shown = time.monotonic(), 0.0

        def report(step: str, done: float, total: int) -> None:
            nonlocal began, shown
            if job.is_cancelled:
                raise CancelledError
            now = time.monotonic()
            is_new = (step, total) != (job.step, job.total) or done < job.done
            if is_new:
                began = now
            job.step, job.done, job.total = step, float(done), int(total)
            elapsed = now - began
            job.seconds_left = elapsed * (total - done) / done if done > 0 and elapsed > MIN_ELAPSED else None
            if is_new or now - shown > MIN_INTERVAL or done >= total:
                shown = now
                self._changed(job)

        return report


class _Notes(logging.Handler):
    """Warnings of the package while a job runs, each once."""

    def __init__(self, job: Job) -> None:
        super().__init__(level=logging.WARNING)
        self._job, self._thread = job, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a warning of the thread of the jobs."""
        text = record.getMessage()
        if record.thread == self._thread and text not in self._job.notes:
            self._job.notes.append(text)
