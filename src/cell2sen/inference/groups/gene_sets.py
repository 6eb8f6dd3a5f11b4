"""Gene sets: names for lists of genes, and lists of genes for names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen import tasks
from cell2sen.answer import ParsedSentence
from cell2sen.backend import Backend, Sampling, Unsupported
from cell2sen.data.genes.gene_sets import listed_genes, name_in_text
from cell2sen.data.genes.organism import scientific_name
from cell2sen.data.vocabulary import match
from cell2sen.inference.generate import generation_session
from cell2sen.inference.options import Options, check_options, recipe_for
from cell2sen.inference.session import Session, load_model, model_of, task_length
from cell2sen.inference.templates import choose_templates
from cell2sen.model import Model
from cell2sen.prompt import Prompt
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Genes of a listed set, for models that were not trained with a length.
DEFAULT_LENGTH = 50

#: Genes of a set in a prompt, for models that were not trained with a length.
MAX_GENES = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedSets:
    """Names of gene sets, in the order of the sets."""

    names: list[str]
    scores: NDArray[np.float64] | None
    """Probability of each name among the given ones, float64 (n,); ``None`` for free text."""

    n_used: list[int]
    """Genes of each set in its prompt."""

    n_unknown: list[int]
    """Genes of each set that the model cannot write."""

    provenance: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedSets:
    """Genes of named sets, in the order of the names."""

    answers: list[ParsedSentence]
    provenance: Mapping[str, Any]


def name_sets(
    sets: Mapping[str, Sequence[str]],
    options: Options,
    *,
    names: Sequence[str] | None = None,
    sampling: Sampling,
    seed: int = 0,
) -> NamedSets:
    """A name for each set, as free text or the most probable of `names`.

    Parameters
    ----------
    sets
        Name or number → genes. The name is not in the prompt; it seeds the sampling.
    names
        Names to choose from.
    seed
        Seed of the genes of a set that is too long for the prompt.

    Raises
    ------
    Unsupported
        The model was trained on other tasks only.
    ValueError
        Fewer than two names, or a set without a gene that the model can write.
    """
    check_options(options)
    task = tasks.load("name_gene_set")
    check_trained(model_of(options), task)
    if names is not None and len(set(names)) < max(2, len(names)):
        raise ValueError(f"names must be at least two different ones to choose from, found {list(names)[:5]}")
    backend = load_model(options)
    task = choose_templates(task, backend.model, options.get("templates"))
    organism = organism_of(options)
    known = _known_genes(sets, backend, organism, options)
    length = options.get("max_genes") or task_length(backend.model, backend.model.recipe, task) or MAX_GENES
    prompts: list[Prompt] = []
    for name, genes in known.items():
        if not genes:
            raise ValueError(
                f"{backend.model.name} can write none of the {len(sets[name])} genes of {name!r} (such as "
                f"{list(sets[name])[:5]}): gene sets need gene symbols"
            )
        members = listed_genes(genes, length, name, seed)
        prompts.append(task.prompt(members=members, organism=organism, key=name))
    scores: NDArray[np.float64] | None = None
    if names is None:
        answers = [task.parse(text) for text in backend.generate(prompts, sampling)]
        answers = [answer.removesuffix(".").strip() for answer in answers]
    else:
        texts = [task.complete(gene_set=name_in_text(name)) for name in names]
        probabilities = softmax(backend.score(prompts, texts), axis=1)
        answers = [names[place] for place in probabilities.argmax(axis=1)]
        scores = probabilities.max(axis=1)
    return NamedSets(
        names=answers,
        scores=scores,
        n_used=[prompt.n_genes for prompt in prompts],
        n_unknown=[len(set(genes)) - len(known[name]) for name, genes in sets.items()],
        provenance=_provenance(backend, task, organism, max_genes=length, seed=seed),
    )


def list_sets(
    names: Sequence[str],
    options: Options,
    *,
    genes: AnnData | str | Path | Sequence[str] | None = None,
    n_genes: int | Mapping[str, int] | None = None,
    guided: bool = True,
    sampling: Sampling,
) -> ListedSets:
    """Genes of each named set.

    Parameters
    ----------
    genes
        Symbols that may be listed, or cells, in memory or a file, whose genes may be; by default the model's own list.
    n_genes
        Number of genes of each set, or of each name. Default: the number that the model was trained with, else
        :data:`DEFAULT_LENGTH`.
    guided
        Only these genes, each at most once.

    Raises
    ------
    Unsupported
        The model was trained on other tasks only.
    ValueError
        No names, the same name twice, fewer than one gene, or more than there are.
    """
    check_options(options)
    check_trained(model_of(options), tasks.load("list_gene_set"))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names of gene sets must be one or several different ones, found {list(names)[:5]}")
    session, organism = generation_session(genes, options, "list_gene_set")
    symbols = session.sentences.symbols
    prompts = [
        session.task.prompt(
            gene_set=name_in_text(name), organism=organism, key=name, answer_genes=_length(session, name, n_genes)
        )
        for name in names
    ]
    if guided and (longest := max(prompt.answer_genes or 0 for prompt in prompts)) > len(symbols):
        raise ValueError(f"n_genes={longest} is too many: there are only {len(symbols)} genes to choose from")
    texts = session.backend.generate(prompts, sampling, genes=symbols if guided else None)
    known = frozenset(symbols)
    return ListedSets(
        answers=[session.task.parse(text, known) for text in texts],
        provenance=_provenance(session.backend, session.task, organism, guided=guided, seed=sampling.seed),
    )


def check_trained(model: Model, task: Task) -> None:
    """Raise :class:`Unsupported` for a model that records its tasks and was not trained on this one."""
    trained = sorted(model.metadata.get("templates") or ()) if model.wording == "checkpoint" else []
    if trained and task.name not in trained:
        raise Unsupported(
            f"{model.name} was trained on {', '.join(trained)} only and cannot do {task.name}: pass a model that was "
            "trained on gene sets (model=), or train one from a GMT file (docs/reference/tasks.md)"
        )


def organism_of(options: Options) -> str:
    """Scientific name of the organism of gene sets; human by default.

    Raises
    ------
    ValueError
        Several organisms.
    """
    organism = options.get("organism") or "Homo sapiens"
    if not isinstance(organism, str):
        raise ValueError(f"organism must be one name for gene sets, found {organism!r}")
    return scientific_name(organism)


def _known_genes(
    sets: Mapping[str, Sequence[str]], backend: Backend, organism: str, options: Options
) -> dict[str, tuple[str, ...]]:
    """Genes of each set that the model can write, under its names."""
    upper = recipe_for(backend.model, options).case == "upper"
    symbols = sorted({gene.upper() if upper else gene for genes in sets.values() for gene in genes})
    matched = match(symbols, backend.known_genes, {organism}, upper=upper)
    name_of = dict(zip(symbols, matched.names, strict=True))
    known: dict[str, tuple[str, ...]] = {}
    for name, genes in sets.items():
        found = (name_of[gene.upper() if upper else gene] for gene in genes)
        known[name] = tuple(dict.fromkeys(symbol for symbol in found if symbol is not None))
    n_unknown = sum(symbol is None for symbol in matched.names)
    if n_unknown:
        logger.warning(
            "%d of %d genes of the sets are not among the genes of %s and are left out of the prompts",
            n_unknown,
            len(symbols),
            backend.model.name,
        )
    return known


def _length(session: Session, name: str, n_genes: int | Mapping[str, int] | None) -> int:
    """Number of genes to list for a name."""
    if isinstance(n_genes, Mapping):
        n_genes = n_genes.get(name)
    if n_genes is None:
        n_genes = min(session.length or DEFAULT_LENGTH, len(session.sentences.symbols))
    if n_genes < 1:
        raise ValueError(f"n_genes must be at least 1, found {n_genes}")
    return int(n_genes)


def _provenance(backend: Backend, task: Task, organism: str, **settings: Any) -> dict[str, Any]:
    from cell2sen import __version__

    return {
        "versions": {"cell2sen": __version__},
        "model": backend.provenance(),
        "task": {"name": task.name, "templates": task.source, "template_hash": task.template_hash},
        "organism": organism,
        **settings,
    }
