"""Prompt/completion pairs for training: draws of cells, splits, and what a training file says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import genes as gene_names
from cell2sen.matrix import open_source
from cell2sen.organism import organism_of_cells
from cell2sen.rank import Ranker, Recipe
from cell2sen.scale import recognise, refuse_unrankable
from cell2sen.sentences import clean_perturbations
from cell2sen.task import Prompt, Task


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which cells are held out: by single cell, or by whole groups (donor, cell type, perturbation)."""

    by: str = "cell"
    """``"cell"`` or an obs column: all cells with the same value stay on the same side."""

    test: float = 0.1
    """Share of cells (or of groups) that is held out."""

    values: tuple[str, ...] = ()
    """Groups to hold out by name, instead of a random share."""

    seed: int = 0

    def held_out(self, obs: pd.DataFrame) -> NDArray[np.bool_]:
        """True for cells that training must not see, bool (n,)."""
        generator = np.random.default_rng(self.seed)
        if self.by == "cell":
            mask = np.zeros(len(obs), dtype=bool)
            mask[generator.permutation(len(obs))[: round(self.test * len(obs))]] = True
            return mask
        groups = _column(obs, self.by).astype(str)
        if self.values:
            if unknown := sorted(set(self.values) - set(groups)):
                raise ValueError(f"obs[{self.by!r}] has no {unknown}; available: {sorted(set(groups))}")
            return np.asarray(groups.isin(self.values), dtype=bool)
        names = np.array(sorted(set(groups)))
        chosen = generator.permutation(names)[: max(1, round(self.test * len(names)))]
        return np.asarray(groups.isin(chosen), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """One file, and what is to be learned from it."""

    file: str
    tasks: tuple[str, ...] = ("annotate",)
    cell_type: str | None = None
    """obs column of the label."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label in the file → label to be learned. Labels that are not named are kept."""

    perturbation: str | None = None
    """obs column that tells perturbed cells from controls."""

    control: str = "control"
    """Its value in control cells."""

    perturbations: Mapping[str, str] = field(default_factory=dict)
    """Perturbation in the file → its name in prompts, ``{}`` standing for the value (``"{} knock-out"`` under ``"*"``)."""

    context: tuple[str, ...] = ()
    """obs columns in which a perturbed cell and its control must agree (cell type, donor, batch)."""

    where: Mapping[str, str] = field(default_factory=dict)
    """Use only cells with these values in obs."""

    label_where: Mapping[str, str] = field(default_factory=dict)
    """Learn labels only from cells with these values in obs (the other tasks use all cells)."""

    exclude_held_out_of: tuple[str, ...] = ()
    """Files whose held-out cells must not be seen here either; cells are matched by barcode."""

    draws: Mapping[str, float] = field(default_factory=dict)
    """Task → how often each cell is written for it, each time with new ties and new thinning; 1 where it is not named. The
    fraction of a number is the share of the cells that are written once more."""

    layer: str | None = None
    use_raw: bool = False
    symbols: str | None = None
    organism: str | None = None
    split: Split = field(default_factory=Split)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What changes from draw to draw, besides the order of ties."""

    thin: tuple[float, float] = (1.0, 1.0)
    """Share of the counts that is kept, uniform between the two. For counts only."""

    panel: float = 0.0
    """Share of draws in which only a random part of the genes was measured, as in targeted panels."""


class Cells:
    """The cells of one file, in memory, from which sentences are drawn."""

    def __init__(self, data: TrainingData, base: Path, case: Any) -> None:
        self.data = data
        with open_source(base / data.file, layer=data.layer, use_raw=data.use_raw) as source:
            gene_map = gene_names.resolve(source.var, symbols=data.symbols, case=case)
            self.symbols = tuple(gene_map.symbols)
            self.scale = recognise(source.sample(), source.hint)
            blocks = []
            for _, block in source.blocks():
                refuse_unrankable(block.data, source.hint)
                block.data = np.nan_to_num(block.data)
                blocks.append(gene_map.apply(block).astype(np.float32))
            matrix = sp.vstack(blocks, format="csr")
            obs = source.obs
            organism = np.array(organism_of_cells(obs, source.uns, data.organism, source.var.index))
        wanted = np.ones(len(obs), dtype=bool)
        for column, value in data.where.items():
            wanted &= np.asarray(_column(obs, column).astype(str) == value)
        self.obs = obs[wanted]
        self.matrix = matrix[wanted]
        self.organism = organism[wanted]
        self.test = data.split.held_out(self.obs)
        self.label = self._labels()
        self.perturbation = self._perturbations()

    @property
    def n_draws(self) -> int:
        """Draws of the task that is drawn most."""
        return max(math.ceil(self.data.draws.get(task, 1.0)) for task in self.data.tasks)

    @property
    def names(self) -> NDArray[Any]:
        """Cell names, object (n,)."""
        return np.asarray(self.obs.index.astype(str), dtype=object)

    def sentences(self, draw: int, augmentation: Augmentation, known: Ranker, seed: int) -> list[list[str]]:
        """Every cell written once more: thinned, on a panel, ties in a new order."""
        generator = np.random.default_rng([seed, draw])
        matrix = self.matrix.copy()
        low, high = augmentation.thin
        if low < 1.0 and self.scale.kind == "counts":
            share = np.repeat(generator.uniform(low, high, matrix.shape[0]), np.diff(matrix.indptr))
            matrix.data = generator.binomial(matrix.data.astype(np.int64), share).astype(np.float32)
        if augmentation.panel:
            # One panel a draw: its size is log-uniform, from 3 % to all of the genes.
            on_panel = generator.random(matrix.shape[0]) < augmentation.panel
            measured = generator.random(matrix.shape[1]) < np.exp(generator.uniform(np.log(0.03), 0))
            off = np.repeat(on_panel, np.diff(matrix.indptr)) & ~measured[matrix.indices]
            matrix.data[off] = 0
        indptr, genes, _ = known.rank(matrix, [f"{name}/{draw}" for name in self.names])
        symbols = np.asarray(self.symbols, dtype=object)[genes]
        return [list(symbols[start:stop]) for start, stop in zip(indptr[:-1], indptr[1:], strict=True)]

    def _labels(self) -> NDArray[Any] | None:
        if self.data.cell_type is None:
            return None
        column = _column(self.obs, self.data.cell_type)
        labels = np.array([None if pd.isna(v) else self.data.labels.get(str(v), str(v)) for v in column], dtype=object)
        for name, value in self.data.label_where.items():
            labels[np.asarray(_column(self.obs, name).astype(str) != value)] = None
        return labels

    def _perturbations(self) -> NDArray[Any] | None:
        if self.data.perturbation is None:
            return None
        values = clean_perturbations(list(_column(self.obs, self.data.perturbation)), len(self.obs))
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


def exclude_held_out(cells: Mapping[str, Cells]) -> None:
    """Hold out, in files that share cells with another one, what is held out there. Matched by barcode."""
    for one in cells.values():
        for other in one.data.exclude_held_out_of:
            if other not in cells:
                raise ValueError(f"exclude_held_out_of names {other!r}, which is not in the training data: {sorted(cells)}")
            barcodes = {barcode(name) for name in cells[other].names[cells[other].test]}
            one.test |= np.array([barcode(name) in barcodes for name in one.names])


def barcode(name: str) -> str:
    """A cell's barcode: its name without a sample suffix (``AAACATAC-1``, ``AAACATAC-1_2``)."""
    return name.split("_")[0].split("-")[0]


def pairs(
    cells: Cells,
    tasks: Mapping[str, Task],
    *,
    draw: int,
    held_out: bool,
    lengths: Mapping[str, int],
    augmentation: Augmentation,
    ranker: Ranker,
    synonyms: Mapping[str, Sequence[str]],
    seed: int,
) -> Iterator[tuple[str, Prompt, str]]:
    """``(task, prompt, completion)`` for every cell of one side of the split, in one draw.

    Parameters
    ----------
    lengths
        Genes per sentence for each task.
    synonyms
        Other spellings of a label; each draw takes the label itself or one of them, half of the time each.
    """
    generator = np.random.default_rng([seed, draw, 1])
    sentences = cells.sentences(draw, augmentation, ranker, seed)
    side = np.flatnonzero((cells.test == held_out) & np.array([len(sentence) > 0 for sentence in sentences]))
    everyone = side
    for name in cells.data.tasks:
        task, length = tasks[name], lengths[name]
        share = 1.0 if held_out else cells.data.draws.get(name, 1.0) - draw
        side = everyone if share >= 1 else everyone[generator.random(len(everyone)) < share]
        if name in ("annotate", "generate"):
            if cells.label is None:
                raise ValueError(f"task {name!r} on {cells.data.file} needs the obs column of the labels (cell_type:)")
            for cell in side:
                if cells.label[cell] is None:
                    continue
                label = _spelling(str(cells.label[cell]), synonyms, generator)
                genes = sentences[cell][:length]
                if name == "annotate":
                    prompt = task.prompt(genes=genes, organism=cells.organism[cell])
                    yield name, prompt, task.complete(cell_type=label)
                elif cells.perturbation is None or cells.perturbation[cell] == cells.data.control:
                    prompt = task.prompt(organism=cells.organism[cell], cell_type=label, ask=len(genes))
                    yield name, prompt, task.complete(sentence=" ".join(genes))
        elif name == "perturb":
            for control, perturbed in _control_pairs(cells, everyone, side, generator):
                genes, answer = sentences[control][:length], sentences[perturbed][:length]
                prompt = task.prompt(
                    genes=genes, organism=cells.organism[perturbed], perturbation=str(cells.perturbation[perturbed])  # type: ignore[index]
                )
                yield name, prompt, task.complete(sentence=" ".join(answer))
        else:
            raise ValueError(f"no training pairs are defined for task {name!r}; available: annotate, generate, perturb")


def _control_pairs(
    cells: Cells, everyone: NDArray[np.int64], chosen: NDArray[np.int64], generator: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Each chosen perturbed cell with a random control of the same context, both from the same side of the split."""
    if cells.perturbation is None:
        raise ValueError(f"task 'perturb' on {cells.data.file} needs the obs column of the perturbation (perturbation:)")
    context = [tuple(row) for row in _columns(cells.obs, cells.data.context).astype(str).to_numpy()]
    controls: dict[tuple[str, ...], list[int]] = {}
    for cell in everyone:
        if cells.perturbation[cell] == cells.data.control:
            controls.setdefault(context[cell], []).append(cell)
    for cell in chosen:
        if cells.perturbation[cell] not in (None, cells.data.control) and context[cell] in controls:
            yield int(generator.choice(controls[context[cell]])), int(cell)


def _spelling(label: str, synonyms: Mapping[str, Sequence[str]], generator: np.random.Generator) -> str:
    others = synonyms.get(label, ())
    return str(generator.choice(others)) if len(others) and generator.random() < 0.5 else label


def _column(obs: pd.DataFrame, column: str) -> pd.Series[Any]:
    return _columns(obs, (column,))[column]


def _columns(obs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    for column in columns:
        if column not in obs.columns:
            raise KeyError(f"adata.obs has no column {column!r}; available: {list(map(str, obs.columns))}")
    return obs[list(columns)]


def training_ranker(symbols: Sequence[str], seed: int) -> Ranker:
    """Ranks with ties drawn anew for each cell and draw: the order of ties is noise that a model must not learn."""
    return Ranker(symbols, Recipe(ties="random", seed=seed))
