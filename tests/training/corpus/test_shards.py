"""Parts of files: all cells once, reproducible, sections whole."""

from __future__ import annotations

import numpy as np

from cell2sen.training.corpus.shards import SCHEMA, Part, as_table, parts_of


def test_parts_hold_each_cell_once() -> None:
    kept = np.random.default_rng(0).random(1000) < 0.7
    parts = parts_of(2, kept, 100, 0, None)
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows.tolist()) == np.flatnonzero(kept).tolist()
    assert all(len(part.rows) <= 100 and (np.diff(part.rows) > 0).all() for part in parts)
    again = parts_of(2, kept, 100, 0, None)
    assert [part.rows.tolist() for part in parts] == [part.rows.tolist() for part in again]
    assert [part.rows.tolist() for part in parts_of(2, kept, 100, 1, None)] != [part.rows.tolist() for part in parts]


def test_sections_stay_together() -> None:
    sections = np.array(["a", "b", None] * 10, dtype=object)
    parts = parts_of(0, np.ones(30, dtype=bool), 3, 0, sections)
    assert [set(sections[part.rows]) for part in parts] == [{"a"}, {"b"}]


def test_names_of_shards() -> None:
    part = Part(file=1, number=2, rows=np.arange(3))
    assert list(part.shards(2, False)) == [
        ("train-0001-00002-000.parquet", 0, False),
        ("train-0001-00002-001.parquet", 1, False),
        ("held_out-0001-00002.parquet", 0, True),
    ]
    assert list(part.shards(2, True)) == [("held_out-0001-00002.parquet", 0, True)]


def test_no_pairs_are_an_empty_table() -> None:
    table = as_table([], "a", None, 100)  # type: ignore[arg-type]
    assert table.schema == SCHEMA
    assert not len(table)
