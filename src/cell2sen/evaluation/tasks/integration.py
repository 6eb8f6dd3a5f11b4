"""Evaluation of profiles among cells: FOSCTTM of bulk or pseudobulk samples and their single cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.inputs import UNS, Cells, Sides, group_name, group_rows, refuse_empty
from cell2sen.evaluation.metrics import Metric, Missing
from cell2sen.evaluation.metrics.integration import closer_than_own
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.baselines.method import Method, baseline
from cell2sen.evaluation.scoring.bootstrap import Estimate
from cell2sen.evaluation.scoring.tables import Score
from cell2sen.evaluation.settings import Settings, as_list

#: Default key of obsm with the embeddings.
EMBEDDING = "X_cell2sen"

#: Single cells of each profile in a bootstrap sample, as in Rizvi et al. 2025.
CELLS_PER_PROFILE = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Profiles and the single cells that belong to them."""

    sides: Sides
    keys: list[tuple[str, ...]]
    """Values that a profile and its cells share."""

    profiles: NDArray[np.int64]
    """Row of each profile, int64 (profiles,)."""

    cells: list[NDArray[np.int64]]
    """Rows of the cells of each profile; at most ``max_cells``."""

    settings: Settings

    @property
    def all_cells(self) -> NDArray[np.int64]:
        """Rows of the cells of all profiles, int64 (cells,)."""
        return np.concatenate(self.cells)

    @property
    def own(self) -> NDArray[np.int64]:
        """Profile of each of `all_cells`, int64 (cells,)."""
        return np.repeat(np.arange(len(self.cells)), [len(rows) for rows in self.cells])

    def vectors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Embeddings of profiles and of `all_cells`, float64 (n, dimensions)."""
        key = self.settings.sampling.embedding
        sides = ((self.sides.predicted, self.profiles), (self.sides.real, self.all_cells))
        first, second = (np.asarray(side.obsm[key], dtype=np.float64)[rows] for side, rows in sides)
        return first, second

    def expression(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ln(1 + CP10k) of profiles and of `all_cells` over the common genes, float64 (n, genes)."""
        return (
            self.sides.predicted.rows(self.profiles).toarray().astype(np.float64),
            self.sides.real.rows(self.all_cells).toarray().astype(np.float64),
        )


# ── prediction, baselines, ceiling: similarity of profiles (rows) and cells (columns) ─────────────────────────────


@baseline("integrate", role="prediction")
def prediction(pairs: Pairs, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The cosine of the embeddings."""
    return _cosine(*pairs.vectors()), pairs.own


@baseline("integrate")
def expression_correlation(pairs: Pairs, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pearson's correlation of ln(1 + CP10k) over all common genes."""
    return _correlation(*pairs.expression()), pairs.own


@baseline("integrate")
def rank_correlation(pairs: Pairs, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Spearman's correlation of expression over all common genes."""
    from scipy.stats import rankdata

    first, second = (rankdata(values, axis=1) for values in pairs.expression())
    return _correlation(first, second), pairs.own


@baseline("integrate", role="ceiling")
def ceiling(pairs: Pairs, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One half of the cells of each profile, summed, against the other half, summed; correlation of ln(1 + CP10k)."""
    halves: list[list[NDArray[np.float64]]] = [[], []]
    if min(map(len, pairs.cells)) < 2:
        raise Missing("a profile has only one cell")
    for rows in pairs.cells:
        mixed = rng.permutation(rows)
        for side, half in zip(halves, (mixed[::2], mixed[1::2]), strict=True):
            linear = np.expm1(pairs.sides.real.rows(half).astype(np.float64).toarray()).sum(axis=0)
            side.append(np.log1p(linear * 1e4 / max(linear.sum(), 1e-9)))
    return _correlation(np.array(halves[0]), np.array(halves[1])), np.arange(len(pairs.cells))


# ── scores ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pair(sides: Sides, settings: Settings) -> tuple[Pairs, list[str]]:
    """Profiles and their cells, by the columns of `context`; the genes of both sides are aligned.

    Raises
    ------
    KeyError, ValueError
        No such column or embedding; fewer than two profiles with cells; two profiles with the same values.
    """
    columns = as_list(settings.columns.context)
    if not columns:
        raise ValueError("task 'integrate' needs context=: the obs columns that a profile and its cells share")
    for side in (sides.predicted, sides.real):
        if settings.sampling.embedding not in side.obsm:
            raise KeyError(
                f"obsm of the {side.name} cells has no {settings.sampling.embedding!r}; available: "
                f"{list(map(str, side.obsm))}. Call tl.embed on profiles and on cells first, or name another key with "
                "embedding="
            )
    models = [model_of(side) for side in (sides.predicted, sides.real)]
    if all(models) and models[0] != models[1]:
        names = [f"{model.get('name')} {model.get('weights_sha256', '')}".strip() for model in models]
        raise ValueError(f"profiles and cells were embedded by different models ({names}): embed both with one")
    profiles = group_rows(sides.predicted, columns, settings.columns.rename)
    cells = group_rows(sides.real, columns)
    if repeated := [group_name(key) for key, rows in profiles.items() if len(rows) > 1]:
        raise ValueError(f"profiles must differ in {columns}, found several of {repeated[:5]}: name more columns")
    shared = [key for key in profiles if key in cells]
    refuse_empty(shared, profiles, cells, "group")
    if len(shared) < 2:
        raise ValueError(f"only one profile has cells ({group_name(shared[0])}); at least two are needed")
    sides.align(settings.values.case)
    notes = []
    if lacking := len(profiles) - len(shared):
        notes.append(f"{lacking} of {len(profiles)} profiles have no cells and are not scored")
    chosen = []
    for key in shared:
        rng = bootstrap.generator(settings.sampling.seed, "cells", *key)
        chosen.append(sides.real.by_name(rng.permutation(cells[key])[: settings.sampling.max_cells]))
    rows = np.array([profiles[key][0] for key in shared], dtype=np.int64)
    return Pairs(sides=sides, keys=shared, profiles=rows, cells=chosen, settings=settings), notes


def model_of(side: Cells) -> dict[str, Any]:
    """Model that :func:`cell2sen.tl.embed` recorded; empty for other embeddings."""
    return dict(side.uns.get(UNS, {}).get("embed", {}).get("model", {}))


def score(pairs: Pairs, chosen: Sequence[Metric], scored: Sequence[Method]) -> list[Score]:
    """FOSCTTM of each method: mean over draws of ten cells for each profile, with intervals over draws and profiles.

    Intervals over cells are of the draws; those over groups of bootstrap samples of the profiles.
    """
    scores = []
    seed, resamples = pairs.settings.sampling.seed, max(1, pairs.settings.sampling.resamples)
    for method in scored:
        for metric in chosen:
            names: dict[str, Any] = {"metric": metric.name, "method": method.name}
            try:
                similarity, own = method.run(pairs, bootstrap.generator(seed, method.name))
            except Missing as why:
                scores.append(Score(**names, group=(), estimate=Estimate(reason=str(why))))
                continue
            rng = bootstrap.generator(seed, "ten cells")  # the same draws for all methods
            draws = np.array([_of_draw(similarity, own, rng) for _ in range(resamples)])
            values = draws.mean(axis=0)
            n = len(values)
            drawn = bootstrap.weights(bootstrap.generator(seed, "profiles"), bootstrap.GROUP_RESAMPLES, n)
            units = drawn @ values / n if n >= bootstrap.MIN_UNITS else np.array([])
            total = Estimate(value=float(values.mean()), by_cells=draws.mean(axis=1), by_units=units)
            scores.append(Score(**names, group=(), estimate=total, n_predicted=n, n_real=len(own)))
            sizes = np.bincount(own, minlength=n)
            scores += [
                Score(**names, group=key, estimate=Estimate(value=float(value)), n_predicted=1, n_real=int(size))
                for key, value, size in zip(pairs.keys, values, sizes, strict=True)
            ]
    return scores


def _of_draw(similarity: NDArray[np.float64], own: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Values of the profiles with ten random cells of each, or all where there are fewer."""
    order = np.lexsort((rng.random(len(own)), own))
    place = np.arange(len(own)) - np.searchsorted(own[order], own[order], side="left")
    kept = np.sort(order[place < CELLS_PER_PROFILE])
    return closer_than_own(similarity[:, kept], own[kept])


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300) for values in (first, second))
    return np.asarray(x @ y.T)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return _cosine(*(values - values.mean(axis=1, keepdims=True) for values in (first, second)))
