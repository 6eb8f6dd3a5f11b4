"""Evaluation of gene sets: predicted names or lists of genes beside baselines from training sets."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cell2sen.data.genes.gene_sets import name_in_text, read_sets
from cell2sen.data.names.text_files import read_text
from cell2sen.evaluation.leakage import Check, raise_on
from cell2sen.evaluation.metrics import MeanOver, Metric, Missing
from cell2sen.evaluation.metrics.gene_sets import jaccards, shares_listed, word_f1s
from cell2sen.evaluation.result import Evaluation
from cell2sen.evaluation.scoring import bootstrap, tables
from cell2sen.evaluation.scoring.baselines.method import Method, baseline, methods
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.tables import Score
from cell2sen.evaluation.settings import Settings, Task

#: Task → column of a predicted table with the answers.
COLUMNS: Mapping[Task, str] = {"name_gene_set": "name", "list_gene_set": "genes"}

Sets = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class SetAnswers:
    """True and predicted names or genes of the same sets."""

    task: Task
    names: list[str]
    genes: list[tuple[str, ...]]
    """True genes of each set."""

    answers: list[Any]
    """Predicted name, or genes, of each set."""

    train: Sets | None

    @property
    def truth(self) -> list[Any]:
        """True names or genes."""
        return list(self.names if self.task == "name_gene_set" else self.genes)

    def training(self) -> Sets:
        """Training sets; raises Missing without them."""
        if self.train is None:
            raise Missing("training sets are not known; pass train=")
        return self.train

    def frequent(self) -> list[str]:
        """Genes of training sets, those in most of them first, then by name."""
        counts = Counter(gene for genes in self.training().values() for gene in set(genes))
        return sorted(counts, key=lambda gene: (-counts[gene], gene))

    def as_many(self, lists: Sequence[Sequence[str]]) -> list[list[str]]:
        """Lists cut to the number of predicted genes, or filled up with frequent genes."""
        frequent = self.frequent()
        return [
            list(dict.fromkeys([*genes, *frequent]))[: len(set(answer))]
            for genes, answer in zip(lists, self.answers, strict=True)
        ]


# ── baselines and ceiling ─────────────────────────────────────────────────────────────────────────────────────────


@baseline("name_gene_set", "list_gene_set", role="prediction")
def prediction(answers: SetAnswers, rng: np.random.Generator) -> list[Any]:
    """The predicted names or genes."""
    return answers.answers


@baseline("name_gene_set")
def nearest_training_set(answers: SetAnswers, rng: np.random.Generator) -> list[str]:
    """The name of the training set whose genes overlap most (Jaccard index)."""
    train = answers.training()
    names, known = list(train), list(train.values())
    return [names[int(np.argmax(jaccards([genes] * len(known), known)))] for genes in answers.genes]


@baseline("name_gene_set")
def name_shuffle(answers: SetAnswers, rng: np.random.Generator) -> list[str]:
    """The predicted names, exchanged between sets at random."""
    return [answers.answers[place] for place in rng.permutation(len(answers.answers))]


@baseline("list_gene_set")
def frequent_genes(answers: SetAnswers, rng: np.random.Generator) -> list[list[str]]:
    """The genes that are in most training sets, as many as were predicted."""
    return answers.as_many([()] * len(answers.names))


@baseline("list_gene_set")
def nearest_training_name(answers: SetAnswers, rng: np.random.Generator) -> list[list[str]]:
    """The genes of the training set whose name shares most words; as many as predicted, filled with frequent genes."""
    train = answers.training()
    names, known = list(train), list(train.values())
    return answers.as_many([known[int(np.argmax(word_f1s([name] * len(names), names)))] for name in answers.names])


@baseline("name_gene_set", "list_gene_set", role="ceiling")
def ceiling(answers: SetAnswers, rng: np.random.Generator) -> list[Any]:
    """The training set that fits the truth best, by its words or genes: the best that could be copied.

    A model that generalises may be better.
    """
    train = answers.training()
    names, known = list(train), list(train.values())
    if answers.task == "name_gene_set":
        return [names[int(np.argmax(word_f1s([name] * len(names), names)))] for name in answers.names]
    best = [known[int(np.argmax(shares_listed([genes] * len(known), known)))] for genes in answers.genes]
    wanted = [set(genes) for genes in answers.genes]
    # Those of the truth first, since as many genes are kept as the truth has.
    ordered = [
        [*(gene for gene in genes if gene in own), *(gene for gene in genes if gene not in own)]
        for genes, own in zip(best, wanted, strict=True)
    ]
    return answers.as_many(ordered)


# ── evaluation ────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluate_gene_sets(
    predicted: Any, real: Any, train: Any, task: Task, chosen: Sequence[Metric], settings: Settings, versions: Any
) -> Evaluation:
    """Scores of predicted names or genes of gene sets; called by :func:`cell2sen.evaluation.evaluate.evaluate`.

    Parameters
    ----------
    predicted
        Table of :func:`cell2sen.tl.name_gene_sets` or :func:`cell2sen.tl.list_gene_sets`, its CSV file,
        ``{set: answer}``, or for genes a GMT file.
    real, train
        True sets, and those that the model was trained on: GMT file or ``{name: genes}``.
    chosen
        Metrics.

    Raises
    ------
    KeyError, ValueError
        No such column, or no set in common.
    LeakError
        A true set is among the training sets.
    """
    sets = read_sets(real)
    answers, notes, model = _paired(_read_answers(predicted, task), sets, task, train)
    checks = [_leak_check(answers)]
    if settings.leakage.leaks == "raise":
        raise_on(checks)
    scored = methods(task)
    scores = [score for method in scored for score in _scores(answers, method, chosen, settings)]
    overall = tables.over_groups(scores, chosen, scored, "", settings.sampling.seed)
    record = {
        "task": task,
        "files": {
            side: Path(data).name if isinstance(data, str | Path) else "in memory"
            for side, data in (("predicted", predicted), ("real", real), ("train", train))
            if data is not None
        },
        "n_predicted": len(answers.answers),
        "n_real": len(sets),
        "groups": answers.names,
        "genes": {},
        "embedding": {},
        "model": model or "not recorded",
        "unit_of_group_intervals": "none",
        "arguments": settings.record(),
        "versions": versions,
        "methods": {method.name: method.summary for method in scored},
    }
    return Evaluation(
        task=task,
        scores=tables.long_table(scores, overall, chosen, scored),
        table=tables.table(overall, chosen, scored),
        checks=tuple(checks),
        settings=record,
        notes=tuple(notes),
    )


def _scores(answers: SetAnswers, method: Method, chosen: Sequence[Metric], settings: Settings) -> list[Score]:
    """Mean of each metric over sets, with bootstrap samples of the sets, and the value of each set."""
    rng = bootstrap.generator(settings.sampling.seed, "answers", method.name)
    try:
        answered: Any = method.run(answers, rng)
    except Missing as why:
        missing = Estimate(reason=str(why))
        return [Score(metric=metric.name, method=method.name, group=(), estimate=missing) for metric in chosen]
    scores = []
    n = len(answers.names)
    drawn = bootstrap.weights(bootstrap.generator(settings.sampling.seed, "over sets"), settings.sampling.resamples, n)
    for metric in chosen:
        names: dict[str, Any] = {"metric": metric.name, "method": method.name}
        try:
            values = _values(metric, answers, answered, settings)
        except (Missing, ImportError, OSError) as why:
            scores.append(Score(**names, group=(), estimate=Estimate(reason=str(why))))
            continue
        total = Estimate(value=float(values.mean()), by_cells=drawn @ values / n)
        scores.append(Score(**names, group=(), estimate=total, n_predicted=n, n_real=n))
        scores += [
            Score(**names, group=(name,), estimate=Estimate(value=float(value)), n_predicted=1, n_real=1)
            for name, value in zip(answers.names, values, strict=True)
        ]
    return scores


def _values(metric: Metric, answers: SetAnswers, answered: list[Any], settings: Settings) -> Any:
    """Value of a metric for each set, float64 (sets,)."""
    assert isinstance(metric.resampling, MeanOver)
    if metric.level != "text":
        return np.asarray(metric.resampling.values(answers.truth, answered), dtype=np.float64)
    texts = [[name_in_text(name).lower() for name in side] for side in (answers.truth, answered)]
    extra = () if settings.encoder is None else (settings.encoder,)
    return np.asarray(metric.resampling.values(*texts, *extra), dtype=np.float64)


def _read_answers(predicted: Any, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answer of each set by its name, and the recorded model."""
    column = COLUMNS[task]
    if isinstance(predicted, str | Path):
        path = Path(predicted)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} with predicted gene sets")
        if path.name.endswith((".gmt", ".gmt.gz")):
            return dict(read_sets(path)), {}
        text = read_text(path)
        predicted = pd.read_csv(io.StringIO(text), index_col=0, dtype=str, keep_default_na=False)
    model: dict[str, Any] = {}
    if isinstance(predicted, pd.DataFrame):
        if column not in predicted:
            raise KeyError(f"the predicted table has no column {column!r}; available: {list(predicted.columns)}")
        model = dict(predicted.attrs.get("cell2sen", {}).get(task, {}).get("model", {}))
        predicted = dict(zip(predicted.index.astype(str), predicted[column], strict=True))
    if task == "name_gene_set":
        return {str(name): str(answer) for name, answer in predicted.items()}, model
    lists = {name: genes.split() if isinstance(genes, str) else list(genes) for name, genes in predicted.items()}
    return lists, model


def _paired(
    read: tuple[dict[str, Any], dict[str, Any]], sets: Sets, task: Task, train: Any
) -> tuple[SetAnswers, list[str], dict[str, Any]]:
    """Answers of the true sets, by name, and notes on those without one."""
    answers = {name_in_text(name): answer for name, answer in read[0].items()}
    names = [name for name in sets if name_in_text(name) in answers]
    if not names:
        raise ValueError(
            f"no gene set is in both files: predicted has {list(read[0])[:4]}, real has {list(sets)[:4]}; they are "
            "matched by the names of the sets"
        )
    notes = []
    if len(names) < len(sets):
        notes.append(f"{len(sets) - len(names)} of {len(sets)} true sets have no prediction and are not scored")
    paired = SetAnswers(
        task=task,
        names=names,
        genes=[sets[name] for name in names],
        answers=[answers[name_in_text(name)] for name in names],
        train=None if train is None else read_sets(train),
    )
    return paired, notes, read[1]


def _leak_check(answers: SetAnswers) -> Check:
    """Whether true sets are among the training sets, by name or by genes."""
    name = "held-out gene sets"
    if answers.train is None:
        return Check(name=name, status="not checked", detail="the training sets are not known; pass train=")
    names = {name_in_text(known).lower() for known in answers.train}
    genes = {frozenset(known) for known in answers.train.values()}
    leaked = [
        own
        for own, members in zip(answers.names, answers.genes, strict=True)
        if name_in_text(own).lower() in names or frozenset(members) in genes
    ]
    if leaked:
        return Check(
            name=name,
            status="failed",
            detail=f"{len(leaked)} of {len(answers.names)} scored sets are among the training sets "
            f"(such as {leaked[:3]})",
        )
    detail = f"none of the {len(answers.names)} scored sets is among {len(names)} training sets"
    return Check(name=name, status="passed", detail=detail)
