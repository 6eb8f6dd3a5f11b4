from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from cell2sen.app.frames import Answer
from cell2sen.app.jobs.queue import MAX_RESULTS, Jobs, message_of
from cell2sen.data.progress import Report


def finished(jobs: Jobs, number: int) -> dict[str, object]:
    until = time.monotonic() + 20
    while not jobs.get(number).is_over:
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(0.02)
    return jobs.get(number).status()


def test_jobs_run_one_after_the_other_and_report() -> None:
    seen: list[dict[str, object]] = []
    jobs = Jobs(seen.append)
    running = []

    def work(report: Report) -> Answer:
        running.append(threading.current_thread().name)
        for part in range(4):
            report("parts", part + 0.5, 4)
        return {"n": len(running)}, {}

    first, second = jobs.start("one", work), jobs.start("two", work)
    assert finished(jobs, second)["state"] == "done"
    assert jobs.result(first)[0] == {"n": 1}
    assert jobs.result(second)[0] == {"n": 2}
    assert set(running) == {"cell2sen jobs"}
    states = [status["state"] for status in seen if status["job"] == first]
    assert states[0] == "running"
    assert states[-1] == "done"
    assert any(status["done"] == 0.5 and status["total"] == 4 for status in seen)
    jobs.close()


def test_a_running_job_ends_at_its_next_report(slow_report: Callable[[Report], Answer]) -> None:
    jobs = Jobs()
    running, waiting = jobs.start("slow", slow_report), jobs.start("slow", slow_report)
    while jobs.get(running).done < 2:
        time.sleep(0.005)
    jobs.cancel(waiting)
    assert jobs.get(waiting).state == "cancelled"
    started = time.monotonic()
    jobs.cancel(running)
    assert finished(jobs, running)["state"] == "cancelled"
    assert time.monotonic() - started < 2
    with pytest.raises(ValueError, match="no result: cancelled"):
        jobs.result(running)
    jobs.cancel(running)  # is over: nothing happens
    later = jobs.start("quick", lambda report: ({"after": True}, {}))
    assert finished(jobs, later)["state"] == "done"
    jobs.close()


def test_failures_are_one_line_and_warnings_are_notes() -> None:
    jobs = Jobs()

    def fails(report: Report) -> Answer:
        logging.getLogger("cell2sen.test").warning("look at %s", "this")
        logging.getLogger("cell2sen.test").warning("look at %s", "this")
        raise KeyError("there is no\ncolumn 'a'")

    status = finished(jobs, jobs.start("fails", fails))
    assert (status["state"], status["message"], status["notes"]) == (
        "failed",
        "there is no column 'a'",
        ["look at this"],
    )

    def breaks(report: Report) -> Answer:
        raise ZeroDivisionError("division by zero")

    assert finished(jobs, jobs.start("breaks", breaks))["message"] == "ZeroDivisionError: division by zero"
    assert "force=True" not in message_of(ValueError("Predict all the same with force=True"))
    with pytest.raises(KeyError, match="no job 99"):
        jobs.cancel(99)
    jobs.close()


def test_time_left_follows_from_what_is_done(slow_report: Callable[[Report], Answer]) -> None:
    jobs = Jobs()
    number = jobs.start("slow", slow_report)
    while jobs.get(number).seconds_left is None:
        time.sleep(0.01)
    job = jobs.get(number)
    assert job.seconds_left == pytest.approx((1000 - job.done) * 0.011, rel=0.6)
    jobs.close()


def test_only_the_last_results_are_kept() -> None:
    jobs = Jobs()
    numbers = [jobs.start("quick", lambda report: ({}, {})) for _ in range(MAX_RESULTS + 3)]
    finished(jobs, numbers[-1])
    with pytest.raises(ValueError, match="no result"):
        jobs.result(numbers[0])
    assert jobs.result(numbers[-1]) == ({}, {})
    jobs.close()
