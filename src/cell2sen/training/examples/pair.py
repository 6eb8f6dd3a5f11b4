"""Pair: a prompt and the answer to be learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cell2sen.prompt import Prompt


class Pair(NamedTuple):
    """A prompt and the answer to be learned."""

    task: str
    prompt: Prompt
    completion: str


class PairOfCells(Pair):
    """A pair whose answer are several cells, which can be written with fewer genes."""

    shorter: Callable[[int], tuple[Prompt, str]]
    """Prompt and answer with this number of genes per cell, for contexts that are too short for the whole answer."""

    @classmethod
    def of(cls, task: str, shorter: Callable[[int], tuple[Prompt, str]], n_genes: int) -> PairOfCells:
        """Pair with `n_genes` genes per cell."""
        pair = cls(task, *shorter(n_genes))
        pair.shorter = shorter
        return pair
