"""Draws of parts as Parquet files, each of which depends on settings, input files and the number of its part alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cell2sen.data.output import complete_file
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.training.config.data import Augmentation
from cell2sen.training.corpus.plan import Part, read_part
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.examples.pair import Pair, fitted
from cell2sen.training.examples.pairs import Examples, pairs

#: Added to the seed from one part to the next.
PART_STEP = 104_729

#: Rows of a group in a Parquet file.
GROUP_ROWS = 2048

SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("task", pa.string()),
        ("data_set", pa.string()),
        ("cells", pa.list_(pa.string())),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartWriter:
    """Writer of the draws of parts."""

    config: CorpusConfig
    examples: Examples
    """Cells without their expression, tasks, lengths and gene sets."""

    tokens: Tokens
    max_tokens: int
    folder: Path

    def write(self, part: Part) -> None:
        """Write the draws of a part that are not written yet. Each file appears when it is complete."""
        missing = [(name, draw) for name, draw in part.draws if not (self.folder / name).exists()]
        if not missing:
            return
        cells = None if part.places is None else read_part(part, self.examples)
        seed = self.config.seed + PART_STEP * part.number
        for name, draw in missing:
            drawn: Iterator[Pair]
            if cells is None:
                sets = self.examples.sets[part.file].pairs(
                    self.examples.tasks,
                    draw=draw,
                    held_out=part.held_out,
                    lengths=self.examples.lengths,
                    seed=seed,
                )
                drawn = (Pair(*pair) for pair in sets)
            else:
                drawn = pairs(
                    cells,
                    self.examples.tasks,
                    draw=draw,
                    held_out=part.held_out,
                    lengths=self.examples.lengths,
                    augmentation=Augmentation() if part.held_out else self.config.augmentation,
                    seed=seed,
                )
            self._write(self.folder / name, drawn, self.config.study(part.file))

    def _write(self, path: Path, drawn: Iterator[Pair], data_set: str) -> None:
        with complete_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            while rows := list(itertools.islice(drawn, GROUP_ROWS)):
                writer.write_table(as_table(rows, data_set, self.tokens, self.max_tokens))


def as_table(drawn: Sequence[Pair], data_set: str, tokens: Tokens, max_tokens: int) -> pa.Table:
    """Pairs as rows of :data:`SCHEMA`, cut as :func:`cell2sen.training.examples.pair.fitted` does.

    Raises
    ------
    ValueError
        An answer does not fit even if the prompt has no genes.
    """
    prompts, completions = fitted(drawn, tokens, max_tokens)
    rows = tokens.encode(prompts, completions)
    return pa.table(
        {
            "prompt": [prompt.text for prompt in prompts],
            "completion": completions,
            "task": [pair.task for pair in drawn],
            "data_set": [data_set] * len(drawn),
            "cells": [list(pair.cells) for pair in drawn],
            "prompt_tokens": [int(row.answer) for row in rows],
            "completion_tokens": [len(row.ids) - int(row.answer) for row in rows],
        },
        schema=SCHEMA,
    )
