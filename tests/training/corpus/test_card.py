"""Data card: counts of shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.card import write_card
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.corpus.shards import SCHEMA


def test_counts(tmp_path: Path) -> None:
    def row(task: str, data_set: str, tokens: int) -> dict:
        names = {"prompt": "a", "completion": " b.", "cells": ["c"]}
        return names | {"task": task, "data_set": data_set, "prompt_tokens": tokens, "completion_tokens": 2}

    rows = [row("annotate", "A", 10), row("annotate", "B", 20), row("generate", "A", 5)]
    pq.write_table(pa.Table.from_pylist(rows[:2], schema=SCHEMA), tmp_path / "train-0000-00000-000.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:], schema=SCHEMA), tmp_path / "train-0000-00000-001.parquet")
    config: CorpusConfig = build(CorpusConfig, {"files": [{"file": "A.h5ad"}], "seed": 7})
    write_card(tmp_path, config, {"version": "1", "settings": {"model": "tiny"}}, duplicates=[3])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| annotate | 2 | 34 | 0 | 0 |" in card
    assert "| generate | 1 | 7 | 0 | 0 |" in card
    assert "| A | 2 | 19 | 0 | 0 |" in card
    assert "| A.h5ad | A | split by cell, 0.1 held out | 3 |" in card
    assert "seed 7" in card
