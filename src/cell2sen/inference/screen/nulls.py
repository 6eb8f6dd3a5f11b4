"""Null of a screen: random genes matched for expression; p-values and false discovery rates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Genes in a bin of similar expression, among which goal weights are permuted.
GENES_PER_BIN = 25

#: Null edits nearest in expression, which give the centre and spread that an edit is compared with.
NEAREST = 50


def expression_bins(expression: NDArray[np.float64], symbols: Sequence[str]) -> list[NDArray[np.int64]]:
    """Genes in bins of similar mean expression, each about :data:`GENES_PER_BIN` genes in a fixed order.

    Genes that no cell expresses are in no bin. Ties are in the order of symbols, not of columns.
    """
    expressed = np.flatnonzero(expression > 0)
    order = sorted(expressed.tolist(), key=lambda gene: (expression[gene], symbols[gene]))
    n_bins = max(1, len(order) // GENES_PER_BIN)
    return [np.asarray(part, dtype=np.int64) for part in np.array_split(np.array(order, dtype=np.int64), n_bins)]


def permuted_weights(
    weights: NDArray[np.float64], bins: Sequence[NDArray[np.int64]], n: int, seed: int
) -> NDArray[np.float64]:
    """Weights of goals with random genes instead: permuted within bins, float64 (n, genes)."""
    rng = np.random.default_rng([seed, 1])
    permuted = np.tile(weights, (n, 1))
    for members in bins:
        for row in permuted:
            row[members] = weights[members[rng.permutation(len(members))]]
    return permuted


def matched_genes(
    candidates: Sequence[int],
    pool: Sequence[int],
    expression: NDArray[np.float64],
    symbols: Sequence[str],
    n: int,
    seed: int,
) -> list[int]:
    """At most `n` genes of a pool, spread over the expression of the candidates.

    The nearest free gene of the pool is taken for one random candidate after the other; ties by a hash of the symbol.
    """
    rng = np.random.default_rng([seed, 2])
    ordered = sorted(candidates, key=lambda gene: symbols[gene])
    free = sorted(pool, key=lambda gene: (expression[gene], _hash(symbols[gene])))
    values = [float(expression[gene]) for gene in free]
    if len(free) <= n or not ordered:
        return free[:n]
    taken: list[int] = []
    while len(taken) < n:
        for number in rng.permutation(len(ordered)):
            if len(taken) == n:
                break
            place = int(np.argmin(np.abs(np.asarray(values) - expression[ordered[number]])))
            taken.append(free.pop(place))
            values.pop(place)
    return taken


def _hash(symbol: str) -> bytes:
    return hashlib.blake2b(symbol.encode(), digest_size=8).digest()


def against_permutations(
    effects: NDArray[np.float64], null: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each row of null effects, and two-sided p-values, each float64 (items,).

    Parameters
    ----------
    effects, null
        float64 (items,) and (items, permutations). p = (1 + #{|null − mean| ≥ |effect − mean|}) / (1 + permutations).
    """
    centre, spread = null.mean(axis=1), null.std(axis=1)
    tolerance = 1e-12 * (1 + np.abs(effects))
    extreme = (np.abs(null - centre[:, None]) >= (np.abs(effects - centre) - tolerance)[:, None]).sum(axis=1)
    return centre, spread, np.where(np.isfinite(effects), (1 + extreme) / (1 + null.shape[1]), np.nan)


def against_edits(
    effects: NDArray[np.float64],
    expression: NDArray[np.float64],
    null: NDArray[np.float64],
    null_expression: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre and spread of the null edits nearest in expression, and two-sided p-values, each float64 (items,).

    An edit's z-score is its distance from the median of the :data:`NEAREST` null edits, in units of their standard
    deviation. Null edits are scored in the same way, without themselves. p = (1 + #{|z null| ≥ |z|}) / (1 + null).
    """
    if len(null) < 3:
        nothing = np.full(len(effects), np.nan)
        return nothing, nothing.copy(), nothing.copy()

    def score(value: float, at: float, without: int | None) -> tuple[float, float, float]:
        distance = np.abs(null_expression - at)
        if without is not None:
            distance[without] = np.inf
        nearest = np.argsort(distance, kind="stable")[: min(NEAREST, len(null) - (without is not None))]
        centre, spread = float(np.median(null[nearest])), float(np.std(null[nearest], ddof=1))
        gap = abs(value - centre)
        z = gap / spread if spread > 0 else (0.0 if gap == 0 else np.inf)
        return centre, spread, z

    own = np.array([score(float(null[place]), float(null_expression[place]), place)[2] for place in range(len(null))])
    scored = [score(float(value), float(at), None) for value, at in zip(effects, expression, strict=True)]
    centre, spread, z = map(np.asarray, zip(*scored, strict=True))
    p = np.array([(1 + int((own >= value * (1 - 1e-12)).sum())) / (1 + len(own)) for value in z])
    return centre, spread, np.where(np.isfinite(effects), p, np.nan)


def false_discovery_rates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini-Hochberg rates, float64 (items,); NaN where p is."""
    from scipy.stats import false_discovery_control

    rates = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        rates[known] = false_discovery_control(p[known])
    return rates
