"""Data card: counts and shares of shards, an example of each task."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cell2sen.training.config.training_file import build
from cell2sen.training.corpus.card import write_card
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.corpus.shards import SCHEMA


def row(task: str, data_set: str, tokens: int) -> dict:
    names = {"prompt": f"A prompt of {task}:", "completion": " b.", "cells": ["c"]}
    return names | {"task": task, "data_set": data_set, "prompt_tokens": tokens, "completion_tokens": 2}


def test_counts(tmp_path: Path) -> None:
    rows = [row("annotate", "A", 10), row("annotate", "B", 20), row("generate", "A", 5)]
    pq.write_table(pa.Table.from_pylist(rows[:2], schema=SCHEMA), tmp_path / "train-00000.parquet")
    pq.write_table(pa.Table.from_pylist(rows[2:], schema=SCHEMA), tmp_path / "train-00001.parquet")
    values = {"files": [{"file": "A.h5ad", "tasks": ["annotate", "generate"]}], "seed": 7}
    values |= {"gene_sets": [{"file": "B.gmt", "tasks": ["name_gene_set"]}]}
    config: CorpusConfig = build(CorpusConfig, values)
    made_of = {"version": "1", "settings": {"model": "tiny"}}
    write_card(tmp_path, config, made_of, left_out={"A.h5ad": 3}, dealt={"available": {}})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| annotate | 2 | 66.7% | 34 | 82.9% | 0 | 0 |" in card
    assert "| generate | 1 | 33.3% | 7 | 17.1% | 0 | 0 |" in card
    assert "| A | 2 | 66.7% | 19 | 46.3% | 0 | 0 |" in card
    assert "| A.h5ad | A | split by cell, 0.1 held out | 3 |" in card
    assert "| B.gmt | B | 0.1 of the sets held out | |" in card
    assert "seed 7" in card
    assert "A prompt of generate:⟶ b." in card
