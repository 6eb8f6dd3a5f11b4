"""Populations: scores of predicted cells against real ones, group by group, beside baselines and ceiling."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cell2sen.evaluation.inputs import label
from cell2sen.evaluation.metrics import distributions as distances
from cell2sen.evaluation.metrics import profiles
from cell2sen.evaluation.metrics.metrics import Metric, uniqueness, validity
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.arms import PREDICTION, Key, Missing, Profile
from cell2sen.evaluation.scoring.baselines import Arms
from cell2sen.evaluation.scoring.bootstrap import Score

_KNN = "knn_accuracy_"
_MOST_KNOWN, _FEWEST_KNOWN = 10_000, 25

#: The metric for which the controls are always split.
DISJOINT = "pearson_delta_disjoint"

Part = tuple[float, NDArray[np.float64], str]


@dataclass(kw_only=True)
class Findings:
    """Scores of all groups, and what the report shows besides."""

    scores: list[Score] = field(default_factory=list)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Group → genes, true and predicted change of the most differentially expressed ones."""

    sizes: dict[str, float] = field(default_factory=dict)
    """Group → size of predicted over size of true change."""

    map: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Cells for a two-dimensional map: ``coordinates``, ``kind``, ``group``."""


def score(
    arms: Arms, metrics: Sequence[Metric], genes: Sequence[str], vocabulary: Iterable[str], progress: bool
) -> Findings:
    """All scores. One group is in memory at a time."""
    found = Findings()
    by_level = {
        level: [one for one in metrics if one.level == level] for level in ("profile", "change", "cells", "sentences")
    }
    changes = {key: _or_none(arms.true_change, key) for key in arms.keys} if by_level["change"] else {}
    reference = _reference(arms) if any(one.name.startswith(_KNN) for one in by_level["cells"]) else None
    words = frozenset(vocabulary)
    for key in tqdm(arms.keys, desc="groups", disable=not progress or len(arms.keys) < 3):
        if by_level["profile"] or by_level["change"]:
            order = _de_order(arms, key)
            others = [other for other in _rivals(arms, key) if changes.get(other) is not None]
            rival = np.array([changes[other] for other in others]) if others else np.zeros((0, len(genes)))
            found.scores += _profile_scores(arms, key, by_level["profile"], by_level["change"], order, rival)
            _describe(found, arms, key, changes.get(key), order, genes)
        found.scores += _cell_scores(arms, key, by_level["cells"], reference)
        found.scores += _sentence_scores(arms, key, by_level["sentences"], words)
        _add_to_map(found, arms, key)
    return found


def _profile_scores(
    arms: Arms, key: Key, on_profile: Sequence[Metric], on_change: Sequence[Metric], order: Any, rival: NDArray[Any]
) -> list[Score]:
    context = {"genes": order, "others": rival}
    parts: dict[tuple[str, str], list[Part]] = {}
    if on_profile:
        for arm, truth, answer, why in arms.expression(key):
            for one in on_profile:
                parts[one.name, arm] = [_part(one, truth, answer, why, context)]
    for halves in (False, True):
        wanted = [one for one in on_change if halves == (arms.split_controls or one.name == DISJOINT)]
        if arms.task == "generate" and halves:
            reason = "generated cells have no controls to be split"
            parts |= {(one.name, arm): [(math.nan, np.array([]), reason)] for one in wanted for arm in arms.names}
            continue
        for fold in ((0, 1) if halves else (None,)) if wanted else ():
            for (name, arm), part in _changes(arms, key, fold, wanted, context).items():
                parts.setdefault((name, arm), []).append(part)
    arms.forget()
    sizes: dict[str, Any] = {"n_predicted": len(arms.predicted_groups[key]), "n_real": len(arms.real_groups[key])}
    return [
        Score(
            metric=name,
            arm=arm,
            group=key,
            **sizes,
            value=float(np.mean([value for value, _, _ in folds])),
            replicates=np.mean([one for _, one, _ in folds], axis=0)
            if all(len(one) for _, one, _ in folds)
            else np.array([]),
            reason=next((why for value, _, why in folds if not math.isfinite(value)), ""),
        )
        for (name, arm), folds in parts.items()
    ]


def _changes(
    arms: Arms, key: Key, fold: int | None, metrics: Sequence[Metric], context: Mapping[str, Any]
) -> dict[tuple[str, str], Part]:
    try:
        found = list(arms.change(key, fold))
    except Missing as missing:
        found = [(arm, None, None, str(missing)) for arm in arms.names]
    parts = {}
    for arm, truth, answer, why in found:
        for one in metrics:
            if one.name == "discrimination" and not len(context["others"]):
                part: Part = (math.nan, np.array([]), one.undefined)
            elif context["genes"] is None and not why:
                part = (
                    math.nan,
                    np.array([]),
                    "fewer than two real cells on a side, so differential expression is not known",
                )
            else:
                part = _part(one, truth, answer, why, context)
            parts[one.name, arm] = part
    return parts


def _part(one: Metric, truth: Profile | None, answer: Profile | None, why: str, context: Mapping[str, Any]) -> Part:
    """Value, replicates and the reason why there is no value, in one fold."""
    if truth is None or answer is None:
        return math.nan, np.array([]), why
    extra = {name: context[name] for name in context if name in inspect.signature(one.function).parameters}
    value = float(one.function(truth.point, answer.point, **extra))
    if not math.isfinite(value):
        return math.nan, np.array([]), one.undefined
    if not len(truth.samples):
        return value, np.array([]), ""
    answers = np.broadcast_to(answer.samples, truth.samples.shape)
    if one.resampled is not None:
        return value, np.asarray(one.resampled(truth.samples, answers), dtype=np.float64), ""
    replicates = one.function(truth.samples, answers, **extra)
    if np.shape(replicates) != (len(answers),):  # a function for single vectors
        replicates = np.array([one.function(x, y, **extra) for x, y in zip(truth.samples, answers, strict=True)])
    return value, np.asarray(replicates, dtype=np.float64), ""


def _cell_scores(arms: Arms, key: Key, metrics: Sequence[Metric], reference: Any) -> list[Score]:
    if not metrics:
        return []
    try:
        samples = arms.sample(key)
        truth = samples.cells("truth")
    except (Missing, KeyError) as why:
        reason = str(why.args[0]) if why.args else str(why)
        return [Score(metric=one.name, arm=arm, group=key, reason=reason) for one in metrics for arm in arms.names]
    found = []
    rng = bootstrap.generator(arms.seed, "cells", key)
    drawn = bootstrap.weights(rng, arms.resamples, samples.n), bootstrap.weights(rng, arms.resamples, samples.n)
    for arm in arms.names:
        try:
            cells = samples.cells(arm)
        except (Missing, KeyError) as why:
            reason = str(why.args[0])
            found += [Score(metric=one.name, arm=arm, group=key, reason=reason) for one in metrics]
            continue
        sizes: dict[str, Any] = {"metric": "", "arm": arm, "group": key, "n_predicted": samples.n, "n_real": samples.n}
        right = _votes(reference, cells, key) if reference is not None else {}
        for one in metrics:
            if one.name.startswith(_KNN):
                found.append(_knn_score(one, right, drawn[1], sizes))
                continue
            value = float(one.function(truth, cells))
            if not math.isfinite(value):
                found.append(Score(**(sizes | {"metric": one.name}), reason=one.undefined))
                continue
            takes = "weights" in inspect.signature(one.function).parameters
            replicates = (
                np.asarray(one.function(truth, cells, weights=drawn)) if takes and arms.resamples else np.array([])
            )
            found.append(Score(**(sizes | {"metric": one.name}), value=value, replicates=replicates))
    return found


def _knn_score(
    one: Metric, right: Mapping[int, NDArray[np.bool_]], drawn: NDArray[np.float64], sizes: dict[str, Any]
) -> Score:
    k = int(one.name.removeprefix(_KNN))
    if k not in right:
        return Score(**(sizes | {"metric": one.name}), reason=one.undefined)
    hits = right[k].astype(np.float64)
    return Score(**(sizes | {"metric": one.name}), value=float(hits.mean()), replicates=drawn @ hits / len(hits))


def _reference(arms: Arms) -> tuple[NDArray[np.float64], NDArray[Any]] | None:
    """Real cells that the k-NN classifier knows: of each group and of each context's controls, one half at most.

    At most the same number of each, so that no group is known better; fewer where there are many groups, as every
    predicted cell is compared with all of them.
    """
    parts, labels = [], []
    named = [(label(key), arms._half[key][1]) for key in arms.real_groups]
    if arms.task == "perturb":
        named += [(f"control | {label(context)}", halves[1]) for context, halves in arms._control_half.items()]
    most = min(arms.max_cells, max(_FEWEST_KNOWN, _MOST_KNOWN // max(1, len(named))))
    for name, rows in named:
        some = bootstrap.generator(arms.seed, "reference", name).permutation(rows)[:most]
        if len(some):
            parts.append(arms.coordinates(arms.real, some))
            labels += [name] * len(some)
    return (np.concatenate(parts), np.array(labels, dtype=object)) if parts else None


def _votes(
    reference: tuple[NDArray[np.float64], NDArray[Any]], cells: NDArray[np.float64], key: Key
) -> dict[int, NDArray[np.bool_]]:
    known, labels = reference
    sizes = [k for k in (3, 5, 10, 25) if k <= len(labels)]
    rows = distances.neighbours(known, cells, max(sizes, default=1))
    return {k: distances.votes(rows[:, :k], labels) == label(key) for k in sizes}


def _sentence_scores(arms: Arms, key: Key, metrics: Sequence[Metric], vocabulary: frozenset[str]) -> list[Score]:
    """Of the prediction only: a real cell's sentence is valid by construction."""
    found = []
    obs, rows = arms.predicted.obs, arms.predicted_groups[key]
    for one in metrics:
        score = Score(metric=one.name, arm=PREDICTION, group=key, n_predicted=len(rows))
        if one.function is validity and "validity" in obs:
            # Words were counted when the answer was parsed; the stored sentence holds the valid ones only.
            total = obs["validity"].to_numpy(dtype=float)[rows]
            if {"n_unknown", "n_repeated"} <= set(obs.columns):
                total = _counted(arms, rows)[0]
        elif one.function is uniqueness and {"sentence", "n_repeated"} <= set(obs.columns):
            total = _counted(arms, rows)[1]
        elif "sentence" in obs:
            total = np.array([one.function(str(text), vocabulary) for text in obs["sentence"].iloc[rows]])
        else:
            found.append(
                Score(
                    metric=one.name,
                    arm=PREDICTION,
                    group=key,
                    reason="obs has no column 'sentence': no sentences were written",
                )
            )
            continue
        keep = np.isfinite(total)
        if not keep.any():
            found.append(Score(metric=one.name, arm=PREDICTION, group=key, n_predicted=len(rows), reason=one.undefined))
            continue
        drawn = bootstrap.weights(bootstrap.generator(arms.seed, one.name, key), arms.resamples, int(keep.sum()))
        found.append(
            Score(
                metric=one.name,
                arm=PREDICTION,
                group=key,
                n_predicted=int(keep.sum()),
                value=float(total[keep].mean()),
                replicates=drawn @ total[keep] / keep.sum(),
                reason=score.reason,
            )
        )
    return found


def _counted(arms: Arms, rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Validity and uniqueness from the counts that the parser left: words = genes + repeated + unknown."""
    obs = arms.predicted.obs.iloc[rows]
    genes = np.array([len(str(text).split()) for text in obs["sentence"]], dtype=float)
    named = genes + obs["n_repeated"].to_numpy(dtype=float)
    words = named + obs["n_unknown"].to_numpy(dtype=float)
    return (
        np.divide(named, words, out=np.full(len(words), np.nan), where=words > 0),
        np.divide(genes, named, out=np.full(len(words), np.nan), where=named > 0),
    )


def _rivals(arms: Arms, key: Key) -> list[Key]:
    """Groups that a prediction could be confused with: other perturbations of its context.

    Their change is measured from the same controls, whose noise cancels. Across contexts it would not: of noise alone,
    a change then is nearest to the truth that shares its controls.
    """
    return [other for other in arms.keys if other != key and arms.context(other) == arms.context(key)]


def _de_order(arms: Arms, key: Key) -> NDArray[np.int64] | None:
    control = arms.controls.get(arms.context(key))
    rows = arms.real_groups[key]
    if arms.task == "generate" and control is not None:
        control = np.setdiff1d(control, rows)
    if control is None or len(rows) < 2 or len(control) < 2:
        return None
    return profiles.de_genes(*arms.real.moments(rows), len(rows), (*arms.real.moments(control), len(control)))


def _describe(
    found: Findings, arms: Arms, key: Key, true: Any, order: Any, genes: Sequence[str], most: int = 50
) -> None:
    """The changes that the report shows: against all controls."""
    if true is None or order is None:
        return
    predicted = arms.predicted_change(key)
    size = float(np.linalg.norm(true))
    found.sizes[label(key)] = float(np.linalg.norm(predicted)) / size if size else math.nan
    chosen = order[:most]
    found.changes[label(key)] = {
        "genes": [genes[at] for at in chosen],
        "true": [float(value) for value in true[chosen]],
        "predicted": [float(value) for value in predicted[chosen]],
    }


def _add_to_map(found: Findings, arms: Arms, key: Key, total: int = 3000) -> None:
    if arms.embedding is None:
        return
    each = max(5, total // (3 * max(1, len(arms.keys))))
    sides = [("real", arms.real, arms.real_groups[key]), ("predicted", arms.predicted, arms.predicted_groups[key])]
    if arms.task == "perturb" and arms.context(key) in arms.controls:
        sides.append(("control", arms.real, arms.controls[arms.context(key)]))
    for kind, side, rows in sides:
        some = bootstrap.generator(arms.seed, "map", kind, key).permutation(rows)[:each]
        try:
            cells = arms.coordinates(side, some).astype(np.float32)
        except (KeyError, Missing):
            continue
        new = {
            "coordinates": cells,
            "kind": np.full(len(some), kind, object),
            "group": np.full(len(some), label(key), object),
        }
        found.map = {name: np.concatenate([found.map[name], one]) if found.map else one for name, one in new.items()}


def _or_none(function: Any, key: Key) -> Any:
    try:
        return function(key)
    except Missing:
        return None
