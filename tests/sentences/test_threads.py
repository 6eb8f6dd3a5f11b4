"""Threads: ordered results, errors, number of threads."""

from __future__ import annotations

import os
import threading

import pytest

from cell2sen.sentences import threads as parallel
from cell2sen.sentences.threads import in_parallel, n_threads


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_order_and_few_parts_are_in_memory(threads, monkeypatch):
    monkeypatch.setattr(parallel, "n_threads", lambda: threads)
    begun, results = [], []

    def parts():
        for number in range(30):
            assert number - len(results) <= threads + 1
            begun.append(number)
            yield number, 2

    for result in in_parallel(pow, parts()):
        results.append(result)
    assert results == [number**2 for number in range(30)]
    assert list(in_parallel(pow, [])) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_in_order_and_leaves_no_thread(threads, monkeypatch):
    monkeypatch.setattr(parallel, "n_threads", lambda: threads)
    before = threading.active_count()
    results = []
    with pytest.raises(ZeroDivisionError):
        results.extend(
            in_parallel(lambda number: results.append(1 // number), ((number,) for number in (1, 1, 0, 1, 1)))
        )
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("setting", "cpus", "threads"),
    [("", 4, 4), ("1", 4, 1), ("2", 4, 2), ("9", 4, 4), ("0", 4, 1), ("3,2", 4, 3), ("all", 4, 4), ("", 99, 8)],
)
def test_number_of_threads(setting, cpus, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert n_threads() == threads


def test_threads_of_torch_are_those_of_before() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with parallel.kept_torch_threads():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("looks", "given", "expected"),
    [
        (["0.1 0.2 0.3 1/200 7"] * 3, None, None),
        (["0.1 0.2 0.3 3/200 7"] * 3, None, "PASSIVE"),
        (["4.0 4.0 4.0 2/200 7", "4.0 4.0 4.0 1/200 7", "4.0 4.0 4.0 1/200 7"], None, None),
        (["0.1 0.2 0.3 3/200 7"] * 3, "ACTIVE", "ACTIVE"),
        (["of another system"], None, None),
    ],
)
def test_threads_wait_without_spinning_beside_other_processes(looks, given, expected, monkeypatch):
    monkeypatch.setattr(parallel, "_load", iter(looks).__next__)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    parallel.wait_without_spinning()
    assert os.environ.get("OMP_WAIT_POLICY") == expected
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
