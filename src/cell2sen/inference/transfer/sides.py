"""Query and reference over the genes that both have: embeddings, expression, and cells that are in both."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen import tasks
from cell2sen.backend import Backend
from cell2sen.data.expression import Expression
from cell2sen.data.names.text import some
from cell2sen.data.obs import Context, context_columns
from cell2sen.data.obs import obs_columns as columns_of
from cell2sen.data.splits import are_counted, barcode
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.options import Options, check_options, recipe_for
from cell2sen.inference.session import Session, load_model, model_of, open_cells
from cell2sen.inference.templates import choose_templates
from cell2sen.inference.trained import warn_of_context, warn_of_organisms
from cell2sen.inference.transfer.stored import Stored
from cell2sen.sentences.writing import from_expression

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Options of the reference that differ from those of the query: which values are read, and the names of its genes.
REFERENCE_OPTIONS = ("layer", "use_raw", "symbols", "gene_table", "aliases", "organism", "scale")

#: Shared genes below which two files cannot be compared, and share of counts in them below which a warning is logged.
MIN_SHARED, MIN_SHARED_COUNTS = 20, 0.5

#: Genes of a sentence from which on equal sentences are the same cell.
MIN_IDENTICAL = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Cells of one of the two files over the shared genes."""

    session: Session

    @property
    def names(self) -> list[str]:
        """Cell names."""
        return [str(name) for name in self.session.sentences.names]

    @property
    def obs(self) -> pd.DataFrame:
        """Annotations of the cells."""
        assert self.session.data is not None
        return self.session.data.obs

    @property
    def has_genes(self) -> NDArray[np.bool_]:
        """Which cells have an expressed gene, bool (n,)."""
        return np.asarray(self.session.sentences.n_genes > 0)

    def embedding(self, stored: Stored | None = None, *, hidden_layer: int = -1) -> NDArray[np.float32]:
        """Embeddings, float32 (n, hidden), NaN for cells without genes; from a stored file, if there is one.

        Parameters
        ----------
        hidden_layer
            As for :func:`cell2sen.tl.embed`. A stored file must be of the same layer.
        """
        found = None if stored is None else stored.read()
        if found is None:
            found = embed_cells(self.session, hidden_layer=hidden_layer).vectors
            if stored is not None:
                stored.write(found)
        return found

    def expression(self, symbols: tuple[str, ...]) -> tuple[sp.csr_matrix, float]:
        """Expression as ln(1 + CP10k) of the counts in the shared genes alone, float32 CSR (n, symbols).

        Totals over the shared genes: values do not depend on genes that the other file does not have.

        Parameters
        ----------
        symbols
            Order of the columns.

        Returns
        -------
        The matrix, and the share of the counts of the file that are of the shared genes, on average over the cells.
        """
        data = self.session.data
        assert data is not None
        parts: list[sp.csr_matrix] = []
        of_all: list[NDArray[np.float64]] = []
        for block in data.blocks():
            sums = data.row_sums(block)
            shared, whole_block = (
                _linear(data.scale.ln_cp10k(rows.astype(np.float64), sums)) for rows in (block.values, block.all_genes)
            )
            parts.append(shared)
            of_all.append(np.asarray(whole_block.sum(axis=1), dtype=np.float64).ravel())
        values = sp.csr_matrix(sp.vstack(parts))
        totals, whole = np.asarray(values.sum(axis=1)).ravel(), np.concatenate(of_all)
        share = float(np.mean(np.minimum(totals[totals > 0] / whole[totals > 0], 1))) if (totals > 0).any() else 0.0
        values.data *= np.repeat(1e4 / np.where(totals > 0, totals, 1), np.diff(values.indptr))
        values.data = np.log1p(values.data)
        column = {symbol: number for number, symbol in enumerate(data.symbols)}
        ordered = sp.csr_matrix(values[:, [column[symbol] for symbol in symbols]], dtype=np.float32)
        ordered.sort_indices()
        return ordered, share

    def contents(self, symbols: tuple[str, ...]) -> list[str | None]:
        """Hash of each cell's sentence over the shared genes; ``None`` for cells with few genes.

        Parameters
        ----------
        symbols
            Order of the genes, the same for both files.
        """
        sentences = self.session.sentences
        place = {symbol: number for number, symbol in enumerate(symbols)}
        places = np.array([place[symbol] for symbol in sentences.symbols], dtype=np.int32)
        ids = places[sentences.genes.flatten().to_numpy()]
        ends = np.cumsum(sentences.n_genes)
        return [
            hashlib.blake2b(ids[end - number : end].tobytes(), digest_size=16).hexdigest()
            if number >= MIN_IDENTICAL
            else None
            for number, end in zip(sentences.n_genes.tolist(), ends.tolist(), strict=True)
        ]


def _linear(logarithms: sp.csr_matrix) -> sp.csr_matrix:
    """exp(x) − 1 of each value."""
    result = sp.csr_matrix(logarithms, dtype=np.float64)
    result.data = np.expm1(result.data)
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """Query and reference, open over the genes that both have."""

    query: Side
    reference: Side
    symbols: tuple[str, ...]
    """Shared genes, under the model's names, sorted."""

    n_genes: tuple[int, int]
    """Genes of the query and of the reference that the model has."""

    @property
    def backend(self) -> Backend:
        """The loaded model."""
        return self.query.session.backend

    def in_reference(self, contents: Sequence[str | None], rows: NDArray[np.int64]) -> Overlap:
        """Cells of the query that are in the reference, by their sentence or their name.

        Parameters
        ----------
        contents
            Of the reference, from :meth:`Side.contents`.
        rows
            Cells of the reference that are compared.
        """
        names = self.reference.names
        by_content: dict[str, int] = {}
        by_name: dict[str, int] = {}
        for row in rows.tolist():
            if (content := contents[row]) is not None:
                by_content.setdefault(content, row)
        if not are_counted(names):  # equal numbers prove nothing
            for texts in (names, [barcode(name) for name in names]):
                for row in rows.tolist():
                    by_name.setdefault(texts[row], row)
        same_content = [by_content.get(content or "", -1) for content in self.query.contents(self.symbols)]
        same_name = [by_name.get(name, by_name.get(barcode(name), -1)) for name in self.query.names]
        return Overlap(
            same_content=np.array(same_content, dtype=np.int64), same_name=np.array(same_name, dtype=np.int64)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Cells of the query that are in the reference."""

    same_content: NDArray[np.int64]
    """int64 (query cells,): reference cell with the same sentence over the shared genes; -1 without one."""

    same_name: NDArray[np.int64]
    """int64 (query cells,): reference cell with the same barcode or name; -1 without one."""

    @property
    def twin(self) -> NDArray[np.int64]:
        """int64 (query cells,): the same cell in the reference; -1 without one."""
        return np.where(self.same_content >= 0, self.same_content, self.same_name)


@contextlib.contextmanager
def open_sides(
    query: AnnData | str | Path,
    reference: AnnData | str | Path,
    options: Options,
    reference_options: Mapping[str, Any] | None = None,
) -> Iterator[Sides]:
    """Query and reference over the genes that both have and the model knows, open while the block runs.

    Parameters
    ----------
    query, reference
        AnnData or file.
    options
        Options of the query, of the model and of the prompts.
    reference_options
        Which values of the reference are read, and the names of its genes (:data:`REFERENCE_OPTIONS`). Default: ``X``,
        recognised as always; options of the query do not apply.

    Raises
    ------
    ValueError
        Fewer than :data:`MIN_SHARED` shared genes, or as for other verbs.
    TypeError
        Options that do not exist.
    """
    check_options(options)
    given = dict(reference_options or {})
    if unknown := sorted(set(given) - set(REFERENCE_OPTIONS)):
        raise TypeError(f"unknown reference options {unknown}; available: {sorted(REFERENCE_OPTIONS)}")
    rest = {name: value for name, value in options.items() if name not in (*REFERENCE_OPTIONS, "whole")}
    of_reference = cast(Options, {**rest, **given})
    recipe = recipe_for(model_of(options), options)
    with contextlib.ExitStack() as opened:
        files = []
        for data, chosen in ((query, options), (reference, of_reference)):
            expression, _ = open_cells(data, recipe, chosen)
            opened.enter_context(expression)
            columns_of(expression.obs, context_columns(chosen.get("context")))
            files.append((expression, chosen))
        backend = load_model(options)
        known = [
            expression.known_to(backend.known_genes, expression.organism(chosen.get("organism")))
            for expression, chosen in files
        ]
        shared = tuple(sorted(set(known[0].symbols) & set(known[1].symbols)))
        if len(shared) < MIN_SHARED:
            raise ValueError(
                f"query and reference must share at least {MIN_SHARED} genes that {backend.model.name} has, found "
                f"{len(shared)}: the query has {some(list(known[0].symbols[:5]))}, the reference "
                f"{some(list(known[1].symbols[:5]))}. Name the columns of var with gene symbols"
            )
        sides = [
            Side(session=_session(expression.limited_to(shared), backend, chosen))
            for expression, (_, chosen) in zip(known, files, strict=True)
        ]
        yield Sides(
            query=sides[0],
            reference=sides[1],
            symbols=shared,
            n_genes=(len(known[0].symbols), len(known[1].symbols)),
        )


def _session(expression: Expression, backend: Backend, options: Options) -> Session:
    """Session of the cells of a file for embedding, with the prompts of :func:`cell2sen.inference.session.start`."""
    recipe = recipe_for(backend.model, options)
    sentences = from_expression(
        expression,
        recipe,
        organism=expression.organism(options.get("organism")),
        obs_columns=context_columns(options.get("context")),
        progress=options.get("progress", True),
    )
    session = Session(
        backend=backend,
        sentences=sentences,
        task=choose_templates(tasks.load("embed"), backend.model, options.get("templates")),
        data=expression,
        options=options,
        context=Context.of(options.get("context"), sentences.obs),
    )
    warn_of_organisms(session.model, session.sentences)
    warn_of_context(session.model, session.context, session.task)
    return session
