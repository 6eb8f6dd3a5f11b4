"""Shards: parts of files and draws, each written as one Parquet file that depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cell2sen.data.output import complete_file
from cell2sen.engine.tokenization.tokenizer import Tokens, fit
from cell2sen.task import Task
from cell2sen.training.config.data import Augmentation
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.pairs import SEED_STEP, Pair, pairs

#: Added to the seed from one part of a file to the next.
PART_STEP = 104_729

#: Tokens reserved besides prompt and answer, as in trainings.
RESERVED_TOKENS = 2

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
class Part:
    """Some cells of one file, of which each draw is a shard."""

    file: int
    """Number of the file in the settings."""

    number: int
    rows: NDArray[np.int64]
    """Rows of the file, int64 (cells,), ascending."""

    def shards(self, n_draws: int, held_out_only: bool) -> Iterator[tuple[str, int, bool]]:
        """Name, draw and side of each shard; held-out cells are drawn once."""
        for draw in range(0 if held_out_only else n_draws):
            yield f"train-{self.file:04d}-{self.number:05d}-{draw:03d}.parquet", draw, False
        yield f"held_out-{self.file:04d}-{self.number:05d}.parquet", 0, True


def parts_of(
    file: int, kept: NDArray[np.bool_], part_cells: int, seed: int, sections: NDArray[np.object_] | None
) -> list[Part]:
    """Parts of a file: random ones of about `part_cells` cells, or its sections, where neighbours must stay together.

    Parameters
    ----------
    kept
        bool (cells,): cells that the corpus may have.
    sections
        Section of each cell, object (cells,), for files of cells in space; cells without one are left out.
    """
    rows = np.flatnonzero(kept)
    if sections is not None:
        names = sorted({name for name in sections[rows] if name is not None}, key=str)
        groups = [rows[sections[rows] == name] for name in names]
    else:
        shuffled = np.random.default_rng([seed, file]).permutation(rows)
        groups = np.array_split(shuffled, max(1, -(-len(rows) // part_cells)))
    return [Part(file=file, number=number, rows=np.sort(group)) for number, group in enumerate(groups) if len(group)]


def write_shard(
    path: Path,
    cells: TrainingCells,
    part: Part,
    tasks: Mapping[str, Task],
    config: CorpusConfig,
    tokens: Tokens,
    *,
    lengths: Mapping[str, int],
    draw: int,
    held_out: bool,
) -> None:
    """Write the pairs of one draw of a part, in random order. The file appears when it is complete."""
    seed = config.seed + SEED_STEP * part.file + PART_STEP * part.number
    drawn: list[Pair] = []
    if len(cells.test):  # none where the file's `where` leaves no cell of the part
        drawn += pairs(
            cells,
            tasks,
            draw=draw,
            held_out=held_out,
            lengths=lengths,
            augmentation=Augmentation() if held_out else config.augmentation,
            seed=seed,
        )
    order = np.random.default_rng([seed, draw, int(held_out)]).permutation(len(drawn))
    table = as_table([drawn[place] for place in order], config.study(cells.data.file), tokens, config.context)
    with complete_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def as_table(drawn: Sequence[Pair], data_set: str, tokens: Tokens, context: int) -> pa.Table:
    """Pairs as rows of :data:`SCHEMA`; prompts that are too long for the context lose genes.

    Raises
    ------
    ValueError
        An answer does not fit even if the prompt has no genes.
    """
    if not drawn:
        return SCHEMA.empty_table()
    completions = [pair.completion for pair in drawn]
    reserved = tokens.count(completions) + RESERVED_TOKENS
    prompts, _ = fit([pair.prompt for pair in drawn], context=context, reserved_tokens=reserved, count=tokens.lengths)
    rows = [
        row
        for start in range(0, len(prompts), 1024)
        for row in tokens.encode(prompts[start : start + 1024], completions[start : start + 1024])
    ]
    return pa.table(
        {
            "prompt": [prompt.text for prompt in prompts],
            "completion": completions,
            "task": [pair.task for pair in drawn],
            "data_set": [data_set] * len(drawn),
            "cells": [
                list(dict.fromkeys([*(str(genes.cell) for genes in prompt.lists if genes.cell), prompt.key]))
                for prompt in prompts
            ],
            "prompt_tokens": [int(row.answer) for row in rows],
            "completion_tokens": [len(row.ids) - int(row.answer) for row in rows],
        },
        schema=SCHEMA,
    )
