"""embed, predict, choose: sentences × task × backend."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import backend as backends
from cell2sen import tasks, wording
from cell2sen.backend import AttentionMap, Backend, Embeddings, Pooling, Sampling
from cell2sen.model import EMBEDDED, Model, resolve
from cell2sen.rank import Case, RankFit, Recipe, Ties
from cell2sen.sentences import Sentences, from_anndata
from cell2sen.task import ParsedSentence, Task, parse_sentence

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Published models without a list of their own are asked for so many genes, as their tutorials do.
DEFAULT_GENES = 200


class Options(TypedDict, total=False):
    """Arguments that all verbs take. Those of the model and of the sentences change the numbers, the last five do not."""

    model: str | Path | Model | Backend
    """Known name, directory, hub id, :class:`Model`, or a loaded backend to be used again. Default: the embedded model."""

    revision: str
    dtype: Literal["auto", "bfloat16", "float32", "float16"]
    quantize: Literal["4bit", "8bit"]

    layer: str
    """Layer of the AnnData object with the values to rank."""

    use_raw: bool
    symbols: str
    """``var`` column with gene symbols; found by itself where the index holds Ensembl ids."""

    gene_table: Any
    """Table identifier → symbol, see :func:`cell2sen.genes.resolve`."""

    aliases: Any
    organism: str | Sequence[str]
    max_genes: int
    """Genes of a sentence at most; the model's recipe says how many by default."""

    ties: Ties
    case: Case
    templates: str | Path | Mapping[str, Any]
    """Other wording, see :func:`cell2sen.wording.word`."""

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
            "scale": str(self.sentences.scale or ""),
            "genes": dict(self.sentences.account),
            **verb,
        }


def load_model(options: Options) -> Backend:
    """The backend that `options` describe; one that is loaded already is passed through."""
    model = options.get("model", EMBEDDED)
    if isinstance(model, Backend):
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

    Raises
    ------
    TypeError
        An option that does not exist; lists those there are.
    """
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise TypeError(f"unknown arguments {unknown}; available: {sorted(Options.__annotations__)}")
    backend = load_model(options)
    if isinstance(data, Sentences):
        sentences = data
    else:
        sentences = from_anndata(
            data, recipe_for(backend.model, options),
            layer=options.get("layer"), use_raw=options.get("use_raw", False), symbols=options.get("symbols"),
            gene_table=options.get("gene_table"), aliases=options.get("aliases"), organism=options.get("organism"),
            perturbation_column=perturbation_column, obs_columns=obs_columns, known=backend.known_genes,
            progress=options.get("progress", True),
        )  # fmt: skip
    return Session(
        backend=backend,
        sentences=sentences,
        task=wording.word(tasks.load(task), backend.model, options.get("templates")),
    )


def recipe_for(model: Model, options: Options) -> Recipe:
    """The model's recipe with the user's changes."""
    recipe = model.recipe
    return Recipe(
        max_genes=options.get("max_genes") or recipe.max_genes, ties=options.get("ties") or recipe.ties,
        case=options.get("case") or recipe.case, seed=recipe.seed,
    )  # fmt: skip


def task_length(model: Model, recipe: Recipe, task: Task) -> int | None:
    """Genes of a sentence in `task`: what the model was trained with, within the recipe's limit; ``None`` is all."""
    trained = model.metadata.get("lengths", {}).get("annotate" if task.name == "embed" else task.name)
    limits = [limit for limit in (trained, recipe.max_genes) if limit]
    if not limits and task.answer == "sentence":
        return DEFAULT_GENES
    return min(limits) if limits else None


def embed(
    session: Session,
    *,
    pooling: Pooling = "mean",
    hidden_layer: int = -1,
    attention_for: Sequence[int] = (),
    attention_layer: int = -1,
) -> Embeddings:
    """One vector per cell, in order; NaN for cells without genes. See :meth:`Backend.embed` for the arguments."""
    sentences = session.sentences
    rows = np.flatnonzero(sentences.n_genes > 0)
    place = {int(row): number for number, row in enumerate(rows)}
    lists = sentences.gene_lists(session.length)
    prompts = [
        session.task.prompt(genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row]))
        for row in rows
    ]
    wanted = [place[row] for row in attention_for if row in place]
    found = session.backend.embed(
        prompts, pooling=pooling, layer=hidden_layer, attention_for=wanted, attention_layer=attention_layer
    )
    vectors = np.full((len(sentences), found.vectors.shape[1]), np.nan, dtype=np.float32)
    vectors[rows] = found.vectors
    used = np.zeros(len(sentences), dtype=np.int64)
    used[rows] = found.genes_used
    maps: list[AttentionMap | None] = [None] * len(sentences)
    for row in rows:
        if found.attention is not None:
            maps[row] = found.attention[place[int(row)]]
    return Embeddings(vectors=vectors, genes_used=used, attention=maps if len(attention_for) else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predicted cell sentences of some rows."""

    rows: NDArray[np.int64]
    """Rows that were predicted, int64 (m,), ascending."""

    answers: list[ParsedSentence]
    """Their sentences, in the order of `rows`."""

    texts: list[str]
    """What the model wrote, as it wrote it."""

    given: list[list[str]]
    """Genes of the prompts, in the order of `rows`."""


def predict(
    session: Session,
    slots: Sequence[Mapping[str, str] | None],
    *,
    sampling: Sampling,
    n_genes: int | None = None,
    guided: bool = True,
) -> Predictions:
    """Predict a sentence for every row that has slots and genes.

    Parameters
    ----------
    slots
        One entry per cell: values for the task's slots, ``None`` to skip the cell.
    n_genes
        Genes of prompt and answer at most; as many as the model was trained with by default. An answer has as many genes
        as its cell's prompt, so that a cell with few genes is not asked for more than it has.
    guided
        Only genes of the dataset, each at most once, exactly as many as asked. Unguided answers are read as they come.
    """
    sentences = session.sentences
    length = n_genes or session.length
    rows = np.array(
        [row for row, one in enumerate(slots) if one is not None and sentences.n_genes[row] > 0], dtype=np.int64
    )
    lists = sentences.gene_lists(length)
    prompts = [
        session.task.prompt(
            genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row]), ask=len(lists[row]),
            **(slots[row] or {}),
        )
        for row in rows
    ]  # fmt: skip
    vocabulary = sentences.symbols
    texts = session.backend.generate(prompts, sampling, genes=vocabulary if guided else None)
    known = frozenset(vocabulary)
    return Predictions(
        rows=rows,
        answers=[parse_sentence(text, known) for text in texts],
        texts=texts,
        given=[lists[row] for row in rows],
    )


def expression(gene_lists: Sequence[Sequence[str]], vocabulary: Sequence[str], fit: RankFit) -> sp.csr_matrix:
    """Sentences → ln(1 + CP10k), the unit of scanpy's ``log1p``, float32 CSR (n, vocabulary)."""
    import pyarrow as pa

    empty: Any = None
    frame = Sentences(
        genes=pa.array([], type=pa.list_(pa.int32())), vocabulary=pa.array(list(vocabulary), type=pa.string()),
        names=np.array([], dtype=object), organism=(), perturbations=(), obs=empty, recipe=Recipe(), fit=fit,
    )  # fmt: skip
    matrix = frame.expression(gene_lists)
    matrix.data *= np.float32(np.log(10.0))
    return matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """Probabilities over a closed set of labels."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    """float64 (n, labels), rows sum to 1; NaN for cells without genes."""

    temperature: float
    """What the log-likelihoods were divided by, fitted on held-out training cells; 1 if the model has none."""

    calibrated: bool

    def pick(self, threshold: float = 0.0, abstain: str = "unknown") -> tuple[list[str], NDArray[np.float64]]:
        """The most likely label and its probability; `abstain` below `threshold` and for cells without genes."""
        scores = np.where(np.isnan(self.probabilities).all(axis=1), 0.0, np.nan_to_num(self.probabilities).max(axis=1))
        best = np.nan_to_num(self.probabilities).argmax(axis=1)
        picked = [
            self.labels[label] if score >= threshold and score > 0 else abstain
            for label, score in zip(best, scores, strict=True)
        ]
        return picked, scores


def choose(session: Session, labels: Sequence[str] | None = None) -> Choices:
    """The probability of each label for each cell: its likelihood as the answer, normalised over the labels.

    The likelihood is that of the whole answer, closing full stop included, so that a label that begins another one
    ("B cell", "B cell precursor") does not get the longer one's share.

    Raises
    ------
    ValueError
        No labels, or the same label twice.
    """
    labels = tuple(labels) if labels is not None else known_labels(session.model)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be at least two different ones, found {list(labels)}")
    warn_unknown("labels", labels, session.model, "labels")
    sentences, task = session.sentences, session.task
    assert task.target is not None
    rows = np.flatnonzero(sentences.n_genes > 0)
    lists = sentences.gene_lists(session.length)
    prompts = [
        task.prompt(genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row])) for row in rows
    ]
    answers = [task.complete(variant=0, **{task.target: label}) for label in labels]
    calibration = session.model.metadata.get("calibration", {}).get(task.name, {})
    temperature = float(calibration.get("temperature", 1.0))
    probabilities = np.full((len(sentences), len(labels)), np.nan)
    probabilities[rows] = softmax(session.backend.score(prompts, answers), temperature)
    return Choices(labels=labels, probabilities=probabilities, temperature=temperature, calibrated=bool(calibration))


def softmax(scores: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of log-likelihoods (n, k) over their last axis."""
    shifted = scores / temperature
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True)) if shifted.size else shifted
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True)) if shifted.size else shifted


def known_labels(model: Model) -> tuple[str, ...]:
    """Labels the model was trained on, those of at least 10 cells.

    Raises
    ------
    ValueError
        The model does not say; labels have to be given.
    """
    counts: Mapping[str, int] = model.metadata.get("labels") or {}
    found = tuple(label for label, count in counts.items() if count >= 10)
    if not found:
        raise ValueError(f"{model.name} brings no list of labels: pass the cell types to choose from as labels=[...]")
    return found


def perturbation_slots(
    session: Session, perturbation: str | Sequence[str | None] | None
) -> list[dict[str, str] | None]:
    """The slots of the perturbation task for each cell, from an argument or from the sentences' own column.

    Raises
    ------
    ValueError
        No cell has a perturbation.
    """
    from cell2sen.sentences import clean_perturbations

    n = len(session.sentences)
    if perturbation is None:
        values = session.sentences.perturbations
    else:
        values = clean_perturbations([perturbation] * n if isinstance(perturbation, str) else list(perturbation), n)
    if not any(values):
        raise ValueError(
            "no cell has a perturbation: pass perturbation= (one name, or a list with one entry per cell), or "
            "perturbation_column= (an obs column in which at least one entry is not missing)"
        )
    warn_unknown("perturbations", sorted({value for value in values if value}), session.model, "perturbations")
    return [{"perturbation": value} if value else None for value in values]


def warn_unknown(what: str, values: Sequence[str], model: Model, key: str) -> None:
    """One warning about names that the model was not trained on, where it says what it was trained on."""
    trained: Mapping[str, int] = model.metadata.get(key) or {}
    spellings = {one for others in (model.metadata.get("spellings") or {}).values() for one in others}
    unknown = [value for value in values if value not in trained and value not in spellings]
    if trained and unknown:
        logger.warning(
            "%s was not trained on the %s %s: what it says about them is a guess. It knows %s",
            model.name, what, unknown, list(trained),
        )  # fmt: skip


def _version() -> str:
    from cell2sen import __version__

    return __version__
