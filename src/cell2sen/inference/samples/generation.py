"""New samples of several cells: from a tissue, the types of the cells, an abstract, or from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from cell2sen.answer import ParsedSentence
from cell2sen.backend import Backend, Sampling
from cell2sen.data.names.text import as_text, as_texts, list_of_names
from cell2sen.inference.generate import write_cells
from cell2sen.inference.session import DEFAULT_GENES, Session
from cell2sen.inference.trained import warn_unknown
from cell2sen.prompt import Prompt, context_line
from cell2sen.task import Task

#: What a sample is generated from → task.
TASKS = {
    "tissue": "sample_from_tissue",
    "cell_types": "sample_from_types",
    "abstract": "sample_from_abstract",
    "nothing": "write_sample",
    "nothing, one cell": "write_cell",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What samples are generated from: names of the conditions, and the slots of each."""

    kind: str
    """A key of :data:`TASKS`."""

    names: tuple[str, ...]
    """Name of each condition, which names its samples."""

    slots: tuple[Mapping[str, Any], ...]
    n_cells: int


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedSamples:
    """Cells of generated samples, those of a sample in order."""

    names: list[str]
    """``"<sample>/<number>"``, numbers from 1."""

    samples: list[str]
    """Sample of each cell, ``"<condition>-<number>"``."""

    slots: list[Mapping[str, str]]
    """Values that each cell was generated from."""

    answers: list[ParsedSentence]
    expression: sp.csr_matrix
    """float32 (cells, symbols), ln(1 + CP10k)."""

    n_genes: int
    """Genes of each cell."""


def origin_of(
    tissue: str | Sequence[str] | None,
    cell_types: Sequence[str] | str | None,
    abstract: str | None,
    n_cells: int | None,
) -> Origin:
    """Checked description of the samples to generate; 10 cells by default.

    Raises
    ------
    ValueError
        More than one of tissue, cell types and abstract, missing names, or another number of cells than of types.
    """
    given: dict[str, Any] = {"tissue": tissue, "cell_types": cell_types, "abstract": abstract}
    kinds = [name for name, value in given.items() if value is not None]
    if len(kinds) > 1:
        raise ValueError(f"samples are generated from one of tissue, cell_types and abstract, found {kinds}")
    if n_cells is not None and n_cells < 1:
        raise ValueError(f"n_cells must be at least 1, found {n_cells}")
    if not kinds:
        kind = "nothing, one cell" if n_cells == 1 else "nothing"
        return Origin(kind=kind, names=("sample",), slots=({},), n_cells=n_cells or 10)
    if kinds == ["abstract"]:
        text = " ".join(str(abstract).split())
        if not text:
            raise ValueError("abstract must be a text, found none")
        return Origin(kind="abstract", names=("abstract",), slots=({"abstract": text},), n_cells=n_cells or 10)
    given_names = list_of_names(given[kinds[0]])
    names = [str(name) for name in as_texts(given_names) if name]
    if not names or len(names) < len(given_names):
        raise ValueError(f"{kinds[0]} must be one name or several, found {given[kinds[0]]!r}")
    if kinds == ["tissue"]:
        if len(set(names)) < len(names):
            raise ValueError(f"tissues must differ, found {names}; n= sets the number of samples of each")
        return Origin(
            kind="tissue",
            names=tuple(names),
            slots=tuple({"tissue": name} for name in names),
            n_cells=n_cells or 10,
        )
    if n_cells not in (None, len(names)):
        raise ValueError(f"cell_types has one type for each cell: found {len(names)} types and n_cells={n_cells}")
    return Origin(kind="cell_types", names=("types",), slots=({"cell_type": names},), n_cells=len(names))


def generate_samples(
    session: Session,
    origin: Origin,
    *,
    n: int,
    organism: str,
    sampling: Sampling,
    guided: bool = True,
    n_genes: int | None = None,
) -> GeneratedSamples:
    """Generated samples, `n` of each condition, over the genes of the session.

    Parameters
    ----------
    session, organism
        From :func:`cell2sen.inference.generate.generation_session` with the task of the origin (:data:`TASKS`).
    guided
        Each cell has genes of the session only, each once; the text between cells is the template's. ``False``: free
        text, from which the cells are read.
    n_genes
        Genes of each cell; by default the number that the model was trained with, or as many as let all cells of a
        sample fit into the context together.

    Raises
    ------
    ValueError
        A number of cells that the task does not have, more genes per guided cell than there are, or no rank fit.
    """
    task, symbols = session.task, session.sentences.symbols
    fewest, most = task.cells or (1, 1)
    if not fewest <= origin.n_cells <= most:
        raise ValueError(f"task {task.name!r} writes {fewest} to {most} cells, found n_cells={origin.n_cells}")
    if n < 1 or (n_genes is not None and n_genes < 1):
        raise ValueError(f"n and n_genes must be at least 1, found n={n} and n_genes={n_genes}")
    if guided and (n_genes or 0) > len(symbols):
        raise ValueError(f"n_genes={n_genes} is too many: there are only {len(symbols)} to choose from")
    for kind, names in (("tissue", _values(origin, "tissue")), ("labels", _values(origin, "cell_type"))):
        if names:
            warn_unknown(kind, names, session.model)
    samples, line = _repeated(origin, n), context_line(session.context.given or {})
    prompts = [
        task.prompt(
            cells={f"{name}/{place + 1}": () for place in range(origin.n_cells)},
            organism=organism,
            key=name,
            answer_genes=1,
            context=line,
            **slots,
        )
        for name, slots in samples
    ]
    length = n_genes or genes_that_fit(
        session.backend, task, prompts, symbols, origin.n_cells, min(session.length or DEFAULT_GENES, len(symbols))
    )
    prompts = [replace(prompt, answer_genes=length) for prompt in prompts]
    written = (
        write_cells(session.backend, task, prompts, sampling, genes=symbols, n_cells=origin.n_cells)
        if guided
        else _free(session, prompts, sampling, origin.n_cells)
    )
    answers = [sentence for sentences in written for sentence in sentences]
    return GeneratedSamples(
        names=[f"{name}/{place + 1}" for name, _ in samples for place in range(origin.n_cells)],
        samples=[name for name, _ in samples for _ in range(origin.n_cells)],
        slots=[_of_cell(slots, place) for _, slots in samples for place in range(origin.n_cells)],
        answers=answers,
        expression=session.expression([answer.genes for answer in answers]),
        n_genes=length,
    )


def genes_that_fit(
    backend: Backend, task: Task, prompts: Sequence[Prompt], symbols: Sequence[str], n_cells: int, most: int
) -> int:
    """Genes per cell, at most `most`, with which all cells of a sample fit into the context behind the prompt.

    The number of tokens is that of the longest prompt, of the template's text between cells, and of genes of average
    length.
    """
    per_gene = float(np.mean(backend.count_tokens([f" {symbol}" for symbol in symbols])))
    around = backend.count_tokens(["".join(task.openings(n_cells))])[0]
    prompt = int(max(backend.count_tokens([prompt.text for prompt in prompts])))
    left = backend.context - prompt - int(around) - n_cells - 2
    return max(1, min(most, int(left / (n_cells * per_gene))))


def _free(
    session: Session, prompts: Sequence[Prompt], sampling: Sampling, n_cells: int
) -> list[tuple[ParsedSentence, ...]]:
    """Cells in free text: the first `n_cells` that it has, the missing ones empty."""
    known = frozenset(session.sentences.symbols)
    empty = ParsedSentence(genes=(), n_words=0, n_unknown=0, n_repeated=0)
    parsed = [session.task.parse(text, known) for text in session.backend.generate(prompts, sampling)]
    return [tuple((*cells, *[empty] * n_cells)[:n_cells]) for cells in parsed]


def _repeated(origin: Origin, n: int) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (f"{name}-{number}", slots)
        for name, slots in zip(origin.names, origin.slots, strict=True)
        for number in range(n)
    ]


def _values(origin: Origin, slot: str) -> list[str]:
    found = [slots[slot] for slots in origin.slots if slot in slots]
    return [name for value in found for name in ([value] if isinstance(value, str) else value)]


def _of_cell(slots: Mapping[str, Any], place: int) -> dict[str, str]:
    """Slots of one cell of a sample, as text."""
    return {slot: as_text(value if isinstance(value, str) else value[place]) or "" for slot, value in slots.items()}
