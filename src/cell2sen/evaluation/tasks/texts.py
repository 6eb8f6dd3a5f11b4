"""Scores of texts on samples of cells against reference texts, beside baselines and a ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.answer import by_upper_case, marked, named_genes
from cell2sen.evaluation.inputs import Sides
from cell2sen.evaluation.matching import common_cells
from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.metrics.distributions import neighbours
from cell2sen.evaluation.scoring.baselines.method import baseline
from cell2sen.evaluation.scoring.labels import Answers, Labelled, labelled
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.settings import Settings, as_list

#: Cells that a baseline or the ceiling learns from, at most; components of their embedding.
_MAX_LEARNED_CELLS, _COMPONENTS = 5000, 50

#: Texts that the report shows.
MAX_SHOWN = 12


@baseline("text", role="prediction")
def prediction(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The predicted texts."""
    return answers.answer


@baseline("text")
def majority_answer(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The most frequent reference of training (without training cells: of the real cells), for each sample."""
    known = (answers.real if answers.train is None else answers.train).labels
    counts = Counter(str(label) for label in known)
    return np.full(len(answers), counts.most_common(1)[0][0], dtype=object)


@baseline("text")
def shuffled_answers(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The predicted texts, exchanged between samples at random, each for another one where there are two."""
    order = rng.permutation(len(answers))
    shuffled = np.empty(len(answers), dtype=object)
    shuffled[order] = answers.answer[np.roll(order, 1)]
    return shuffled


@baseline("text")
def nearest_training_answer(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The reference of the nearest training cell (principal components of ln(1 + CP10k))."""
    train, real = answers.train, answers.real
    if train is None:
        raise Missing("training cells are not known; pass train=")
    known = rng.permutation(train.cells.by_name(train.rows))[:_MAX_LEARNED_CELLS]
    embedding = Embedding.fit("pca", train.cells, known, _COMPONENTS)
    nearest = neighbours(embedding.cells(train.cells, known), embedding.cells(real.cells, real.rows), 1)[:, 0]
    label_of = dict(zip(train.rows, train.labels, strict=True))
    return np.array([label_of[row] for row in known[nearest]], dtype=object)


@baseline("text", role="ceiling")
def ceiling(answers: Answers, rng: np.random.Generator) -> NDArray[Any]:
    """The reference that a logistic regression on the real cells of no sample finds for the cells of each sample.

    The score of a simple model that chooses among the references of these cells; a new text can say more.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("the ceiling needs scikit-learn: pip install 'cell2sen[eval]'") from error
    cells = answers.real.cells
    columns = as_list(answers.settings.columns.label)
    others = labelled(cells, columns[0])
    read = set(np.concatenate(answers.cells_of).tolist())
    unread = cells.by_name(np.array([row for row in others.rows if int(row) not in read], dtype=np.int64))
    known = rng.permutation(unread)[:_MAX_LEARNED_CELLS]
    text_of = dict(zip(others.rows.tolist(), others.labels, strict=True))
    texts = np.array([str(text_of[int(row)]) for row in known], dtype=object)
    if len(set(texts)) < 2:
        raise Missing("fewer than two references among the real cells that are in no sample")
    embedding = Embedding.fit("pca", cells, known, min(_COMPONENTS, len(known) - 1))
    coordinates = embedding.cells(cells, known)
    spread = coordinates.std(axis=0).max() or 1.0
    model = LogisticRegression(C=1.0, max_iter=2000).fit(coordinates / spread, texts.astype(str))
    found = [
        model.classes_[model.predict_log_proba(embedding.cells(cells, rows) / spread).sum(axis=0).argmax()]
        for rows in answers.cells_of
    ]
    return np.array([str(text) for text in found], dtype=object)


def pair_texts(sides: Sides, settings: Settings) -> tuple[Answers, list[str]]:
    """Predicted and reference texts of samples of cells, and notes on what is not scored.

    A predicted column ``NAME`` has the text of each cell that was read, and ``NAME_sample`` its sample; without the
    latter, cells with the same text are one sample. References are those of a sample's first cell that has one.

    Raises
    ------
    KeyError, ValueError
        No such column, no common cell, no reference, or the same column for reference and prediction.
    """
    predicted, real, columns = sides.predicted, sides.real, settings.columns
    named = as_list(columns.label)
    given = as_list(columns.predicted_label or ())
    column = str(next(iter(given), None) or predicted.record("text").get("key") or "cell2sen_answer")
    if column in named and predicted.obs is real.obs:
        raise ValueError(
            f"predicted and true texts are the same column {column!r}; name another with predicted_label= or label="
        )
    texts = predicted.column(column)
    by_sample = f"{column}_sample" if f"{column}_sample" in predicted.obs else column
    samples, references = predicted.column(by_sample), [real.column(name) for name in named]
    pairs, _ = common_cells(predicted, real)
    rows_of: dict[str, list[tuple[int, int]]] = {}
    for row, other in pairs.tolist():
        if samples[row] is not None and texts[row] is not None:
            rows_of.setdefault(str(samples[row]), []).append((row, other))
    notes: list[str] = []
    firsts, answers, cells_of = [], [], []
    for members in rows_of.values():
        known = [other for _, other in members if references[0][other] is not None]
        if known:
            firsts.append(known[0])
            answers.append(texts[members[0][0]])
            cells_of.append(np.array([other for _, other in members], dtype=np.int64))
    if not firsts:
        raise ValueError(f"no sample has both a predicted text in obs[{column!r}] and a reference in obs[{named[0]!r}]")
    if missing := len(rows_of) - len(firsts):
        notes.append(f"{missing} of {len(rows_of)} samples have no reference and are not scored")
    if sides.train is not None:
        sides.align(settings.values.case, labels=True)
    rows, context = np.array(firsts, dtype=np.int64), as_list(columns.context)
    return (
        Answers(
            real=Labelled(cells=real, rows=rows, labels=references[0][rows]),
            answer=np.array(answers, dtype=object),
            confidence="texts have no probabilities",
            units=real.column(context[0])[rows] if context else None,
            train=None if sides.train is None else labelled(sides.train, named[0]),
            settings=settings,
            references=tuple(values[rows] for values in references[1:]),
            cells_of=tuple(cells_of),
        ),
        notes,
    )


def shown_texts(answers: Answers) -> list[Mapping[str, Any]]:
    """Some texts for the report, with their reference, and the state of each gene that they name."""
    cells = answers.real.cells
    symbols = np.array(cells.expression.symbols, dtype=object)
    measured, organisms = by_upper_case(symbols), cells.expression.organism()
    shown: list[Mapping[str, Any]] = []
    for text, truth, rows in list(zip(answers.answer, answers.truth, answers.cells_of, strict=True))[:MAX_SHOWN]:
        over = cells.expression.over_symbols(cells.expression.reader.read(rows))
        expressed = set(symbols[np.unique(over.indices[over.data > 0])])
        states = {
            word: "unmeasured" if symbol is None else "present" if symbol in expressed else "absent"
            for word, symbol in named_genes(str(text), measured, organisms[int(rows[0])]).items()
        }
        shown.append(
            {
                "sample": str(cells.names[rows[0]]),
                "n_cells": len(rows),
                "pieces": marked(str(text), states),
                "reference": str(truth),
            }
        )
    return shown
