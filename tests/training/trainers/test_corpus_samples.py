"""Samples of a corpus on disk: those of a training, in the order of the corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
from sft_trainers import pairs

from cell2sen.training.corpus.reading import RECORD, Corpus
from cell2sen.training.corpus.shards import as_table
from cell2sen.training.trainers.corpus_samples import corpus_samples
from cell2sen.training.trainers.token_batches import samples


def corpus(folder: Path, kind: str) -> Corpus:
    tokens = tiny.tokens(kind)
    for number, part in enumerate((pairs(20)[:11], pairs(20)[11:])):
        pq.write_table(as_table(part, "A", tokens, 4096), folder / f"train-{number:05d}.parquet", row_group_size=4)
    (folder / RECORD).write_text(json.dumps({"learned": {}, "genes": []}), encoding="utf-8")
    return Corpus.open(folder)


@pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
def test_are_those_of_a_training(kind: str, tmp_path: Path) -> None:
    tokens = tiny.tokens(kind)
    read = corpus_samples(corpus(tmp_path, kind), "train", tokens, 4096, tmp_path / "cache")
    expected = samples(pairs(20), tokens, 4096)
    for name in ("input_ids", "labels", "length", "weight"):
        assert list(read[name]) == list(expected[name])
    [file] = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    again = corpus_samples(Corpus.open(tmp_path), "train", tokens, 4096, tmp_path / "cache", resume=True)
    assert list(again["length"]) == list(expected["length"])
    assert file.stat().st_mtime_ns == written


def test_a_limit_has_equally_many_of_each_task(tmp_path: Path) -> None:
    tokens = tiny.tokens("bytes")
    read = corpus_samples(corpus(tmp_path, "bytes"), "train", tokens, 4096, tmp_path / "cache", limit=6)
    tasks = {pair.task for pair in pairs(20)}
    assert len(read) == len(tasks) * (6 // len(tasks))


def test_no_held_out_samples(tmp_path: Path) -> None:
    read = corpus_samples(corpus(tmp_path, "bytes"), "held_out", tiny.tokens("bytes"), 4096, tmp_path / "cache")
    assert len(read) == 0


def test_samples_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model reads 20"):
        corpus_samples(corpus(tmp_path, "bytes"), "train", tiny.tokens("bytes"), 20, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
