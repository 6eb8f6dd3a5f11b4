"""Session: a loaded model and the sentences of one dataset, written as this model wants them."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import pyarrow as pa

from cell2sen import backends, tasks
from cell2sen.backend import Backend
from cell2sen.data.reader import open_source
from cell2sen.inference import templates as wording
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.sentences.ranking import Case, Recipe, Ties
from cell2sen.sentences.sentences import Sentences, from_anndata, perturbations_of_cells
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Published models without a list of their own are asked for so many genes, as their tutorials do.
DEFAULT_GENES = 200


class Options(TypedDict, total=False):
    """Arguments that all verbs take. The last five change the speed, all others the numbers."""

    model: str | Path | Model | Backend
    """Known name, directory, hub id, :class:`Model`, or a loaded backend to be used again; the embedded model if not
    given."""

    revision: str
    dtype: Literal["auto", "bfloat16", "float32", "float16"]
    quantize: Literal["4bit", "8bit"]

    layer: str
    """Layer of the AnnData object with the values to rank."""

    use_raw: bool
    symbols: str
    """``var`` column with gene symbols; found by itself where the index holds Ensembl ids."""

    gene_table: Any
    """Table identifier → symbol, see :func:`cell2sen.data.genes.symbols.resolve`."""

    aliases: Any
    organism: str | Sequence[str]
    max_genes: int
    """Genes of a sentence at most; the model's recipe says how many by default."""

    ties: Ties
    case: Case
    templates: str | Path | Mapping[str, Any]
    """Other wording, see :func:`cell2sen.inference.templates.word`."""

    backend: str
    device: str
    batch_size: int | None
    offline: bool
    progress: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A loaded model and the sentences of one dataset, written as this model wants them."""

    backend: Backend
    sentences: Sentences
    task: Task

    matrix: str = "X"
    """Where the values came from: ``"X"``, ``"raw.X"`` or the name of a layer."""

    @property
    def model(self) -> Model:
        """The model."""
        return self.backend.model

    @property
    def length(self) -> int | None:
        """Genes of a sentence in this task."""
        return task_length(self.model, self.sentences.recipe, self.task)

    def provenance(self, **verb: Any) -> dict[str, Any]:
        """All that changed the numbers, as plain values for ``adata.uns``."""
        fit = self.sentences.fit
        return {
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "anndata")}
            | {"cell2sen": _version()},
            "model": self.model.provenance() | {"softcap": float(getattr(self.backend, "softcap", None) or 0.0)},
            "recipe": self.sentences.recipe.provenance(),
            "task": {"name": self.task.name, "templates": self.task.source, "template_hash": self.task.template_hash},
            "fit": {} if fit is None else {"slope": fit.slope, "intercept": fit.intercept, "r_squared": fit.r_squared},
            "matrix": self.matrix,
            "scale": str(self.sentences.scale or ""),
            "organism": " and ".join(sorted(set(self.sentences.organism))),
            "genes": dict(self.sentences.account),
            **verb,
        }


def load_model(options: Options) -> Backend:
    """The backend that `options` describe; one that is loaded already is passed through.

    Raises
    ------
    ValueError
        Options for the weights of a model that is loaded already.
    """
    model = options.get("model", EMBEDDED)
    if isinstance(model, Backend):
        if late := [name for name in ("revision", "dtype", "quantize") if options.get(name) is not None]:
            raise ValueError(f"{model.model.name} is loaded already: {', '.join(late)} must be said when it is loaded")
        return model
    resolved = resolve(
        model, revision=options.get("revision"), dtype=options.get("dtype"), quantize=options.get("quantize")
    )
    speed = {key: options[key] for key in ("device", "batch_size", "offline", "progress") if key in options}
    return backends.load(resolved, options.get("backend", "transformers"), **speed)


def start(
    data: AnnData | str | Path | Sentences,
    task: str | Task,
    options: Options,
    *,
    perturbation_column: str | None = None,
    obs_columns: Sequence[str] = (),
) -> Session:
    """Load the model and write the cells as it wants them.

    Sentences that are given lose the words that the model cannot write; a warning says how many.

    Raises
    ------
    TypeError
        An option that does not exist; lists those there are.
    """
    check_options(options)
    if not isinstance(data, Sentences):  # what is wrong with the data shows before a large model is loaded
        with open_source(data, layer=options.get("layer"), use_raw=options.get("use_raw", False)) as source:
            perturbations_of_cells(source.obs, perturbation_column)
    backend = load_model(options)
    if isinstance(data, Sentences):
        sentences = without_unknown(data, backend)
    else:
        sentences = from_anndata(
            data, recipe_for(backend.model, options),
            layer=options.get("layer"), use_raw=options.get("use_raw", False), symbols=options.get("symbols"),
            gene_table=options.get("gene_table"), aliases=options.get("aliases"), organism=options.get("organism"),
            perturbation_column=perturbation_column, obs_columns=obs_columns, known=backend.known_genes,
            progress=options.get("progress", True),
        )  # fmt: skip
    trained = backend.model.metadata.get("organisms") or []
    if trained and (strange := sorted(set(sentences.organism) - set(trained))):
        logger.warning(
            "%s was not trained on cells of %s, only on %s: what it says about them is a guess; organism= corrects a "
            "name", backend.model.name, strange[:5], trained,
        )  # fmt: skip
    session = Session(
        backend=backend,
        sentences=sentences,
        task=wording.word(tasks.load(task), backend.model, options.get("templates")),
        matrix="raw.X" if options.get("use_raw") else options.get("layer") or "X",
    )
    wanted = options.get("max_genes")
    if wanted is not None and session.length is not None and wanted > session.length:
        logger.warning(
            "%s was trained for task %r with %d genes per sentence: max_genes=%d changes nothing beyond that",
            backend.model.name,
            session.task.name,
            session.length,
            wanted,
        )
    return session


def check_options(options: Options) -> None:
    """Refuse options that do not exist, with a list of those there are."""
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise TypeError(f"unknown arguments {unknown}; available: {sorted(Options.__annotations__)}")


def without_unknown(sentences: Sentences, backend: Backend) -> Sentences:
    """The sentences without words that the model cannot write.

    Raises
    ------
    ValueError
        Nothing is left.
    """
    symbols = sentences.symbols
    known = backend.known_genes(symbols)
    if known.all():
        return sentences
    if not known.any():
        raise ValueError(f"{backend.model.name} knows none of the genes in the sentences, such as {symbols[:5]}")
    ids = sentences.genes.flatten().to_numpy()
    kept = known[ids]
    cells = np.repeat(np.arange(len(sentences)), sentences.n_genes)[kept]
    offsets = np.append(0, np.cumsum(np.bincount(cells, minlength=len(sentences))))
    unknown = [symbol for symbol, one in zip(symbols, known, strict=True) if not one]
    logger.warning(
        "%d words of the sentences are no gene that %s knows (such as %s) and were left out",
        int(np.sum(~kept)), backend.model.name, unknown[:5],
    )  # fmt: skip
    return replace(
        sentences,
        genes=pa.ListArray.from_arrays(offsets.astype(np.int32), (np.cumsum(known) - 1)[ids[kept]].astype(np.int32)),
        vocabulary=pa.array([symbol for symbol, one in zip(symbols, known, strict=True) if one], type=pa.string()),
    )


def recipe_for(model: Model, options: Options) -> Recipe:
    """The model's recipe with the user's changes."""
    changes = {name: options.get(name) for name in ("max_genes", "ties", "case")}
    return replace(model.recipe, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def task_length(model: Model, recipe: Recipe, task: Task) -> int | None:
    """Genes of a sentence in `task`: what the model was trained with, within the recipe's limit; ``None`` is all."""
    trained = model.metadata.get("lengths", {}).get("annotate" if task.name == "embed" else task.name)
    limits = [limit for limit in (trained, recipe.max_genes) if limit]
    if not limits and task.answer == "sentences":
        return DEFAULT_GENES
    return min(limits) if limits else None


def _version() -> str:
    from cell2sen import __version__

    return __version__
