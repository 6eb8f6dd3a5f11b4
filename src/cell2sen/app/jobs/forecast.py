"""Forecast of the time of an embedding or annotation, before the model is loaded: that of the command check."""

from __future__ import annotations

from typing import Any

import numpy as np

from cell2sen.app.page_cells import PageCells
from cell2sen.engine import cost
from cell2sen.engine.tokenization.tokenizer import known_genes
from cell2sen.inference.check import dtype_on_cpu, tokens_per_cell
from cell2sen.inference.options import Options, recipe_for
from cell2sen.model import Model

#: Cells whose genes are looked up for the number of tokens of a gene.
N_LOOKED_AT = 100


def seconds_per_cell(cells: PageCells, model: Model, options: Options) -> float | None:
    """Mean seconds of reading a cell with a model on the CPU, without loading the model.

    Returns
    -------
    Seconds, or ``None`` where the checkpoint is not on this machine.
    """
    config = cost.read_config(model)
    if config is None:
        return None
    tokenizer: Any = cost.tokenizer_of(model)
    known = known_genes(model, tokenizer, cells.expression.symbols)
    columns = cells.columns[:, known]
    n_genes = np.bincount(columns.indices, minlength=columns.shape[0])
    genes = [gene for row in range(min(N_LOOKED_AT, len(n_genes))) for gene in cells.genes_of(row)]
    tokens = tokens_per_cell(n_genes, genes, tokenizer, recipe_for(model, options).max_genes)
    return cost.seconds_of_prompts(config, tokens, dtype=dtype_on_cpu(model)) / max(1, len(tokens))
