"""Shifts of items: edits of sentences, predicted perturbations, measured groups, each with its null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.data.progress import Progress, Report
from cell2sen.inference.responses.perturb import predict_response
from cell2sen.inference.screen.cells import Cells
from cell2sen.inference.screen.edits import Edit, EditedSentences, with_genes
from cell2sen.inference.screen.estimates import Estimate, difference, mean_shift, weights_of_cells
from cell2sen.inference.screen.nulls import against_edits, against_permutations
from cell2sen.inference.screen.parts import Parts
from cell2sen.inference.screen.readouts import ExpressionReadout, Readout
from cell2sen.inference.session import Session
from cell2sen.sentences.gene_list import GeneList

#: Edited sentences that are computed and kept together.
_SENTENCES = 8192

MATCHED_EDITS, MATCHED_GENES, T_TEST = "edits of matched genes", "goal of matched genes", "t test"


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """Items of one kind with their effects in each context, and the null of these effects."""

    names: list[str]
    kind: str
    estimates: Mapping[str, list[Estimate]]
    in_goal: list[bool]
    null: str = T_TEST
    null_effects: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Context → effects of null edits (null,), or of each item on null goals (items, null)."""

    expression: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Context → mean expression of the edited genes (items,); of edits."""

    null_expression: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def compared(
        self, estimates: Sequence[Estimate], context: str, minus: str | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the null, and p-values, each float64 (items,).

        Parameters
        ----------
        estimates
            Effects in `context`, less those in `minus`.
        """
        effects = np.array([estimate.effect for estimate in estimates], dtype=np.float64)
        if self.null == T_TEST:
            nothing = np.full(len(effects), np.nan)
            return nothing, nothing.copy(), np.array([estimate.p() for estimate in estimates], dtype=np.float64)
        null = self.null_effects[context] - (0 if minus is None else self.null_effects[minus])
        if self.null == MATCHED_GENES:
            return against_permutations(effects, null)
        of, of_null = self.expression[context], self.null_expression[context]
        if minus is not None:
            of, of_null = (of + self.expression[minus]) / 2, (of_null + self.null_expression[minus]) / 2
        return against_edits(effects, of, null, of_null)


def screen_edits(
    edits: Sequence[Edit],
    null_edits: Sequence[Edit],
    readout: Readout,
    cells: Cells,
    edited: EditedSentences,
    *,
    expression: Mapping[str, NDArray[np.float64]],
    goal_genes: frozenset[int],
    parts: Parts,
    progress: bool | Report,
) -> Items:
    """Edits of one kind. Prompts that an edit leaves as they are have a shift of exactly 0 and are not read again.

    Parameters
    ----------
    expression
        Context → mean expression of each gene in the screened cells, float64 (symbols,).
    """
    rows = edited.rows
    distinct = {edit.genes: edit for edit in [*edits, *null_edits]}
    order = sorted(distinct.values(), key=lambda edit: edit.name)
    plain = readout.session.sentences[rows]
    base = parts.get(["base"], lambda: readout.values(plain, rows, [None] * len(rows)))
    shifts: dict[tuple[int, ...], NDArray[np.float64]] = {}
    size = max(1, _SENTENCES // max(1, len(rows)))
    with Progress(len(order), f"screen, {edits[0].kind}", "edit", show=progress) as bar:
        for first in range(0, len(order), size):
            block = order[first : first + size]
            key = [block[0].kind, *(list(edit.genes) for edit in block)]
            values = parts.get(key, lambda block=block: _shifts(block, readout, edited, base))  # type: ignore[misc]
            shifts |= {edit.genes: row for edit, row in zip(block, values, strict=True)}
            bar.update(len(block))
    estimates, null_effects, of, of_null = {}, {}, {}, {}
    for context, members in _members(cells, rows).items():
        donors = cells.donors_of(rows[members])
        estimates[context] = [mean_shift(shifts[edit.genes][members], donors) for edit in edits]
        null_effects[context] = np.array(
            [mean_shift(shifts[edit.genes][members], donors).effect for edit in null_edits], dtype=np.float64
        )
        means = expression[context]
        of[context] = np.array([means[list(edit.genes)].sum() for edit in edits], dtype=np.float64)
        of_null[context] = np.array([means[list(edit.genes)].sum() for edit in null_edits], dtype=np.float64)
    return Items(
        names=[edit.name for edit in edits],
        kind=edits[0].kind,
        estimates=estimates,
        in_goal=[bool(goal_genes & set(edit.genes)) for edit in edits],
        null=MATCHED_EDITS if len(null_edits) > 2 else T_TEST,
        null_effects=null_effects,
        expression=of,
        null_expression=of_null,
    )


def _shifts(
    block: Sequence[Edit], readout: Readout, edited: EditedSentences, base: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shift of each cell after each edit, float64 (edits, cells)."""
    shifts = np.zeros((len(block), len(edited.rows)))
    place_of, lists, edit_of = [], [], []
    for number, edit in enumerate(block):
        places, genes = edited.changed(edit)
        place_of += places
        lists += genes
        edit_of += [number] * len(places)
    if not place_of:
        return shifts
    edits = [block[number] for number in edit_of]
    rows = edited.rows[np.array(place_of)]
    values = readout.values(edited.sentences(place_of, lists), rows, edits)
    shifts[edit_of, place_of] = values - base[place_of]
    if isinstance(readout, ExpressionReadout):  # edited genes are not part of the goal, before and after
        own = [at for at, edit in enumerate(edits) if readout.weights[list(edit.genes)].any()]
        if own:
            before = readout.values(readout.session.sentences[rows[own]], rows[own], [edits[at] for at in own])
            shifts[np.array(edit_of)[own], np.array(place_of)[own]] = values[own] - before
    return shifts


def screen_perturbations(
    names: Sequence[str],
    session: Session,
    cells: Cells,
    rows: NDArray[np.int64],
    *,
    weights: NDArray[np.float64] | None,
    readout: Readout | None,
    null_weights: NDArray[np.float64] | None,
    goal_genes: frozenset[int],
    parts: Parts,
    seed: int,
    progress: bool | Report,
) -> Items:
    """Predicted responses of the cells `rows`, as :func:`cell2sen.tl.perturb` predicts them.

    Parameters
    ----------
    session
        With the task of responses.
    weights, null_weights
        The goal as weights of genes, float64 (symbols,), and those of its null (null, symbols); else `readout`.
    """
    symbols = session.sentences.symbols
    column = {symbol.upper(): number for number, symbol in enumerate(symbols)}
    members = _members(cells, rows)
    share = {context: weights_of_cells(len(at), cells.donors_of(rows[at])) for context, at in members.items()}
    estimates: dict[str, list[Estimate]] = {context: [] for context in members}
    null_effects: dict[str, list[NDArray[np.float64]]] = {context: [] for context in members}

    def compute(name: str) -> NDArray[np.float64]:
        wanted: list[str | None] = [None] * len(session.sentences)
        for row in rows:
            wanted[row] = name
        response = predict_response(session, tuple(wanted), sampling=Sampling(seed=seed))
        change = sp.csr_matrix(response.predicted - response.control, dtype=np.float64)
        if weights is not None:
            means = [np.asarray(share[context] @ change[at]).ravel() for context, at in members.items()]
            return np.concatenate([np.asarray(change @ weights).ravel(), *means])
        assert readout is not None
        lists = [
            np.array([column[gene.upper()] for gene in answer.genes], dtype=np.int32) for answer in response.answers
        ]
        after = readout.values(with_genes(session.sentences, rows, lists), rows, [None] * len(rows))
        # The cell's own sentence, cut to the same length, so that length is no difference.
        own = [genes.ids[: len(new)] for genes, new in zip(_own_lists(session, rows), lists, strict=True)]
        return after - readout.values(with_genes(session.sentences, rows, own), rows, [None] * len(rows))

    with Progress(len(names), "screen, perturbations", "perturbation", show=progress) as bar:
        for name in names:
            values = parts.get(["perturbation", name], lambda name=name: compute(name))  # type: ignore[misc]
            means = values[len(rows) :].reshape(-1, len(symbols)) if weights is not None else None
            for number, (context, at) in enumerate(members.items()):
                estimates[context].append(mean_shift(values[at], cells.donors_of(rows[at])))
                if means is not None and null_weights is not None:
                    null_effects[context].append(null_weights @ means[number])
            bar.update(1)
    return Items(
        names=list(names),
        kind="perturbation",
        estimates=estimates,
        in_goal=[column.get(name.split()[0].upper()) in goal_genes for name in names],
        null=MATCHED_GENES if null_weights is not None else T_TEST,
        null_effects={context: np.array(effects) for context, effects in null_effects.items() if effects},
    )


def screen_measured(
    cells: Cells,
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    *,
    matrix: sp.csr_matrix | None,
    null_weights: NDArray[np.float64] | None,
    own_names: frozenset[str],
) -> Items:
    """Measured groups against the controls of their context.

    Parameters
    ----------
    rows, values
        Cells, int64 (m,), and the value of the goal of each, float64 (m,).
    matrix, null_weights
        Expression of these cells, (m, symbols), and null goals, for goals that are weights of genes.
    own_names
        Groups that the goal was made from.
    """
    assert cells.perturbation is not None
    assert cells.is_control is not None
    members = _members(cells, rows)
    group, is_control = cells.perturbation[rows], cells.is_control[rows]
    fewest = cells.settings.min_cells
    counts = {
        context: {
            str(name): int((group[at][~is_control[at]] == name).sum())
            for name in {value for value in group[at][~is_control[at]] if value is not None}
        }
        for context, at in members.items()
    }
    names = sorted({name for own in counts.values() for name in own if all(
        other.get(name, 0) >= fewest for other in counts.values())})  # fmt: skip
    if not names:
        raise ValueError(f"no measured group has {fewest} cells in each context; lower min_cells=")
    estimates: dict[str, list[Estimate]] = {}
    null_effects: dict[str, NDArray[np.float64]] = {}
    for context, at in members.items():
        controls = at[is_control[at]]
        if len(controls) < 2:
            raise ValueError(f"context {context!r} has {len(controls)} controls; at least 2 are needed")
        found, null = [], []
        for name in names:
            own = at[(group[at] == name) & ~is_control[at]]
            used, used_controls = own, controls
            if cells.donor is not None:  # donors that have both
                both = set(cells.donor[rows[own]]) & set(cells.donor[rows[controls]])
                used, used_controls = (
                    part[[donor in both for donor in cells.donor[rows[part]]]] for part in (own, controls)
                )
            of, of_controls = cells.donors_of(rows[used]), cells.donors_of(rows[used_controls])
            found.append(difference(values[used], values[used_controls], of, of_controls))
            if matrix is not None and null_weights is not None:
                change = weights_of_cells(len(used), of) @ matrix[used]
                change = change - weights_of_cells(len(used_controls), of_controls) @ matrix[used_controls]
                null.append(null_weights @ np.asarray(change).ravel())
        estimates[context], null_effects[context] = found, np.array(null)
    return Items(
        names=names,
        kind="measured",
        estimates=estimates,
        in_goal=[name in own_names for name in names],
        null=MATCHED_GENES if matrix is not None and null_weights is not None else T_TEST,
        null_effects=null_effects,
    )


def _members(cells: Cells, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Context → numbers of `rows`, in alphabetical order of contexts."""
    context = cells.context[rows]
    return {str(name): np.flatnonzero(context == name) for name in sorted(set(context))}


def _own_lists(session: Session, rows: NDArray[np.int64]) -> list[GeneList]:
    return session.sentences[rows].gene_lists(None)
