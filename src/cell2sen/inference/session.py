"""Session: a loaded model and the sentences of one dataset, written as this model wants them."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import backends, tasks
from cell2sen.backend import Backend
from cell2sen.data.reader import open_source
from cell2sen.inference import templates as wording
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.sentences.ranking import Case, RankFit, Recipe, Ties
from cell2sen.sentences.sentences import Sentences, from_anndata, perturbations_of_cells
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Genes of a predicted sentence for models without a length of their own: 200, as in the tutorials of Cell2Sentence.
DEFAULT_GENES = 200

#: Values of the task's slots, one entry per cell; ``None`` for cells that are not predicted.
Slots = Sequence[Mapping[str, str] | None]


class ModelOptions(TypedDict, total=False):
    """Which model, and the precision of its weights."""

    model: str | Path | Model | Backend
    """Known name, directory, hub id, :class:`Model`, or a loaded backend to be used again. Default: the embedded
    model."""

    revision: str
    """Revision of a model of the hub."""

    dtype: Literal["auto", "bfloat16", "float32", "float16"]
    quantize: Literal["4bit", "8bit"]
    """Load the weights in 4 or 8 bits."""


class MatrixOptions(TypedDict, total=False):
    """Which values of an AnnData object are read, and the names of its genes."""

    layer: str
    """Layer with the values to rank. Default: ``X``."""

    use_raw: bool
    """Read ``adata.raw`` instead."""

    symbols: str
    """``var`` column with gene symbols. Default: recognised where the index holds Ensembl ids."""

    gene_table: Any
    """Table identifier → symbol, see :func:`cell2sen.data.genes.symbols.resolve`."""

    aliases: Any
    """Table alias → symbol, see :func:`cell2sen.data.genes.symbols.resolve`."""

    organism: str | Sequence[str]
    """Organism of all cells, or of each cell. Default: read from the data."""


class SentenceOptions(TypedDict, total=False):
    """How cell sentences and prompts are written."""

    max_genes: int
    """Maximum number of genes of a sentence. Default: the model's recipe."""

    ties: Ties
    """Order of genes with equal values. Default: the model's recipe."""

    case: Case
    """Case of gene symbols. Default: the model's recipe."""

    templates: str | Path | Mapping[str, Any]
    """Other prompt templates, see :func:`cell2sen.inference.templates.task_for_model`."""


class SpeedOptions(TypedDict, total=False):
    """Options that change no result beyond rounding."""

    backend: str
    """Name of the inference engine. Default: ``"transformers"``."""

    device: str
    """``"auto"``, ``"cpu"`` or ``"cuda"``."""

    batch_size: int | None
    """Prompts in a batch. Default: as many as fit into memory."""

    offline: bool
    """Never download a checkpoint."""

    progress: bool
    """Show progress bars."""


class Options(ModelOptions, MatrixOptions, SentenceOptions, SpeedOptions, total=False):
    """Options that all verbs take."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A loaded model and the sentences of one dataset, written with this model's recipe and templates."""

    backend: Backend
    sentences: Sentences
    task: Task

    data: AnnData | str | Path | None = None
    """What the sentences were written from; ``None`` if the session began with sentences."""

    options: Options = field(default_factory=lambda: Options())

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

    def genes_per_prompt(self, n_genes: int | None) -> int | None:
        """`n_genes`, or else :attr:`length`.

        Raises
        ------
        ValueError
            Less than 1.
        """
        if n_genes is not None and n_genes < 1:
            raise ValueError(f"n_genes must be at least 1, found {n_genes}")
        return n_genes or self.length

    def rows_to_predict(self, slots: Slots) -> NDArray[np.int64]:
        """Rows that have slots and genes, int64 (m,), ascending.

        Raises
        ------
        ValueError
            There are none.
        """
        written = self.sentences.n_genes > 0
        rows = np.array(
            [row for row, values in enumerate(slots) if values is not None and written[row]], dtype=np.int64
        )
        if not len(rows):
            raise ValueError("none of the cells to predict has an expressed gene that can be written")
        return rows

    def expression(self, gene_lists: Sequence[Sequence[str]]) -> sp.csr_matrix:
        """Sentences → ln(1 + CP10k), the unit of scanpy's ``log1p``, by :attr:`fit`; float32 CSR (n, symbols)."""
        matrix = self.sentences.expression(gene_lists, self.fit)
        matrix.data *= np.float32(np.log(10.0))
        return matrix

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
        data=None if isinstance(data, Sentences) else data,
        options=options,
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
    available = Options.__optional_keys__
    if unknown := sorted(set(options) - available):
        raise TypeError(f"unknown arguments {unknown}; available: {sorted(available)}")


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


def warn_unknown(kind: str, names: Sequence[str], model: Model, key: str) -> None:
    """Log one warning about names that the model was not trained on, if its metadata list those that it was."""
    trained: Mapping[str, int] = model.metadata.get(key) or {}
    spellings = {spelling for names in (model.metadata.get("spellings") or {}).values() for spelling in names}
    unknown = [name for name in names if name not in trained and name not in spellings]
    if trained and unknown:
        lower = {name.lower(): name for name in trained}
        close = {name: difflib.get_close_matches(name.lower(), lower, n=1) for name in unknown[:20]}
        advice = "; ".join(f"did you mean {lower[match[0]]!r} for {name!r}?" for name, match in close.items() if match)
        logger.warning(
            "%s was not trained on the %s %s: its predictions for them are guesses. It was trained on %s%s",
            model.name, kind, unknown[:20], list(trained)[:50], f"; {advice}" if advice else "",
        )  # fmt: skip


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
