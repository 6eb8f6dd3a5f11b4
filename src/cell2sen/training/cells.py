"""Cells to train on: what a training file says of them, splits, and sentences drawn anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data import obs as obs_data
from cell2sen.data.expression import Expression
from cell2sen.data.obs import obs_column, perturbations_of_cells
from cell2sen.data.splits import barcode
from cell2sen.sentences.ranking import Ranker, RankFit, RankFitter, Recipe

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells of a group whose change is looked at.
LEAST_CELLS = 10


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which cells are held out: by single cell, or by whole groups (donor, cell type, perturbation)."""

    by: str = "cell"
    """``"cell"`` or an obs column: all cells with the same value stay on the same side."""

    test: float = 0.1
    """Share of cells (or of groups) that is held out."""

    values: tuple[str, ...] = ()
    """Groups to hold out by name, instead of a random share."""

    perturbed_only: bool = False
    """Hold out the perturbed cells of the groups ("this cell type was never seen under IFN-beta"); of the controls, of
    whatever group, the share `test` is. This is always so when the groups are perturbations."""

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test < 1:
            raise ValueError(f"split: test is the share of cells to hold out, from 0 to below 1, found {self.test}")
        if self.by == "cell" and self.values:
            raise ValueError(f"split: values {list(self.values)} are groups of an obs column; name it as by:")

    def held_out(self, obs: pd.DataFrame, control: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """True for cells that training must not see, bool (n,).

        Parameters
        ----------
        control
            Which cells are unperturbed, where groups of perturbed cells are held out.
        """
        generator = np.random.default_rng(self.seed)
        some = np.zeros(len(obs), dtype=bool)
        some[generator.permutation(len(obs))[len(obs) - round(self.test * len(obs)) :]] = True
        if self.by == "cell":
            return some
        groups = obs_column(obs, self.by).astype(str)
        names = sorted(set(groups if control is None else groups[~control]))
        if unknown := sorted(set(self.values) - set(names)):
            raise ValueError(f"obs[{self.by!r}] has no {unknown} to hold out; available: {names}")
        n_groups = max(round(self.test * len(names)), int(self.test > 0))
        chosen = self.values or generator.permutation(names)[:n_groups]
        mask = np.asarray(groups.isin(chosen), dtype=bool)
        return mask if control is None else np.where(control, some, mask)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """One file, and what is to be learned from it."""

    file: str
    tasks: tuple[str, ...] = ("annotate",)
    cell_type: str | None = None
    """obs column of the label."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Slot of a task → obs column, for tasks of one's own (``{phase: cell_cycle_phase}``)."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label in the file → label to be learned. Labels that are not named are kept."""

    perturbation: str | None = None
    """obs column that tells perturbed cells from controls."""

    control: str = "control"
    """Its value in control cells."""

    perturbations: Mapping[str, str] = field(default_factory=dict)
    """Perturbation in the file → its name in prompts; under ``"*"`` that of all others, ``{}`` standing for the value
    (``"{} knock-out"``)."""

    no_perturbation: str | None = None
    """What prompts call no perturbation. With it controls are paired with other controls of their context, too, so that
    a model can tell the change that it predicts from the cell that it predicts (``tl.perturb(readout="expected")``)."""

    context: tuple[str, ...] = ()
    """obs columns in which a perturbed cell and its control must agree (cell type, donor, batch)."""

    where: Mapping[str, str] = field(default_factory=dict)
    """Use only cells with these values in obs."""

    label_where: Mapping[str, str] = field(default_factory=dict)
    """Learn labels only from cells with these values in obs (the other tasks use all cells)."""

    exclude_held_out_of: tuple[str, ...] = ()
    """Files whose held-out cells must not be seen here either; cells are matched by barcode."""

    draws: Mapping[str, float] = field(default_factory=dict)
    """Task → how often each cell is written for it, each time with new ties and new thinning; 1 where it is not named.
    The fraction of a number is the share of the cells that are written once more."""

    layer: str | None = None
    use_raw: bool = False
    symbols: str | None = None
    organism: str | None = None
    split: Split = field(default_factory=Split)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What changes from draw to draw, besides the order of ties."""

    thin: tuple[float, float] = (1.0, 1.0)
    """Share of the counts that is kept, uniform between the two. Counts behind normalised values are estimated, see
    :meth:`cell2sen.data.scale.Scale.counts`."""

    panel: float = 0.0
    """Share of draws in which only a random part of the genes was measured, as in targeted panels."""


class Cells:
    """The cells of one file, in memory, from which sentences are drawn.

    Attributes
    ----------
    matrix
        float32 CSR (cells, genes).
    symbols
        Symbol of each column.
    totals
        Sum of each cell over all genes of the file, float64 (cells,).
    test
        Cells that are held out, bool (cells,).
    """

    def __init__(self, data: TrainingData, base: Path, case: Any) -> None:
        self.data = data
        with Expression.open(
            base / data.file, layer=data.layer, use_raw=data.use_raw, symbols=data.symbols, case=case
        ) as expression:
            self.symbols, self.scale, self.obs = expression.symbols, expression.scale, expression.obs
            self.organism = np.array(expression.organism(data.organism), dtype=object)
            blocks, totals = [], []
            for block in expression.blocks():
                totals.append(expression.row_sums(block))
                blocks.append(block.values.astype(np.float32))
        self.matrix, self.totals = sp.vstack(blocks, format="csr"), np.concatenate(totals)
        self.label = self._labels()
        self.perturbation = self._perturbations()
        # Of all cells of the file, so that trainings on different cells of it hold out the same ones.
        self.test = data.split.held_out(self.obs, self._control_of_split())
        self._keep_cells()

    def _keep_cells(self) -> None:
        wanted = np.ones(len(self.obs), dtype=bool)
        for column, value in self.data.where.items():
            wanted &= np.asarray(obs_column(self.obs, column).astype(str) == str(value))
        if not wanted.any():
            raise ValueError(f"no cell of {self.data.file} has the values {dict(self.data.where)} (where:)")
        if wanted.all():
            return
        self.obs, self.matrix, self.totals = self.obs[wanted], self.matrix[wanted], self.totals[wanted]
        self.organism, self.test = self.organism[wanted], self.test[wanted]
        self.label = None if self.label is None else self.label[wanted]
        self.perturbation = None if self.perturbation is None else self.perturbation[wanted]

    @property
    def n_draws(self) -> int:
        """Draws of the task that is drawn most."""
        return max(math.ceil(self.data.draws.get(task, 1.0)) for task in self.data.tasks)

    @property
    def names(self) -> list[str]:
        """Cell names."""
        return [str(name) for name in self.obs.index]

    @property
    def ranker(self) -> Ranker:
        """Ranks with ties drawn anew for each cell and draw: the order of ties is noise that a model must not learn."""
        return Ranker(self.symbols, Recipe(ties="random"))

    def keep_genes(self, known: NDArray[np.bool_]) -> None:
        """Leave out the genes that the model cannot write.

        Raises
        ------
        ValueError
            Nothing would be left.
        """
        if not known.any():
            raise ValueError(
                f"the model can write none of the {len(known)} genes of {self.data.file} (for example "
                f"{list(self.symbols[:5])}); symbols: names the var column that holds gene symbols"
            )
        self.matrix = self.matrix[:, known]
        self.symbols = tuple(symbol for symbol, keep in zip(self.symbols, known, strict=True) if keep)

    def rank_fit(self) -> RankFit | None:
        """Expression at each place of the training cells' sentences, from 1,024 of them at most."""
        rows = np.flatnonzero(~self.test)[:1024]
        fitter = RankFitter()
        self.add_to(fitter, rows)
        return fitter.fit()

    def add_to(self, fitter: RankFitter, rows: NDArray[np.int64]) -> None:
        """Let a rank fit see some cells."""
        indptr, _, values = self.ranker.rank(self.matrix[rows], [self.names[row] for row in rows])
        fitter.add(indptr, self.scale.log10_cp10k(values, np.repeat(self.totals[rows], np.diff(indptr))))

    def mean_expression(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean of some cells in ln(1 + CP10k), float64 (genes,)."""
        chosen = self.scale.ln_cp10k(sp.csr_matrix(self.matrix[rows]), self.totals[rows])
        return np.asarray(chosen.mean(axis=0), dtype=np.float64).ravel()

    def anndata(self, rows: NDArray[np.int64]) -> AnnData:
        """Some cells with the genes that the model can write, their contexts and organism in ``obs``."""
        from anndata import AnnData

        obs = pd.DataFrame(index=np.asarray(self.names, dtype=object)[rows])
        for column in self.data.context:
            obs[column] = pd.Categorical(self.obs[column].astype(str).to_numpy()[rows])
        obs["organism"] = pd.Categorical(self.organism[rows])
        var = pd.DataFrame(index=pd.Index(self.symbols, dtype=object))
        return AnnData(sp.csr_matrix(self.matrix[rows]), obs=obs, var=var)

    def values(self, slot: str) -> NDArray[Any]:
        """What stands in a slot of a prompt or answer, object (cells,), ``None`` where nothing is known.

        Raises
        ------
        ValueError
            The training file names no obs column for it.
        """
        if slot == "cell_type" and self.label is not None:
            return self.label
        if slot == "perturbation" and self.perturbation is not None:
            return self.perturbation
        if slot not in self.data.columns:
            entry = f"{slot}:" if slot in ("cell_type", "perturbation") else f"columns: {{{slot}: …}}"
            raise ValueError(
                f"the tasks {list(self.data.tasks)} on {self.data.file} need the obs column of {slot!r} ({entry}); "
                f"available: {list(map(str, self.obs.columns))}"
            )
        column = obs_column(self.obs, self.data.columns[slot])
        return np.array([None if pd.isna(value) else str(value) for value in column], dtype=object)

    def is_control(self, cell: int) -> bool:
        """Whether a cell is unperturbed; all are, where the file has no perturbations."""
        return self.perturbation is None or self.perturbation[cell] == self.data.control

    def sentences(self, draw: int, augmentation: Augmentation, seed: int) -> list[list[str]]:
        """Every cell written once more: thinned, on a panel, ties in a new order."""
        generator = np.random.default_rng([seed, draw])
        matrix = self.matrix.copy()
        low, high = augmentation.thin
        if low < 1.0:
            share = np.repeat(generator.uniform(low, high, matrix.shape[0]), np.diff(matrix.indptr))
            matrix.data = generator.binomial(self.scale.counts(matrix), share).astype(np.float32)
        if augmentation.panel:
            # One panel a draw: its size is log-uniform, from 3 % to all of the genes.
            on_panel = generator.random(matrix.shape[0]) < augmentation.panel
            measured = generator.random(matrix.shape[1]) < np.exp(generator.uniform(np.log(0.03), 0))
            off = np.repeat(on_panel, np.diff(matrix.indptr)) & ~measured[matrix.indices]
            matrix.data[off] = 0
        indptr, genes, _ = self.ranker.rank(matrix, [f"{name}/{seed}/{draw}" for name in self.names])
        symbols = np.asarray(self.symbols, dtype=object)[genes]
        return [list(symbols[start:stop]) for start, stop in pairwise(indptr)]

    def changes(
        self, length: int, seed: int
    ) -> Iterator[tuple[NDArray[np.float64], int, NDArray[np.float64], int, Sequence[str]]]:
        """For each perturbation and context of the training cells, in how many sentences each gene stands.

        ``(perturbed cells with the gene, perturbed cells, controls with the gene, controls, symbols)``, groups of at
        least :data:`LEAST_CELLS` on either side.
        """
        if self.perturbation is None:
            return
        place = {symbol: number for number, symbol in enumerate(self.symbols)}
        lists = [[place[gene] for gene in genes[:length]] for genes in self.sentences(0, Augmentation(), seed)]
        written = sp.csr_matrix(
            (
                np.ones(sum(map(len, lists))), np.array([gene for genes in lists for gene in genes], dtype=np.int64),
                np.cumsum([0, *map(len, lists)]),
            ),
            shape=(len(lists), len(place)),
        )  # fmt: skip
        context = contexts(self)
        groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for cell in np.flatnonzero(~self.test):
            if self.perturbation[cell] is not None:
                groups.setdefault(context[cell], {}).setdefault(self.perturbation[cell], []).append(int(cell))
        for sides in groups.values():
            control = sides.pop(self.data.control, [])
            for treated in sides.values():
                if min(len(control), len(treated)) >= LEAST_CELLS:
                    counts = [
                        np.asarray(written[rows].sum(axis=0), dtype=np.float64).ravel() for rows in (treated, control)
                    ]
                    yield counts[0], len(treated), counts[1], len(control), self.symbols

    def _labels(self) -> NDArray[Any] | None:
        if self.data.cell_type is None:
            return None
        column = obs_column(self.obs, self.data.cell_type)
        labels = np.array([None if pd.isna(v) else self.data.labels.get(str(v), str(v)) for v in column], dtype=object)
        for name, value in self.data.label_where.items():
            labels[np.asarray(obs_column(self.obs, name).astype(str) != value)] = None
        return labels

    def _perturbations(self) -> NDArray[Any] | None:
        if self.data.perturbation is None:
            return None
        values = perturbations_of_cells(self.obs, self.data.perturbation)
        if self.data.control not in values:
            raise ValueError(
                f"obs[{self.data.perturbation!r}] of {self.data.file} has no control cells {self.data.control!r}; "
                f"available: {sorted({value for value in values if value})}"
            )
        pattern = self.data.perturbations.get("*", "{}")
        renamed = [
            value if value in (None, self.data.control) else self.data.perturbations.get(value, pattern).format(value)
            for value in values
        ]
        return np.array(renamed, dtype=object)

    def _control_of_split(self) -> NDArray[np.bool_] | None:
        split = self.data.split
        if not split.perturbed_only and (split.by == "cell" or split.by != self.data.perturbation):
            return None
        if self.perturbation is None:
            raise ValueError(
                f"split: perturbed_only on {self.data.file} needs the obs column of the perturbation (perturbation:)"
            )
        return np.asarray(self.perturbation == self.data.control, dtype=bool)


def exclude_held_out(cells: Mapping[str, Cells]) -> None:
    """Hold out, in files that share cells with another one, what is held out there. Matched by barcode."""
    for one in cells.values():
        for other in one.data.exclude_held_out_of:
            if other not in cells:
                raise ValueError(f"exclude_held_out_of names {other!r}, which is not among the files {sorted(cells)}")
            barcodes = {barcode(name) for name, test in zip(cells[other].names, cells[other].test, strict=True) if test}
            one.test |= np.array([barcode(name) in barcodes for name in one.names])


def contexts(cells: Cells) -> list[tuple[str, ...]]:
    """For each cell what it must share with its control."""
    return obs_data.contexts(cells.obs, cells.data.context)
