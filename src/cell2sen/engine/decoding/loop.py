"""Batched generation loop, with several draft tokens per row in one pass; free text.

A token is a function of its row's logits and, when drawn, of random numbers keyed by row, position and token
(:mod:`cell2sen.engine.decoding.sampling`). So drafts change the number of passes and nothing else.

A pass over several tokens adds the same numbers in another order than passes over one: logits agree within rounding
(about 1e-6 of their size in float32, 1e-2 in bfloat16). Two tokens whose logits, with their noise, are closer than that
may be exchanged; so may tokens at the limits of `top_k` and `top_p`.

Axes in names: B rows still being written, Q tokens of each in this pass, N decisions, C columns (tokens that may be
written), D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.data.progress import step
from cell2sen.engine.decoding.constraint import Constraint, Plan
from cell2sen.engine.decoding.sampling import draw


class FreeText:
    """Constraint of free text: any token, up to a limit, an end token or a stop string.

    Parameters
    ----------
    n_rows
        Rows of the batch.
    decode
        Text of token ids; its second argument: with special tokens.
    eos
        Tokens that end a row and are not part of it.
    limit
        Maximum number of tokens of a row.
    stop
        Strings that end a row and are not part of it.
    """

    def __init__(
        self,
        n_rows: int,
        decode: Callable[[Sequence[int], bool], str],
        *,
        eos: Collection[int],
        limit: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._written: list[list[int]] = [[] for _ in range(n_rows)]
        self._done = [False] * n_rows
        self._decode, self._eos, self._limit, self._stop = decode, eos, limit, stop
        self.columns = None
        # A stop string of n bytes has at most n tokens; 4 more, since the first ones may be bytes of one character.
        self._n_last = max((len(string.encode()) for string in stop), default=0) + 4

    def done(self, row: int) -> bool:
        """Whether the answer of a row is complete."""
        return self._done[row]

    def plan(self, rows: Sequence[int]) -> Plan:
        """One decision for each row."""
        n = len(rows)
        return Plan(
            rows=np.array(rows, dtype=np.int64),
            tokens=[[] for _ in rows],
            row=np.arange(n),
            offset=np.zeros(n, dtype=np.int64),
            draft=np.full(n, -1),
            allowed=None,
        )

    def accept(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Adds the decided tokens; see :meth:`Constraint.accept`."""
        for row, token in zip(plan.rows.tolist(), decided.tolist(), strict=True):
            self.advance(row, token)
        return np.zeros(len(decided), dtype=np.int64), decided

    def advance(self, row: int, token: int) -> None:
        """Adds the next token of a row."""
        written = self._written[row]
        if token in self._eos:
            self._done[row] = True
            return
        written.append(token)
        # A stop string may be a special token, which the final text leaves out.
        end = self._decode(written[-self._n_last :], True) if self._stop else ""
        self._done[row] = len(written) == self._limit or any(string in end for string in self._stop)

    def text(self, row: int) -> str:
        """The text of a row, without surrounding whitespace."""
        text = self._decode(self._written[row], False)
        stops = [start for string in self._stop if (start := text.find(string)) >= 0]
        return text[: min(stops, default=len(text))].strip()


@dataclass
class Work:
    """Counts of passes and tokens of a generation."""

    passes: int = 0
    """Forward passes of a row, without those over its prompt, summed over rows."""

    batch_passes: int = 0
    """Forward passes of whole batches."""

    read: int = 0
    """Tokens read after the prompts, drafts included."""

    tokens: int = 0
    """Tokens written."""

    genes: int = 0
    """Genes written in guided answers."""


def generate(
    rows: Sequence[NDArray[np.int32]],
    constraint: Constraint,
    keys: Sequence[int],
    *,
    hidden_states: Callable[[NDArray[np.int64], NDArray[np.int64]], torch.Tensor],
    logits: Callable[[torch.Tensor], torch.Tensor],
    select_rows: Callable[[NDArray[np.int64]], None],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    work: Work | None = None,
) -> None:
    """Generates the answers of all rows, token by token; `constraint` collects them.

    Parameters
    ----------
    rows
        Token ids of the prompts, int32. All but the last token of each are in the cache.
    keys
        Key of each row, see :func:`cell2sen.engine.decoding.sampling.row_key`.
    hidden_states
        Function of token ids and positions, each int64 (B, Q), to hidden states (B, Q, D). Ids after a row's own are
        padding. A token replaces an earlier one at its position.
    logits
        Function of hidden states (N, D) to logits of the next token, float32 (N, C).
    select_rows
        Function of row numbers, int64, that drops all other rows from the cache.
    work
        Counts are added to it.
    """
    work = Work() if work is None else work
    live = list(range(len(rows)))
    length = np.array([len(row) - 1 for row in rows], dtype=np.int64)
    pending = [row[-1:].tolist() for row in rows]
    written = np.zeros(len(rows), dtype=np.int64)
    keys_B = np.array(keys, dtype=np.int64)
    tokens_C: torch.Tensor | None = None
    while live:
        plan = constraint.plan(live)
        lines = [pending[row] + plan.tokens[place] for place, row in enumerate(live)]
        ids_BQ = np.zeros((len(live), max(map(len, lines))), dtype=np.int64)
        for line, tokens in zip(ids_BQ, lines, strict=True):
            line[: len(tokens)] = tokens
        hidden_BQD = hidden_states(ids_BQ, length[live][:, None] + np.arange(ids_BQ.shape[1]))
        before = np.array([len(pending[row]) for row in live]) - 1
        decisions = torch.from_numpy(plan.row * ids_BQ.shape[1] + before[plan.row] + plan.offset).to(hidden_BQD.device)
        logits_NC = logits(hidden_BQD.flatten(0, 1)[decisions])
        if plan.allowed is not None:
            logits_NC = logits_NC.masked_fill(~torch.from_numpy(plan.allowed).to(logits_NC.device), -torch.inf)
        if tokens_C is None:
            columns = np.arange(logits_NC.shape[1]) if constraint.columns is None else constraint.columns
            tokens_C = torch.from_numpy(columns).to(logits_NC.device)
        row_N = plan.rows[plan.row]
        keys_N, positions_N = (
            torch.from_numpy(array).to(logits_NC.device) for array in (keys_B[row_N], written[row_N] + plan.offset)
        )
        drawn = draw(logits_NC, keys_N, positions_N, tokens_C, temperature=temperature, top_k=top_k, top_p=top_p)
        decided = drawn.cpu().numpy()
        kept, new = constraint.accept(
            plan, decided if constraint.columns is None else constraint.columns[decided], logits_NC
        )
        work.passes, work.batch_passes = work.passes + len(live), work.batch_passes + 1
        work.read += sum(map(len, lines))
        for place, row in enumerate(live):
            length[row] += len(pending[row]) + kept[place]
            pending[row] = [int(new[place])] if new[place] >= 0 else []
            written[row] += kept[place] + len(pending[row])
        unfinished = [place for place, row in enumerate(live) if not constraint.done(row)]
        if unfinished and len(unfinished) < len(live):
            select_rows(np.array(unfinished))
        live = [live[place] for place in unfinished]
        step(1 - len(live) / len(rows))
    work.tokens += int(written.sum())
