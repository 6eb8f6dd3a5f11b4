"""Tools for AnnData and gene sets: one function for each verb."""

from __future__ import annotations

from cell2sen.tl.bulk import compose, pseudobulk
from cell2sen.tl.cells import UNIT, UNKNOWN, UNS, annotate, embed, generate, perturb, probabilities
from cell2sen.tl.gene_sets import list_gene_sets, name_gene_sets
from cell2sen.tl.samples import generate_sample
from cell2sen.tl.text import ask, caption, interpret

__all__ = [
    "UNIT",
    "UNKNOWN",
    "UNS",
    "annotate",
    "ask",
    "caption",
    "compose",
    "embed",
    "generate",
    "generate_sample",
    "interpret",
    "list_gene_sets",
    "name_gene_sets",
    "perturb",
    "probabilities",
    "pseudobulk",
]
