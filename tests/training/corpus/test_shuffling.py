"""Shuffling: each row once, uniform places, exact numbers of each task, the same after an interruption."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cell2sen.training.corpus import shuffling as module
from cell2sen.training.corpus.shards import SCHEMA
from cell2sen.training.corpus.shuffling import Shuffling, samples_of_tasks


def write_parts(folder: Path, sizes: list[int], tasks: tuple[str, ...] = ("a", "b")) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths, number = [], 0
    for part, size in enumerate(sizes):
        rows = []
        for _ in range(size):
            row: dict[str, Any] = {"prompt": str(number), "completion": " b.", "data_set": str(part), "cells": ["c"]}
            rows.append(row | {"task": tasks[number % len(tasks)], "prompt_tokens": 3, "completion_tokens": 2})
            number += 1
        paths.append(folder / f"part{part}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), paths[-1], row_group_size=50)
    return paths


def shuffling(folder: Path, parts: list[Path], **changes: Any) -> Shuffling:
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    options = {"side": "train", "shard_samples": 60, "seed": 0} | changes
    return Shuffling(parts=parts, folder=folder, work=work, **options)


def shuffled(folder: Path, parts: list[Path], weights: dict[str, float] | None = None, **changes: Any) -> list[dict]:
    each = shuffling(folder, parts, **changes)
    each.deal(weights or {})
    each.write()
    return [row for path in sorted(folder.glob("train-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_each_row_once_at_any_place(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "parts", [100, 0, 37, 250])
    mean = np.zeros(387)
    for seed in range(60):
        rows = shuffled(tmp_path / str(seed), parts, seed=seed)
        numbers = np.array([int(row["prompt"]) for row in rows])
        assert sorted(numbers) == list(range(387))
        mean[numbers] += np.arange(387) / 60
    # The mean place of each row: 193 ± 14 if all places are equally likely.
    assert np.abs(mean - 193).max() < 5 * 387 / np.sqrt(12 * 60)
    assert abs(np.corrcoef(mean, np.arange(387))[0, 1]) < 0.2


def test_weights_choose_exact_numbers_at_random(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "parts", [120, 180], tasks=("a", "b", "b"))
    chosen = Counter[str]()
    for seed in range(40):
        rows = shuffled(tmp_path / str(seed), parts, {"a": 2, "b": 1}, seed=seed)
        assert Counter(row["task"] for row in rows) == {"a": 100, "b": 50}
        chosen.update(row["prompt"] for row in rows if row["task"] == "b")
    counts = np.array([chosen[str(number)] for number in range(300) if number % 3])
    assert counts.sum() == 40 * 50
    assert counts.max() < 10 + 5 * np.sqrt(40 * 0.25 * 0.75)
    assert counts.min() > 0


def test_an_interruption_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = write_parts(tmp_path / "parts", [100, 100, 100])
    once = shuffled(tmp_path / "once", parts)
    stopped = shuffling(tmp_path / "again", parts)
    read, n_read = pq.ParquetFile.read_row_group, []

    def interrupted(self: Any, *args: Any) -> Any:
        n_read.append(1)
        if len(n_read) == 4:
            raise KeyboardInterrupt
        return read(self, *args)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.deal({})
    assert not stopped.dealt.exists()
    stopped.deal({})
    for part in parts:
        part.unlink()  # not needed any more

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.write(stop)
    assert len(list((tmp_path / "again").glob("train-*.parquet"))) == 1
    assert shuffled(tmp_path / "again", parts) == once
    bytes_of = [
        [path.read_bytes() for path in sorted((tmp_path / name).glob("*.parquet"))] for name in ("once", "again")
    ]
    assert bytes_of[0] == bytes_of[1]


def test_files_are_not_more_than_can_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 3)
    parts = write_parts(tmp_path / "parts", [100])
    assert len(shuffled(tmp_path / "out", parts, shard_samples=1)) == 100
    assert len(list((tmp_path / "out").glob("train-*.parquet"))) == 3


def test_samples_of_tasks() -> None:
    assert samples_of_tasks({"a": 100, "b": 30}, {"a": 1, "b": 1}) == {"a": 30, "b": 30}
    assert samples_of_tasks({"a": 100, "b": 30}, {"a": 10, "b": 1}) == {"a": 100, "b": 10}
    with pytest.raises(ValueError, match=r"no training sample of \['c'\]"):
        samples_of_tasks({"a": 100}, {"a": 10, "c": 1})
