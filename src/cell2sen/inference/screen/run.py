"""A screen: items × cells → shift towards a goal, a null, and one ranked table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.obs import text_column
from cell2sen.data.progress import Report
from cell2sen.inference.annotate import check_labels, closed_set
from cell2sen.inference.options import Options
from cell2sen.inference.screen.cells import Cells, CellSettings, cells_of
from cell2sen.inference.screen.edits import ALL, Edit, EditedSentences, EditKind, parse_edits
from cell2sen.inference.screen.estimates import MINUS, Scores, contrast, table_of
from cell2sen.inference.screen.goals import Goal, direction_weights, fit_probe, group_mean, set_weights
from cell2sen.inference.screen.kinds import Items, screen_edits, screen_measured, screen_perturbations
from cell2sen.inference.screen.nulls import expression_bins, matched_genes, permuted_weights
from cell2sen.inference.screen.parts import Parts
from cell2sen.inference.screen.readouts import EmbeddingReadout, ExpressionReadout, LabelReadout, Readout, embed
from cell2sen.inference.session import Session, start
from cell2sen.inference.transfer.support import sample_of

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Cells that a direction or a probe in the embedding is fitted on, of each group and in all.
_GROUP_CELLS, _PROBE_CELLS = 1000, 2000

#: Null edits and permutations of goals, unless the user chooses.
NULL_EDITS, NULL_GOALS = 200, 999

#: Correlation of a probe with the score in left-out cells below which a warning is logged.
_MIN_PROBE_R = 0.3


@dataclass(frozen=True, kw_only=True)
class ScreenSettings:
    """What is screened, and how it is scored."""

    perturbations: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    overexpress: tuple[str, ...] = ()
    measured: bool = False
    space: str = "auto"
    groupby: str | None = None
    labels: tuple[str, ...] | None = None
    contrast: tuple[str, str] | None = None
    towards: Literal["up", "down"] = "up"
    n_null: int | None = None
    seed: int = 0
    resume: str | Path | None = None

    def __post_init__(self) -> None:
        if not (self.perturbations or self.delete or self.overexpress or self.measured):
            raise ValueError("pass what is screened: perturbations=, delete=, overexpress= or measured=True")
        if self.towards not in ("up", "down"):
            raise ValueError(f"towards must be 'up' or 'down', found {self.towards!r}")
        if self.n_null is not None and self.n_null < 0:
            raise ValueError(f"n_null must not be negative, found {self.n_null}")

    def space_of(self, goal: Goal) -> str:
        """Where shifts are measured.

        Raises
        ------
        ValueError
            The goal cannot be measured there, or items would be on different scales.
        """
        edits = bool(self.delete or self.overexpress)
        if goal.kind == "label":
            if self.space not in ("auto", "label"):
                raise ValueError(f"a label has no score in space={self.space!r}; leave space= out")
            return "label"
        if self.space in ("expression", "embedding"):
            return self.space
        if self.space != "auto":
            raise ValueError(f"space must be 'auto', 'expression' or 'embedding' for this goal, found {self.space!r}")
        if edits and (self.perturbations or self.measured):
            raise ValueError(
                "edits are scored in the embedding, perturbations and measured groups in expression: pass space=, or "
                "screen them one after the other"
            )
        return "embedding" if edits else "expression"


def screen(
    data: AnnData | str | Path, goal: Goal, settings: ScreenSettings, of_cells: CellSettings, options: Options
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Ranked table (:data:`cell2sen.inference.screen.estimates.COLUMNS`) and provenance of a screen.

    Raises
    ------
    ValueError, KeyError
        As of :func:`cell2sen.tl.screen`.
    """
    space = settings.space_of(goal)
    with start(data, "embed", options) as session:
        assert session.data is not None
        obs = session.data.obs
        cells = cells_of(session, obs, of_cells, measured=settings.measured)
        groups = None
        if goal.groups is not None:
            if settings.groupby is None:
                raise ValueError("direction= needs the obs column of its groups: groupby=")
            groups = text_column(obs, settings.groupby)
            for name in goal.groups:
                if not (cells.usable & (groups == name)).any():
                    available = sorted({value for value in groups if value is not None})
                    raise ValueError(f"obs[{settings.groupby!r}] has no cell {name!r}; available: {available[:20]}")
        screened = _Screen(session, goal, settings, cells, space, groups)
        items = screened.items(progress=options.get("progress", True))
        record = screened.record(items)
    names = list(items[0].estimates)
    scores = [_scores(items, context) for context in names]
    if settings.contrast is not None:
        first, second = settings.contrast
        if missing := [name for name in (first, second) if name not in names]:
            raise ValueError(f"contrast: {missing[0]!r} is no context of this screen; available: {names}")
        scores.append(_scores(items, first, second))
    return table_of(scores, settings.towards), record


class _Screen:
    """The parts of one screen that its kinds of items share."""

    def __init__(
        self, session: Session, goal: Goal, settings: ScreenSettings, cells: Cells, space: str, groups: Any
    ) -> None:
        self.session, self.goal, self.settings, self.cells, self.space = session, goal, settings, cells, space
        self.groups = groups
        self.symbols = session.sentences.symbols
        column = {symbol.upper(): number for number, symbol in enumerate(self.symbols)}
        self.goal_genes = frozenset(column[gene.upper()] for gene in goal.genes if gene.upper() in column)
        self.details: dict[str, Any] = {}
        if goal.kind == "gene_set":
            set_weights(goal.genes, self.symbols)  # refuses a set without genes before work is done
            self.details["genes_used"] = np.array(sorted(self.symbols[gene] for gene in self.goal_genes), dtype=object)

    def items(self, *, progress: bool | Report) -> list[Items]:
        """Items of all kinds."""
        settings, cells = self.settings, self.cells
        weights = self._gene_weights() if self.space == "expression" else None
        readout = None if self.space == "expression" else self._readout()
        found: list[Items] = []
        if settings.delete or settings.overexpress or settings.perturbations:
            usable = cells.usable if cells.is_control is None else cells.usable & cells.is_control
            if self.groups is not None and self.goal.groups is not None:
                usable = usable & (self.groups == self.goal.groups[0])
            rows = cells.sampled(usable, cells.settings.n_cells)
            parts = self._parts(rows, weights, readout)
            means = self._means(rows)
            for kind, names in (("delete", settings.delete), ("overexpress", settings.overexpress)):
                if names:
                    found.append(self._edits(kind, names, rows, weights, readout, means, parts, progress))  # type: ignore[arg-type]
            if settings.perturbations:
                average = np.asarray(np.mean(list(means.values()), axis=0))
                found.append(
                    screen_perturbations(
                        list(dict.fromkeys(settings.perturbations)),
                        self.session.with_task("perturb"),
                        cells,
                        rows,
                        weights=weights,
                        readout=readout,
                        null_weights=self._null_weights(weights, average),
                        goal_genes=self.goal_genes,
                        parts=parts,
                        seed=settings.seed,
                        progress=progress,
                    )
                )
        if settings.measured:
            found.append(self._measured(weights, readout))
        return found

    def record(self, items: Sequence[Items]) -> dict[str, Any]:
        """Provenance of the screen."""
        settings, of_cells = self.settings, self.cells.settings
        return self.session.provenance(
            goal={"kind": self.goal.kind, "name": self.goal.name, "groupby": settings.groupby or "", **self.details},
            space=self.space,
            unit={"label": "log-odds (nats)"}.get(
                self.space, "share of the way" if self.goal.kind == "direction" else "mean ln(1 + CP10k) of the set"
            ),
            towards=settings.towards,
            context_column=of_cells.context or "",
            donor=of_cells.donor or "",
            n_cells=of_cells.n_cells,
            min_cells=of_cells.min_cells,
            seed=settings.seed,
            n_items=sum(len(each.names) for each in items),
            null=np.array([each.null for each in items], dtype=object),
        )

    def _edits(
        self,
        kind: EditKind,
        names: Sequence[str],
        rows: NDArray[np.int64],
        weights: NDArray[np.float64] | None,
        readout: Readout | None,
        means: dict[str, NDArray[np.float64]],
        parts: Parts,
        progress: bool | Report,
    ) -> Items:
        if readout is None:
            assert weights is not None
            readout = ExpressionReadout(self.session.with_task("perturb"), weights, self.settings.seed)
        edited = EditedSentences(self.session.sentences, rows, readout.session.length)
        common = np.flatnonzero(edited.cells_with(len(self.symbols)) >= self.cells.settings.min_cells).tolist()
        every = list(names) == [ALL]
        edits = parse_edits([self.symbols[gene] for gene in common] if every else names, kind, self.symbols)
        if not edits:
            raise ValueError(f"{kind}: no gene is in the prompts of {self.cells.settings.min_cells} cells")
        candidates = sorted({gene for edit in edits for gene in edit.genes})
        pool = sorted(set(common) - self.goal_genes - (set() if every else set(candidates)))
        average = np.asarray(np.mean(list(means.values()), axis=0))
        n_null = NULL_EDITS if self.settings.n_null is None else self.settings.n_null
        drawn = matched_genes(candidates, pool, average, self.symbols, n_null, self.settings.seed)
        if n_null and len(drawn) < min(n_null, 20):
            logger.warning(
                "%s: only %d genes are left for the null, so that no p-value is below %.3f; screen fewer genes, or "
                "lower min_cells=", kind, len(drawn), 1 / (1 + len(drawn)),
            )  # fmt: skip
        return screen_edits(
            edits,
            _null_edits(kind, drawn, {len(edit.genes) for edit in edits}, n_null, self.symbols, self.settings.seed),
            readout,
            self.cells,
            edited,
            expression=means,
            goal_genes=self.goal_genes,
            parts=parts,
            progress=progress,
        )

    def _measured(self, weights: NDArray[np.float64] | None, readout: Readout | None) -> Items:
        cells, session = self.cells, self.session
        assert session.data is not None
        assert cells.is_control is not None
        assert cells.perturbation is not None
        own = frozenset(self.goal.groups or ()) | frozenset(self.symbols[gene] for gene in self.goal_genes)
        usable = cells.usable & np.array([value is not None for value in cells.perturbation])
        rows = cells.sampled(usable, None)
        if weights is None:
            assert readout is not None
            values = readout.values(session.sentences[rows], rows, [None] * len(rows))
            return screen_measured(cells, rows, values, matrix=None, null_weights=None, own_names=own)
        matrix = session.data[rows].ln_cp10k().astype(np.float64)
        controls = np.flatnonzero(cells.is_control[rows])
        return screen_measured(
            cells,
            rows,
            np.asarray(matrix @ weights).ravel(),
            matrix=sp.csr_matrix(matrix),
            null_weights=self._null_weights(weights, group_mean(sp.csr_matrix(matrix), controls)),
            own_names=own,
        )

    def _gene_weights(self) -> NDArray[np.float64]:
        if self.goal.kind == "gene_set":
            return set_weights(self.goal.genes, self.symbols)
        assert self.session.data is not None
        assert self.goal.groups is not None
        start_mean, end_mean = (
            group_mean(self.session.data[rows].ln_cp10k(), np.arange(len(rows))) for rows in self._group_rows(None)
        )
        return direction_weights(start_mean, end_mean)

    def _readout(self) -> Readout:
        session, goal = self.session, self.goal
        if goal.kind == "label":
            annotate = session.with_task("annotate")
            labels = self.settings.labels
            chosen = closed_set(annotate.task, session.model, None if labels is None else check_labels(labels))
            if goal.label not in chosen.labels:
                raise ValueError(f"label must be one of {list(chosen.labels)}, found {goal.label!r}")
            return LabelReadout(annotate, chosen, list(chosen.labels).index(goal.label))
        if goal.kind == "direction":
            start_mean, end_mean = (
                embed(session, session.sentences[rows], rows).astype(np.float64).mean(axis=0)
                for rows in self._group_rows(_GROUP_CELLS)
            )
            return EmbeddingReadout(session, direction_weights(start_mean, end_mean))
        assert session.data is not None
        usable = np.flatnonzero(self.cells.usable).tolist()
        rows = np.array(sample_of(self.cells.names, usable, _PROBE_CELLS), dtype=np.int64)
        score = session.data[rows].ln_cp10k().astype(np.float64) @ set_weights(goal.genes, self.symbols)
        probe = fit_probe(
            embed(session, session.sentences[rows], rows),
            np.asarray(score).ravel(),
            self.cells.context[rows].tolist(),
            [self.cells.names[row] for row in rows],
        )
        self.details["probe_r"] = probe.r
        if probe.r < _MIN_PROBE_R:
            logger.warning(
                "the embedding hardly tells the gene set's score: correlation %.2f in left-out cells; shifts along it "
                "mean little",
                probe.r,
            )
        return EmbeddingReadout(session, probe.weights)

    def _group_rows(self, limit: int | None) -> list[NDArray[np.int64]]:
        """Cells of the two groups of a direction."""
        assert self.goal.groups is not None
        rows = [np.flatnonzero(self.cells.usable & (self.groups == name)).tolist() for name in self.goal.groups]
        return [np.array(own if limit is None else sample_of(self.cells.names, own, limit)) for own in rows]

    def _null_weights(
        self, weights: NDArray[np.float64] | None, expression: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        n_null = NULL_GOALS if self.settings.n_null is None else self.settings.n_null
        if weights is None or n_null == 0:
            return None
        return permuted_weights(weights, expression_bins(expression, self.symbols), n_null, self.settings.seed)

    def _means(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Context → mean expression of each gene in the screened cells."""
        assert self.session.data is not None
        matrix, context = self.session.data[rows].ln_cp10k(), self.cells.context[rows]
        return {name: group_mean(matrix, np.flatnonzero(context == name)) for name in sorted(set(context))}

    def _parts(self, rows: NDArray[np.int64], weights: Any, readout: Any) -> Parts:
        session, settings = self.session, self.settings
        if settings.resume is None:
            return Parts(None, [])
        assert session.data is not None
        matrix = session.data[rows].ln_cp10k()
        own = weights if weights is not None else getattr(readout, "weights", None)
        labels = [self.goal.label, list(readout.labels.labels)] if isinstance(readout, LabelReadout) else []
        donors = self.cells.donors_of(rows)
        return Parts(
            settings.resume,
            [
                session.provenance(), self.symbols, self.space, settings.seed, labels, donors,
                [self.cells.names[row] for row in rows], list(self.cells.context[rows]),
                np.asarray([] if own is None else own), matrix.data, matrix.indices, matrix.indptr,
                session.sentences[rows].genes.flatten().to_numpy(),
            ],
        )  # fmt: skip


def _null_edits(
    kind: EditKind, drawn: Sequence[int], sizes: set[int], n_null: int, symbols: Sequence[str], seed: int
) -> list[Edit]:
    """Edits of random genes: as many for each number of genes that an edit has."""
    edits = []
    for size in sorted(sizes):
        if size == 1:
            edits += [Edit(kind, (gene,), symbols[gene]) for gene in drawn]
            continue
        rng = np.random.default_rng([seed, 3, size])
        combinations = {
            tuple(rng.choice(drawn, size, replace=False).tolist()) for _ in range(n_null if len(drawn) > size else 0)
        }
        edits += [Edit(kind, genes, "+".join(symbols[gene] for gene in genes)) for genes in sorted(combinations)]
    return edits


def _scores(items: Sequence[Items], context: str, minus: str | None = None) -> Scores:
    """All items in one context, or in one less another."""
    estimates, columns = [], []
    for each in items:
        own = each.estimates[context]
        if minus is not None:
            own = [contrast(*pair) for pair in zip(own, each.estimates[minus], strict=True)]
        estimates += own
        columns.append(each.compared(own, context, minus))
    centre, spread, p = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Scores(
        context=context if minus is None else f"{context}{MINUS}{minus}",
        items=[name for each in items for name in each.names],
        kinds=[each.kind for each in items for _ in each.names],
        estimates=estimates,
        centre=centre,
        spread=spread,
        p=p,
        null=[each.null for each in items for _ in each.names],
        in_goal=[flag for each in items for flag in each.in_goal],
    )
