"""Plan of a corpus: the cells of its files without their expression, and the parts in which they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.output import complete_file
from cell2sen.task import Task
from cell2sen.training.corpus.distinct import first_of_each, hashes_of_file
from cell2sen.training.corpus.settings import CorpusConfig
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.examples.names import check_names, exclude_held_out, unite_combinations
from cell2sen.training.examples.numbers import fit_bins
from cell2sen.training.examples.pairs import Examples

#: Known genes of a model, as :meth:`TrainingCells.keep_genes` takes them.
Known = Callable[[Sequence[str]], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some cells of one side of one file (or all gene sets of a side), and the tasks that are drawn from them."""

    number: int
    """Number in the corpus, which its random numbers depend on."""

    file: str
    held_out: bool
    tasks: Mapping[str, float]
    """Task → draws."""

    places: NDArray[np.int64] | None = None
    """Cells among those of the file that are used, int64 (cells,), ascending; ``None`` for gene sets."""

    @property
    def draws(self) -> list[tuple[str, int]]:
        """Name of the Parquet file of each draw, and number of the draw; held-out cells are drawn once."""
        side = "held_out" if self.held_out else "train"
        n_draws = 1 if self.held_out else max(map(math.ceil, self.tasks.values()))
        return [(f"{side}-{self.number:06d}-{draw:04d}.parquet", draw) for draw in range(n_draws)]


def outlines(
    config: CorpusConfig, base: Path, case: str, tasks: Mapping[str, Task], lengths: Mapping[str, int], known: Known
) -> Examples:
    """Cells of all files without their expression, and gene sets: sides of the split, names and bins as in a training.

    Raises
    ------
    ValueError, KeyError
        As in a training: no such column, no cell with the values of ``where``, names that cannot be told apart.
    """
    cells = {data.file: TrainingCells(data, base, case, config.context, values=False) for data in config.files}
    for data in config.files:
        if config.is_held_out(data):
            cells[data.file].test[:] = True
    exclude_held_out(cells)
    unite_combinations(cells)
    fit_bins(cells, tasks)
    check_names(cells, tasks, {})
    for file in cells.values():
        file.keep_genes(known)
        for name in file.data.tasks:
            _check_columns(file, tasks[name])
    sets = {data.file: TrainingSets(data, base, case) for data in config.gene_sets}
    held_out = {frozenset(genes) for file in sets.values() for genes in _of_side(file, True)}
    for of_file in sets.values():  # the same set in two collections
        of_file.test |= np.array([frozenset(genes) in held_out for genes in of_file.genes], dtype=bool)
        of_file.keep_genes(known)
    return Examples(cells=cells, tasks=tasks, lengths=lengths, sets=sets)


def _of_side(sets: TrainingSets, held_out: bool) -> Iterator[Sequence[str]]:
    return (genes for genes, test in zip(sets.genes, sets.test, strict=True) if test == held_out)


def _check_columns(file: TrainingCells, task: Task) -> None:
    """Raise a ValueError or KeyError before the first part if a task needs a column that the file does not have."""
    if task.slots == {"ligand"}:
        return
    slots = set(task.slots)
    if task.is_of_columns:
        file.answers_of_parts(task)
    elif task.answer in ("label", "labels", "text") and task.target is not None:
        slots.add(task.target)
    for slot in sorted(slots):
        file.values(slot)
    if task.cells is not None and task.space is None:
        file.values(_sample_slot(file, task))


def keep_distinct(examples: Examples, config: CorpusConfig, base: Path, work: Path) -> dict[str, int]:
    """With ``deduplicate`` drop copies of other cells, and cells without genes; number of those of each file.

    Which cells are kept is written into a folder, so that a build that is continued does not read all files again.
    """
    files = list(examples.cells.values())
    if not config.deduplicate:
        return dict.fromkeys(examples.cells, 0)
    paths = [work / f"kept-{number:04d}.npy" for number in range(len(files))]
    if not all(path.exists() for path in paths):
        hashes = [hashes_of_file(file.data, base)[file.rows] for file in files]
        # Copies stay in held-out studies.
        order = sorted(range(len(files)), key=lambda number: (not config.is_held_out(files[number].data), number))
        for path, mask in zip(paths, first_of_each(hashes, order), strict=True):
            with complete_file(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, mask)
    left_out: dict[str, int] = {}
    for file, path in zip(files, paths, strict=True):
        mask = np.load(path, allow_pickle=False)
        left_out[file.data.file] = int((~mask).sum())
        file.keep(np.flatnonzero(mask))
    return left_out


def parts_of(examples: Examples, part_cells: int, seed: int) -> list[Part]:
    """Parts of all files, each of one side of the split, in the order of their numbers.

    Raises
    ------
    ValueError
        There is no training cell and no gene set.
    """
    parts: list[Part] = []
    for position, (name, file) in enumerate(examples.cells.items()):
        for held_out in (False, True):
            side = np.flatnonzero(file.test == held_out)
            generator = np.random.default_rng([seed, position, int(held_out)])
            for tasks, places in _parts_of_side(file, side, examples.tasks, part_cells, generator):
                parts.append(Part(number=len(parts), file=name, held_out=held_out, tasks=tasks, places=places))
    for name, sets in examples.sets.items():
        for held_out in (False, True):
            parts.append(Part(number=len(parts), file=name, held_out=held_out, tasks=sets.data.tasks))
    if all(part.held_out for part in parts):
        raise ValueError("nothing to learn from: no file has a training cell with genes")
    return parts


def _parts_of_side(
    file: TrainingCells,
    side: NDArray[np.int64],
    tasks: Mapping[str, Task],
    part_cells: int,
    generator: np.random.Generator,
) -> Iterator[tuple[dict[str, float], NDArray[np.int64]]]:
    """Tasks and cells of the parts of one side of a file.

    Few cells are one part. Of more, tasks whose cells must stay together in the same groups have parts of their own.
    """
    drawn = file.data.tasks
    if not len(side):
        return
    if len(side) <= part_cells:
        yield dict(drawn), side
        return
    families: dict[tuple[str, ...], dict[str, float]] = {}
    for name, draws in drawn.items():
        families.setdefault(_family(file, tasks[name]), {})[name] = draws
    for (kind, *slots), family in families.items():
        if kind == "table":  # of no cells: once
            yield family, side[:1]
        elif kind == "cell":
            for places in np.array_split(side, -(-len(side) // part_cells)):
                yield family, places
        else:
            keys: Sequence[Hashable | None] = file.contexts() if kind == "context" else _keys(file, kind, slots)
            limit = len(side) if kind == "section" else part_cells
            for places in grouped(side, [keys[place] for place in side], part_cells, limit, generator):
                yield family, places


def _family(file: TrainingCells, task: Task) -> tuple[str, ...]:
    """What must stay together for a task: nothing, samples of a slot, contexts of perturbations, or sections."""
    if task.space is not None:
        return ("section",)
    if task.slots == {"ligand"}:
        return ("table",)
    if task.cells is not None:
        return ("sample", _sample_slot(file, task))
    return ("context",) if task.answer == "sentences" and task.reads_cells else ("cell",)


def _sample_slot(file: TrainingCells, task: Task) -> str:
    own = f"{task.name}_sample"
    return own if own in file.data.columns else "sample"


def _keys(file: TrainingCells, kind: str, slots: Sequence[str]) -> Sequence[Hashable | None]:
    if kind == "sample":
        return list(file.values(slots[0]))
    sections: Any = None if file.space is None else file.space.sections
    return [""] * len(file.rows) if sections is None else list(sections)


def grouped(
    places: NDArray[np.int64],
    keys: Sequence[Hashable | None],
    part_cells: int,
    largest: int,
    generator: np.random.Generator,
) -> Iterator[NDArray[np.int64]]:
    """Parts of whole groups, of `part_cells` cells or less; groups above `largest` are split at random.

    Parameters
    ----------
    places
        Cells, int64 (cells,).
    keys
        Group of each; cells of ``None``, or with ``None`` in a tuple, are in no part.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, key in zip(places.tolist(), keys, strict=True):
        if key is not None and not (isinstance(key, tuple) and None in key):
            groups.setdefault(key, []).append(place)
    filled: list[int] = []
    for group in groups.values():  # in the order of their first cells: neighbours in the file are read together
        if len(group) > largest:
            n_pieces = -(-len(group) // part_cells)
            yield from map(np.sort, np.array_split(generator.permutation(np.array(group, dtype=np.int64)), n_pieces))
            continue
        if filled and len(filled) + len(group) > part_cells:
            yield np.sort(np.array(filled, dtype=np.int64))
            filled = []
        filled += group
    if filled:
        yield np.sort(np.array(filled, dtype=np.int64))


def read_part(part: Part, examples: Examples) -> TrainingCells:
    """Cells of a part with their expression, and its tasks alone."""
    assert part.places is not None
    cells = examples.cells[part.file].part(part.places)
    cells.data = replace(cells.data, tasks=part.tasks)
    return cells
