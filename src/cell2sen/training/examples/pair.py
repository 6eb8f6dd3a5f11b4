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
    shorter: Callable[[int], tuple[Prompt, str]] | None = None
    """For answers of several cells: prompt and answer with this number of genes per cell, for contexts that are too
    short for the whole answer."""
