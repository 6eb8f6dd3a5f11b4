"""Generation of cells of given types, and of several cells in one answer."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen import tasks
from cell2sen.answer import ParsedSentence, parse_sentence
from cell2sen.backend import Backend, Sampling
from cell2sen.data.genes.organism import scientific_name
from cell2sen.data.names.text import as_texts, is_list, list_of_names
from cell2sen.data.obs import Context
from cell2sen.data.vocabulary import match
from cell2sen.inference.annotate import default_labels, temperature_of, trained_labels
from cell2sen.inference.options import Options, recipe_for
from cell2sen.inference.session import DEFAULT_GENES, Session, load_model, start, task_length
from cell2sen.inference.templates import choose_templates
from cell2sen.inference.trained import trained_names, warn_of_context, warn_unknown
from cell2sen.prompt import Genes, Prompt, context_line
from cell2sen.sentences.sentences import Sentences
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedCells:
    """Generated cells, in the order of their types."""

    names: list[str]
    """``"<cell type>-<number>"``."""

    cell_types: list[str]
    answers: list[ParsedSentence]
    expression: sp.csr_matrix
    """float32 (n, symbols), ln(1 + CP10k)."""

    n_genes: int
    """Genes of each cell."""


def generate_cells(
    session: Session,
    cell_types: Sequence[str],
    *,
    n: int,
    organism: str,
    sampling: Sampling,
    guided: bool = True,
    n_genes: int | None = None,
    first: int = 0,
    candidates: int = 1,
) -> GeneratedCells:
    """Generated cells, `n` of each type, over the genes of the session.

    Parameters
    ----------
    session, organism
        From :func:`generation_session`.
    n_genes
        Genes of each cell; by default the number that the model was trained with.
    first
        Number of the first cell of each type: a draw depends on the seed, the type and this number alone.
    candidates
        Sentences drawn for each cell, of which one is kept (:func:`chosen_candidates`).

    Raises
    ------
    ValueError
        More genes per guided cell than there are in the session, no rank fit, or candidates of a model without labels.
    """
    symbols = session.sentences.symbols
    length = n_genes or min(session.length or DEFAULT_GENES, len(symbols))
    if guided and length > len(symbols):
        raise ValueError(f"n_genes={length} is too many: there are only {len(symbols)} to choose from")
    warn_unknown("labels", cell_types, session.model)
    labels = [cell_type for cell_type in cell_types for _ in range(n)]
    names = [f"{cell_type}-{number}" for cell_type in cell_types for number in range(first, first + n)]
    line = context_line(session.context.given or {})
    if candidates > 1:
        default_labels(session.model)
    prompts = [
        session.task.prompt(
            organism=organism,
            cell_type=label,
            key=f"{name}/{number}" if number else name,
            answer_genes=length,
            context=line,
        )
        for label, name in zip(labels, names, strict=True)
        for number in range(candidates)
    ]
    texts = session.backend.generate(prompts, sampling, genes=symbols if guided else None)
    known = frozenset(symbols)
    answers = [parse_sentence(text, known) for text in texts]
    if candidates > 1:
        shares = label_shares(session, [label for label in labels for _ in range(candidates)], answers, organism)
        kept = chosen_candidates(shares.reshape(-1, candidates), names, sampling.seed)
        answers = [answers[cell * candidates + number] for cell, number in enumerate(kept)]
    expression = session.expression([answer.genes for answer in answers])
    return GeneratedCells(names=names, cell_types=labels, answers=answers, expression=expression, n_genes=length)


def label_shares(
    session: Session, cell_types: Sequence[str], answers: Sequence[ParsedSentence], organism: str
) -> NDArray[np.float64]:
    """Log-probability of each generated sentence's own cell type, float64 (sentences,); -inf without genes.

    By the model's task ``annotate``, among its default labels and the type itself, so that it does not depend on the
    other types that are generated. With the fitted temperature.

    Raises
    ------
    ValueError
        The model has no default labels.
    """
    model, task = session.model, session.with_task("annotate").task
    trained, spellings = tuple(trained_names(model, "labels")), model.metadata.get("spellings") or {}
    own = {kind: trained_labels([kind], trained, spellings)[0] for kind in dict.fromkeys(cell_types)}
    others = default_labels(model)
    names = list(dict.fromkeys([*others, *(name for written in own.values() for name in written)]))
    length, line = task_length(model, session.sentences.recipe, task), context_line(session.context.given or {})
    written = [row for row, answer in enumerate(answers) if answer.genes]
    prompts = [task.prompt(organism=organism, genes=answers[row].genes[:length], context=line) for row in written]
    scores = session.backend.score(prompts, [task.complete(cell_type=name) for name in names])
    scores = scores / temperature_of(model, task)[0]
    shares = np.full(len(answers), -np.inf)
    for row, values in zip(written, scores, strict=True):
        of_type = own[cell_types[row]]
        wanted = np.isin(names, of_type)
        compared = wanted | np.isin(names, others)
        shares[row] = np.logaddexp.reduce(values[wanted]) - np.logaddexp.reduce(values[compared])
    return shares


def chosen_candidates(shares: NDArray[np.float64], names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Number of the candidate that is kept for each cell, int64 (cells,): drawn in proportion to its probability.

    Sampling, importance resampling (Rubin 1987): cells drawn from p(cell) and kept by p(type | cell) are distributed as
    p(cell | type), the better the more candidates there are. The most probable ones would all be typical cells.

    Parameters
    ----------
    shares
        Log-probability of the type, float64 (cells, candidates).
    names
        Names of the cells: a choice depends on the seed and the cell's name alone.
    """
    kept = np.zeros(len(shares), dtype=np.int64)
    for cell, (logs, name) in enumerate(zip(shares, names, strict=True)):
        if np.isfinite(logs).any():
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            kept[cell] = generator.choice(len(logs), p=softmax(logs))
    return kept


def generation_session(
    genes: AnnData | str | Path | Sequence[str] | None, options: Options, task: str | Task = "generate"
) -> tuple[Session, str]:
    """Session over the genes that cells may have, and the scientific name of the cells' organism.

    Parameters
    ----------
    genes
        AnnData or file whose genes, rank fit and organism are taken; symbols; ``None`` for the model's own list.

    Raises
    ------
    ValueError
        Genes that the model cannot write, no genes at all, or more than one organism.
    """
    context = options.get("context")
    if context is not None and not isinstance(context, Mapping):
        raise ValueError(f"context of generated cells must be {{name: value}}, found {context!r}")
    organism = options.get("organism") or None
    if organism is not None and not isinstance(organism, str):
        raise ValueError(f"organism must be one name for generated cells, found {organism!r}")
    if genes is None or not (isinstance(genes, str | Path) or hasattr(genes, "var_names")):
        return session_over(genes, options, task), scientific_name(organism or "Homo sapiens")
    with start(genes, task, options) as session:  # no cell is read after this
        organisms = sorted(set(session.sentences.organism))
    if len(organisms) > 1:
        raise ValueError(f"the cells in genes= are of several organisms, {organisms}: choose one with organism=")
    return session, organisms[0]


def check_cell_types(cell_type: str | Sequence[str], n: int, n_genes: int | None, candidates: int = 1) -> list[str]:
    """Cell types of a list, or of one text, separated by semicolons, after a check of them and of the numbers.

    Raises
    ------
    ValueError
        No names, the same name twice, or fewer than one cell, gene or candidate.
    """
    given = list_of_names(cell_type)
    cell_types = [text for name, text in zip(given, as_texts(given), strict=True) if text and not is_list(name)]
    if not cell_types or len(cell_types) < len(given):
        raise ValueError(f"cell_type must be one name or several, found {cell_type!r}")
    if len(set(cell_types)) < len(cell_types):
        raise ValueError(f"cell types must differ, found {cell_types}; n= sets the number of cells of each")
    for name, value in (("n", n), ("n_genes", n_genes), ("candidates", candidates)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    return cell_types


def session_over(genes: Sequence[str] | None, options: Options, task: str | Task = "generate") -> Session:
    """Session without cells, over these symbols; ``None`` for the model's own list.

    Raises
    ------
    ValueError
        Genes that the model cannot write, or no genes at all.
    """
    backend = load_model(options)
    model = backend.model
    recipe = recipe_for(model, options)
    symbols = list(dict.fromkeys(model.genes or () if genes is None else genes))
    if recipe.case == "upper":
        symbols = list(dict.fromkeys(symbol.upper() for symbol in symbols))
    if not symbols:
        raise ValueError(
            f"{model.name} has no list of genes: pass genes= (symbols, or an AnnData with the genes to use)"
        )
    known = backend.known_genes(symbols)
    if unknown := [symbol for symbol, is_known in zip(symbols, known, strict=True) if not is_known]:
        other = match(symbols, backend.known_genes, upper=recipe.case == "upper").account
        renamed = other.get("examples_renamed_for_model", [])
        raise ValueError(
            f"{model.name} cannot write {len(unknown)} of {len(symbols)} genes, for example {unknown[:5]}: leave them "
            "out, or use gene symbols" + (f"; its own names of some: {', '.join(renamed[:5])}" if renamed else "")
        )
    no_cells = Sentences(
        genes=pa.array([], type=pa.list_(pa.int32())),
        vocabulary=pa.array(symbols, type=pa.string()),
        names=np.array([], dtype=object),
        organism=(),
        perturbations=(),
        obs=pd.DataFrame(),
        recipe=recipe,
        fit=model.fit,
    )
    worded = choose_templates(tasks.load(task), model, options.get("templates"))
    context = Context.of(options.get("context"), no_cells.obs)
    warn_of_context(model, context, worded)
    return Session(backend=backend, sentences=no_cells, task=worded, options=options, context=context)


def write_cells(
    backend: Backend, task: Task, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str], n_cells: int
) -> list[tuple[ParsedSentence, ...]]:
    """Sentences of several cells per prompt, generated cell by cell, each guided to `genes`.

    Each cell is generated after the cells before it, within the same prompt. The text between them is the template's
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
        opening = openings[number].rstrip(" ")
        space = "" if opening.endswith("\n") else " "
        prompts = [
            replace(prompt.extended(opening) if opening else prompt, key=f"{prompt.key}/{number}") for prompt in prompts
        ]
        texts = backend.generate(prompts, sampling, genes=genes)
        for sentences, text in zip(written, texts, strict=True):
            sentences.append(parse_sentence(text, known))
        prompts = [
            replace(
                prompt.extended(*filter(None, [space]), Genes(symbols=sentences[-1].genes)),
                key=prompt.key.rpartition("/")[0],
            )
            for prompt, sentences in zip(prompts, written, strict=True)
        ]
    return [tuple(sentences) for sentences in written]
