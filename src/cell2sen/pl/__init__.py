"""Plots of embeddings, labels, sentences, attention, responses, tissues and tables (extra ``plot``)."""

from __future__ import annotations

from cell2sen.pl.attention_maps import attention
from cell2sen.pl.embeddings import embedding, spatial
from cell2sen.pl.labels import confusion, probabilities
from cell2sen.pl.palette import category_colours
from cell2sen.pl.responses import mean_change, measured_change, response, top_changes, volcano
from cell2sen.pl.sentences import sentence
from cell2sen.pl.support import supporting_genes
from cell2sen.pl.tables import composition, metrics, screen

__all__ = [
    "attention",
    "category_colours",
    "composition",
    "confusion",
    "embedding",
    "mean_change",
    "measured_change",
    "metrics",
    "probabilities",
    "response",
    "screen",
    "sentence",
    "spatial",
    "supporting_genes",
    "top_changes",
    "volcano",
]
