"""Data card of a corpus: samples and tokens by task and data set, what was held out and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from cell2sen.data.output import complete_file
from cell2sen.training.corpus.settings import CorpusConfig

#: Columns that the card counts.
_COUNTED = ["task", "data_set", "prompt_tokens", "completion_tokens"]


def write_card(folder: Path, config: CorpusConfig, manifest: Mapping[str, Any], *, duplicates: Sequence[int]) -> None:
    """Write ``README.md`` from the shards in a folder.

    Parameters
    ----------
    duplicates
        Number of cells of each file that were left out, as copies of others or without genes.
    """
    counts = {side: _counts(folder, side) for side in ("train", "held_out")}
    lines = [
        "# Corpus of cell sentences",
        "",
        f"Made by cell2sen {manifest['version']} for the tokenizer of {manifest['settings']['model']}; seed "
        f"{config.seed}. `corpus.json` holds all settings and the SHA-256 of each input file.",
        "",
        *_table("Samples by task", counts, "task"),
        *_table("Samples by data set", counts, "data_set"),
        "## Files",
        "",
        "| file | study | side | cells left out (copies, or without genes) |",
        "| --- | --- | --- | --- |",
    ]
    for file, n in zip(config.files, duplicates, strict=True):
        study = config.study(file.file)
        side = "held out" if study in config.held_out else f"split by {file.split.by}, {file.split.test:g} held out"
        lines.append(f"| {Path(file.file).name} | {study} | {side} | {n} |")
    lines += [
        "",
        "## Use",
        "",
        "Columns: `prompt`, `completion`, `task`, `data_set`, `cells` (names), `prompt_tokens`, `completion_tokens`. "
        "Files that begin with `train` are for training, those with `held_out` for measurements. The shards are "
        "shuffled within themselves only.",
        "",
        "The licences and conditions of the data sets apply to the corpus.",
        "",
    ]
    with complete_file(folder / "README.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _counts(folder: Path, side: str) -> pd.DataFrame:
    """Task, data set, samples and tokens of one side."""
    frames = []
    for path in sorted(folder.glob(f"{side}-*.parquet")):
        frame = pq.read_table(path, columns=_COUNTED).to_pandas()
        frame["tokens"] = frame["prompt_tokens"] + frame["completion_tokens"]
        grouped = frame.groupby(["task", "data_set"])["tokens"]
        frames.append(grouped.agg(samples="size", tokens="sum").reset_index())
    if not frames:
        return pd.DataFrame({"task": [], "data_set": [], "samples": [], "tokens": []})
    counts: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return counts


def _table(title: str, counts: Mapping[str, pd.DataFrame], key: str) -> list[str]:
    sums = {side: frame.groupby(key)[["samples", "tokens"]].sum() for side, frame in counts.items()}
    lines = [
        f"## {title}", "", f"| {key.replace('_', ' ')} | training samples | tokens | held-out samples | tokens |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in sorted({*sums["train"].index, *sums["held_out"].index}):
        numbers = [
            f"{int(frame.loc[name, column]) if name in frame.index else 0:,}"
            for frame in sums.values()
            for column in ("samples", "tokens")
        ]
        lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return [*lines, ""]
