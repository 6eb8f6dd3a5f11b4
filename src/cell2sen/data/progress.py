"""Progress of long work: a bar on stderr, a line per tenth where stderr is no terminal, or calls of a function."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Function of the name of the work, the parts that are done, and their total. Parts are fractions while answers are
#: written: it is called once per written gene or token. An error that it raises cancels the work.
Report = Callable[[str, float, int], None]

#: Seconds without lines, so that short work writes none, and seconds before the bar of a preparation appears.
QUIET_SECONDS, PREPARATION_SECONDS = 2.0, 3.0


class Progress:
    """Progress of one job, in a ``with`` block.

    Parameters
    ----------
    total
        Number of parts.
    name
        What is done: ``"embedding"``.
    unit
        What is counted, in the singular: ``"cell"``.
    show
        Write something; or a function that is called instead, :data:`Report`.
    preparation
        The work comes before the job that the user started: its bar appears late, and leaves no trace.
    """

    def __init__(
        self,
        total: int,
        name: str,
        unit: str = "cell",
        *,
        show: bool | Report = True,
        preparation: bool = False,
        done: int = 0,
    ) -> None:
        self.report: Report | None = show if callable(show) else None
        show = show is True
        self._batch = 0
        self.total, self.name, self.unit, self.n = total, name, unit, done
        self._show, self._started, self._first, self._tenth = show, time.monotonic(), done, self._tenths(done)
        self._bar: Any = None
        self._late = show and preparation and is_interactive()
        if show and not preparation and is_interactive():
            self._open()
        self._lines = show and not preparation and self._bar is None

    def _open(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(
            total=self.total,
            initial=self.n,
            desc=self.name,
            unit=f" {self.unit}s",
            file=sys.stderr,
            leave=not self._late,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        self._outer = _CURRENT.set(self)
        if self.report is not None:
            self.report(self.name, self.n, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._outer)
        self.close()

    def begin(self, batch: int) -> None:
        """Start a batch of `batch` parts, of which :func:`step` counts shares."""
        self._batch = batch

    def share(self, done: float) -> None:
        """Report that the share `done` of the batch is done, 0 to 1."""
        if self.report is not None:
            self.report(self.name, self.n + done * self._batch, self.total)

    def update(self, n: int, note: str = "") -> None:
        """Count `n` more parts; `note` is shown behind them, such as the loss."""
        self.n += n
        if self.report is not None:
            self.report(self.name, self.n, self.total)
        if self._bar is None and self._late and time.monotonic() - self._started > PREPARATION_SECONDS:
            self._open()
            return
        if self._bar is not None:
            self._bar.update(n)
            if note:
                self._bar.set_postfix_str(note)
            return
        if not self._lines or (tenth := self._tenths(self.n)) <= self._tenth:
            return
        self._tenth = tenth
        seconds = time.monotonic() - self._started
        if seconds < QUIET_SECONDS:
            return
        left = seconds * (self.total - self.n) / max(1, self.n - self._first)
        rest = f", {duration(left)} left" if self.n < self.total else f" in {duration(seconds)}"
        units = f"{self.n:,} of {self.total:,} {self.unit}s"
        text = f"{self.name}: {10 * tenth} %, {units}{rest}{f', {note}' if note else ''}"
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """Show `text` behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _tenths(self, n: int) -> int:
        return 10 * n // self.total if self.total else 0


#: The work that runs in this thread.
_CURRENT: ContextVar[Progress | None] = ContextVar("progress", default=None)


def step(done: float) -> None:
    """Report a share of the batch that runs in this thread, 0 to 1: called once per written gene or token."""
    if (current := _CURRENT.get()) is not None:
        current.share(done)


def counted(items: Sequence[Item], name: str, unit: str, *, show: bool | Report = True) -> Iterator[Item]:
    """The items, with the progress of the work that is done on them."""
    with Progress(len(items), name, unit, show=show) as progress:
        for item in items:
            yield item
            progress.update(1)


def is_interactive() -> bool:
    """Whether stderr is a terminal, or the program runs in a notebook, which draws bars itself."""
    return "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", lambda: False)())


def duration(seconds: float) -> str:
    """Duration for people: ``"40 seconds"``, ``"12 minutes"``."""
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"
