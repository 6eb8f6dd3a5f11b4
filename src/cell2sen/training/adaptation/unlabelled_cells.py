"""Unlabelled cells of an adaptation: training and held-out ones, random views, prompts as embeddings read them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.data.expression import Expression
from cell2sen.data.obs import Context, context_columns
from cell2sen.engine.tokenization.tokenizer import Tokenized, Tokens, fit
from cell2sen.inference.options import Options, recipe_for
from cell2sen.inference.session import open_cells, task_length
from cell2sen.inference.templates import choose_templates
from cell2sen.model import Model
from cell2sen.prompt import context_line
from cell2sen.sentences.sentences import Sentences
from cell2sen.training.augmentation import augmented
from cell2sen.training.config.data import Augmentation, Matrix, Split, TrainingFile
from cell2sen.training.examples.cells import TrainingCells

if TYPE_CHECKING:
    from anndata import AnnData

#: Changes of a cell that should leave it where it is: depth, panel, ambient counts, technology, genes not found.
VIEWS = Augmentation(thin=(0.3, 1.0), panel=0.1, ambient=0.2, gene_factors=0.5, dropout=0.3)

#: Minimum number of cells with genes.
MIN_CELLS = 50

#: Maximum number of cells that are used; more are drawn at random from.
MAX_CELLS = 20_000

#: Share of the cells whose losses are measured, not trained on.
HELD_OUT = 0.1


class UnlabelledCells(TrainingCells):
    """Cells of a file, or of an object in memory, without labels.

    Parameters
    ----------
    source
        Cells, as every verb takes them. Not changed.
    model
        Model whose genes, recipe and prompts are used.
    known
        Symbols → bool (n,): which of them the model can write.
    options
        Those of :class:`cell2sen.inference.options.Options` that describe values and genes.

    Raises
    ------
    ValueError
        Fewer than :data:`MIN_CELLS` cells with genes that the model can write.
    """

    def __init__(
        self,
        source: AnnData | str | Path,
        model: Model,
        known: Callable[[Sequence[str]], NDArray[np.bool_]],
        options: Options,
        *,
        seed: int = 0,
    ) -> None:
        self._source, self._options = source, options
        self.model = model
        self.recipe = recipe_for(model, options)
        organism: Any = options.get("organism")
        name = Path(source).name if isinstance(source, str | Path) else "cells in memory"
        file = TrainingFile(
            file=name, tasks={}, matrix=Matrix(organism=organism), split=Split(test=HELD_OUT, seed=seed)
        )
        columns = context_columns(options.get("context"))
        super().__init__(file, Path(), self.recipe.case, columns, values=False)
        self.n_cells = len(self.rows)
        if self.n_cells > MAX_CELLS:
            self.keep(np.sort(np.random.default_rng(seed).permutation(self.n_cells)[:MAX_CELLS]))
        self.keep_genes(known)
        with self._opened() as expression:
            self._read(expression)
        has_genes = np.diff(self.matrix.indptr) > 0
        if has_genes.sum() < MIN_CELLS:
            raise ValueError(
                f"an adaptation needs at least {MIN_CELLS} cells with genes that {model.name} can write, found "
                f"{int(has_genes.sum())} of {self.n_cells} in {name}: use the model as it is"
            )
        if not has_genes.all():
            self.keep(np.flatnonzero(has_genes))
        if not self.test.any():
            self.test[-1] = True
        self.seed = seed

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Expression]:
        expression, _ = open_cells(self._source, self.recipe, self._options)
        with expression:
            yield expression

    def chosen(self, rows: NDArray[np.int64]) -> UnlabelledCells:
        """Some of the cells."""
        part = copy.copy(self)
        part.keep(rows)
        return part

    def profile(self) -> NDArray[np.float64]:
        """Sum of the training cells' counts, the ambient profile, float64 (genes,)."""
        return np.asarray(self.counts(np.flatnonzero(~self.test)).sum(axis=0), dtype=np.float64).ravel()

    def counts(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Counts of some cells, estimated behind other values, CSR (cells, genes)."""
        matrix = self.matrix[rows]
        return sp.csr_matrix((self.scale.counts(matrix), matrix.indices, matrix.indptr), matrix.shape)

    def view(self, rows: NDArray[np.int64], draw: int, profile: NDArray[np.float64]) -> Sentences:
        """Sentences of some cells as another experiment might have found them; reproducible by `draw` and the seed.

        A cell's sentence depends on the cell, `draw`, the seed and `profile`, not on the other cells. Cells that would
        lose all genes are as they were measured.
        """
        part, counts = self.chosen(rows), self.counts(rows)
        changed = augmented(counts, part.names, VIEWS, profile=profile, draw=draw, seed=self.seed)
        is_empty = sp.diags((np.diff(changed.indptr) == 0).astype(np.float32))
        part.matrix = sp.csr_matrix(changed + is_empty @ counts, dtype=np.float32)
        part.matrix.eliminate_zeros()
        return part.sentences(draw, Augmentation(), self.seed)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Prompts of the task ``embed`` for a model, as :func:`cell2sen.tl.embed` writes them, and their token ids."""

    model: Model
    tokens: Tokens
    context_tokens: int
    """Maximum number of tokens of a prompt."""

    options: Options

    def read(self, sentences: Sentences) -> list[Tokenized]:
        """Tokens of the prompt of each cell."""
        task = choose_templates(tasks.load("embed"), self.model, self.options.get("templates"))
        context = Context.of(self.options.get("context"), sentences.obs)
        rows = range(len(sentences))
        lines = [context_line(context.shared([row])) for row in rows] if context else None
        length = task_length(self.model, recipe_for(self.model, self.options), task)
        prompts = task.prompts(sentences, rows, length=length, contexts=lines)
        fitted, _ = fit(
            prompts, context=self.context_tokens, reserved_tokens=[0] * len(prompts), count=self.tokens.lengths
        )
        return self.tokens.encode(fitted)
