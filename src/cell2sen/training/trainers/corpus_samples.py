"""Tokenised samples of a corpus, on disk: of a training only the samples of a batch are in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cell2sen.data.output import complete_file
from cell2sen.data.progress import Progress
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.prompt import Prompt
from cell2sen.training.corpus.reading import Corpus
from cell2sen.training.examples.pair import RESERVED_TOKENS
from cell2sen.training.trainers.token_batches import with_labels

if TYPE_CHECKING:
    from datasets import Dataset

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("weight", pa.float64()),
    ]
)


def corpus_samples(
    corpus: Corpus,
    side: str,
    tokens: Tokens,
    context: int,
    cache: Path,
    *,
    limit: int | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Dataset:
    """Tokenised samples of one side of a corpus, with the columns ``input_ids``, ``labels``, ``length``, ``weight``.

    They are those of :func:`cell2sen.training.trainers.token_batches.samples`, in the order of the corpus. Each is 8
    bytes per token on disk.

    Parameters
    ----------
    side
        ``"train"`` or ``"held_out"``.
    context
        Maximum number of tokens of a sample.
    cache
        Folder for the samples, from which batches are read.
    limit
        Maximum number of samples, equally many of each task; by default all.
    resume
        Use the samples that an interrupted training has written.

    Raises
    ------
    ValueError
        A sample is longer than the context, or a training is resumed on another corpus.
    """
    from datasets import Dataset

    name = hashlib.sha256(repr([corpus.fingerprint, context, limit]).encode()).hexdigest()[:16]
    file = cache / f"{side}-{name}.arrow"
    if not file.exists():
        if resume and any(cache.glob(f"{side}-*.arrow")):
            raise ValueError(f"{corpus.folder} is another corpus than the one that the training began with")
        cache.mkdir(parents=True, exist_ok=True)
        total = sum(corpus.samples_of_tasks(side).values())
        with (
            complete_file(file) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_stream(sink, _SCHEMA) as writer,
            Progress(limit or total, f"tokens ({side})", "sample", show=progress, preparation=True) as bar,
        ):
            for rows in _rows(corpus, side, limit):
                writer.write_batch(_tokenised(rows, tokens, context, corpus))
                bar.update(len(rows))
    dataset: Dataset = Dataset.from_file(str(file))
    return dataset


def _rows(corpus: Corpus, side: str, limit: int | None) -> Iterator[list[tuple[str, str, str]]]:
    """Task, prompt and answer of samples, a batch at a time; with a limit the first ones of each task.

    Rows are in random order, so that the first ones are a random choice.
    """
    per_task = None if limit is None else max(1, limit // max(1, len(corpus.samples_of_tasks(side))))
    counts: Counter[str] = Counter()
    for batch in corpus.batches(side, ["task", "prompt", "completion"]):
        rows = []
        for task, prompt, completion in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            counts[task] += 1
            if per_task is None or counts[task] <= per_task:
                rows.append((task, prompt, completion))
        if rows:
            yield rows


def _tokenised(rows: list[tuple[str, str, str]], tokens: Tokens, context: int, corpus: Corpus) -> pa.RecordBatch:
    names, texts, completions = zip(*rows, strict=True)
    prompts = [Prompt(segments=(text,)) for text in texts]
    ids, labels, weights = zip(*with_labels(tokens, names, prompts, completions), strict=True)
    lengths = [len(row) for row in ids]
    if max(lengths) > context:
        raise ValueError(
            f"{corpus.folder}: a sample has {max(lengths)} tokens, the model reads {context}: build the corpus with "
            f"max_tokens: {context - RESERVED_TOKENS}, or train a model with a larger context"
        )
    columns = zip((ids, labels, lengths, weights), _SCHEMA, strict=True)
    return pa.record_batch([pa.array(column, type=kind.type) for column, kind in columns], schema=_SCHEMA)
