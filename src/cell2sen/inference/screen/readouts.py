"""Value of a goal for cells: from their embedding, the probability of a label, or expected expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import Unsupported
from cell2sen.inference.annotate import ClosedSet, probabilities_of
from cell2sen.inference.responses.expected_response import own_rank_values
from cell2sen.inference.screen.edits import Edit, first_genes
from cell2sen.inference.session import Session
from cell2sen.prompt import Prompt
from cell2sen.sentences.sentences import Sentences

#: Probabilities closer to 0 and 1 than this have its log-odds.
_MIN_PROBABILITY = 1e-12

#: Cells whose expectations are in memory together.
_CELLS_IN_MEMORY = 1024


class Readout(Protocol):
    """Value of a goal for sentences, each of which depends on its own sentence and cell alone."""

    @property
    def session(self) -> Session:
        """Cells, with the task whose prompts are read."""
        ...

    def values(
        self, sentences: Sentences, rows: NDArray[np.int64], edits: Sequence[Edit | None]
    ) -> NDArray[np.float64]:
        """float64 (n,), for `sentences` of the cells `rows`, which may be repeated, after these edits."""
        ...


def _session_of(session: Session, sentences: Sentences, rows: NDArray[np.int64]) -> Session:
    """The session with other sentences of the cells `rows`, with their context."""
    context = session.context
    if context:
        context = replace(context, values=[context.values[row] for row in rows.tolist()])
    return replace(session, sentences=sentences, context=context)


@dataclass(frozen=True, eq=False)
class EmbeddingReadout:
    """Embedding times weights."""

    session: Session
    weights: NDArray[np.float64]

    def values(
        self, sentences: Sentences, rows: NDArray[np.int64], edits: Sequence[Edit | None]
    ) -> NDArray[np.float64]:
        """See :class:`Readout`. Edited sentences share their first tokens with the cell's own."""
        if any(edit is not None for edit in edits):
            # A prompt begins with the number of its genes, so the base has as many as the edited sentence.
            pairs = np.stack([rows, np.minimum(sentences.n_genes, self.session.length or sentences.n_genes)], axis=1)
            distinct, base_of = np.unique(pairs, axis=0, return_inverse=True)
            bases = _prompts(self.session, first_genes(self.session.sentences, *distinct.T), distinct[:, 0])
            prompts = _prompts(self.session, sentences, rows)
            vectors = self.session.backend.embed_edited(prompts, bases, base_of.tolist())
        else:
            vectors = embed(self.session, sentences, rows)
        return np.asarray(vectors.astype(np.float64) @ self.weights)


def embed(session: Session, sentences: Sentences, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Embeddings of sentences of the cells `rows`, float32 (n, hidden)."""
    return session.backend.embed(_prompts(session, sentences, rows)).vectors


def _prompts(session: Session, sentences: Sentences, rows: NDArray[np.int64]) -> list[Prompt]:
    own = _session_of(session, sentences, rows)
    return list(own.prompts(np.arange(len(rows)), length=own.length))


@dataclass(frozen=True, eq=False)
class LabelReadout:
    """Log-odds of a label's probability, nats."""

    session: Session
    labels: ClosedSet
    column: int

    def values(
        self, sentences: Sentences, rows: NDArray[np.int64], edits: Sequence[Edit | None]
    ) -> NDArray[np.float64]:
        """See :class:`Readout`."""
        found = probabilities_of(_session_of(self.session, sentences, rows), [self.labels])[0]
        p = np.clip(found.probabilities[:, self.column], _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True, eq=False)
class ExpressionReadout:
    """Expected expression without a perturbation, times weights of genes; edited genes are left out.

    A rank has the value that the cell itself has at this rank, as in
    :mod:`cell2sen.inference.responses.expected_response`.
    """

    session: Session
    weights: NDArray[np.float64]
    seed: int

    def values(
        self, sentences: Sentences, rows: NDArray[np.int64], edits: Sequence[Edit | None]
    ) -> NDArray[np.float64]:
        """See :class:`Readout`."""
        untreated = self.session.model.metadata.get("no_perturbation")
        if not untreated or self.session.data is None:
            raise Unsupported(
                f"{self.session.model.name} was trained without a name for no perturbation, so it expects no "
                "expression of an edited cell; use space='embedding'"
            )
        values = np.zeros(len(rows))
        symbols = sentences.symbols
        for first in range(0, len(rows), _CELLS_IN_MEMORY):
            part = np.arange(first, min(first + _CELLS_IN_MEMORY, len(rows)))
            own = _session_of(self.session, sentences[part], rows[part])
            lengths = np.minimum(own.sentences.n_genes, own.length or own.sentences.n_genes.max(initial=1))
            distinct, place = np.unique(rows[part], return_inverse=True)
            own_values = own_rank_values(
                self.session.data[distinct].ln_cp10k(), np.full(len(distinct), lengths.max(initial=1))
            )
            prompts = own.prompts(
                np.arange(len(part)),
                length=own.length,
                answer_genes=lengths.tolist(),
                slots=[{"perturbation": str(untreated)}] * len(part),
            )
            expected = own.backend.expect(prompts, symbols, [own_values[at] for at in place], seed=self.seed)
            weighted = expected.astype(np.float64) * self.weights
            for at, edit in enumerate(edits[first : first + len(part)]):
                if edit is not None:
                    weighted[at, list(edit.genes)] = 0
            values[part] = weighted.sum(axis=1)
        return values
