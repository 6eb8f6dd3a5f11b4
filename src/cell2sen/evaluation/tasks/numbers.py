"""Scores of numbers of single cells (age, dose, time), beside baselines and a ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.obs import number_column
from cell2sen.evaluation.inputs import Cells, Sides
from cell2sen.evaluation.matching import common_cells, predicted_columns
from cell2sen.evaluation.metrics import MeanOver, Metric, Missing
from cell2sen.evaluation.metrics.distributions import neighbours
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.baselines.method import Method, baseline
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.labels import over_units
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.tables import Score
from cell2sen.evaluation.settings import Settings, as_list

#: Cells that a baseline or the ceiling learns from, at most; components of their embedding; nearest training cells.
_MAX_LEARNED_CELLS, _COMPONENTS, _NEAREST = 5000, 50, 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """Cells with a number."""

    cells: Cells
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    """Number of each of `rows`, float64 (n,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberAnswers:
    """True and predicted numbers of the same cells."""

    real: Numbers
    answer: NDArray[np.float64]
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | str
    """Ends of each interval, each float64 (n,), or the reason why there are none."""

    units: NDArray[Any] | None
    """Unit of each cell, such as its donor, for the bootstrap over units and for the halves of the ceiling."""

    train: Numbers | None
    settings: Settings

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def truth(self) -> NDArray[np.float64]:
        """True numbers, float64 (n,)."""
        return self.real.values

    def generator(self, *names: Any) -> np.random.Generator:
        """Random generator of a purpose."""
        return bootstrap.generator(self.settings.sampling.seed, *names)

    @property
    def known(self) -> NDArray[np.float64]:
        """Numbers of the training cells; without them, of the real cells."""
        return (self.real if self.train is None else self.train).values


# ── baselines and ceiling ─────────────────────────────────────────────────────────────────────────────────────────


@baseline("number", role="prediction")
def prediction(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """The predicted numbers."""
    return answers.answer


@baseline("number")
def mean_number(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """The mean number of training (without training cells: of the real cells), for each cell."""
    return np.full(len(answers), answers.known.mean())


@baseline("number")
def median_number(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """The median number of training (without training cells: of the real cells), for each cell."""
    return np.full(len(answers), np.median(answers.known))


@baseline("number")
def number_shuffle(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """The predicted numbers, exchanged between cells at random."""
    return rng.permutation(answers.answer)


@baseline("number")
def nearest_training_cells(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """The mean number of the ten nearest training cells (principal components of ln(1 + CP10k))."""
    known, values, embedding = _learned(answers, rng)
    cells, real = embedding.cells(known.cells, known.rows), answers.real
    nearest = neighbours(cells, embedding.cells(real.cells, real.rows), _NEAREST)
    return np.asarray(values[nearest].mean(axis=1))


@baseline("number")
def ridge_regression(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """Ridge regression trained on the training cells (50 principal components of ln(1 + CP10k))."""
    known, values, embedding = _learned(answers, rng)
    return _ridge(embedding, known.cells, known.rows, values, answers.real.cells, answers.real.rows)


@baseline("number", role="ceiling")
def ceiling(answers: NumberAnswers, rng: np.random.Generator) -> NDArray[np.float64]:
    """Ridge regression trained on one half of the real cells and tested on the other, both ways.

    The halves are of units (donors), if there are at least two. The score of a simple model on these cells; a model
    that was trained on more cells may be better.
    """
    cells, rows, truth = answers.real.cells, answers.real.rows, answers.truth
    units = np.arange(len(rows)) if answers.units is None else np.array([str(unit) for unit in answers.units])
    names = rng.permutation(np.unique(units))
    if len(names) < 2:
        raise Missing("one unit has all real cells")
    first = np.isin(units, names[: len(names) // 2])
    numbers = np.empty(len(rows))
    for learned, tested in ((first, ~first), (~first, first)):
        known = rng.permutation(np.flatnonzero(learned))[:_MAX_LEARNED_CELLS]
        if len(known) < 3:
            raise Missing("one half of the real cells has fewer than three")
        embedding = Embedding.fit("pca", cells, rows[known], min(_COMPONENTS, len(known) - 1))
        numbers[tested] = _ridge(embedding, cells, rows[known], truth[known], cells, rows[tested])
    return numbers


def _learned(answers: NumberAnswers, rng: np.random.Generator) -> tuple[Numbers, NDArray[np.float64], Embedding]:
    """Random training cells, their numbers, and an embedding that was fitted to them."""
    train = answers.train
    if train is None:
        raise Missing("training cells are not known; pass train=")
    rows = rng.permutation(train.cells.by_name(train.rows))[:_MAX_LEARNED_CELLS]
    value_of = dict(zip(train.rows.tolist(), train.values, strict=True))
    values = np.array([value_of[row] for row in rows.tolist()])
    embedding = Embedding.fit("pca", train.cells, rows, min(_COMPONENTS, len(rows) - 1))
    return Numbers(cells=train.cells, rows=rows, values=values), values, embedding


def _ridge(
    embedding: Embedding,
    known: Cells,
    known_rows: NDArray[np.int64],
    values: NDArray[np.float64],
    tested: Cells,
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    try:
        from sklearn.linear_model import Ridge
    except ImportError as error:
        raise ImportError("ridge regression needs scikit-learn: pip install 'cell2sen[eval]'") from error
    coordinates = embedding.cells(known, known_rows)
    spread = coordinates.std(axis=0).max() or 1.0
    model = Ridge(alpha=1.0).fit(coordinates / spread, values)
    return np.asarray(model.predict(embedding.cells(tested, rows) / spread), dtype=np.float64)


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(answers: NumberAnswers, metrics: Sequence[Metric], methods: Sequence[Method]) -> list[Score]:
    """Scores over all cells (group ``()``)."""
    scores = []
    for method in methods:
        try:
            numbers: Any = method.run(answers, answers.generator("answers", method.name))
        except (Missing, ImportError) as why:
            numbers = str(why)
        for metric in metrics:
            estimate = _estimate(metric, method, numbers, answers)
            n = len(answers)
            scores.append(
                Score(metric=metric.name, method=method.name, group=(), estimate=estimate, n_predicted=n, n_real=n)
            )
    return scores


def _estimate(metric: Metric, method: Method, numbers: Any, answers: NumberAnswers) -> Estimate:
    if isinstance(numbers, str):
        return Estimate(reason=numbers)
    try:
        arrays = _INPUTS[metric.level](answers, method, numbers)
    except Missing as why:
        return Estimate(reason=str(why))
    value, resamples = float(metric.function(*arrays)), answers.settings.sampling.resamples
    if not math.isfinite(value):
        return Estimate(reason=metric.undefined)
    if isinstance(metric.resampling, MeanOver):
        values = np.asarray(metric.resampling.values(*arrays), dtype=np.float64)
        drawn = bootstrap.weights(answers.generator("over cells"), resamples, len(values))
        by_units = over_units(
            lambda sums: sums[:, 0] / sums[:, 1], lambda some: np.array([values[some].sum(), len(some)]), answers
        )
        return Estimate(value=value, by_cells=drawn @ values / len(values), by_units=by_units)
    rng = answers.generator("over cells", metric.name)
    samples = [rng.integers(0, len(answers), len(answers)) for _ in range(resamples)]
    return Estimate(value=value, by_cells=np.array([metric.function(*(a[some] for a in arrays)) for some in samples]))


def _with_interval(answers: NumberAnswers, method: Method, numbers: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    if method.role != "prediction":
        raise Missing("this method has no intervals")
    if isinstance(answers.interval, str):
        raise Missing(answers.interval)
    return (answers.truth, *answers.interval)


#: Level of a metric → arguments of its function.
_INPUTS: Mapping[str, Callable[[NumberAnswers, Method, NDArray[Any]], tuple[NDArray[Any], ...]]] = {
    "numbers": lambda answers, _, numbers: (answers.truth, numbers),
    "intervals": _with_interval,
}


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pair_numbers(sides: Sides, settings: Settings) -> tuple[NumberAnswers, list[str]]:
    """True and predicted numbers of the cells that both sides have, and notes on what is not scored.

    Raises
    ------
    KeyError, ValueError
        No such column, values that are no numbers, no common cell or no cell with both numbers.
    """
    predicted, real, columns = sides.predicted, sides.real, settings.columns
    named = as_list(columns.label)
    if len(named) != 1:
        raise ValueError(f"label must be one column of the real cells, found {named}")
    [column] = predicted_columns(predicted, columns.predicted_label, named)
    if column == named[0] and predicted.obs is real.obs:
        raise ValueError(
            f"predicted and true numbers are the same column {column!r}; name another with predicted_label= or label="
        )
    answer, truth = _numbers(predicted, column), _numbers(real, named[0])
    pairs, notes = common_cells(predicted, real)
    for values, side, kind in ((truth, 1, "true"), (answer, 0, "predicted")):
        has = np.isfinite(values[pairs[:, side]])
        if not has.all():
            notes.append(f"{int((~has).sum())} cells have no {kind} number and are not scored")
            pairs = pairs[has]
        if not len(pairs):
            raise ValueError(f"no cell has a {kind} number in obs[{(named[0] if side else column)!r}]")
    if sides.train is not None:
        sides.align(settings.values.case, labels=True)
    context = as_list(columns.context)
    answers = NumberAnswers(
        real=Numbers(cells=real, rows=pairs[:, 1], values=truth[pairs[:, 1]]),
        answer=answer[pairs[:, 0]],
        interval=_interval(predicted, column, pairs[:, 0]),
        units=real.column(context[0])[pairs[:, 1]] if context else None,
        train=None if sides.train is None else _with_numbers(sides.train, named[0]),
        settings=settings,
    )
    return answers, notes


def _numbers(cells: Cells, column: str) -> NDArray[np.float64]:
    return number_column(cells.obs, column, f"obs of the {cells.name} cells")


def _with_numbers(cells: Cells, column: str) -> Numbers:
    values = _numbers(cells, column)
    rows = np.flatnonzero(np.isfinite(values))
    return Numbers(cells=cells, rows=rows, values=values[rows])


def _interval(
    predicted: Cells, column: str, rows: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
    names = [f"{column}_low", f"{column}_high"]
    if lost := [name for name in names if name not in predicted.obs]:
        return f"obs has no column {lost[0]!r} with an end of the interval"
    low, high = (_numbers(predicted, name)[rows] for name in names)
    return low, high
