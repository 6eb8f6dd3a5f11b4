"""Shuffling of a corpus in bounded memory: rows are dealt to buckets at random, and each bucket is shuffled."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cell2sen.data.output import complete_file
from cell2sen.training.corpus.shards import GROUP_ROWS, SCHEMA

#: Maximum number of buckets, whose files are open at the same time.
MAX_BUCKETS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffling:
    """One side of the split of a corpus, as shards in random order.

    The order is uniform over all rows (Rao 1961; Sandelius 1962): the bucket of each is drawn independently, and the
    rows of a bucket are permuted. Rows are read once and written twice. What was finished before a kill stays.
    """

    side: str
    """``"train"`` or ``"held_out"``: beginning of the names of the shards."""

    parts: Sequence[Path]
    """Parquet files of the rows, in a fixed order."""

    folder: Path
    """Folder of the shards."""

    work: Path
    """Folder for buckets."""

    shard_samples: int
    seed: int

    @property
    def dealt(self) -> Path:
        """File that is there when all rows are in their buckets; its content is their number."""
        return self.work / f"{self.side}-dealt.json"

    def deal(self, weights: Mapping[str, float]) -> None:
        """Deal the rows to buckets, or with `weights` as many of each task as :func:`samples_of_tasks` gives.

        Raises
        ------
        ValueError
            There is no sample of a task with a weight.
        """
        if self.dealt.exists():
            return
        available = Counter[str]()
        for path in self.parts:
            counted = pc.value_counts(pq.read_table(path, columns=["task"])["task"].combine_chunks()).to_pylist()
            available.update({entry["values"]: entry["counts"] for entry in counted})
        wanted = samples_of_tasks(available, weights) if weights else dict(available)
        n_buckets = min(MAX_BUCKETS, -(-sum(wanted.values()) // self.shard_samples))
        shutil.rmtree(self._buckets, ignore_errors=True)
        self._buckets.mkdir(parents=True)
        choose = _Choice(available, wanted)
        with contextlib.ExitStack() as stack:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            writers = [
                stack.enter_context(pa.ipc.new_stream(str(self._bucket(number)), SCHEMA, options=options))
                for number in range(n_buckets)
            ]
            for number, path in enumerate(self.parts if n_buckets else ()):
                generator = np.random.default_rng([self.seed, int(self.side == "train"), number])
                with pq.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        rows = file.read_row_group(group)
                        chosen = choose(rows["task"].to_pylist(), generator)
                        bucket = generator.integers(n_buckets, size=len(chosen))
                        order = np.argsort(bucket, kind="stable")
                        rows = rows.take(chosen[order])
                        bounds = np.searchsorted(bucket[order], np.arange(n_buckets + 1))
                        for place in np.flatnonzero(np.diff(bounds)):
                            writers[place].write_table(rows.slice(bounds[place], bounds[place + 1] - bounds[place]))
        with complete_file(self.dealt) as temporary:
            temporary.write_text(json.dumps({"buckets": n_buckets, "available": available, "wanted": wanted}))

    def write(self, done: Callable[[], object] = lambda: None) -> None:
        """Write the shards that are not written yet, and call `done` after each."""
        for number in range(json.loads(self.dealt.read_text())["buckets"]):
            shard = self.folder / f"{self.side}-{number:05d}.parquet"
            if not shard.exists():
                with pa.ipc.open_stream(str(self._bucket(number))) as stream:
                    rows = stream.read_all()
                generator = np.random.default_rng([self.seed, int(self.side == "train"), number, 1])
                rows = rows.take(generator.permutation(len(rows)))
                with complete_file(shard) as temporary:
                    pq.write_table(rows, temporary, compression="zstd", row_group_size=GROUP_ROWS)
            self._bucket(number).unlink(missing_ok=True)
            done()

    @property
    def _buckets(self) -> Path:
        return self.work / f"{self.side}-buckets"

    def _bucket(self, number: int) -> Path:
        return self._buckets / f"{number:05d}.arrow"


def samples_of_tasks(available: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Number of samples of each task, in the ratio of the weights; the scarcest task gives all of its samples.

    Raises
    ------
    ValueError
        There is no sample of a task.
    """
    if none := sorted(task for task in weights if not available.get(task)):
        raise ValueError(f"weights: there is no training sample of {none}: leave them out of the files")
    scarcest = min(weights, key=lambda task: available[task] / weights[task])
    scale = available[scarcest] / weights[scarcest]
    return {task: min(available[task], round(scale * weight)) for task, weight in weights.items()}


class _Choice:
    """Random choice of a given number of the rows of each task, in one pass: each subset has the same probability."""

    def __init__(self, available: Mapping[str, int], wanted: Mapping[str, int]) -> None:
        self.left, self.needed = dict(available), dict(wanted)

    def __call__(self, tasks: Iterable[str], generator: np.random.Generator) -> NDArray[np.int64]:
        """Numbers of the chosen rows among those of these tasks, int64 (rows,)."""
        names = np.array(list(tasks), dtype=object)
        chosen = []
        for task in sorted(set(names.tolist())):
            rows = np.flatnonzero(names == task)
            left, needed = self.left[task], self.needed[task]
            n_chosen = len(rows) if needed == left else int(generator.hypergeometric(needed, left - needed, len(rows)))
            self.left[task], self.needed[task] = left - len(rows), needed - n_chosen
            chosen.append(rows if n_chosen == len(rows) else generator.choice(rows, n_chosen, replace=False))
        return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.empty(0, dtype=np.int64)
