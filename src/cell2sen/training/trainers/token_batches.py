"""Tokenised training samples, and the order in which they are put into batches."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.prompt import Prompt
from cell2sen.training.examples.pair import Pair, fitted

if TYPE_CHECKING:
    from datasets import Dataset

#: Label of tokens without a loss, as in PyTorch's cross-entropy.
IGNORED = -100

#: Maximum number of tokens of a label, whose losses are summed; those of a longer answer, a sentence, are averaged.
MAX_LABEL_TOKENS = 16

#: Tokens of a text that weigh as much as one of a label.
TEXT_SHARE = 4

#: Number of batches whose samples are sorted by length together: enough for similar lengths, few enough to mix.
SORTED_BATCHES = 50


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

    prompts, completions = fitted(pairs, tokens, context)
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": [], "weight": []}
    for start in range(0, len(pairs), 1024):
        part = slice(start, start + 1024)
        names = [pair.task for pair in pairs[part]]
        for ids, labels, weight in with_labels(tokens, names, prompts[part], completions[part]):
            assert len(ids) <= context, f"a sample of {len(ids)} tokens in a context of {context}"
            for name, value in (("input_ids", ids), ("labels", labels), ("length", len(ids)), ("weight", weight)):
                columns[name].append(value)
    texts = {"prompt": [prompt.text for prompt in prompts], "completion": completions}
    return Dataset.from_dict({"task": [pair[0] for pair in pairs], **texts, **columns})


def with_labels(
    tokens: Tokens, names: Sequence[str], prompts: Sequence[Prompt], completions: Sequence[str]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], float]]:
    """Ids of prompt, answer and end of text of each sample, its labels (:data:`IGNORED` in the prompt), its weight.

    Parameters
    ----------
    names
        Task of each sample.
    """
    end = min(tokens.eos)
    for name, row in zip(names, tokens.encode(prompts, completions), strict=True):
        ids = np.append(row.ids, end).astype(np.int32)
        labels = ids.copy()
        labels[: row.answer] = IGNORED
        yield ids, labels, answer_weight(name, len(ids) - row.answer)


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
