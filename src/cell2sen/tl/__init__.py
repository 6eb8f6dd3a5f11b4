"""Tools for AnnData and gene sets: one function for each verb."""

from __future__ import annotations

from typing import Any

from cell2sen.tl.bulk import compose, pseudobulk
from cell2sen.tl.cells import annotate, embed, generate, probabilities
from cell2sen.tl.gene_sets import list_gene_sets, name_gene_sets
from cell2sen.tl.integration import integrate
from cell2sen.tl.labels.comparison import compare_labels
from cell2sen.tl.labels.support import supporting_genes
from cell2sen.tl.labels.transfer import ontology_ids, transfer
from cell2sen.tl.responses import perturb
from cell2sen.tl.results import UNIT, UNKNOWN, UNS
from cell2sen.tl.samples import generate_sample
from cell2sen.tl.screen import screen
from cell2sen.tl.space import held_out_regions, neighbour, neighbourhoods, niche, same_neighbourhood, same_niche
from cell2sen.tl.text import ask, caption, interpret

__all__ = [
    "UNIT",
    "UNKNOWN",
    "UNS",
    "annotate",
    "ask",
    "caption",
    "compare_labels",
    "compose",
    "embed",
    "generate",
    "generate_sample",
    "held_out_regions",
    "integrate",
    "interpret",
    "list_gene_sets",
    "name_gene_sets",
    "neighbour",
    "neighbourhoods",
    "niche",
    "ontology_ids",
    "perturb",
    "probabilities",
    "pseudobulk",
    "same_neighbourhood",
    "same_niche",
    "screen",
    "supporting_genes",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name == "train":  # the same function as cell2sen.train, which is above this module
        import cell2sen

        return cell2sen.train
    raise AttributeError(f"module 'cell2sen.tl' has no attribute {name!r}; available: {__all__}")
