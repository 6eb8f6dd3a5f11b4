"""Answers with a part for each cell: guided cell sentences and closed-set labels, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from cell2sen.answer import ParsedSentence, parse_sentence
from cell2sen.backend import Backend, Sampling
from cell2sen.prompt import Genes, Prompt
from cell2sen.task import Task


def write_cells(
    backend: Backend, task: Task, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str], n_cells: int
) -> list[tuple[ParsedSentence, ...]]:
    """Write the sentences of several cells, each guided to `genes`, with the template's separators between them.

    Each cell is generated behind the cells before it, within the same prompt. The separators are the template's
    (:meth:`cell2sen.task.Task.openings`), never generated. Where answers are sampled, each cell's draw depends on the
    seed, the prompt's key and the cell's number. If prompt and answer exceed the context, all gene lists, those written
    so far included, are cut to the same length.

    Parameters
    ----------
    prompts
        With `answer_genes`: genes of each cell.

    Returns
    -------
    For each prompt the sentences of its cells, in order.
    """
    written: list[list[ParsedSentence]] = [[] for _ in prompts]
    openings, known = task.openings(n_cells), frozenset(genes)
    for number in range(n_cells):
        opening = openings[number].rstrip()
        prompts = [
            replace(prompt.extended(opening) if opening else prompt, key=f"{prompt.key}/{number}") for prompt in prompts
        ]
        texts = backend.generate(prompts, sampling, genes=genes)
        for place, text in enumerate(texts):
            sentence = parse_sentence(text, known)
            written[place].append(sentence)
        prompts = [
            replace(prompt.extended(" ", Genes(symbols=sentences[-1].genes)), key=prompt.key.rpartition("/")[0])
            for prompt, sentences in zip(prompts, written, strict=True)
        ]
    return [tuple(sentences) for sentences in written]


def choose_labels(
    backend: Backend, task: Task, prompts: Sequence[Prompt], labels: Sequence[str], *, n_cells: int
) -> tuple[list[tuple[str, ...]], NDArray[np.float64]]:
    """Choose a label for each of several cells out of a closed set, one cell behind the other.

    A cell's probabilities are those of the labels behind the most likely labels of the cells before it.

    Returns
    -------
    For each prompt the most likely label of each cell, and the log-probabilities, float64 (prompts, cells, labels).
    """
    chosen: list[list[str]] = [[] for _ in prompts]
    scores = np.zeros((len(prompts), n_cells, len(labels)))
    openings = task.openings(n_cells)
    for number in range(n_cells):
        opening, closing = openings[number], openings[number + 1].partition("\n")[0]
        prompts = [prompt.extended(opening.rstrip()) for prompt in prompts]
        answers = [f"{opening[len(opening.rstrip()) :]}{label}{closing}" for label in labels]
        scores[:, number] = log_softmax(backend.score(prompts, answers), axis=1)
        best = scores[:, number].argmax(axis=1)
        for place, label in enumerate(best):
            chosen[place].append(labels[label])
        prompts = [
            prompt.extended(opening[len(opening.rstrip()) :] + labels[label])
            for prompt, label in zip(prompts, best, strict=True)
        ]
    return [tuple(names) for names in chosen], scores
