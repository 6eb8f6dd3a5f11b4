"""Training examples of gene sets: names and genes of the sets of one GMT file, with their split."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.gene_sets import listed_genes, name_in_text, read_sets
from cell2sen.data.genes.organism import scientific_name
from cell2sen.data.vocabulary import match
from cell2sen.prompt import Prompt
from cell2sen.task import Task
from cell2sen.training.config.data import GeneSetFile

logger = logging.getLogger(__name__)

#: Tasks that are learned from gene sets.
SET_TASKS = ("name_gene_set", "list_gene_set")


class TrainingSets:
    """Gene sets of one file, from which examples are drawn.

    Parameters
    ----------
    data
        Settings of the file.
    base
        Folder that ``data.file`` is relative to.
    case
        ``"upper"`` or ``"keep"``: spelling of the symbols, as in the model's recipe.

    Attributes
    ----------
    names
        Names of the sets.
    genes
        Genes of each set that the model can write.
    test
        Held-out sets, bool (sets,).
    organism
        Scientific name.

    Raises
    ------
    ValueError
        An unknown task, or no set of a name to hold out.
    """

    def __init__(self, data: GeneSetFile, base: Path, case: str) -> None:
        if wrong := [name for name in data.tasks if name not in SET_TASKS]:
            raise ValueError(f"{data.file}: tasks {wrong} cannot be learned from gene sets; available: {SET_TASKS}")
        sets = read_sets(base / data.file)
        self.data, self.case = data, case
        self.organism = scientific_name(data.organism)
        self.names = list(sets)
        upper = case == "upper"
        self.genes = [
            tuple(dict.fromkeys(gene.upper() if upper else gene for gene in genes)) for genes in sets.values()
        ]
        self.test = _held_out(self.names, data)
        held_out = {frozenset(genes) for genes, test in zip(self.genes, self.test, strict=True) if test}
        # Collections have the same genes under several names, which must be on one side.
        self.test |= np.array([frozenset(genes) in held_out for genes in self.genes], dtype=bool)

    @property
    def n_draws(self) -> int:
        """Number of draws: that of the task with the most, rounded up."""
        return max(map(math.ceil, self.data.tasks.values()))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Genes of all training sets, sorted."""
        pairs = zip(self.genes, self.test, strict=True)
        return tuple(sorted({gene for genes, test in pairs if not test for gene in genes}))

    def keep_genes(self, known: Callable[[Sequence[str]], NDArray[np.bool_]]) -> None:
        """Drop genes that the model cannot write; the others get its names (:func:`cell2sen.data.vocabulary.match`)."""
        symbols = sorted({gene for genes in self.genes for gene in genes})
        matched = match(symbols, known, {self.organism}, upper=self.case == "upper")
        name_of = dict(zip(symbols, matched.names, strict=True))
        self.genes = [
            tuple(dict.fromkeys(name for gene in genes if (name := name_of[gene]) is not None)) for genes in self.genes
        ]
        n_unknown = sum(name is None for name in matched.names)
        logger.info("%s: the model can write %d of %d genes", self.data.file, len(symbols) - n_unknown, len(symbols))

    def pairs(
        self, tasks: Mapping[str, Task], *, draw: int, held_out: bool, lengths: Mapping[str, int], seed: int
    ) -> Iterator[tuple[str, Prompt, str]]:
        """``(task, prompt, answer)`` of the sets of one side of the split, in one draw.

        Of sets with more genes than the task's length, each draw has another random part. Sets with fewer than two
        genes that the model can write are left out.
        """
        generator = np.random.default_rng([seed, draw, 2])
        side = [place for place in np.flatnonzero(self.test == held_out) if len(self.genes[place]) > 1]
        for name, draws in self.data.tasks.items():
            share = 1.0 if held_out else draws - draw
            task = tasks[name]
            for place in side:
                if share < 1 and generator.random() >= share:
                    continue
                variant = int(generator.integers(len(task.templates))) if len(task.templates) > 1 else 0
                gene_set = self.names[place]
                members = listed_genes(self.genes[place], lengths[name], gene_set, seed + draw)
                slots: dict[str, Any] = {"gene_set": name_in_text(gene_set), "members": members}
                prompt = task.prompt(
                    organism=self.organism,
                    key=gene_set,
                    answer_genes=len(members) if task.answer == "genes" else None,
                    variant=variant,
                    **{slot: slots[slot] for slot in task.slots},
                )
                answer: dict[str, Any] = {str(task.target): slots[str(task.target)]}
                yield name, prompt, task.complete(variant=variant, **answer)


def _held_out(names: Sequence[str], data: GeneSetFile) -> NDArray[np.bool_]:
    """Mask of held-out sets: those of the settings, else a random share, by name."""
    if data.hold_out:
        if unknown := sorted(set(data.hold_out) - set(names)):
            raise ValueError(f"{data.file} has no gene sets {unknown} to hold out; available: {list(names)[:20]}")
        return np.isin(names, data.hold_out)
    generator = np.random.default_rng(data.seed)
    drawn = generator.permutation(sorted(names))[: round(data.test * len(names))]
    return np.isin(names, drawn)
