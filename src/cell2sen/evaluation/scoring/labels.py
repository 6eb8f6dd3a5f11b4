"""Answers: scores of labels and texts that were given to single cells, beside baselines and ceiling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.labels import normalise_label
from cell2sen.evaluation.inputs import Cells
from cell2sen.evaluation.metrics import distributions as distances
from cell2sen.evaluation.metrics.metrics import Metric, calibration_curve, confusion, f1_of_confusion
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.arms import CEILING, PREDICTION, Missing
from cell2sen.evaluation.scoring.bootstrap import Score
from cell2sen.evaluation.scoring.pca import Embedding

#: Arm → what it is.
ARMS = {
    PREDICTION: "the labels to be judged",
    "majority_label": "the most frequent label of training (without training cells: of the real cells), for each cell",
    "label_shuffle": "the predicted labels, exchanged between cells at random",
    "nearest_training_cell": "the label of the nearest training cell (principal components of ln(1 + CP10k))",
    CEILING: "logistic regression trained on one half of the real cells and asked about the other, both ways: what the "
    "cells allow a simple model; one that has seen more cells may lie above",
}
_FEW = 2


@dataclass(kw_only=True)
class Answers:
    """Labels of the same cells, from truth and prediction."""

    truth: NDArray[Any]
    answer: NDArray[Any]
    confidence: NDArray[np.float64] | None
    why_no_confidence: str
    real: Cells
    rows: NDArray[np.int64]
    """Rows of `real` that the entries belong to."""
    units: NDArray[Any] | None = None
    """Unit of each cell (a donor, say) for the bootstrap over units."""
    train: Cells | None = None
    train_labels: NDArray[Any] | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    encoder: Any = None
    resamples: int = 100
    seed: int = 0
    max_cells: int = 5000

    def arm(self, name: str) -> NDArray[Any]:
        """Labels of an arm, object (cells,)."""
        rng = bootstrap.generator(self.seed, "answers", name)
        if name == PREDICTION:
            return self.answer
        if name == "majority_label":
            known = self.train_labels if self.train_labels is not None else self.truth
            return np.full(
                len(self.truth),
                Counter(str(one) for one in known if one is not None).most_common(1)[0][0],
                dtype=object,
            )
        if name == "label_shuffle":
            return rng.permutation(self.answer)
        if name == "nearest_training_cell":
            return self._nearest(rng)
        return self._ceiling(rng)

    def _nearest(self, rng: np.random.Generator) -> NDArray[Any]:
        if self.train is None or self.train_labels is None:
            raise Missing("training cells are not known; pass train=")
        labelled = np.flatnonzero([one is not None for one in self.train_labels])
        known = rng.permutation(self.train.by_name(labelled))[: self.max_cells]
        embedding = Embedding.fit("pca", self.train, known, 50)
        found = distances.neighbours(embedding.cells(self.train, known), embedding.cells(self.real, self.rows), 1)[:, 0]
        return np.asarray(self.train_labels[known][found], dtype=object)

    def _ceiling(self, rng: np.random.Generator) -> NDArray[Any]:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            raise Missing("the ceiling needs scikit-learn: pip install 'cell2sen[eval]'") from None
        mixed = rng.permutation(len(self.rows))
        halves = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        found = np.empty(len(self.rows), dtype=object)
        for known, asked in (halves, halves[::-1]):
            known = known[: self.max_cells]
            if len(set(self.truth[known])) < _FEW:
                raise Missing("one label in one half of the real cells")
            embedding = Embedding.fit("pca", self.real, self.rows[known], 50)
            cells = embedding.cells(self.real, self.rows[known])
            spread = cells.std(axis=0).max() or 1.0
            model = LogisticRegression(C=1.0, max_iter=2000).fit(cells / spread, self.truth[known].astype(str))
            found[asked] = model.predict(embedding.cells(self.real, self.rows[asked]) / spread)
        return found


def score(answers: Answers, metrics: Sequence[Metric]) -> list[Score]:
    """Scores over all cells (group ``()``), and per true label."""
    arms: dict[str, NDArray[Any] | str] = {}
    for name in ARMS:
        try:
            arms[name] = answers.arm(name)
        except Missing as why:
            arms[name] = str(why)
    plain = {text: normalise_label(text, answers.synonyms) for text in {str(one) for one in answers.truth}}
    found = []
    for name, labels in arms.items():
        if isinstance(labels, str):
            found += [Score(metric=one.name, arm=name, group=(), reason=labels) for one in metrics]
            continue
        plain |= {text: normalise_label(text, answers.synonyms) for text in {str(one) for one in labels} - set(plain)}
        for one in metrics:
            found += _scores_of(one, name, labels, answers, plain)
    return found


def calibration(answers: Answers) -> dict[str, list[float]] | None:
    """Bins of the calibration curve: cells, share that is right, mean probability."""
    if answers.confidence is None:
        return None
    plain = _plain(answers.truth, answers), _plain(answers.answer, answers)
    n, right, stated = calibration_curve(plain[0], plain[1], answers.confidence)
    keep = n > 0
    return {
        "cells": [float(one) for one in n[keep]],
        "right": [float(one) for one in right[keep] / n[keep]],
        "stated": [float(one) for one in stated[keep] / n[keep]],
    }


def confusion_table(answers: Answers) -> tuple[NDArray[np.int64], list[str]]:
    """Counts of (true, predicted) normalised labels."""
    counts, names = confusion(_plain(answers.truth, answers), _plain(answers.answer, answers))
    return counts, [str(name) for name in names]


def _scores_of(one: Metric, arm: str, labels: NDArray[Any], answers: Answers, plain: Mapping[str, str]) -> list[Score]:
    truth = answers.truth
    base: dict[str, Any] = {"metric": one.name, "arm": arm, "n_predicted": len(labels), "n_real": len(truth)}
    if one.level == "confidence":
        if arm != PREDICTION:
            return [Score(group=(), reason="this arm states no probability", **base)]
        if answers.confidence is None:
            return [Score(group=(), reason=answers.why_no_confidence, **base)]
    if one.level == "text":
        return [_text_score(one, labels, answers, base)]
    if one.name == "accuracy":
        right = np.array([one.function([t], [a]) for t, a in zip(truth, labels, strict=True)])
        return _of_cells(right, answers, base)
    normal = (
        np.array([plain[str(t)] for t in truth], dtype=object),
        np.array([plain[str(a)] for a in labels], dtype=object),
    )
    if one.name == "normalised_accuracy":
        return _of_cells((normal[0] == normal[1]).astype(float), answers, base)
    if one.name == "macro_f1":
        return [
            _of_sums(
                _joint(*normal),
                lambda sums: f1_of_confusion(sums.reshape(*sums.shape[:-1], *_square(sums))),
                answers,
                base,
            )
        ]
    extra = {"confidence": answers.confidence} if one.level == "confidence" else {}
    if one.name == "brier":
        assert answers.confidence is not None
        wrong = (answers.confidence - (normal[0] == normal[1])) ** 2
        return _of_cells(wrong, answers, base)[:1]
    value = float(one.function(list(normal[0]), list(normal[1]), **extra))
    rng = bootstrap.generator(answers.seed, "labels", one.name)
    replicates = []
    for _ in range(answers.resamples):
        drawn = rng.integers(0, len(truth), len(truth))
        drawn_extra = {name: np.asarray(values)[drawn] for name, values in extra.items()}
        replicates.append(one.function(list(normal[0][drawn]), list(normal[1][drawn]), **drawn_extra))
    return [
        Score(
            group=(),
            value=value,
            replicates=np.array(replicates),
            reason="" if math.isfinite(value) else one.undefined,
            **base,
        )
    ]


def _text_score(one: Metric, labels: NDArray[Any], answers: Answers, base: dict[str, Any]) -> Score:
    from cell2sen.evaluation.metrics import text as bertscore

    encoder = answers.encoder
    if one.function is bertscore.biobert_score and encoder is None:
        encoder = bertscore.BIOBERT
    if encoder is None:
        return Score(group=(), reason="no text encoder; pass encoder= (a directory or hub id)", **base)
    try:
        values = bertscore.bertscores([str(t) for t in answers.truth], [str(a) for a in labels], encoder)
    except (ImportError, OSError) as error:
        return Score(group=(), reason=str(error), **base)
    return _of_cells(values, answers, base)[0]


def _of_cells(values: NDArray[np.float64], answers: Answers, base: dict[str, Any]) -> list[Score]:
    """A mean over cells: of all, and of each true label."""
    drawn = bootstrap.weights(bootstrap.generator(answers.seed, "over cells"), answers.resamples, len(values))
    scores = [
        Score(
            group=(),
            value=float(values.mean()),
            replicates=drawn @ values / len(values),
            by_units=_over_units(
                lambda sums: sums[:, 0] / sums[:, 1], lambda of: np.array([values[of].sum(), len(of)]), answers
            ),
            **base,
        )
    ]
    for name in sorted(set(answers.truth)):
        some = np.flatnonzero(answers.truth == name)
        again = bootstrap.weights(bootstrap.generator(answers.seed, "over cells", name), answers.resamples, len(some))
        scores.append(
            Score(
                group=(str(name),),
                value=float(values[some].mean()),
                replicates=again @ values[some] / len(some),
                **(base | {"n_predicted": len(some), "n_real": len(some)}),
            )
        )
    return scores


def _of_sums(
    codes: tuple[NDArray[np.int64], int], function: Callable[[Any], Any], answers: Answers, base: dict[str, Any]
) -> Score:
    """A function of how often each code occurs."""
    code, n_codes = codes
    drawn = bootstrap.weights(bootstrap.generator(answers.seed, "over cells"), answers.resamples, len(code))
    resampled = np.stack([np.bincount(code, one, n_codes) for one in drawn]) if len(drawn) else np.zeros((0, n_codes))
    by_units = _over_units(function, lambda of: np.bincount(code[of], minlength=n_codes), answers)
    return Score(
        group=(),
        value=float(function(np.bincount(code, minlength=n_codes).astype(float))),
        replicates=np.asarray(function(resampled)),
        by_units=by_units,
        **base,
    )


def _over_units(
    function: Callable[[Any], Any], sums_of: Callable[[NDArray[np.int64]], NDArray[Any]], answers: Answers
) -> NDArray[np.float64]:
    """Replicates of a function of sums over cells, all cells of a unit drawn together."""
    if answers.units is None:
        return np.array([])
    names = sorted({str(unit) for unit in answers.units if unit is not None})
    if len(names) < bootstrap.FEWEST_UNITS:
        return np.array([])
    sums = np.stack([sums_of(np.flatnonzero(answers.units == name)) for name in names]).astype(np.float64)
    drawn = bootstrap.weights(bootstrap.generator(answers.seed, "units", *names), bootstrap.GROUP_RESAMPLES, len(names))
    return np.asarray(function(drawn @ sums))


def _joint(truth: NDArray[Any], answer: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    names = {name: at for at, name in enumerate(sorted(set(truth) | set(answer)))}
    return np.array([names[t] * len(names) + names[a] for t, a in zip(truth, answer, strict=True)]), len(names) ** 2


def _square(sums: NDArray[Any]) -> tuple[int, int]:
    n = math.isqrt(sums.shape[-1])
    return n, n


def _plain(labels: NDArray[Any], answers: Answers) -> list[str]:
    table = {text: normalise_label(text, answers.synonyms) for text in {str(one) for one in labels}}
    return [table[str(one)] for one in labels]
