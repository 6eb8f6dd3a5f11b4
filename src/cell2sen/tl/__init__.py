"""Tools for AnnData: one function for each verb."""

from __future__ import annotations

from cell2sen.tl.cells import UNIT, UNKNOWN, UNS, annotate, embed, generate, perturb, probabilities
from cell2sen.tl.space import held_out_regions, neighbour, neighbourhoods, niche, same_neighbourhood, same_niche

__all__ = [
    "UNIT",
    "UNKNOWN",
    "UNS",
    "annotate",
    "embed",
    "generate",
    "held_out_regions",
    "neighbour",
    "neighbourhoods",
    "niche",
    "perturb",
    "probabilities",
    "same_neighbourhood",
    "same_niche",
]
