"""Labels of a reference, carried over to a query: choice of a classifier, probabilities, distances."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from cell2sen.data.names.labels import twins, without_type
from cell2sen.data.names.text import some
from cell2sen.data.obs import text_column, warn_of_missing
from cell2sen.data.splits import equal_by_chance
from cell2sen.inference.annotate import LabelProbabilities, label_probabilities
from cell2sen.inference.transfer.classifiers import (
    BLOCKS,
    MAX_COMPARED,
    METHODS,
    N_FOLDS,
    Candidate,
    Fitted,
    Method,
    choose,
    compare,
    fit_classifier,
    folds_of,
)
from cell2sen.inference.transfer.features import FEATURES, Block, BlockName, FeatureName, Space
from cell2sen.inference.transfer.novelty import Novelty, distance
from cell2sen.inference.transfer.sides import MIN_SHARED_COUNTS, Overlap, Sides
from cell2sen.inference.transfer.stored import Stored
from cell2sen.inference.transfer.terms import terms_of_labels
from cell2sen.inference.transfer.votes import confusion_of, expected_confusion

logger = logging.getLogger(__name__)

REFERENCE_OBS = "reference.obs"

#: Classifier that is the model itself.
MODEL: Literal["model"] = "model"

#: Features in which distances tell cells of unseen types.
SPACES: tuple[BlockName, ...] = ("embedding", "components")

#: Share of query cells that are farther from the reference than this quantile of its own cells, above which a warning
#: is logged.
MAX_SHARE_FAR, FAR = 0.5, 0.99


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """What is carried over, and how."""

    label: str
    """Column of the reference's obs."""

    classifier: Method | Literal["auto", "model"] = "auto"
    """``"model"``: the model's own probabilities of the labels, as of annotate; for models trained on the reference."""

    features: FeatureName | Literal["auto"] = "auto"
    held_out_by: str | None = None
    """Column of the reference's obs with donors or batches that are held out as a whole; ``None``: cells are."""

    min_cells: int = 3
    """Cells that a label needs in the reference."""

    hidden_layer: int = -1
    """Layer whose vectors are compared, as for :func:`cell2sen.tl.embed`."""

    def __post_init__(self) -> None:
        """Raise a ValueError for a choice that does not exist."""
        for name, value, menu in (
            ("classifier", self.classifier, (*METHODS, MODEL)),
            ("features", self.features, FEATURES),
        ):
            if value not in ("auto", *menu):
                raise ValueError(f"{name} must be 'auto' or one of {list(menu)}, found {value!r}")
        if self.min_cells < 1:
            raise ValueError(f"min_cells must be at least 1, found {self.min_cells}")

    @property
    def menu(self) -> list[tuple[Method, FeatureName]]:
        """Classifiers to compare."""
        if self.classifier == MODEL:
            return []
        methods: Sequence[Method] = METHODS if self.classifier == "auto" else (self.classifier,)
        features: Sequence[FeatureName] = FEATURES if self.features == "auto" else (self.features,)
        return [(method, name) for name in features for method in methods]


@dataclass(frozen=True, kw_only=True, eq=False)
class Transferred:
    """Labels of the query cells."""

    probabilities: LabelProbabilities
    distance: NDArray[np.float64]
    """float64 (n,): distance to the 10th nearest reference cell in the scaled embedding; NaN without genes."""

    unseen: NDArray[np.float64]
    """float64 (n,): see :meth:`cell2sen.inference.transfer.novelty.Novelty.score`."""

    in_reference: NDArray[np.bool_]
    """bool (n,): cells that are in the reference, which were labelled without their fold."""

    embedding: NDArray[np.float32]
    """float32 (n, hidden), over the shared genes."""

    confusion: pd.DataFrame
    """Share of held-out reference cells of each label (row) that got each label (column)."""

    terms: dict[str, str] = field(default_factory=dict)
    """Label → id in the Cell Ontology, of labels that have one."""

    record: dict[str, Any] = field(default_factory=dict)
    """Choice of the classifier, held-out scores and numbers of cells and genes, as plain values for ``uns``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """Labelled cells of the reference, in an order that does not depend on that of its file."""

    rows: NDArray[np.int64]
    """int64 (n,): row of each cell in the file."""

    codes: NDArray[np.int64]
    labels: tuple[str, ...]
    folds: NDArray[np.int64]
    left_out: dict[str, Any]
    """Numbers of cells that were left out, for the record."""


def transfer_labels(sides: Sides, settings: TransferSettings, stored: Stored | None = None) -> Transferred:
    """Labels of all cells of the query.

    Parameters
    ----------
    stored
        Where embeddings of the reference are kept; ``None``: nowhere.

    Raises
    ------
    KeyError
        No such column of the reference; lists the available ones.
    ValueError
        Fewer than two labels with enough cells, or fewer than two groups to hold out.
    """
    contents = sides.reference.contents(sides.symbols)
    reference = _labelled(sides, settings, contents)
    compared = _features(sides, reference, settings, stored)
    rows, n_cells = compared.rows, len(compared.embedding)
    of_model = settings.classifier == MODEL
    twin = _twin_folds(sides.in_reference(contents, reference.rows), reference, sides, of_model)[rows]
    if of_model:
        chosen = label_probabilities(sides.query.session.with_task("annotate"), reference.labels)
        confusion, how = expected_confusion(reference.labels, chosen.probabilities), _record_of_model(chosen, sides)
        held_out = certainty = sample = None
    else:
        candidates, sample = _compared(compared.reference, reference, settings.menu)
        best = choose(candidates)
        chosen = _classified(best, compared, reference, twin)
        confusion = confusion_of(reference.labels, reference.codes[sample], best.log_probabilities)
        how = _record(candidates, best) | {"n_compared": len(sample)}
        held_out = np.exp(best.log_probabilities.max(axis=1))
        certainty = chosen.probabilities[rows].max(axis=1)
    spaces = [name for name in SPACES if name in compared.reference]
    known, new = ([np.asarray(side[name]) for name in spaces] for side in (compared.reference, compared.query))
    novelty = Novelty.of(known, reference.codes, reference.folds, held_out, sample)
    distances = np.zeros(len(rows))
    for used, cells in _folds(reference, twin):
        distances[cells] = distance(known[0][used], new[0][cells])
    unseen = novelty.score(new, twin, certainty)
    _warn_of_far(unseen)
    return Transferred(
        probabilities=chosen,
        distance=spread(distances, rows, n_cells),
        unseen=spread(unseen, rows, n_cells),
        in_reference=spread((twin >= 0).astype(float), rows, n_cells) == 1,
        embedding=compared.embedding,
        confusion=confusion,
        terms=terms_of_labels(sides.reference.obs, settings.label, reference.labels),
        record=how | _record_of_cells(settings, reference, sides, compared, int((twin >= 0).sum())),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Compared:
    """Features of the labelled reference cells, and of the query cells that have genes."""

    reference: dict[BlockName, Block]
    query: dict[BlockName, Block]
    rows: NDArray[np.int64]
    """int64 (m,): these cells of the query."""

    embedding: NDArray[np.float32]
    """float32 (n, hidden): of all cells of the query."""

    shares: tuple[float, float] | None
    """Share of counts in the shared genes, of query and reference; ``None`` if expression is not used."""


def _features(sides: Sides, reference: _Reference, settings: TransferSettings, stored: Stored | None) -> _Compared:
    names: list[BlockName] = list(dict.fromkeys([*SPACES, *(name for key in settings.menu for name in BLOCKS[key])]))
    layer = settings.hidden_layer
    vectors = sides.reference.embedding(stored, hidden_layer=layer)[reference.rows]
    embedding = sides.query.embedding(hidden_layer=layer)
    rows = np.flatnonzero(sides.query.has_genes)
    expression, of_query, shares = None, None, None
    if len(names) > 1:
        whole, share_reference = sides.reference.expression(sides.symbols)
        expression = sp.csr_matrix(whole[reference.rows])
        whole, share_query = sides.query.expression(sides.symbols)
        of_query = sp.csr_matrix(whole[rows])
        shares = (share_query, share_reference)
        _warn_of_shared(shares)
    space = Space.of(vectors, expression)
    return _Compared(
        reference={name: space(name, vectors, expression) for name in names},
        query={name: space(name, embedding[rows], of_query) for name in names},
        rows=rows,
        embedding=embedding,
        shares=shares,
    )


def _record_of_cells(
    settings: TransferSettings, reference: _Reference, sides: Sides, compared: _Compared, n_in_reference: int
) -> dict[str, Any]:
    """Numbers of cells and genes, as plain values."""
    shares = compared.shares
    return {
        **reference.left_out,
        "label": settings.label,
        "labels": np.array(reference.labels, dtype=object),
        "cells_per_label": np.bincount(reference.codes, minlength=len(reference.labels)),
        "held_out_by": settings.held_out_by or "cell",
        "hidden_layer": settings.hidden_layer,
        "n_reference": len(reference.rows),
        "n_in_reference": n_in_reference,
        "n_shared_genes": len(sides.symbols),
        "n_genes_query": sides.n_genes[0],
        "n_genes_reference": sides.n_genes[1],
        **({} if shares is None else {"share_of_counts_query": shares[0], "share_of_counts_reference": shares[1]}),
    }


def usable_labels(
    obs: pd.DataFrame, column: str, min_cells: int
) -> tuple[list[str | None], tuple[str, ...], dict[str, Any]]:
    """Labels of a reference that are carried over.

    Returns
    -------
    Label of each cell, ``None`` where it is missing or left out (no type, or fewer than `min_cells` cells); the labels,
    sorted; numbers of what was left out, for the record.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        Fewer than two labels.
    """
    texts = text_column(obs, column, REFERENCE_OBS)
    warn_of_missing(obs, column, REFERENCE_OBS, "they are left out")
    counts = {text: int(np.sum(texts == text)) for text in dict.fromkeys(texts) if text is not None}
    nameless = without_type(counts)
    if nameless:
        logger.warning("%s: cells with the labels %s are left out", REFERENCE_OBS, some(nameless))
    few = [text for text, count in counts.items() if count < min_cells and text not in nameless]
    if few:
        logger.warning(
            "%s: %s have fewer than %d cells and are left out; min_cells= changes the limit",
            REFERENCE_OBS,
            some([f"{text} ({counts[text]})" for text in few]),
            min_cells,
        )
    labels = tuple(sorted(set(counts) - set(nameless) - set(few)))
    if len(labels) < 2:
        raise ValueError(
            f"{REFERENCE_OBS}[{column!r}] must have at least two labels with {min_cells} cells or more, found "
            f"{list(labels)}"
        )
    for group in twins(labels):
        logger.warning("%s: the labels %s differ in spelling only, but are kept apart", REFERENCE_OBS, group)
    kept = frozenset(labels)
    left_out = {
        "n_without_label": int(sum(text is None for text in texts)) + sum(counts[text] for text in nameless),
        "labels_left_out": np.array([*nameless, *few], dtype=object),
    }
    return [text if text in kept else None for text in texts], labels, left_out


def _labelled(sides: Sides, settings: TransferSettings, contents: Sequence[str | None]) -> _Reference:
    side, obs = sides.reference, sides.reference.obs
    texts, labels, left_out = usable_labels(obs, settings.label, settings.min_cells)
    code = {label: number for number, label in enumerate(labels)}
    usable = np.flatnonzero(np.array([text is not None for text in texts]) & side.has_genes)
    groups = None
    if settings.held_out_by is not None:
        values = text_column(obs, settings.held_out_by, REFERENCE_OBS)
        warn_of_missing(obs, settings.held_out_by, REFERENCE_OBS, "they are left out")
        usable = usable[[values[row] is not None for row in usable]]
        groups = values
    names = side.names
    keys = [contents[row] or names[row] for row in range(len(names))]
    rows = np.array(sorted(usable.tolist(), key=lambda row: (names[row], keys[row])), dtype=np.int64)
    codes = np.array([code[str(texts[row])] for row in rows], dtype=np.int64)
    folds = folds_of([keys[row] for row in rows], codes, None if groups is None else [groups[row] for row in rows])
    return _Reference(rows=rows, codes=codes, labels=labels, folds=folds, left_out=left_out)


def _compared(
    features: dict[BlockName, Block], reference: _Reference, menu: Sequence[tuple[Method, FeatureName]]
) -> tuple[list[Candidate], NDArray[np.int64]]:
    """Candidates, and the numbers of the reference cells that they were compared on."""
    sample = compared_cells(reference.rows, reference.codes, MAX_COMPARED)
    folds = reference.folds[sample]
    candidates = compare(
        lambda name: features[name][sample], reference.codes[sample], folds, len(reference.labels), menu
    )
    return candidates, sample


def compared_cells(rows: NDArray[np.int64], codes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Numbers of about `most` cells, spread evenly over each label, int64 ascending; at least 25 of a label."""
    if len(rows) <= most:
        return np.arange(len(rows))
    kept = []
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        n = min(len(cells), max(25, round(len(cells) * most / len(rows))))
        digests = [hashlib.blake2b(str(cell).encode(), digest_size=8).digest() for cell in cells]
        kept.append(cells[np.argsort(np.array(digests), kind="stable")[:n]])
    return np.sort(np.concatenate(kept))


def _folds(reference: _Reference, twin: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Query cells that are in one fold of the reference, or in none, with the reference cells outside of it.

    Parameters
    ----------
    twin
        Fold of the same cell in the reference, int64 (n,); -1 for cells that are not in it.

    Yields
    ------
    Reference cells, bool, and query cells, bool.
    """
    for fold in np.unique(twin):
        yield reference.folds != fold, twin == fold


def _classified(
    chosen: Candidate, compared: _Compared, reference: _Reference, twin: NDArray[np.int64]
) -> LabelProbabilities:
    """Calibrated probabilities; cells that are in the reference are compared with the folds that they are not in."""
    names = BLOCKS[chosen.method, chosen.features]
    known, cells = ([side[name] for name in names] for side in (compared.reference, compared.query))
    scores = np.zeros((len(twin), len(reference.labels)))
    for used, rows in _folds(reference, twin):
        blocks = [block[used] for block in known]
        fitted: Fitted = fit_classifier(chosen.method, blocks, reference.codes[used], len(reference.labels))
        scores[rows] = fitted.log_probabilities([block[rows] for block in cells])
    return LabelProbabilities(
        labels=reference.labels,
        probabilities=spread(softmax(scores / chosen.temperature, axis=1), compared.rows, len(compared.embedding)),
        temperature=chosen.temperature,
        calibrated=True,
    )


def _twin_folds(overlap: Overlap, reference: _Reference, sides: Sides, of_model: bool) -> NDArray[np.int64]:
    """Fold of the same cell in the reference for each query cell, int64 (n,), -1 without one; warns of them."""
    fold_of_row = np.full(len(sides.reference.names), -1, dtype=np.int64)
    fold_of_row[reference.rows] = reference.folds
    twin = overlap.twin
    folds = np.where(twin >= 0, fold_of_row[np.maximum(twin, 0)], -1)
    n_same, n_named = int((overlap.same_content >= 0).sum()), int((overlap.same_name >= 0).sum())
    by_chance = equal_by_chance(sides.query.names, sides.reference.names)
    if n_same or n_named > 3 * by_chance + 3:
        logger.warning(
            "%d cells of the query have the expression and %d the name of a cell of the reference: %s; in_reference "
            "marks them",
            n_same,
            n_named,
            "the model may have learned their labels" if of_model else "they are labelled by the other cells of it",
        )
    return np.asarray(folds, dtype=np.int64)


def spread(values: NDArray[np.float64], rows: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Values of some of `n` cells, NaN for the others."""
    result = np.full((n, *values.shape[1:]), np.nan)
    result[rows] = values
    return result


def _record(candidates: Sequence[Candidate], chosen: Candidate) -> dict[str, Any]:
    table = pd.DataFrame(
        [{**candidate.scores, "temperature": candidate.temperature} for candidate in candidates],
        index=[candidate.name for candidate in candidates],
    )
    return {
        "classifier": chosen.method,
        "features": chosen.features,
        "temperature": chosen.temperature,
        "calibrated": True,
        "held_out": dict(chosen.scores),
        "candidates": table,
        "n_folds": N_FOLDS,
    }


def _record_of_model(chosen: LabelProbabilities, sides: Sides) -> dict[str, Any]:
    """Record of the model's own probabilities, with the scores of its training."""
    calibration = sides.backend.model.metadata.get("calibration", {}).get("annotate", {})
    scores = {name: float(calibration[key]) for name, key in (("accuracy", "accuracy"), ("ece", "ece_after"))
              if key in calibration}  # fmt: skip
    return {
        "classifier": MODEL,
        "features": "embedding",
        "temperature": chosen.temperature,
        "calibrated": chosen.calibrated,
        "held_out": scores,
    }


def _warn_of_shared(shares: tuple[float, float]) -> None:
    for name, share in zip(("query", "reference"), shares, strict=True):
        if share < MIN_SHARED_COUNTS:
            logger.warning(
                "%.0f %% of the counts of the %s are in genes that both files have: labels are less certain than the "
                "held-out scores",
                100 * share,
                name,
            )


def _warn_of_far(unseen: NDArray[np.float64]) -> None:
    share = float(np.mean(unseen > FAR)) if len(unseen) else 0.0
    if share > MAX_SHARE_FAR:
        logger.warning(
            "%.0f %% of the query cells are farther from the reference than about 99 %% of its own: they were measured "
            "in another way, or their types are not in the reference. Compare unseen scores within the query only",
            100 * share,
        )
