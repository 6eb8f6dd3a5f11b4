"""embed, predict, choose: sentences × task × backend."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.answer import ParsedSentence, parse_sentence
from cell2sen.backend import AttentionMap, Embeddings, Pooling, Sampling
from cell2sen.inference.labels import members, pool
from cell2sen.inference.session import Session
from cell2sen.inference.session import load_model as load_model
from cell2sen.inference.session import start as start
from cell2sen.model import Model
from cell2sen.sentences.ranking import RankFit, Recipe
from cell2sen.sentences.sentences import Sentences, clean_perturbations

logger = logging.getLogger(__name__)

#: Training cells that a label needs to be offered by default: nothing is learned from one or two.
LEAST_CELLS = 3


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
    """Genes of the prompts before any cut to the context, in the order of `rows`."""


def predict(
    session: Session,
    slots: Sequence[Mapping[str, str] | None],
    *,
    sampling: Sampling,
    n_genes: int | None = None,
    guided: bool = True,
    vocabulary: Sequence[str] | None = None,
) -> Predictions:
    """Predict a sentence for every row that has slots and genes.

    Parameters
    ----------
    slots
        One entry per cell: values for the task's slots, ``None`` to skip the cell.
    n_genes
        Genes of prompt and answer at most; as many as the model was trained with by default. An answer has as many
        genes as its cell's prompt, so that a cell with few genes is not asked for more than it has.
    guided
        Only genes of the vocabulary, each at most once, as many as asked. Unguided answers are read as they come.
    vocabulary
        Genes that an answer may have; those of the sentences by default.

    Raises
    ------
    ValueError
        No cell is left to predict, or cells whose answers are drawn share a name, and so would share their draws.
    """
    if n_genes is not None and n_genes < 1:
        raise ValueError(f"n_genes must be at least 1, found {n_genes}")
    sentences = session.sentences
    length = n_genes or session.length
    present = sentences.n_genes > 0
    rows = np.array([row for row, one in enumerate(slots) if one is not None and present[row]], dtype=np.int64)
    if not len(rows):
        raise ValueError("none of the cells to predict has an expressed gene that can be written")
    if sampling.temperature > 0 and len(set(sentences.names[rows])) < len(rows):
        raise ValueError(
            "cell names must be unique where answers are drawn (temperature > 0), because a draw depends on the seed "
            "and the name: call adata.obs_names_make_unique() first"
        )
    limit = sentences.recipe.max_genes
    if n_genes is not None and limit is not None and n_genes > limit:
        logger.warning("the sentences have %d genes at most, so n_genes=%d asks for no more", limit, n_genes)
    lists = sentences.gene_lists(length)
    prompts = [
        session.task.prompt(
            genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row]),
            answer_genes=len(lists[row]), **(slots[row] or {}),
        )
        for row in rows
    ]  # fmt: skip
    vocabulary = sentences.symbols if vocabulary is None else vocabulary
    texts = session.backend.generate(prompts, sampling, genes=vocabulary if guided else None)
    known = frozenset(vocabulary)
    return Predictions(
        rows=rows,
        answers=[parse_sentence(text, known) for text in texts],
        texts=texts,
        given=[list(lists[row]) for row in rows],
    )


def expression(gene_lists: Sequence[Sequence[str]], vocabulary: Sequence[str], fit: RankFit) -> sp.csr_matrix:
    """Sentences → ln(1 + CP10k), the unit of scanpy's ``log1p``, float32 CSR (n, vocabulary)."""
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

    The likelihood is that of the whole answer, closing full stop included, so that a label that begins another one ("B
    cell", "B cell precursor") does not get the longer one's share. A label in other words than the model's is scored by
    those of the model, and a broader one by all that it stands for (:func:`cell2sen.inference.labels.members`).

    Raises
    ------
    ValueError
        No labels, or the same label twice.
    """
    kind = "perturbations" if session.task.target == "perturbation" else "labels"
    labels = check_labels(known_labels(session.model, kind) if labels is None else labels)
    metadata = session.model.metadata
    trained, spellings = tuple(metadata.get(kind) or ()), metadata.get("spellings") or {}
    meant = members(labels, trained, spellings)
    warn_unknown(kind, [name for names in meant for name in names], session.model, kind)
    scored = list(dict.fromkeys(name for names in meant for name in names))
    sentences, task = session.sentences, session.task
    assert task.target is not None
    rows = np.flatnonzero(sentences.n_genes > 0)
    lists = sentences.gene_lists(session.length)
    prompts = [
        task.prompt(genes=lists[row], organism=sentences.organism[row], key=str(sentences.names[row])) for row in rows
    ]
    filled: list[dict[str, Any]] = [{task.target: name} for name in scored]
    answers = [task.complete(**slots) for slots in filled]
    calibration = metadata.get("calibration", {}).get(task.name, {})
    temperature = float(calibration.get("temperature", 1.0))
    probabilities = np.full((len(sentences), len(labels)), np.nan)
    scores = pool(session.backend.score(prompts, answers), [[scored.index(name) for name in names] for names in meant])
    probabilities[rows] = softmax(scores, temperature)
    return Choices(labels=labels, probabilities=probabilities, temperature=temperature, calibrated=bool(calibration))


def softmax(scores: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of log-likelihoods (n, k) over their last axis."""
    shifted = scores / temperature
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True)) if shifted.size else shifted
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True)) if shifted.size else shifted


def check_labels(labels: Sequence[Any]) -> tuple[str, ...]:
    """The labels without surrounding whitespace.

    Raises
    ------
    ValueError
        Not at least two different ones, or no text among them.
    """
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of cell types, found the text {labels!r}: pass [{labels!r}, ...]")
    listed = list(labels)
    if strange := [label for label in listed if not isinstance(label, str) or not label.strip()]:
        raise ValueError(f"labels must be names of cell types, found {strange[:5]}")
    names = tuple(label.strip() for label in listed)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"labels must differ, found {repeated[:5]} more than once in {len(names)} labels")
    if len(names) < 2:
        raise ValueError(f"labels must be at least two, to choose from, found {list(names)}")
    return names


def known_labels(model: Model, kind: str = "labels") -> tuple[str, ...]:
    """Labels (or perturbations) the model was trained on, those of at least :data:`LEAST_CELLS` cells.

    Raises
    ------
    ValueError
        The model does not say; labels have to be given.
    """
    counts: Mapping[str, int] = model.metadata.get(kind) or {}
    found = tuple(label for label, count in counts.items() if count >= LEAST_CELLS)
    if not found:
        raise ValueError(f"{model.name} brings no list of {kind}: pass the names to choose from as labels=[...]")
    return found


def one_per_cell(perturbation: str | Sequence[str | None], n: int) -> tuple[str | None, ...]:
    """The perturbation of each of `n` cells; ``None`` where there is none.

    Raises
    ------
    ValueError
        Not one entry per cell, or no entry that names a perturbation.
    """
    values = clean_perturbations([perturbation] * n if isinstance(perturbation, str) else list(perturbation), n)
    if not any(values):
        raise ValueError(
            "no cell has a perturbation: pass perturbation= (one name, or a list with one entry per cell), or "
            "perturbation_column= (an obs column in which at least one entry is not missing)"
        )
    return values


def perturbation_slots(
    session: Session, perturbation: str | Sequence[str | None] | None
) -> list[dict[str, str] | None]:
    """The slots of the perturbation task for each cell, from an argument or from the sentences' own column.

    Raises
    ------
    ValueError
        No cell has a perturbation, or not one entry per cell.
    """
    given = session.sentences.perturbations if perturbation is None else perturbation
    values = one_per_cell(given, len(session.sentences))
    warn_unknown("perturbations", sorted({value for value in values if value}), session.model, "perturbations")
    return [{"perturbation": value} if value else None for value in values]


def warn_unknown(what: str, values: Sequence[str], model: Model, key: str) -> None:
    """One warning about names that the model was not trained on, where it says what it was trained on."""
    trained: Mapping[str, int] = model.metadata.get(key) or {}
    spellings = {one for others in (model.metadata.get("spellings") or {}).values() for one in others}
    unknown = [value for value in values if value not in trained and value not in spellings]
    if trained and unknown:
        lower = {name.lower(): name for name in trained}
        close = {value: difflib.get_close_matches(value.lower(), lower, n=1) for value in unknown[:20]}
        meant = "; ".join(f"did you mean {lower[one[0]]!r} for {value!r}?" for value, one in close.items() if one)
        logger.warning(
            "%s was not trained on the %s %s: what it says about them is a guess. It knows %s%s",
            model.name, what, unknown[:20], list(trained)[:50], f"; {meant}" if meant else "",
        )  # fmt: skip


def attention_key(cell: str) -> str:
    """A cell's key in ``uns["cell2sen"]["attention"]``: its name, percent-encoded where files do not allow it."""
    key = quote(cell, safe=" :|+")
    return key.replace(".", "%2E") if not key.strip(".") else key
