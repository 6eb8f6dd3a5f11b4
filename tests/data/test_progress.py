from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from cell2sen.data import progress
from cell2sen.data.progress import Progress, counted, duration


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return clock


def work(clock: Clock, steps: int, seconds: float, **options: Any) -> None:
    with Progress(steps, "embedding", **options) as bar:
        for _ in range(steps):
            clock.now += seconds
            bar.update(1)


def test_a_pipe_has_a_line_per_tenth(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 200, 1.0)
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "embedding: 10 %, 20 of 200 cells, 3 minutes left"
    assert lines[-1] == "embedding: 100 %, 200 of 200 cells in 3 minutes"
    assert "\r" not in output.err


def test_large_steps_do_not_repeat_tenths(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "training", "step") as bar:
        for n, note in ((5, "loss 1.5"), (1, ""), (4, "")):
            clock.now += 10
            bar.update(n, note)
            bar.update(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 50 %, 5 of 10 steps, 10 seconds left, loss 1.5"
    assert [line.split(",")[0] for line in lines] == ["training: 50 %", "training: 60 %", "training: 100 %"]


@pytest.mark.parametrize("options", [{"show": False}, {"preparation": True}])
def test_nothing_is_written(clock: Clock, capsys: pytest.CaptureFixture[str], options: dict[str, bool]) -> None:
    work(clock, 20, 1.0, **options)
    assert capsys.readouterr().err == ""


def test_short_work_writes_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 100, 0.019)
    work(clock, 0, 0.0)
    assert capsys.readouterr().err == ""


def test_what_was_done_before_is_not_counted_as_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, "training", "step", done=80) as bar:
        clock.now += 10
        bar.update(10)
    assert capsys.readouterr().err == "training: 90 %, 90 of 100 steps, 10 seconds left\n"


def test_a_terminal_has_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(counted(["a", "b", "c"], "groups", "group")) == ["a", "b", "c"]
    assert "3/3" in terminal.getvalue()
    assert "groups:" in terminal.getvalue()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(counted(["a"], "groups", "group", show=False)) == ["a"]
    assert terminal.getvalue() == ""


def test_the_bar_of_a_preparation_appears_late_and_leaves_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work(clock, 20, 0.1, preparation=True)
    assert terminal.getvalue() == ""
    work(clock, 20, 1.0, preparation=True)
    assert "embedding:" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "a second"), (1.4, "a second"), (45, "45 seconds"), (600, "10 minutes"), (9000, "2 hours"), (2e5, "2 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_function_is_called_instead_of_a_bar_and_cancels() -> None:
    calls: list[tuple[str, float, int]] = []

    def report(name: str, done: float, total: int) -> None:
        calls.append((name, done, total))
        if done > 3.5:
            raise InterruptedError

    with pytest.raises(InterruptedError), Progress(4, "writing", show=report) as bar:  # noqa: PT012
        for _ in range(2):
            bar.begin(2)
            progress.step(0.5)
            bar.update(2)
            progress.step(0.5)
    assert calls == [("writing", 0, 4), ("writing", 1, 4), ("writing", 2, 4), ("writing", 3, 4), ("writing", 3, 4),
                     ("writing", 4, 4)]  # fmt: skip
    progress.step(0.5)  # outside of any work
    assert len(calls) == 6


def test_each_written_gene_is_reported_and_cancels_a_response() -> None:
    import tiny
    from cells import cells, fake

    import cell2sen as c2s

    calls: list[tuple[str, float, int]] = []

    def report(name: str, done: float, total: int) -> None:
        calls.append((name, done, total))
        if len(limits := [call for call in calls if call[0] == "expected expression"]) > 5:
            raise InterruptedError(limits[-1])

    model = tiny.backend(kind="genes", model=fake(no_perturbation="untreated").model, progress=report)
    with pytest.raises(InterruptedError) as error:
        c2s.tl.perturb(cells(), "IFN-beta", model=model, n_genes=8, readout="expected", progress=False)
    assert 0 < error.value.args[0][1] < 6  # within the first batch, cells that are done as a fraction
