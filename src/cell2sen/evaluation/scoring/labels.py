"""Scores of labels and texts of single cells, beside baselines and a ceiling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.answer import by_upper_case, named_genes
from cell2sen.data.names.labels import normalise_label
from cell2sen.data.names.text import as_text
from cell2sen.evaluation.inputs import UNS, Cells, Sides, some_of
from cell2sen.evaluation.matching import common_cells, is_number, predicted_columns
from cell2sen.evaluation.metrics import MeanOver, Metric, Missing, OfConfusion
from cell2sen.evaluation.metrics.distributions import neighbours
from cell2sen.evaluation.metrics.labels import calibration_curve, confusion, matches
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.baselines.method import Method, baseline
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.tables import Score
from cell2sen.evaluation.settings import Settings, as_list

#: Cells that a baseline or the ceiling learns from, at most; components of their embedding.
_MAX_LEARNED_CELLS, _COMPONENTS = 5000, 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Cells with a label."""

    cells: Cells
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    """Label of each of `rows`, object (n,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """True and predicted labels of the same cells."""

    real: Labelled
    answer: NDArray[Any]
    """Predicted label of each real cell, object (n,); "" if it has none."""

    confidence: NDArray[np.float64] | str
    """Probability of each predicted label, float64 (n,), or the reason why there are none."""

    units: NDArray[Any] | None
    """Unit of each cell, such as its donor, for the bootstrap over units."""

    train: Labelled | None
    settings: Settings

    references: tuple[NDArray[Any], ...] = ()
    """Further true texts of each cell, object (n,), ``None`` where there is none. The nearest one counts."""

    cells_of: tuple[NDArray[np.int64], ...] = ()
    """Of each text, the rows of its cells among the real ones, for texts on several cells."""

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def truth(self) -> NDArray[Any]:
        """True labels, object (n,)."""
        return self.real.labels

    def generator(self, *names: Any) -> np.random.Generator:
        """Random generator of a purpose."""
        return bootstrap.generator(self.settings.sampling.seed, *names)

    def normalised(self, labels: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Labels in normalised spelling, after `rename`, object (n,)."""
        for text in {str(label) for label in labels} - set(self._normalised):
            self._normalised[text] = normalise_label(text, self.settings.columns.rename)
        return np.array([self._normalised[str(label)] for label in labels], dtype=object)

    @cached_property
    def _normalised(self) -> dict[str, str]:
        return {}


# ── baselines and ceiling ─────────────────────────────────────────────────────────────────────────────────────────


@baseline("annotate", role="prediction")
def prediction(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The predicted labels."""
    return answers.answer


@baseline("annotate")
def majority_label(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The most frequent label of training (without training cells: of the real cells), for each cell."""
    known = (answers.real if answers.train is None else answers.train).labels
    counts = Counter(str(label) for label in known)
    return np.full(len(answers), counts.most_common(1)[0][0], dtype=object)


@baseline("annotate")
def label_shuffle(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The predicted labels, exchanged between cells at random."""
    return rng.permutation(answers.answer)


@baseline("annotate")
def nearest_training_cell(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The label of the nearest training cell (principal components of ln(1 + CP10k))."""
    train, real = answers.train, answers.real
    if train is None:
        raise Missing("training cells are not known; pass train=")
    known = rng.permutation(train.cells.by_name(train.rows))[:_MAX_LEARNED_CELLS]
    embedding = Embedding.fit("pca", train.cells, known, _COMPONENTS)
    nearest = neighbours(embedding.cells(train.cells, known), embedding.cells(real.cells, real.rows), 1)[:, 0]
    label_of = dict(zip(train.rows, train.labels, strict=True))
    return np.array([label_of[row] for row in known[nearest]], dtype=object)


@baseline("annotate")
def logistic_regression(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """Logistic regression trained on the training cells (50 principal components of ln(1 + CP10k))."""
    train, real = answers.train, answers.real
    if train is None:
        raise Missing("training cells are not known; pass train=")
    known = rng.permutation(train.cells.by_name(train.rows))[:_MAX_LEARNED_CELLS]
    label_of = dict(zip(train.rows, train.labels, strict=True))
    labels = np.array([str(label_of[row]) for row in known])
    return _logistic(train.cells, known, labels, real.cells, real.rows, "one label among the training cells")


@baseline("annotate", role="ceiling")
def ceiling(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """Logistic regression trained on one half of the real cells and tested on the other, both ways.

    The score of a simple model on these cells; a model that was trained on more cells may be better.
    """
    cells, rows, truth = answers.real.cells, answers.real.rows, answers.truth
    mixed = rng.permutation(len(rows))
    halves = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    labels = np.empty(len(rows), dtype=object)
    for known, tested in (halves, halves[::-1]):
        known = known[:_MAX_LEARNED_CELLS]
        alone = "one label in one half of the real cells"
        labels[tested] = _logistic(cells, rows[known], truth[known].astype(str), cells, rows[tested], alone)
    return labels


def _logistic(
    known: Cells,
    known_rows: NDArray[np.int64],
    labels: NDArray[Any],
    tested: Cells,
    rows: NDArray[np.int64],
    alone: str,
) -> NDArray[Any]:
    """Labels that logistic regression predicts; `alone` is the reason if there is one label only."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("logistic regression needs scikit-learn: pip install 'cell2sen[eval]'") from error
    if len(set(labels)) < 2:
        raise Missing(alone)
    embedding = Embedding.fit("pca", known, known_rows, _COMPONENTS)
    coordinates = embedding.cells(known, known_rows)
    spread = coordinates.std(axis=0).max() or 1.0
    model = LogisticRegression(C=1.0, max_iter=2000).fit(coordinates / spread, labels)
    return np.asarray(model.predict(embedding.cells(tested, rows) / spread), dtype=object)


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(answers: Answers, metrics: Sequence[Metric], methods: Sequence[Method]) -> list[Score]:
    """Scores over all cells (group ``()``), and per true label for metrics of labels that are means over cells."""
    scores = []
    for method in methods:
        try:
            labels = method.run(answers, answers.generator("answers", method.name))
        except (Missing, ImportError) as why:
            missing = Estimate(reason=str(why))
            scores += [Score(metric=metric.name, method=method.name, group=(), estimate=missing) for metric in metrics]
            continue
        for metric in metrics:
            by_group = _estimates(metric, method, labels, answers)
            scores += [
                Score(metric=metric.name, method=method.name, group=group, estimate=estimate, n_predicted=n, n_real=n)
                for group, (estimate, n) in by_group.items()
            ]
    return scores


def calibration(answers: Answers) -> dict[str, list[float]] | None:
    """Bins of the calibration curve: cells, share that is right, mean probability; None without probabilities."""
    if isinstance(answers.confidence, str):
        return None
    right = matches(answers.normalised(answers.truth), answers.normalised(answers.answer))
    n, hits, stated = calibration_curve(right, answers.confidence)
    keep = n > 0
    return {
        "cells": [float(value) for value in n[keep]],
        "right": [float(value) for value in hits[keep] / n[keep]],
        "stated": [float(value) for value in stated[keep] / n[keep]],
    }


def confusion_table(answers: Answers) -> tuple[NDArray[np.int64], list[str]]:
    """Counts of (true, predicted) normalised labels."""
    counts, names = confusion(answers.normalised(answers.truth), answers.normalised(answers.answer))
    return counts, [str(name) for name in names]


Estimates = dict[tuple[str, ...], tuple[Estimate, int]]
"""Group → estimate and number of cells."""


def _estimates(metric: Metric, method: Method, labels: NDArray[Any], answers: Answers) -> Estimates:
    try:
        arrays, extra = _INPUTS[metric.level](answers, method, labels)
        if isinstance(metric.resampling, MeanOver):
            values = np.asarray(metric.resampling.values(*arrays, *extra), dtype=np.float64)
            if metric.level in ("text", "free_text"):
                for others in answers.references:
                    known = np.array([text is not None for text in others])
                    if known.any():
                        further = metric.resampling.values(others[known], arrays[1][known], *extra)
                        values[known] = np.maximum(values[known], further)
            estimates = _of_values(values, answers)
            by_label = metric.level in ("written_labels", "labels")
            return estimates if by_label else {(): estimates[()]}
        if isinstance(metric.resampling, OfConfusion):
            return {(): (_of_confusion(metric.resampling.score, arrays[0], arrays[1], answers), len(answers))}
        return {(): (_of_draws(metric, arrays, extra, answers), len(answers))}
    except (Missing, ImportError, OSError) as why:
        return {(): (Estimate(reason=str(why)), len(answers))}


Inputs = tuple[tuple[NDArray[Any], ...], tuple[Any, ...]]
"""Arrays with one entry per cell, and further arguments."""


def _written(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    return (answers.truth, labels), ()


def _normal(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    return (answers.normalised(answers.truth), answers.normalised(labels)), ()


def _with_confidence(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    if method.role != "prediction":
        raise Missing("this method has no probabilities")
    if isinstance(answers.confidence, str):
        raise Missing(answers.confidence)
    return (answers.normalised(answers.truth), answers.normalised(labels), answers.confidence), ()


def _texts(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    texts = [np.array([str(text) for text in side], dtype=object) for side in (answers.truth, labels)]
    encoder = answers.settings.encoder
    return (texts[0], texts[1]), () if encoder is None else (encoder,)


def _free_texts(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    return _texts(answers, method, labels)[0], ()


def _named_genes(answers: Answers, method: Method, labels: NDArray[Any]) -> Inputs:
    """Genes of the data that each text names, and those that its cells express."""
    cells = answers.real.cells
    symbols = np.array(cells.expression.symbols, dtype=object)
    measured = by_upper_case(symbols)
    organisms = cells.expression.organism()
    named = np.empty(len(answers), dtype=object)
    expressed = np.empty(len(answers), dtype=object)
    for place, (text, rows) in enumerate(zip(labels, answers.cells_of, strict=True)):
        found = named_genes(str(text), measured, organisms[int(rows[0])])
        named[place] = frozenset(symbol for symbol in found.values() if symbol is not None)
        over = cells.expression.over_symbols(cells.expression.reader.read(rows))
        expressed[place] = frozenset(symbols[np.unique(over.indices[over.data > 0])])
    return (named, expressed), ()


#: Level of a metric → arguments of its function.
_INPUTS: Mapping[str, Callable[[Answers, Method, NDArray[Any]], Inputs]] = {
    "written_labels": _written,
    "labels": _normal,
    "confidence": _with_confidence,
    "text": _texts,
    "free_text": _free_texts,
    "named_genes": _named_genes,
}


def _of_values(values: NDArray[np.float64], answers: Answers) -> Estimates:
    """Means over all cells, and over those of each true label."""
    resamples, n = answers.settings.sampling.resamples, len(values)
    drawn = bootstrap.weights(answers.generator("over cells"), resamples, n)
    by_units = over_units(
        lambda sums: sums[:, 0] / sums[:, 1], lambda some: np.array([values[some].sum(), len(some)]), answers
    )
    total = Estimate(value=float(values.mean()), by_cells=drawn @ values / n, by_units=by_units)
    estimates: Estimates = {(): (total, n)}
    for name in sorted(set(answers.truth)):
        some = values[answers.truth == name]
        drawn = bootstrap.weights(answers.generator("over cells", name), resamples, len(some))
        estimates[(str(name),)] = Estimate(value=float(some.mean()), by_cells=drawn @ some / len(some)), len(some)
    return estimates


def _of_confusion(
    function: Callable[[Any], Any], truth: NDArray[Any], labels: NDArray[Any], answers: Answers
) -> Estimate:
    """A function of the confusion matrix."""
    index = {name: number for number, name in enumerate(sorted(set(truth) | set(labels)))}
    size = len(index)
    code = np.array([index[t] * size + index[a] for t, a in zip(truth, labels, strict=True)])

    def of_counts(counts: NDArray[Any]) -> Any:
        return function(counts.reshape(*counts.shape[:-1], size, size))

    drawn = bootstrap.weights(answers.generator("over cells"), answers.settings.sampling.resamples, len(code))
    counts = [np.bincount(code, sample, size**2) for sample in drawn]
    return Estimate(
        value=float(of_counts(np.bincount(code, minlength=size**2).astype(float))),
        by_cells=np.asarray(of_counts(np.stack(counts) if counts else np.zeros((0, size**2)))),
        by_units=over_units(of_counts, lambda some: np.bincount(code[some], minlength=size**2), answers),
    )


def _of_draws(metric: Metric, arrays: tuple[NDArray[Any], ...], extra: tuple[Any, ...], answers: Answers) -> Estimate:
    """Any function of cells, called for each bootstrap sample."""
    value, n = float(metric.function(*map(list, arrays), *extra)), len(answers)
    if not math.isfinite(value):
        return Estimate(reason=metric.undefined)
    rng, replicates = answers.generator("labels", metric.name), []
    for _ in range(answers.settings.sampling.resamples):
        some = rng.integers(0, n, n)
        replicates.append(metric.function(*(list(values[some]) for values in arrays), *extra))
    return Estimate(value=value, by_cells=np.array(replicates))


def over_units(
    function: Callable[[Any], Any], sums_of: Callable[[NDArray[np.int64]], NDArray[Any]], answers: Any
) -> NDArray[np.float64]:
    """Bootstrap replicates of a function of sums over cells; all cells of a unit are drawn together.

    Parameters
    ----------
    answers
        Labels (:class:`Answers`) or numbers, with ``units`` and ``generator``.
    """
    if answers.units is None:
        return np.array([])
    names = sorted({str(unit) for unit in answers.units if unit is not None})
    if len(names) < bootstrap.MIN_UNITS:
        return np.array([])
    sums = np.stack([sums_of(np.flatnonzero(answers.units == name)) for name in names]).astype(np.float64)
    drawn = bootstrap.weights(answers.generator("units", *names), bootstrap.GROUP_RESAMPLES, len(names))
    return np.asarray(function(drawn @ sums))


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pair_labels(sides: Sides, settings: Settings) -> tuple[Answers, list[str]]:
    """True and predicted labels of the cells that both sides have, and notes on what is not scored.

    Several columns are one label, which is right where all of them are (:func:`_joined`).

    Raises
    ------
    KeyError, ValueError
        No such column, no common cell, no true label, or the same column for truth and prediction.
    """
    predicted, real, columns = sides.predicted, sides.real, settings.columns
    named = as_list(columns.label)
    found = predicted_columns(predicted, columns.predicted_label, named)
    if len(named) > 1 and (of_numbers := [name for name in named if is_number(predicted, None, name)]):
        raise ValueError(f"numbers are not right or wrong: score {of_numbers[0]!r} alone, as label=")
    if same := sorted(set(found) & set(named)) if predicted.obs is real.obs else []:
        raise ValueError(
            f"predicted and true labels are the same column {same[0]!r}; name another with predicted_label= or label="
        )
    rename = {as_text(name): as_text(other) for name, other in (columns.rename or {}).items()}
    labels = _joined([[rename.get(label, label) for label in predicted.column(column)] for column in found])
    truth = _joined([real.column(name) for name in named])
    pairs, notes = common_cells(predicted, real)
    known = np.array([truth[row] is not None for row in pairs[:, 1]])
    if not known.all():
        notes.append(f"{int((~known).sum())} cells have no true label and are not scored")
        pairs = pairs[known]
    if not len(pairs):
        raise ValueError(f"no cell has a true label in obs[{' and '.join(map(repr, named))}]")
    if sides.train is not None:
        sides.align(settings.values.case, labels=True)
    context = as_list(columns.context)
    answers = Answers(
        real=Labelled(cells=real, rows=pairs[:, 1], labels=truth[pairs[:, 1]]),
        answer=np.array([label if label is not None else "" for label in labels[pairs[:, 0]]], dtype=object),
        confidence=_confidence(predicted, found, pairs[:, 0]),
        units=real.column(context[0])[pairs[:, 1]] if context else None,
        train=labelled(sides.train, *named) if sides.train is not None else None,
        settings=settings,
    )
    return answers, notes + _notes_on(answers) + _notes_on_menus(answers, predicted, found, named)


def _joined(columns: Sequence[Sequence[Any] | NDArray[Any]]) -> NDArray[Any]:
    """Labels of several columns as one, object (n,); ``None`` where one of them is missing.

    The text is for display. A semicolon within a label becomes a comma, so that other labels are not the same text.
    """
    if len(columns) == 1:
        return np.array(list(columns[0]), dtype=object)
    joined = np.full(len(columns[0]), None, dtype=object)
    for row, labels in enumerate(zip(*columns, strict=True)):
        if None not in labels:
            joined[row] = "; ".join(str(label).replace(";", ",") for label in labels)
    return joined


def labelled(cells: Cells, *columns: str) -> Labelled:
    """Cells with a value in obs columns."""
    labels = _joined([cells.column(column) for column in columns])
    rows = np.flatnonzero([label is not None for label in labels])
    return Labelled(cells=cells, rows=rows, labels=labels[rows])


def _notes_on(answers: Answers) -> list[str]:
    """Cells without a predicted label, and predicted labels that no real cell has."""
    notes = []
    if n := int((answers.answer == "").sum()):
        notes.append(f"{n} cells have no predicted label; they count as wrong")
    written = sorted({str(label) for label in answers.answer if label})
    real = sorted({str(label) for label in answers.truth})
    known = set(answers.normalised(real))
    several = len(as_list(answers.settings.columns.label)) > 1  # any combination can be predicted
    if unknown := [
        label
        for label, plain in zip(written, answers.normalised(written), strict=True)
        if plain not in known and not several
    ]:
        notes.append(
            f"{len(unknown)} of {len(written)} predicted labels ({some_of(unknown)}) are none of the real cells' "
            f"labels ({some_of(real, 12)}); they count as wrong. rename= maps names of the same type"
        )
    return notes


def _notes_on_menus(answers: Answers, predicted: Cells, found: Sequence[str], named: Sequence[str]) -> list[str]:
    """Predictions of another column, and true labels that could not be chosen, as this package recorded them."""
    record = dict(predicted.uns.get(UNS, {}).get("annotate", {}))
    records = {record.get("key"): record, **record.get("results", {})}
    notes = []
    for column, name in zip(found, named, strict=True):
        recorded = records.get(column, {}).get("column")
        if (
            recorded not in (None, name, "cell_type", "perturbation")
            and answers.settings.columns.predicted_label is None
        ):
            notes.append(f"{column!r} has predictions of {recorded!r}, which are compared with obs[{name!r}]")
        menu = set(answers.normalised(list(map(str, records.get(column, {}).get("labels", ())))))
        truth = answers.real.cells.column(name)[answers.real.rows]
        lost = [label for label, plain in zip(truth, answers.normalised(truth), strict=True) if plain not in menu]
        if menu and lost:
            notes.append(
                f"{len(lost)} cells have a true {name} ({some_of(sorted(set(map(str, lost))))}) that was not among the "
                "labels to choose from; they count as wrong"
            )
    return notes


def _confidence(predicted: Cells, columns: Sequence[str], rows: NDArray[Any]) -> NDArray[np.float64] | str:
    """Probability of each predicted label; of several columns the product: each is conditional on those before it."""
    product = np.ones(len(rows))
    for column in columns:
        name = f"{column}_score"
        if name not in predicted.obs:
            return f"obs has no column {name!r} with the probability of the label"
        values = predicted.obs[name].to_numpy(dtype=float)[rows]
        if not np.all((values >= 0) & (values <= 1)):
            return f"obs[{name!r}] has values that are not between 0 and 1, so they are no probabilities"
        product *= values
    return product
