"""Session: a loaded model and the sentences of one dataset."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import backends, tasks
from cell2sen.backend import Backend
from cell2sen.checkpoints.lock import require_locked
from cell2sen.data.expression import Expression, var_of
from cell2sen.data.obs import Context, context_columns, perturbations_of_cells
from cell2sen.data.obs import obs_columns as columns_of
from cell2sen.data.vocabulary import match
from cell2sen.inference.options import Options, check_options, recipe_for
from cell2sen.inference.templates import choose_templates
from cell2sen.inference.trained import warn_of_context, warn_of_organisms
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.prompt import Prompt, context_line, words_of
from cell2sen.sentences.rank_fit import RankFit
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.sentences.writing import from_expression
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Genes of a predicted sentence for models without a length of their own: 200, as in the tutorials of Cell2Sentence.
DEFAULT_GENES = 200

#: Genes of each cell in a sample of several, for models without a length of their own; published samples have 100 to
#: 400.
DEFAULT_SAMPLE_GENES = 200

#: Values of the task's slots, one entry per cell; ``None`` for cells that are not predicted.
Slots = Sequence[Mapping[str, str] | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A loaded model and the sentences of one dataset, written with this model's recipe and templates.

    Close it, or use ``with``, if the dataset is a file.
    """

    backend: Backend
    sentences: Sentences
    task: Task

    data: Expression | None = None
    """The open matrix that the sentences were written from; ``None`` if the session began with sentences."""

    options: Options = field(default_factory=lambda: Options())

    context: Context = field(default_factory=Context)
    """What the prompts tell of each cell besides its genes."""

    def __post_init__(self) -> None:
        """Raise a ValueError if the answer of the task is in the prompt."""
        answers = set(map(words_of, self.task.answer_names))
        if shown := [name for name in self.context.names if words_of(name) in answers]:
            raise ValueError(
                f"task {self.task.name!r} predicts {shown[0]!r}, which must not be in the prompt (context)"
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the dataset's file. The sentences remain."""
        if self.data is not None:
            self.data.close()

    @property
    def model(self) -> Model:
        """The model."""
        return self.backend.model

    @property
    def length(self) -> int | None:
        """Genes of a sentence in this task; ``None`` is all."""
        return task_length(self.model, self.sentences.recipe, self.task)

    @property
    def fit(self) -> RankFit:
        """Rank fit of the dataset, or else the model's.

        Raises
        ------
        ValueError
            Neither has one.
        """
        fit = self.sentences.fit or self.model.fit
        if fit is None:
            raise ValueError(
                "there is no rank fit to turn sentences into expression: pass cells with at least two expressed genes"
            )
        return fit

    @property
    def matrix(self) -> str:
        """Matrix that was read: ``"X"``, ``"raw.X"`` or the name of a layer; empty if no data was read."""
        if self.data is None:
            return ""
        return "raw.X" if self.options.get("use_raw") else self.options.get("layer") or "X"

    def var(self) -> pd.DataFrame:
        """Annotation of the genes of a result: the input's names and columns, and the model's names as ``symbol``."""
        if self.data is not None:
            return self.data.var()
        symbols = self.sentences.symbols
        return var_of(pd.DataFrame(index=pd.Index(symbols, dtype=object)), symbols)

    def genes_per_prompt(self, n_genes: int | None) -> int | None:
        """`n_genes`, or else :attr:`length`.

        Raises
        ------
        ValueError
            `n_genes` is less than 1.
        """
        if n_genes is not None and n_genes < 1:
            raise ValueError(f"n_genes must be at least 1, found {n_genes}")
        return n_genes or self.length

    def prompts(
        self,
        rows: Sequence[int] | Sequence[NDArray[np.int64]] | NDArray[np.int64],
        *,
        length: int | None,
        **arguments: Any,
    ) -> list[Prompt]:
        """Prompts of cells or samples, with their context: see :meth:`cell2sen.task.Task.prompts`.

        A sample has the context that all its cells share.
        """
        lines = [context_line(self.context.shared(np.atleast_1d(row))) for row in rows] if self.context else None
        return self.task.prompts(self.sentences, rows, length=length, contexts=lines, **arguments)

    def with_task(self, task: str | Task) -> Session:
        """The same cells and model with another task."""
        chosen = choose_templates(tasks.load(task), self.model, self.options.get("templates"))
        return replace(self, task=chosen)

    def rows_to_predict(self, slots: Slots) -> NDArray[np.int64]:
        """Rows that have slots and genes, int64 (m,), ascending.

        Raises
        ------
        ValueError
            There are none.
        """
        written = self.sentences.n_genes > 0
        rows = [row for row, values in enumerate(slots) if values is not None and written[row]]
        if not rows:
            raise ValueError("none of the cells to predict has an expressed gene that can be written")
        return np.array(rows, dtype=np.int64)

    def expression(self, gene_lists: Sequence[Sequence[str]]) -> sp.csr_matrix:
        """Sentences → expression by :attr:`fit`, ln(1 + CP10k) as in scanpy's ``log1p``, float32 CSR (n, symbols)."""
        matrix = self.sentences.expression(gene_lists, self.fit)
        matrix.data *= np.float32(np.log(10.0))
        return matrix

    def provenance(self, **verb: Any) -> dict[str, Any]:
        """All settings that change results, and those of the `verb`, as plain values for ``adata.uns``."""
        fit = self.sentences.fit
        return {
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "anndata")}
            | {"cell2sen": _version()},
            "model": self.backend.provenance(),
            "recipe": self.sentences.recipe.provenance(),
            "task": {"name": self.task.name, "templates": self.task.source, "template_hash": self.task.template_hash},
            "fit": {} if fit is None else {"slope": fit.slope, "intercept": fit.intercept, "r_squared": fit.r_squared},
            "matrix": self.matrix,
            "scale": str(self.sentences.scale or ""),
            "organism": " and ".join(sorted(set(self.sentences.organism))),
            "genes": dict(self.sentences.account),
            **({"context": self._record_of_context()} if self.context else {}),
            **verb,
        }

    def _record_of_context(self) -> dict[str, Any]:
        """Slots of the context, with the number of cells that have a value, or with the value of all."""
        slots: dict[str, Any] = {"slots": np.array(self.context.names, dtype=object)}
        if self.context.given is not None:
            values = [self.context.given.get(name, "") for name in self.context.names]
            return slots | {"values": np.array(values, dtype=object)}
        return slots | {"n_cells": np.array(list(self.context.counts().values()), dtype=np.int64)}


def model_of(options: Options) -> Model:
    """The model that `options` describe, without its weights.

    Raises
    ------
    ValueError
        No such model, or options for the weights of a model that is already loaded.
    """
    model = options.get("model", EMBEDDED)
    weights = {name: options.get(name) for name in ("revision", "dtype", "quantize")}
    if not isinstance(model, Backend):
        return resolve(model, **weights)
    if late := [name for name, value in weights.items() if value is not None]:
        raise ValueError(f"{model.model.name} is loaded already: {', '.join(late)} must be set when it is loaded")
    return model.model


def load_model(options: Options) -> Backend:
    """The backend that `options` describe. A loaded backend is returned as it is.

    Raises
    ------
    ValueError
        No such model, or options for the weights of a model that is already loaded.
    """
    resolved = model_of(options)
    if isinstance(model := options.get("model"), Backend):
        return model
    if options.get("locked"):
        require_locked(resolved)
    speed = {name: options[name] for name in ("device", "batch_size", "offline", "progress", "url") if name in options}
    return backends.load(resolved, options.get("backend", "transformers"), **speed)


def start(
    data: AnnData | str | Path | Sentences,
    task: str | Task,
    options: Options,
    *,
    perturbation_column: str | None = None,
    obs_columns: Sequence[str] = (),
) -> Session:
    """Session of a dataset: the loaded model, and the cells written with its recipe and templates.

    Parameters
    ----------
    data
        AnnData, file, or sentences. Sentences lose the words that the model cannot write; a warning counts them.
    task
        Name of a task, or a task.
    options
        See :class:`cell2sen.inference.options.Options`.
    perturbation_column
        ``obs`` column with the perturbation of each cell.
    obs_columns
        ``obs`` columns that the sentences keep.

    Raises
    ------
    TypeError
        An option that does not exist; lists those there are.
    """
    check_options(options)
    if not isinstance(options.get("model"), Backend):
        backends.check_device(options.get("device", "auto"), options.get("backend", "transformers"))
    matrix: Expression | None = None
    if isinstance(data, Sentences):
        backend = load_model(options)
        sentences = drop_unknown_genes(data, backend)
    else:
        columns = [*obs_columns, *context_columns(options.get("context"))]
        backend, matrix, sentences = _read(data, options, perturbation_column, columns)
    session = Session(
        backend=backend,
        sentences=sentences,
        task=choose_templates(tasks.load(task), backend.model, options.get("templates")),
        data=matrix,
        options=options,
        context=Context.of(options.get("context"), sentences.obs),
    )
    warn_of_organisms(session.model, session.sentences)
    warn_of_context(session.model, session.context, session.task)
    _warn_max_genes(session)
    return session


def _read(
    data: AnnData | str | Path, options: Options, perturbation_column: str | None, columns: Sequence[str]
) -> tuple[Backend, Expression, Sentences]:
    """The loaded model, the open data and its sentences."""
    recipe = recipe_for(model_of(options), options)
    opened, perturbations = open_cells(data, recipe, options, perturbation_column)
    with contextlib.ExitStack() as on_error:
        on_error.enter_context(opened)
        columns_of(opened.obs, columns)
        backend = load_model(options)  # errors in the data come before a large model is loaded
        expression, sentences = write_sentences(opened, recipe, backend.known_genes, options, perturbations, columns)
        on_error.pop_all()
    return backend, expression, sentences


def open_cells(
    data: AnnData | str | Path, recipe: Recipe, options: Options, perturbation_column: str | None = None
) -> tuple[Expression, tuple[str | None, ...]]:
    """Open matrix of a dataset and the perturbation of each cell: what all verbs read before a model is loaded."""
    expression = Expression.open(
        data,
        layer=options.get("layer"),
        use_raw=options.get("use_raw", False),
        symbols=options.get("symbols"),
        gene_table=options.get("gene_table"),
        aliases=options.get("aliases"),
        case=recipe.case,
        scale=options.get("scale"),
        whole=options.get("whole"),
    )
    try:
        return expression, perturbations_of_cells(expression.obs, perturbation_column)
    except BaseException:
        expression.close()
        raise


def write_sentences(
    opened: Expression,
    recipe: Recipe,
    known: Callable[[Sequence[str]], NDArray[np.bool_]],
    options: Options,
    perturbations: Sequence[str | None],
    obs_columns: Sequence[str] = (),
) -> tuple[Expression, Sentences]:
    """The matrix over the genes of a model, and the sentences of its cells: what all verbs read for a model."""
    organism = opened.organism(options.get("organism"))
    expression = opened.known_to(known, organism)
    sentences = from_expression(
        expression,
        recipe,
        organism=organism,
        perturbations=perturbations,
        obs_columns=obs_columns,
        progress=options.get("progress", True),
    )
    return expression, sentences


def drop_unknown_genes(sentences: Sentences, backend: Backend) -> Sentences:
    """The sentences without words that the model cannot write.

    Raises
    ------
    ValueError
        No word is left.
    """
    symbols = sentences.symbols
    matched = match(symbols, backend.known_genes, set(sentences.organism), upper=backend.model.recipe.case == "upper")
    known = matched.is_known
    vocabulary = pa.array([name for name in matched.names if name is not None], type=pa.string())
    if known.all():
        return sentences if vocabulary.equals(sentences.vocabulary) else replace(sentences, vocabulary=vocabulary)
    if not known.any():
        raise ValueError(
            f"{backend.model.name} can write none of the genes in the sentences, such as {symbols[:5]}: sentences need "
            "gene symbols"
        )
    ids = sentences.genes.flatten().to_numpy()
    kept = known[ids]
    cells = np.repeat(np.arange(len(sentences)), sentences.n_genes)[kept]
    offsets = np.append(0, np.cumsum(np.bincount(cells, minlength=len(sentences))))
    names = np.asarray(symbols, dtype=object)
    logger.warning(
        "%d words of the sentences are not among the genes of %s (such as %s) and were left out",
        int(np.sum(~kept)),
        backend.model.name,
        list(names[~known][:5]),
    )
    return replace(
        sentences,
        genes=pa.ListArray.from_arrays(offsets.astype(np.int32), (np.cumsum(known) - 1)[ids[kept]].astype(np.int32)),
        vocabulary=vocabulary,
    )


def task_length(model: Model, recipe: Recipe, task: Task) -> int | None:
    """Genes of a sentence in `task`: those the model was trained with, at most the recipe's; ``None`` is all."""
    lengths = model.metadata.get("lengths", {})
    trained = lengths.get(task.name, lengths.get("annotate") if task.name == "embed" or task.is_of_columns else None)
    if trained is None and task.cells is not None and recipe.max_genes == model.recipe.max_genes:
        trained = DEFAULT_SAMPLE_GENES
    limits = [limit for limit in (trained, recipe.max_genes) if limit]
    if not limits and task.answer == "sentences":
        return DEFAULT_GENES
    return min(limits) if limits else None


def _warn_max_genes(session: Session) -> None:
    max_genes, length = session.options.get("max_genes"), session.length
    if max_genes is not None and length is not None and max_genes > length:
        logger.warning(
            "%s was trained for task %r with %d genes per sentence: max_genes=%d has no effect beyond that",
            session.model.name,
            session.task.name,
            length,
            max_genes,
        )


def _version() -> str:
    from cell2sen import __version__

    return __version__
