"""Recognition of a scale: a sample of cells, the evidence for each transformation, and how certain the choice is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.scale.evidence import MANY_CELLS, Candidate, candidate, clear_shares
from cell2sen.data.scale.noise import are_nearly_whole, refuse_unrankable, without_noise
from cell2sen.data.scale.refusals import (
    doubt_of_linear,
    refuse_binary,
    refuse_common_floor,
    refuse_moved_zeros,
    refuse_scaled_genes,
)
from cell2sen.data.scale.units import COUNTS, TARGET, TRANSFORMATIONS, Scale

#: Genes of a matrix that has all of them, and not a choice such as variable genes.
MIN_ALL_GENES = 6000

#: Sums of cells count as equal if half of them are within this distance of their median; of fewer cells than twelve,
#: where chance is more, within the second one for each cell after the first.
EQUAL, EQUAL_OF_FEW = 5e-4, 1e-5

#: The same if their median is near 10,000 or a million: few genes may have been left out after normalisation.
NEARLY_EQUAL = 0.005

#: Values of linear scales differ more within a cell than logarithms can: largest over median.
LINEAR_RANGE = 100.0

#: e to this power is more than any count or sum of counts.
MAX_LOG = 25.0

#: Cells whose distinct values are compared.
_MAX_COMPARED = 120

#: Sums of a single cell that are no matter of chance; of linear values also proportions and percentages.
_ROUND_SUMS, _ROUND_LINEAR_SUMS = (1e4, 1e6), (1.0, 100.0, 1e5)

#: Distance of the largest values of cells, relative, below which they are the same.
_SAME_LARGEST = 1e-6

_GROUPS = "groups of cells have equal sums: batches that were normalised apart, without a loss of genes"

#: Distinct values that tell whether values are near whole numbers.
_MIN_DISTINCT = 100


def recognise(values: Any, hint: str = "", *, depths: NDArray[np.float64] | None = None) -> Scale:
    """Scale of a sample of cells, recognised from its values.

    Where cells have different scales, that of most of them; :func:`cell2sen.data.scale.contradictions.contradicting`
    finds the others.

    Parameters
    ----------
    values
        (cells, genes), sparse or dense. A few hundred cells are enough.
    hint
        How to pass other matrices, for errors.
    depths
        Counts of each cell over all genes, float64 (cells,), as obs may record them; NaN where unknown.

    Raises
    ------
    ValueError
        Values from which neither ranks nor expression can be computed: negative (centred per gene, which changes the
        order of genes within a cell), infinite, only 0 and 1, scaled to unit variance per gene, or without zeros since
        a transformation has moved them.
    """
    matrix = sp.csr_matrix(values).astype(np.float64)  # a copy
    matrix.data = np.nan_to_num(matrix.data, posinf=np.inf, neginf=-np.inf)
    matrix, _ = without_noise(matrix)
    refuse_unrankable(matrix.data, hint)
    matrix.eliminate_zeros()
    filled = np.diff(matrix.indptr) > 0
    if depths is not None:
        depths = np.asarray(depths, dtype=np.float64)[filled]
    matrix = sp.csr_matrix(matrix[filled])
    if not matrix.nnz:
        return COUNTS
    refuse_moved_zeros(matrix, hint)
    refuse_binary(matrix, hint)
    if _are_whole(matrix.data):
        return doubted(
            replace(COUNTS, evidence=(f"all values of {n_cells(matrix.shape[0])} are whole numbers",)), matrix
        )
    whole = _whole_cells(matrix)
    if whole.any() and not whole.all():
        rest = _of_decimals(matrix[~whole], None if depths is None else depths[~whole], hint)
        if rest.kind not in ("counts", "normalised"):
            several = replace(
                COUNTS, evidence=(f"{int(whole.sum())} of {n_cells(matrix.shape[0])} have whole numbers only",)
            )
            return doubted(several, matrix[whole]) if whole.mean() > 0.5 else rest
        if not rest.certain and whole.mean() > 0.5 and are_nearly_whole(matrix[~whole].data).mean() < 0.3:
            line = f"{int((~whole).sum())} of {n_cells(matrix.shape[0])} have decimals, and may be on another scale"
            return replace(_of_decimals(matrix, depths, hint), certain=False, evidence=(line, *rest.evidence))
    return doubted(_of_decimals(matrix, depths, hint), matrix)


def doubted(scale: Scale, matrix: sp.csr_matrix) -> Scale:
    """The scale, not certain if it is linear and the values differ too little within a cell for that, or not at all."""
    if scale.certain and matrix.nnz > 1 and np.ptp(matrix.data) <= 1e-6 * matrix.data.max():
        doubt = f"all expressed genes have the same value ({matrix.data[0]:.4g}): counts of very few, or binary values"
        return replace(scale, certain=False, evidence=(doubt, *scale.evidence))
    if scale.kind not in ("counts", "normalised") or not scale.certain:
        return scale
    doubt = doubt_of_linear(matrix, whole=scale.kind == "counts" and not scale.decimals)
    return replace(scale, certain=False, evidence=(doubt, *scale.evidence)) if doubt else scale


def _are_whole(data: NDArray[np.float64]) -> bool:
    """Whether all values are whole numbers; but for rounding, if there are several small ones to be sure."""
    if np.array_equal(np.rint(data), data):
        return True
    return bool(are_nearly_whole(data).all()) and len(np.unique(np.rint(data[data < 1000]))) >= 3


def _of_decimals(matrix: sp.csr_matrix, depths: NDArray[np.float64] | None, hint: str) -> Scale:
    """Scale of values that are no whole numbers."""
    compared = np.unique(np.linspace(0, matrix.shape[0] - 1, min(matrix.shape[0], _MAX_COMPARED)).astype(int))
    candidates = [candidate(matrix, matrix[compared], scale) for scale in TRANSFORMATIONS]
    votes = _votes(candidates)
    if len(set(votes[votes >= 0])) > 1:  # cells of several scales
        usual = np.bincount(votes[votes >= 0]).argmax()
        if np.mean(votes[votes >= 0] == usual) < 0.95:
            chosen, others = compared[votes == usual], compared[(votes >= 0) & (votes != usual)]
            found = _of_decimals(matrix[chosen], None if depths is None else depths[chosen], hint)
            if found.kind == "counts" and are_nearly_whole(matrix[others].data).mean() < 0.2:
                doubt = f"{len(others)} of {len(votes)} cells have hardly any whole number"
                return replace(found, certain=False, evidence=(doubt, *found.evidence))
            return found
    # Near 0 all transformations but the root are linear.
    tiny = matrix.data.max() < 0.05
    possible = [one for one in candidates if one.possible and (not tiny or one.scale.kind in ("normalised", "sqrt"))]
    scale = _of_counts(matrix, possible)
    if scale is None:
        refuse_common_floor(matrix, hint)
        scale = (
            _by_equal_sums(matrix, possible)
            or _by_multiples(matrix, possible, compared, depths)
            or _by_whole_numbers(matrix[compared])
        )
    if scale is None:
        refuse_scaled_genes(matrix, hint)
        scale = _by_votes(matrix, possible, compared) or _by_size(matrix, possible) or _assumed(matrix, possible)
    return scale


def _by_votes(matrix: sp.csr_matrix, candidates: Sequence[Candidate], compared: NDArray[np.int64]) -> Scale | None:
    """The transformation that most cells would be refused for otherwise, if it is another than the assumed one."""
    shares = np.stack([clear_shares(matrix[compared], one.scale) for one in candidates])
    clear = (shares > 0.9) & (np.sum(shares > 0.6, axis=0) < 2)
    best = int(clear.sum(axis=1).argmax())
    if clear[best].sum() < 0.5 * max(1, np.sum(shares.max(axis=0) > 0)):
        return None
    found = candidates[best]
    line = f"the values{_of(found.scale)} of most cells are whole multiples of the smallest, but they are few"
    return replace(_with_total(found, matrix.shape[1], (line,)), certain=False)


def _of_counts(matrix: sp.csr_matrix, candidates: Sequence[Candidate]) -> Scale | None:
    """The transformation of counts that were not normalised: before it all values are whole numbers."""
    values = matrix.data[~are_nearly_whole(matrix.data)]  # roots and powers of whole numbers may be whole, too
    for one in candidates:
        linear = one.scale.linear(values)
        linear = linear[linear < 100]
        whole = (np.abs(linear - np.rint(linear)) < 0.01) & (linear > 0.5)
        if one.scale.kind == "normalised" or len(linear) < 5 or whole.mean() < 0.98:
            continue
        smallest = float(one.scale.linear(matrix.data.min()))
        divisor = np.gcd.reduce(np.rint(linear[whole]).astype(np.int64))  # 10 of CP10k in cells of 1,000 counts
        if abs(smallest - 1) < 0.01 or (divisor == 1 and len(linear) >= _MIN_DISTINCT):
            line = f"{whole.mean():.0%} of the values{_of(one.scale)} are whole numbers"
            return replace(one.scale, of_counts=True, evidence=(line,))
    return None


def _votes(candidates: Sequence[Candidate]) -> NDArray[np.int64]:
    """Number of the candidate that each compared cell is evidence for, -1 for none, int64 (cells,)."""
    shares = np.stack([one.multiples.share_of_cells() for one in candidates])
    order = np.sort(shares, axis=0)
    clear = (order[-1] > 0.9) & (order[-2] < 0.6)
    return np.where(clear, shares.argmax(axis=0), -1)


def _by_equal_sums(matrix: sp.csr_matrix, candidates: Sequence[Candidate]) -> Scale | None:
    """The transformation under which all cells have the same sum."""
    if matrix.shape[0] == 1:
        return _by_round_sum(candidates)
    largest = np.maximum.reduceat(matrix.data, matrix.indptr[:-1])
    if np.median(np.abs(largest / np.median(largest) - 1)) < _SAME_LARGEST:
        return None  # ranks, quantiles, bins, clipped values: powers of the largest value hide all others
    best, others = _best(candidates, [one.spread for one in candidates], 1e-6)
    rival = min((one.spread for one in others), default=math.inf)
    n_cells = len(best.sums)
    equal = best.spread < (EQUAL if n_cells >= MANY_CELLS else EQUAL_OF_FEW * (n_cells - 1))
    nearly = n_cells >= MANY_CELLS and best.spread < NEARLY_EQUAL and round_total(best.total) in (1e4, 1e6)
    if not (equal or nearly) or not rival > 5 * best.spread + 1e-9:
        return None
    line = f"the sums{_of(best.scale)} of all cells are {best.total:,.6g}"
    doubted = best.multiples.tests.sum() >= 5 and best.share < 0.5 and _range(matrix) < LINEAR_RANGE
    doubted &= matrix.data.max() < MAX_LOG
    if best.scale.kind == "normalised" and doubted:
        # PFlog1pPF, or a logarithm scaled to equal sums: it is no linear value, and its factor per cell is unknown.
        return Scale(
            kind="log",
            base="e",
            certain=False,
            evidence=(
                f"{line}, but differ too little within a cell for linear values: logarithms that were scaled to equal "
                "sums (PFlog1pPF) have no known total",
            ),
        )
    if best.scale.kind == "sqrt" and abs(best.total - 1) < NEARLY_EQUAL:  # unit length is usual for other values, too
        linear = next(one for one in candidates if one.scale.kind == "normalised")
        if linear.share > 0.9:
            return replace(linear.scale, evidence=("the cells have unit length", *_line_of_multiples(linear)))
        if best.share < 0.5:
            return None
    if np.mean(np.abs(best.sums / best.total - 1) < 0.01) < 0.95 and _in_groups(np.sort(best.sums)):
        return replace(best.scale, evidence=(*_line_of_multiples(best), _GROUPS))
    return replace(best.scale, total=round_total(best.total), evidence=(line, *_line_of_multiples(best)))


def _best(
    candidates: Sequence[Candidate], faults: Sequence[float], tolerance: float
) -> tuple[Candidate, list[Candidate]]:
    """The candidate with the least fault, the more usual of equal ones, and its rivals.

    Of large values, arcsinh is the natural logarithm of twice the value, so that neither is a rival of the other; the
    logarithm is chosen if its fault is larger by `tolerance` at most.
    """
    order = np.argsort(np.asarray(faults), kind="stable")
    best, *others = [candidates[place] for place in order]
    pair = {"log e", "arcsinh "}
    name = {id(one): f"{one.scale.kind} {one.scale.base}" for one in candidates}
    if name[id(best)] in pair and float(best.multiples.smallest.min()) > 5:
        twins = [place for place in range(len(candidates)) if name[id(candidates[place])] in pair]
        usual = twins[0] if faults[twins[0]] <= faults[order[0]] + tolerance else order[0]
        return candidates[usual], [one for one in others if one not in [candidates[place] for place in twins]]
    return best, others


def _by_round_sum(candidates: Sequence[Candidate]) -> Scale | None:
    """The transformation under which a single cell has a sum of exactly 10,000 or a million."""
    for one in candidates:
        for total in _ROUND_SUMS + (_ROUND_LINEAR_SUMS if one.scale.kind == "normalised" else ()):
            fits = one.share > 0.5 or one.multiples.tests.sum() < 5
            if abs(one.total / total - 1) < 1e-4 and fits:
                line = f"the sum{_of(one.scale)} is {one.total:,.1f}"
                return replace(one.scale, total=total, evidence=(line, *_line_of_multiples(one)))
    return None


def _by_multiples(
    matrix: sp.csr_matrix,
    candidates: Sequence[Candidate],
    compared: NDArray[np.int64],
    depths: NDArray[np.float64] | None,
) -> Scale | None:
    """The transformation under which values are whole multiples of their cell's smallest, as of counts."""
    best, others = _best(candidates, [-one.share for one in candidates], 0.05)
    rival = max((one.share for one in others), default=0.0)
    if not ((best.share > 0.9 and rival < 0.75 * best.share) or best.share > max(0.5, 2 * rival)):
        return None
    if best.multiples.hits.sum() < 4:
        return None
    lines = _line_of_multiples(best)
    if best.scale.kind == "normalised":
        if counts := _by_whole_numbers(matrix[compared]):
            return counts
        units = best.multiples.smallest
        if len(units) > 2 and np.ptp(units) < 1e-3 * units.mean():
            line = f"counts times {units.mean():.4g}, the smallest value of all cells"
            return Scale(kind="counts", decimals=True, evidence=(*lines, line))
    return _with_total(best, matrix.shape[1], lines, None if depths is None else depths[compared])


def _with_total(
    found: Candidate, n_genes: int, lines: tuple[str, ...], depths: NDArray[np.float64] | None = None
) -> Scale:
    """A recognised transformation with the total of a cell, or with each cell over its own sum."""
    scale, sums = found.scale, np.sort(found.sums)
    if _in_groups(sums):
        return replace(scale, evidence=(*lines, _GROUPS))
    if depths is not None and len(depths) == len(found.multiples.smallest):
        totals = found.multiples.smallest * depths
        totals = totals[np.isfinite(totals) & (totals > 0)]
        if len(totals) and np.median(np.abs(totals / np.median(totals) - 1)) < EQUAL:
            total = round_total(float(np.median(totals)))
            line = f"one count is {total:,.0f} over the counts of the cell that obs records"
            return replace(scale, total=total, complete=False, evidence=(*lines, line))
    high, low = float(sums[-1]), float(np.quantile(sums, 0.1))
    total = round_total(high, 0.03)
    if len(sums) >= 10 and total in (1e4, 1e6) and high < 1.002 * total and low > 0.8 * total:
        line = f"nearly all sums{_of(scale)} are just below {total:,.0f}: few genes were left out"
        return replace(scale, total=total, complete=False, evidence=(*lines, line))
    differ = f"sums{_of(scale)} differ ({sums[0]:,.0f} to {sums[-1]:,.0f})"
    if n_genes >= MIN_ALL_GENES:
        own = f"{differ}; {n_genes:,} genes are all, so each cell is taken over its own sum"
        # Or some genes were left out after normalisation, where sums are not far below a usual total.
        below = [usual for usual in (1e4, 1e6) if high < 1.002 * usual and found.total > 0.5 * usual]
        return replace(scale, certain=not below, evidence=(*lines, own))
    total_or_none = _plausible_total(found)
    taken = f"taken for {total_or_none:,.0f}" if total_or_none else "each cell is taken over its own sum"
    return replace(
        scale,
        total=total_or_none,
        certain=False,
        evidence=(*lines, f"{differ}; {n_genes:,} genes may be a choice, so the total of a cell is unknown: {taken}"),
    )


def _in_groups(sums: NDArray[np.float64]) -> bool:
    """Whether nearly every one of the sorted sums has an equal one, much nearer than by chance."""
    if len(sums) < 4:
        return False
    gaps = np.diff(np.log(sums))
    nearest = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
    return bool(np.mean(nearest > min(1e-4, 0.01 * gaps.sum() / len(sums))) < 0.1)


def _plausible_total(found: Candidate) -> float | None:
    """10,000 or a million if sums over some of the genes can come from it; else ``None``."""
    if found.scale.kind == "arcsinh":  # its unit is unknown
        return None
    high, middle = float(np.quantile(found.sums, 0.98)), found.total
    if high <= 1.02 * TARGET:
        return TARGET if middle > 10 else None
    return 1e6 if high <= 1.02e6 and middle > 5e4 else None


def _by_whole_numbers(matrix: sp.csr_matrix) -> Scale | None:
    """Counts with decimals: most values are near whole numbers, not only those near 1."""
    cells = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    small = matrix.data < 100
    whole = are_nearly_whole(matrix.data) & small
    n_small = np.bincount(cells[small], minlength=matrix.shape[0])
    of_cells = np.bincount(cells[whole], minlength=matrix.shape[0]) / np.maximum(n_small, 1)
    # In most cells: after normalisation to the median depth, one cell has whole numbers.
    exact = float(np.median(of_cells[n_small > 0])) if n_small.any() else 0.0
    if exact > 0.3 and n_small.sum() >= 20 and len(np.unique(np.rint(matrix.data[whole]))) > 2:
        evidence = f"{exact:.0%} of the values are whole numbers"
        odd = (n_small >= 4) & (of_cells < 0.2)
        if exact > 0.9 and odd.any():  # perhaps another scale; fewer values than a contradiction needs
            doubt = f"{odd.sum()} of {len(odd)} cells have hardly any whole number"
            return Scale(kind="counts", decimals=True, certain=False, evidence=(doubt, evidence))
        return Scale(kind="counts", decimals=True, evidence=(evidence,))
    # Distinct values: a cell's genes of one count have the same value on any scale, near a whole number by chance.
    values = np.unique(np.stack([cells, np.round(matrix.data, 6)]), axis=1)[1]
    values = values[(values > 0.3) & (values < 50)]
    near = np.abs(values - np.rint(values)) < 0.1
    low, high = near[values < 1.5], near[values >= 1.5]
    if len(low) < 0.1 * len(near):  # most counts are small
        return None
    share_low = low.mean() if len(low) else 1.0
    share_high = high.mean() if len(high) >= 10 else share_low
    many = len(near) >= _MIN_DISTINCT and share_low > 0.45 and (share_high > 0.45 or len(low) >= 2 * _MIN_DISTINCT)
    clear = 3 * len(near) >= _MIN_DISTINCT and share_low > 0.8 and share_high > 0.7
    if not len(high) or not (many or clear):
        return None
    line = f"{near.mean():.0%} of the values are near whole numbers"
    return Scale(kind="counts", decimals=True, evidence=(line,))


def _by_size(matrix: sp.csr_matrix, candidates: Sequence[Candidate]) -> Scale | None:
    """Linear values: as logarithms they would be impossible."""
    linear = next(one for one in candidates if one.scale.kind == "normalised")
    largest, extent = float(matrix.data.max()), _range(matrix)
    as_log = next((one for one in candidates if one.scale.kind == "log" and one.scale.base == "e"), None)
    if largest > MAX_LOG or as_log is None:
        line = f"values up to {largest:,.4g} are too large for logarithms"
        certain = extent > LINEAR_RANGE
        if not certain:
            line += ", but differ little within a cell"
        return _of_corrected(matrix, certain, line)
    uneven = float(as_log.sums.max() / as_log.sums.min())
    single = len(as_log.sums) == 1
    if as_log.top_share > (0.6 if single else 0.4) and (single or as_log.variation > 1.5 * linear.variation):
        line = (
            f"as logarithms the cells would differ {uneven:,.0f}-fold in their sums, with {as_log.top_share:.0%} of a "
            "cell in one gene"
        )
        return _of_corrected(matrix, uneven > 100 and as_log.top_share > 0.5, line)
    return None


def _of_corrected(matrix: sp.csr_matrix, certain: bool, line: str) -> Scale:
    """Linear values without equal sums: each cell over its own sum, as for counts."""
    n_genes = matrix.shape[1]
    if n_genes >= MIN_ALL_GENES:
        return Scale(kind="counts", decimals=True, certain=certain, evidence=(line,))
    choice = f"{n_genes:,} genes may be a choice, so the total of a cell is unknown: each is taken over its own sum"
    return Scale(kind="counts", decimals=True, certain=False, evidence=(line, choice))


def _assumed(matrix: sp.csr_matrix, candidates: Sequence[Candidate]) -> Scale:
    """The most usual scale of values that are evidence for none: averages, predictions, imputed or batch-corrected."""
    line = "no transformation gives equal sums or whole multiples: averages, imputed, batch-corrected or scaled values"
    natural = next((one for one in candidates if one.scale.kind == "log" and one.scale.base == "e"), None)
    if natural is None:
        return Scale(kind="normalised", certain=False, evidence=(line,))
    return replace(natural.scale, total=_plausible_total(natural), certain=False, evidence=(line,))


def _line_of_multiples(found: Candidate) -> tuple[str, ...]:
    if found.multiples.tests.sum() < 5:
        return ()
    return (f"{found.share:.0%} of the values{_of(found.scale)} are whole multiples of their cell's smallest",)


def _of(scale: Scale) -> str:
    """The inverse transformation, for sentences."""
    if scale.kind == "normalised":
        return ""
    names = {"sqrt": "x²", "arcsinh": "sinh(x)", "log of log": "exp(exp(x) − 1) − 1"}
    return " of " + names.get(scale.kind, f"{'exp(x)' if scale.base == 'e' else f'{scale.base}^x'} − 1")


def _range(matrix: sp.csr_matrix) -> float:
    """Median over cells of the largest over the median value."""
    rows = [matrix.data[start:stop] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]
    return float(np.median([row.max() / np.median(row) for row in rows]))


def n_cells(number: int) -> str:
    """Number of cells, for sentences."""
    return f"{number:,} cells" if number > 1 else "the cell"


def _whole_cells(matrix: sp.csr_matrix) -> NDArray[np.bool_]:
    """Cells of at least ten whole numbers, not all of them 1, bool (cells,)."""
    whole = np.minimum.reduceat(are_nearly_whole(matrix.data), matrix.indptr[:-1])
    largest = np.maximum.reduceat(matrix.data, matrix.indptr[:-1])
    return np.asarray(whole & (np.diff(matrix.indptr) >= 10) & (largest > 1.5))


def round_total(total: float, tolerance: float = 0.01) -> float:
    """The nearest round number (1, 2 or 5 times a power of 10) within 1 %, which sums miss if genes were left out."""
    power = 10.0 ** math.floor(math.log10(total))
    for nice in (1.0, 2.0, 5.0, 10.0):
        if abs(total / (nice * power) - 1) < tolerance:
            return nice * power
    return total
