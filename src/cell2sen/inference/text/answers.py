"""Free text on samples of cells: captions, summaries, answers to questions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.backend import Sampling, Unsupported
from cell2sen.data.obs import contexts
from cell2sen.inference.session import Session
from cell2sen.inference.text.grounding import CellGenes, NamedGene, ground
from cell2sen.model import Model
from cell2sen.sentences.samples import draw_samples
from cell2sen.task import Task

logger = logging.getLogger(__name__)

#: Sampling of text that the authors of C2S-Scale publish.
TEMPERATURE, TOP_K, TOP_P = 0.7, 30, 0.9

#: Strings that end the text of each task, besides the beginnings of its prompts (:func:`sampling_of`). A caption is one
#: line, a summary and an answer one paragraph.
STOP: Mapping[str, tuple[str, ...]] = {
    "caption": ("\n",),
    "ask": ("\n\n", "\nQuestion:", "\nCell 1:"),
    "interpret": ("\n\n", "\nCell 1:"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Text on one sample of cells."""

    rows: NDArray[np.int64]
    """Cells of the sample, int64 (cells,)."""

    text: str
    complete: bool
    """Whether the model ended the text; otherwise it was cut at the limit of tokens."""

    genes: tuple[NamedGene, ...]
    """Genes that the text names."""

    slots: Mapping[str, str]
    """Values of the prompt, such as the question."""


def writes_text(model: Model) -> bool:
    """Whether a model may have been trained to write text: any that does not list its tasks, or lists one with text."""
    trained = model.metadata.get("templates")
    return not trained or any(name in tasks.names() and tasks.load(name).answer == "text" for name in trained)


def refuse_without_text(model: Model, task: str) -> None:
    """Raise an error if a model was not trained to write text.

    Raises
    ------
    Unsupported
        The model lists the tasks that it was trained on, and none of them has text as answer.
    """
    if not writes_text(model):
        trained = ", ".join(sorted(model.metadata["templates"]))
        raise Unsupported(
            f"{model.name} was not trained to write text, only on {trained}: task {task!r} needs another model, such "
            "as a checkpoint directory that was trained on instructions, or by `cell2sen train` on this task (model=, "
            "--model)"
        )


def text_samples(
    session: Session,
    sample_by: Sequence[str],
    *,
    n_cells: int,
    n_samples: int | None = 1,
    seed: int = 0,
    cells: NDArray[np.bool_] | None = None,
) -> list[NDArray[np.int64]]:
    """Samples of the session's cells, drawn from each group.

    Parameters
    ----------
    sample_by
        obs columns whose values all cells of a sample share, among the session's `obs_columns`; none: one group. Cells
        with a missing value or without genes are in no sample; cells of different organisms are not mixed.
    n_cells
        Cells of a sample, within the limits of the task.
    n_samples
        Maximum number of samples of each group; ``None``: as many as there are cells for.
    cells
        Cells that may be drawn, bool (n,).

    Returns
    -------
    Rows of each sample, int64 (cells,).

    Raises
    ------
    ValueError
        The task does not read so many cells, no cell has genes, or no group is large enough.
    """
    fewest, most = session.task.cells or (1, 1)
    if not fewest <= n_cells <= most:
        limits = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"task {session.task.name!r} reads {limits} cells, found n_cells={n_cells}")
    sentences = session.sentences
    usable = sentences.n_genes > 0 if cells is None else (sentences.n_genes > 0) & cells
    keys = zip(sentences.organism, contexts(sentences.obs, list(sample_by)), usable, strict=True)
    groups: list[Any] = [
        (organism, *values) if is_usable and None not in values else None for organism, values, is_usable in keys
    ]
    if not usable.any():
        of = "" if cells is None else f"{int(cells.sum())} chosen "
        raise ValueError(f"none of the {of}cells has an expressed gene that {session.model.name} can write")
    sizes = Counter(group for group in groups if group is not None)
    small = [group for group, size in sizes.items() if size < fewest]
    if small and len(small) < len(sizes):
        logger.warning(
            "%d of %d groups have fewer than %d cells with genes and get no text, such as %s",
            len(small),
            len(sizes),
            fewest,
            ", ".join(small[0][1:]) or small[0][0],
        )
    return draw_samples(
        groups, sentences.names.tolist(), n_cells=n_cells, min_cells=fewest, n_samples=n_samples, seed=seed
    )


def chat_of(session: Session) -> tuple[str, str] | None:
    """Text before and after each prompt: the chat template of an instruction checkpoint.

    ``None`` for models that were trained on plain prompts (published ones, and those of ``cell2sen train``), where the
    user names ``templates``, which may have any form, and for models without a chat template.
    """
    plain = session.model.wording != "cell2sen" or session.options.get("templates") is not None
    return None if plain else session.backend.chat


def write_texts(
    session: Session,
    samples: Sequence[NDArray[np.int64]],
    slots: Sequence[Mapping[str, str]],
    sampling: Sampling,
) -> list[Answer]:
    """Text on each sample, with the genes that it names.

    A text depends on the cells of its sample, their order, the slots and the seed alone. Samples with several prompts,
    such as several questions, draw for each of them anew.

    Parameters
    ----------
    slots
        Values of the prompt for each sample, such as the question.
    """
    prompts = session.prompts(samples, length=session.length, slots=slots)
    before, after = chat_of(session) or ("", "")
    prompts = [
        replace(
            prompt,
            key="/".join([prompt.key, *values.values()]),
            segments=(*filter(None, [before]), *prompt.segments, *filter(None, [after])),
        )
        for prompt, values in zip(prompts, slots, strict=True)
    ]
    texts = session.backend.generate(prompts, sampling)
    rows = np.unique(np.concatenate(list(samples)))
    genes = CellGenes(session, rows)
    lengths = session.backend.count_tokens(texts)
    return [
        Answer(
            rows=sample,
            text=" ".join(text.split()),
            # Of a text that was cut, surrounding white space may be missing.
            complete=bool(length < sampling.max_new_tokens - 1),
            genes=ground(text, genes, sample.tolist()),
            slots=values,
        )
        for sample, text, length, values in zip(samples, texts, lengths, slots, strict=True)
    ]


def sampling_of(task: Task, sampling: Sampling) -> Sampling:
    """The sampling with the strings that end the text of a task.

    Where a model goes on with another prompt, its text ends before that: at a line that begins like a template.
    """
    beginnings = ("\n" + template.prompt.partition("{")[0].rstrip() for template in task.templates)
    again = [beginning for beginning in beginnings if beginning.strip()]
    return replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *STOP.get(task.name, ("\n\n",)), *again))))
