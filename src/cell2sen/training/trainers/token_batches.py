"""Tokenised training samples, and the order in which they are put into batches."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.engine.tokenization.tokenizer import Tokens, fit
from cell2sen.prompt import Prompt
from cell2sen.training.examples.pair import Pair, PairOfCells

if TYPE_CHECKING:
    from datasets import Dataset

_log = logging.getLogger(__name__)

#: Label of tokens without a loss, as in PyTorch's cross-entropy.
IGNORED = -100

#: Maximum number of tokens of a label, whose losses are summed; those of a longer answer, a sentence, are averaged.
MAX_LABEL_TOKENS = 16

#: Tokens of a text that weigh as much as one of a label.
TEXT_SHARE = 4

#: Number of batches whose samples are sorted by length together: enough for similar lengths, few enough to mix.
SORTED_BATCHES = 50

#: Tokens reserved besides prompt and answer: end of text, and one that the joined text may need more than its parts.
RESERVED_TOKENS = 2


def answer_weight(task: str, n_tokens: int) -> float:
    """Weight of the mean loss of an answer's tokens.

    The losses of a label's tokens are summed, those of a longer answer, a sentence of genes, averaged: a label of three
    tokens would have little effect beside a sentence of two hundred. A text, or a label for each cell of a sample, has
    a quarter of their sum, whatever its length: with a mean, only short texts would be learned beside long ones.
    """
    if _kind(task) in ("text", "labels"):
        return n_tokens / TEXT_SHARE
    return float(n_tokens) if n_tokens <= MAX_LABEL_TOKENS else 1.0


@functools.cache
def _kind(task: str) -> str:
    """Kind of a task's answer; empty for a name that is no task's."""
    return tasks.load(task).answer if ":" in task or task in tasks.names() else ""


def samples(pairs: Sequence[Pair], tokens: Tokens, context: int) -> Dataset:
    """Tokenised samples: prompt and answer of each pair together, as at inference, and an end-of-text token.

    Parameters
    ----------
    pairs
        Prompts that are too long for the context lose genes; answers are never cut, except those of several cells, of
        which all cells lose the same number of genes.
    tokens
        Tokenizer of the model that is trained.
    context
        Maximum number of tokens of a sample.

    Returns
    -------
    datasets.Dataset
        Columns ``task``, ``prompt``, ``completion``, ``input_ids``, ``labels`` (:data:`IGNORED` in the prompt),
        ``length`` and ``weight`` (:func:`answer_weight`).

    Raises
    ------
    ValueError
        An answer does not fit even if the prompt has no genes.
    """
    from datasets import Dataset

    end = min(tokens.eos)
    prompts, completions = _fitting_answers(pairs, tokens, context)
    reserved = tokens.count(completions) + RESERVED_TOKENS if pairs else np.zeros(0, dtype=np.int64)
    prompts, _ = fit(prompts, context=context, reserved_tokens=reserved, count=tokens.lengths)
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": [], "weight": []}
    for start in range(0, len(pairs), 1024):
        part = slice(start, start + 1024)
        for pair, row in zip(pairs[part], tokens.encode(prompts[part], completions[part]), strict=True):
            ids = np.append(row.ids, end).astype(np.int32)
            labels = ids.copy()
            labels[: row.answer] = IGNORED
            assert len(ids) <= context, f"a sample of {len(ids)} tokens in a context of {context}"
            weight = answer_weight(pair.task, len(ids) - row.answer)
            for name, value in (("input_ids", ids), ("labels", labels), ("length", len(ids)), ("weight", weight)):
                columns[name].append(value)
    texts = {"prompt": [prompt.text for prompt in prompts], "completion": completions}
    return Dataset.from_dict({"task": [pair[0] for pair in pairs], **texts, **columns})


def _fitting_answers(pairs: Sequence[Pair], tokens: Tokens, context: int) -> tuple[list[Prompt], list[str]]:
    """Prompts and answers; answers of several cells with as many genes per cell as fit behind their prompt."""
    prompts, completions = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    several = [(place, pair.shorter) for place, pair in enumerate(pairs) if isinstance(pair, PairOfCells)]

    def fits_into(prompt: Prompt, completion: str) -> bool:
        length = tokens.lengths([prompt])[0] + tokens.count([completion])[0]
        return bool(length + RESERVED_TOKENS <= context)

    cut = 0
    for place, shorter in several:
        if fits_into(prompts[place], completions[place]):
            continue
        fits, over = 0, prompts[place].answer_genes or 1
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if fits_into(*shorter(middle)) else (fits, middle)
        prompts[place], completions[place] = shorter(max(1, fits))
        cut += 1
    if cut:
        _log.warning(
            "%d of %d answers of several cells were too long for the context of %d tokens: their cells lost genes",
            cut,
            len(several),
            context,
        )
    return prompts, completions


def corpus_samples(
    folder: Path, side: str, tokens: Tokens, context: int, cache: Path, limit: int | None = None
) -> Dataset:
    """Tokenised samples of one side of a corpus, on disk, with the columns of :func:`samples`.

    Parameters
    ----------
    folder
        Folder that :func:`cell2sen.training.corpus.build.build_corpus` wrote.
    side
        ``"train"`` or ``"held_out"``.
    cache
        Folder for the tokenised samples, from which batches are read.
    limit
        Number of samples, spread evenly over the shards; by default all.

    Raises
    ------
    FileNotFoundError
        The folder has no such shards.
    ValueError
        A sample is longer than the context.
    """
    from datasets import Dataset, disable_progress_bars

    files = sorted(map(str, folder.glob(f"{side}-*.parquet")))
    if not files:
        raise FileNotFoundError(f"{folder} holds no {side}-*.parquet, as cell2sen corpus writes them")
    disable_progress_bars()
    dataset = Dataset.from_parquet(files, columns=["task", "prompt", "completion"], cache_dir=str(cache))
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(np.linspace(0, len(dataset) - 1, limit).astype(np.int64))
    end = min(tokens.eos)

    def tokenised(rows: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = tokens.encode([Prompt(segments=(text,)) for text in rows["prompt"]], rows["completion"])
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
        for row in encoded:
            ids = np.append(row.ids, end).astype(np.int32)
            if len(ids) > context:
                raise ValueError(
                    f"{folder}: a sample has {len(ids)} tokens, the model reads {context}: build the corpus with "
                    f"context: {context - RESERVED_TOKENS}"
                )
            labels = ids.copy()
            labels[: row.answer] = IGNORED
            for name, value in (("input_ids", ids), ("labels", labels), ("length", len(ids))):
                columns[name].append(value)
        return columns

    fingerprint = hashlib.sha256(repr([side, context, limit, *files]).encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    return dataset.map(
        tokenised,
        batched=True,
        batch_size=1024,
        new_fingerprint=fingerprint,
        cache_file_name=str(cache / f"{side}-{fingerprint}.arrow"),
    )


class GroupedOrder(torch.utils.data.Sampler[int]):
    """Random order of samples in which those of a batch have similar length.

    It depends on seed and epoch only: a resumed training continues with the same samples.

    Parameters
    ----------
    lengths
        Number of tokens of each sample.
    together
        Number of batches whose samples are sorted by length together.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, together: int = SORTED_BATCHES) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.together = together
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        chunk = self.together * self.batch_size
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), chunk):
            group = order[start : start + chunk]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches += [group[first : first + self.batch_size] for first in range(0, len(group), self.batch_size)]
        # A short batch is last: elsewhere it would shift the boundaries of all batches after it.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        batches = [batches[place] for place in generator.permutation(len(batches))] + last
        return iter(np.concatenate(batches).tolist() if batches else [])
