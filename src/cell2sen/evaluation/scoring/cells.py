"""Scores of predicted cells against real ones, group by group."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.progress import counted
from cell2sen.evaluation.inputs import group_name
from cell2sen.evaluation.metrics import Faster, MeanOver, Metric, Missing, OfSamples, Sample
from cell2sen.evaluation.metrics.changes import de_genes
from cell2sen.evaluation.metrics.distributions import Neighbours
from cell2sen.evaluation.scoring import bootstrap, figure_data
from cell2sen.evaluation.scoring.baselines.method import Method
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.groups import Groups, Key
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.resampling import Group, Profile
from cell2sen.evaluation.scoring.tables import Score
from cell2sen.sentences.threads import in_parallel

#: Real cells of the k-NN classifier: in all, and of each group at least.
_MAX_REFERENCE, _MIN_OF_GROUP = 10_000, 25

_NO_DE_ORDER = "fewer than two real cells or controls, so differential expression is not defined"


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Groups, methods and metrics to be scored."""

    groups: Groups
    embedding: Embedding | None
    methods: Sequence[Method]
    metrics: Sequence[Metric]
    genes: Sequence[str]
    """Compared genes."""

    vocabulary: frozenset[str]
    """Genes of the prediction; other words of its sentences are invalid."""

    def of_level(self, *levels: str) -> list[Metric]:
        """Metrics of some levels."""
        return [metric for metric in self.metrics if metric.level in levels]


@dataclass(kw_only=True)
class Results:
    """Scores of all groups, and the data of the report's figures."""

    scores: list[Score] = field(default_factory=list)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Group → genes, true and predicted change of the most differentially expressed ones."""

    sizes: dict[str, float] = field(default_factory=dict)
    """Group → size of the predicted change over that of the true change."""

    map: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Cells for a two-dimensional map: ``coordinates``, ``kind``, ``group``."""

    def add(self, other: Results) -> None:
        """Append the scores and data of other groups."""
        self.scores += other.scores
        self.changes |= other.changes
        self.sizes |= other.sizes
        sides = [side for side in (self.map, other.map) if side]
        self.map = {column: np.concatenate([side[column] for side in sides]) for column in other.map or self.map}


def score(job: Job, progress: bool) -> Results:
    """Scores of all groups; as many groups are in memory as there are threads."""
    groups, all_results = job.groups, Results()
    on_change = bool(job.of_level("change", "disjoint_change"))
    changes = {key: _true_change(groups, key) for key in groups.keys} if on_change else {}
    reference = _reference(job) if job.of_level("neighbours") else None

    def score_group(key: Key) -> Results:
        group, results = Group(groups, key, job.embedding), Results()
        if on_change or job.of_level("profile"):
            order = _de_order(groups, key)
            others = [change for other in _rivals(groups, key) if (change := changes.get(other)) is not None]
            rivals = np.array(others) if others else np.zeros((0, len(job.genes)))
            results.scores += _profile_scores(job, group, {"genes": order, "others": rivals})
            true = changes.get(key)
            if true is not None and order is not None:
                top, size = figure_data.top_changes(group, true, order, job.genes)
                results.changes[group_name(key)], results.sizes[group_name(key)] = top, size
        results.scores += _cell_scores(job, group, reference)
        results.scores += _sentence_scores(job, group)
        results.map = figure_data.cells_of_map(group)
        return results

    shown = counted(groups.keys, "scoring groups", "group", show=progress and len(groups.keys) >= 3)
    with _one_thread_each():
        for _, results in zip(shown, in_parallel(score_group, [(key,) for key in groups.keys]), strict=True):
            all_results.add(results)
    return all_results


def _one_thread_each() -> contextlib.AbstractContextManager[Any]:
    """Matrix products in one thread: those of several groups at a time would wait for each other."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]
    except ImportError:  # comes with scikit-learn; without it, only slower
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limits


# ── mean profiles ─────────────────────────────────────────────────────────────────────────────────────────────────


def _profile_scores(job: Job, group: Group, context: Mapping[str, Any]) -> list[Score]:
    halves = job.groups.sampling.controls == "split" and job.groups.with_controls
    on_change = job.of_level("disjoint_change", *(["change"] if halves else []))
    sizes: dict[str, Any] = {"n_predicted": len(group.predicted_rows), "n_real": len(group.real_rows)}
    scores = []
    for method in job.methods:
        estimates = _expression_scores(job, group, method, context)
        estimates |= _change_scores(job.of_level("change") if not halves else [], group, method, (None,), context)
        if job.groups.with_controls:
            estimates |= _change_scores(on_change, group, method, (0, 1), context)
        else:
            reason = "generated cells have no controls to be split"
            estimates |= {metric.name: Estimate(reason=reason) for metric in on_change}
        scores += [
            Score(metric=name, method=method.name, group=group.key, estimate=estimate, **sizes)
            for name, estimate in estimates.items()
        ]
    return scores


def _expression_scores(job: Job, group: Group, method: Method, context: Mapping[str, Any]) -> dict[str, Estimate]:
    metrics = job.of_level("profile")
    if not metrics:
        return {}
    try:
        truth, answer = method.run.truth(group), method.run.expression(group)
    except Missing as why:
        return {metric.name: Estimate(reason=str(why)) for metric in metrics}
    return {metric.name: _compare(metric, truth, answer, context) for metric in metrics}


def _change_scores(
    metrics: Sequence[Metric], group: Group, method: Method, folds: Sequence[int | None], context: Mapping[str, Any]
) -> dict[str, Estimate]:
    """Metrics of the change, averaged over folds of the controls."""
    parts: dict[str, list[Estimate]] = {metric.name: [] for metric in metrics}
    for fold in folds if metrics else ():
        try:
            truth, answer = method.run.true_change(group, fold), method.run.change(group, fold)
            reason = _NO_DE_ORDER if context["genes"] is None else ""
        except Missing as missing:
            reason = str(missing)
        for metric in metrics:
            if "others" in metric.arguments and not len(context["others"]):
                parts[metric.name].append(Estimate(reason=metric.undefined))
            elif reason:
                parts[metric.name].append(Estimate(reason=reason))
            else:
                parts[metric.name].append(_compare(metric, truth, answer, context))
    return {name: _mean_of_folds(estimates) for name, estimates in parts.items()}


def _mean_of_folds(folds: Sequence[Estimate]) -> Estimate:
    complete = all(len(fold.by_cells) for fold in folds)
    return Estimate(
        value=float(np.mean([fold.value for fold in folds])),
        by_cells=np.mean([fold.by_cells for fold in folds], axis=0) if complete else np.array([]),
        reason=next((fold.reason for fold in folds if not math.isfinite(fold.value)), ""),
    )


def _compare(metric: Metric, truth: Profile, answer: Profile, context: Mapping[str, Any]) -> Estimate:
    """A metric of two profiles, and of their bootstrap samples."""
    extra = {name: context[name] for name in context if name in metric.arguments}
    value = float(metric.function(truth.point, answer.point, **extra))
    if not math.isfinite(value):
        return Estimate(reason=metric.undefined)
    if not len(truth.samples):
        return Estimate(value=value)
    if isinstance(metric.resampling, Faster):
        replicates = metric.resampling.score(truth.samples, answer.samples)
    else:
        replicates = metric.function(truth.samples, answer.samples, **extra)
        if np.shape(replicates) != (len(truth.samples),):  # a function for single vectors
            pairs = zip(truth.samples, np.broadcast_to(answer.samples, truth.samples.shape), strict=True)
            replicates = np.array([metric.function(x, y, **extra) for x, y in pairs])
    return Estimate(value=value, by_cells=np.asarray(replicates, dtype=np.float64))


def _true_change(groups: Groups, key: Key) -> NDArray[np.float64] | None:
    try:
        return groups.true_change(key)
    except Missing:
        return None


def _rivals(groups: Groups, key: Key) -> list[Key]:
    """Other perturbations of the group's context, which discrimination compares with.

    Their changes are measured from the same controls, whose noise cancels. Across contexts it would not: a change that
    is noise alone would be nearest to the truth with the same controls.
    """
    return [other for other in groups.keys if other != key and groups.context(other) == groups.context(key)]


def _de_order(groups: Groups, key: Key) -> NDArray[np.int64] | None:
    """Genes by differential expression between real cells and controls (labels: other cells); None for < 2 cells."""
    cells, rows, control = groups.real.cells, groups.real.groups[key], groups.real.controls.get(groups.context(key))
    if control is not None and not groups.with_controls:
        control = np.setdiff1d(control, rows)
    if control is None or len(rows) < 2 or len(control) < 2:
        return None
    return de_genes(*cells.moments(rows), len(rows), (*cells.moments(control), len(control)))


# ── sets of cells ─────────────────────────────────────────────────────────────────────────────────────────────────


def _cell_scores(job: Job, group: Group, reference: tuple[NDArray[np.float64], Any] | None) -> list[Score]:
    metrics = job.of_level("cells", "neighbours")
    if not metrics:
        return []
    try:
        n = group.n_compared()
        truth = group.draw(job.groups.real.cells, job.groups.halves[group.key][1], n, "truth")
    except (Missing, KeyError) as why:
        reason = str(why.args[0])
        return [_score(metric, method, group, Estimate(reason=reason)) for metric in metrics for method in job.methods]
    rng = job.groups.generator("cells", group.key)
    resamples = job.groups.sampling.resamples
    drawn = bootstrap.weights(rng, resamples, n), bootstrap.weights(rng, resamples, n)
    # The cells themselves are the first sample, so that their distances are computed once.
    counts = tuple(np.concatenate([np.ones((1, n)), some]) for some in drawn)
    of_truth, scores = Sample(truth, counts[0]), []
    for method in job.methods:
        try:
            cells = method.run.cells(group, n)
        except (Missing, KeyError) as why:
            scores += [_score(metric, method, group, Estimate(reason=str(why.args[0]))) for metric in metrics]
            continue
        nearest = Neighbours(*reference, cells) if reference is not None else None
        of_cells = Sample(cells, counts[1])
        for metric in metrics:
            if metric.level == "neighbours" and nearest is not None:
                estimate = _vote(metric, nearest, group_name(group.key), drawn[1])
            else:
                estimate = _distance(metric, of_truth, of_cells)
            scores.append(_score(metric, method, group, estimate, n))
    return scores


def _score(metric: Metric, method: Method, group: Group, estimate: Estimate, n: int = 0) -> Score:
    return Score(metric=metric.name, method=method.name, group=group.key, estimate=estimate, n_predicted=n, n_real=n)


def _distance(metric: Metric, truth: Sample, cells: Sample) -> Estimate:
    if isinstance(metric.resampling, OfSamples):
        values = metric.resampling.score(truth, cells)
    elif "weights" in metric.arguments:
        values = metric.function(truth.cells, cells.cells, weights=(truth.counts, cells.counts))
    else:
        values = [metric.function(truth.cells, cells.cells)]
    value, *by_cells = np.asarray(values).tolist()
    if not math.isfinite(value):
        return Estimate(reason=metric.undefined)
    return Estimate(value=value, by_cells=np.array(by_cells))


def _vote(metric: Metric, nearest: Neighbours, expected: str, drawn: NDArray[np.float64]) -> Estimate:
    assert isinstance(metric.resampling, MeanOver)
    try:
        hits = metric.resampling.values(nearest, expected)
    except Missing as why:
        return Estimate(reason=str(why))
    return Estimate(value=float(hits.mean()), by_cells=drawn @ hits / len(hits))


def _reference(job: Job) -> tuple[NDArray[np.float64], Any] | None:
    """Real cells of the k-NN classifier and their labels: one half of each group and of each context's controls.

    At most the same number of each, so that no group is favoured; fewer if there are many groups, as every predicted
    cell is compared with all of them.
    """
    groups = job.groups
    halves = [(group_name(key), groups.halves[key][1]) for key in groups.real.groups]
    if groups.with_controls:
        halves += [(f"control | {group_name(key)}", both[1]) for key, both in groups.control_halves.items()]
    most = min(groups.sampling.max_cells, max(_MIN_OF_GROUP, _MAX_REFERENCE // max(1, len(halves))))
    parts, labels = [], []
    for name, rows in halves:
        some = groups.generator("reference", name).permutation(rows)[:most]
        if len(some):
            assert job.embedding is not None
            parts.append(job.embedding.cells(groups.real.cells, some))
            labels += [name] * len(some)
    return (np.concatenate(parts), pd.Categorical(labels)) if parts else None


# ── sentences ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _sentence_scores(job: Job, group: Group) -> list[Score]:
    """Scores of the prediction only: a real cell's sentence is valid by construction."""
    methods = [method for method in job.methods if method.role == "prediction"]
    scores = []
    for metric in job.of_level("sentences"):
        estimate, n = _sentence_score(metric, job, group)
        scores += [
            Score(metric=metric.name, method=method.name, group=group.key, estimate=estimate, n_predicted=n)
            for method in methods
        ]
    return scores


def _sentence_score(metric: Metric, job: Job, group: Group) -> tuple[Estimate, int]:
    """The mean over sentences, and their number.

    Predictions of this package have an obs column of the metric's name: words were counted when the answer was parsed,
    as the stored sentence has genes only, each once.
    """
    obs, rows = job.groups.predicted.cells.obs, group.predicted_rows
    if metric.name in obs:
        values = obs[metric.name].to_numpy(dtype=float)[rows]
    elif "sentence" in obs:
        values = np.array([metric.function(str(text), job.vocabulary) for text in obs["sentence"].iloc[rows]])
    else:
        return Estimate(reason="obs has no column 'sentence': no sentences were written"), 0
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(reason=metric.undefined), len(rows)
    rng = job.groups.generator(metric.name, group.key)
    drawn = bootstrap.weights(rng, job.groups.sampling.resamples, len(values))
    return Estimate(value=float(values.mean()), by_cells=drawn @ values / len(values)), len(values)
