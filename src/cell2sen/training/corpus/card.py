"""Data card of a corpus: samples and tokens by task and data set, what was held out, and an example of each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from cell2sen.data.output import complete_file
from cell2sen.training.corpus.settings import CorpusConfig

#: File of the card, the last one that a build writes.
CARD = "README.md"

#: Columns that the card counts.
_COUNTED = ["task", "data_set", "prompt_tokens", "completion_tokens"]

#: Characters at the beginning and end of the prompt, and at the beginning of the answer, of an example.
_SHOWN = 160


def write_card(
    folder: Path,
    config: CorpusConfig,
    made_of: Mapping[str, Any],
    *,
    left_out: Mapping[str, int],
    dealt: Mapping[str, Any],
) -> None:
    """Write ``README.md`` from the shards in a folder.

    Parameters
    ----------
    left_out
        Number of cells of each file that were left out, as copies of others or without genes.
    dealt
        ``available``: number of training samples of each task before weights were applied.
    """
    counts = {side: _counts(folder, side) for side in ("train", "held_out")}
    lines = [
        "# Corpus of cell sentences",
        "",
        f"Made by cell2sen {made_of['version']} for the tokenizer of {made_of['settings']['model']}; seed "
        f"{config.seed}. `corpus.json` has all settings and the SHA-256 of each input file.",
        "",
        *_table("Samples by task", counts, "task"),
        *(_weights(config, counts["train"], dealt["available"]) if config.weights else []),
        *_table("Samples by data set", counts, "data_set"),
        "## Files",
        "",
        "| file | study | side | cells left out (copies, or without genes) |",
        "| --- | --- | --- | --- |",
    ]
    for file in config.files:
        side = "held out" if config.is_held_out(file) else f"split by {file.split.by}, {_share(file.split)} held out"
        lines.append(f"| {Path(file.file).name} | {config.study(file.file)} | {side} | {left_out[file.file]} |")
    for sets in config.gene_sets:
        side = f"{', '.join(sets.hold_out)} held out" if sets.hold_out else f"{sets.test:g} of the sets held out"
        lines.append(f"| {Path(sets.file).name} | {config.study(sets.file)} | {side} | |")
    lines += [
        "",
        "## Use",
        "",
        "Columns: `prompt`, `completion`, `task`, `data_set`, `cells` (names), `prompt_tokens`, `completion_tokens`. "
        "Files that begin with `train` are for training, those with `held_out` for measurements. The rows of each side "
        "are in random order over all its files.",
        "",
        "The licences and conditions of the data sets apply to the corpus.",
        "",
        "## An example of each task",
        "",
        *_examples(folder),
    ]
    with complete_file(folder / CARD) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _share(split: Any) -> str:
    return ", ".join(split.values) if split.values else f"{split.test:g}"


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
        f"## {title}", "",
        f"| {key.replace('_', ' ')} | training samples | share | tokens | share | held-out samples | tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in sorted({*sums["train"].index, *sums["held_out"].index}):
        cells = []
        for side, frame in sums.items():
            for column in ("samples", "tokens"):
                n = int(frame.loc[name, column]) if name in frame.index else 0
                cells.append(f"{n:,}")
                if side == "train":
                    cells.append(f"{n / max(1, int(frame[column].sum())):.1%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _weights(config: CorpusConfig, train: pd.DataFrame, available: Mapping[str, int]) -> list[str]:
    """Wanted and achieved shares, and which task limits the others."""
    total, samples = sum(config.weights.values()), train.groupby("task")["samples"].sum()
    scarcest = min(config.weights, key=lambda task: available[task] / config.weights[task])
    lines = [
        "| task | weight | share wanted | share | drawn | used |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task, weight in sorted(config.weights.items()):
        achieved = samples[task] / samples.sum()
        numbers = f"{weight / total:.1%} | {achieved:.1%} | {available[task]:,} | {int(samples[task]):,}"
        lines.append(f"| {task} | {weight:g} | {numbers} |")
    note = f"All samples of {scarcest} are used, which limits the others: more draws of it make the corpus larger."
    return [*lines, "", note, ""]


def _examples(folder: Path) -> list[str]:
    """First training sample of each task, shortened."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("train-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=["task", "prompt", "completion"]):
                for row in batch.to_pylist():
                    found.setdefault(row["task"], (row["prompt"], row["completion"]))
                break  # tasks that are not in the first rows of any shard are rare
    lines: list[str] = []
    for task, (prompt, completion) in sorted(found.items()):
        shown = prompt if len(prompt) <= 3 * _SHOWN else f"{prompt[: 2 * _SHOWN]} … {prompt[-_SHOWN:]}"
        answer = completion if len(completion) <= _SHOWN else f"{completion[:_SHOWN]} …"
        lines += [f"{task}:", "", "```text", f"{shown}⟶{answer}", "```", ""]
    return lines
