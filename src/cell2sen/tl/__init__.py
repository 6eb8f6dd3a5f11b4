"""Tools for AnnData: one function for each verb."""

from __future__ import annotations

from cell2sen.tl.cells import UNIT, UNKNOWN, UNS, annotate, embed, generate, perturb, probabilities
from cell2sen.tl.samples import generate_sample
from cell2sen.tl.text import ask, caption, interpret

__all__ = [
    "UNIT",
    "UNKNOWN",
    "UNS",
    "annotate",
    "ask",
    "caption",
    "embed",
    "generate",
    "generate_sample",
    "interpret",
    "perturb",
    "probabilities",
]
