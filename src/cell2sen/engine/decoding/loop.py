"""Batched generation: several tokens of each row in a pass; each row draws from its own random numbers.

A token is a function of its row's logits and, where it is drawn, of random numbers that belong to the row, the place
and the tokens (:mod:`cell2sen.engine.decoding.sampling`). So a guess is right or wrong whatever it was guessed from,
and guesses change the number of passes and nothing else.

Several tokens in a pass and one by one are the same sums in another order: logits agree to within rounding (about 1e-6
of their size in float32, 1e-2 in bfloat16). Two tokens whose logits, with their noise, lie closer than that may change
places; so may those at the edge of `top_k` and `top_p`.

Axes in names: B rows still being written, Q tokens of each in this pass, N decisions, C tokens that may be written, D
hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.engine.decoding.guide import Plan
from cell2sen.engine.decoding.sampling import gumbel


class Steer(Protocol):
    """What :func:`write` asks about its rows: a :class:`cell2sen.engine.decoding.guide.Guide` or a :class:`Free`."""

    @property
    def columns(self) -> NDArray[np.int64] | None:
        """Tokens that may be written at all, int64 (C,); None: the whole vocabulary."""
        ...

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        ...

    def plan(self, rows: Sequence[int]) -> Plan:
        """What the rows write next, see :class:`cell2sen.engine.decoding.guide.Plan`."""
        ...

    def settle(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take what was decided; see :meth:`cell2sen.engine.decoding.guide.Guide.settle`."""
        ...


class Free:
    """Rows that write what they like, up to a limit, an end token or a stop string.

    Parameters
    ----------
    n_rows
        Rows of the batch.
    read
        The text of token ids; its second argument says whether special tokens are part of it.
    eos
        Tokens that end a row and are no part of it.
    limit
        Tokens that a row may have.
    stop
        Strings that end a row and are no part of it.
    """

    def __init__(
        self,
        n_rows: int,
        read: Callable[[Sequence[int], bool], str],
        *,
        eos: Collection[int],
        limit: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._written: list[list[int]] = [[] for _ in range(n_rows)]
        self._done = [False] * n_rows
        self._read, self._eos, self._limit, self._stop = read, eos, limit, stop
        self.columns = None
        # A stop string of n bytes lies within n tokens, and the first ones may be parts of a character.
        self._tail = max((len(string.encode()) for string in stop), default=0) + 4

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        return self._done[row]

    def plan(self, rows: Sequence[int]) -> Plan:
        """One decision for each row."""
        n = len(rows)
        return Plan(
            rows=np.array(rows, dtype=np.int64),
            tokens=[[] for _ in rows],
            row=np.arange(n),
            at=np.zeros(n, dtype=np.int64),
            guess=np.full(n, -1),
            mask=None,
        )

    def settle(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take the decided tokens."""
        for row, token in zip(plan.rows.tolist(), decided.tolist(), strict=True):
            self.advance(row, token)
        return np.zeros(len(decided), dtype=np.int64), decided

    def advance(self, row: int, token: int) -> None:
        """Take the next token of a row."""
        written = self._written[row]
        if token in self._eos:
            self._done[row] = True
            return
        written.append(token)
        # A stop string may be a special token, which the final text would hide.
        tail = self._read(written[-self._tail :], True) if self._stop else ""
        self._done[row] = len(written) == self._limit or any(string in tail for string in self._stop)

    def text(self, row: int) -> str:
        """What a row has written, without surrounding whitespace."""
        text = self._read(self._written[row], False)
        ends = [at for string in self._stop if (at := text.find(string)) >= 0]
        return text[: min(ends, default=len(text))].strip()


def draw(
    logits_NC: torch.Tensor,
    rows_N: torch.Tensor,
    places_N: torch.Tensor,
    tokens_C: torch.Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """One token for each row of logits.

    Temperature, then the `top_k` likeliest, then the fewest that hold `top_p` of the probability, then the highest with
    its noise: a token depends on its row's logits and on random numbers of its own alone.

    Parameters
    ----------
    logits_NC
        float32, ``-inf`` where a token is not allowed.
    rows_N, places_N, tokens_C
        What the noise belongs to, see :func:`cell2sen.engine.decoding.sampling.gumbel`; not looked at where the
        temperature is 0.

    Returns
    -------
    Columns, int64 (N,).
    """
    if temperature == 0:
        return logits_NC.argmax(dim=1)
    scores, columns = logits_NC / temperature, None
    if top_k is not None and top_k < scores.shape[1]:
        scores, columns = scores.topk(top_k, dim=1)
    elif top_p is not None:
        scores, columns = scores.sort(dim=1, descending=True, stable=True)
    if top_p is not None:  # sorted above
        share = scores.double().softmax(dim=1)
        scores = scores.masked_fill(share.cumsum(dim=1) - share >= top_p, -torch.inf)
    best = (scores + gumbel(rows_N, places_N, tokens_C if columns is None else tokens_C[columns])).argmax(dim=1)
    return best if columns is None else columns.gather(1, best[:, None])[:, 0]


@dataclass
class Work:
    """What generation took."""

    passes: int = 0
    """Forward passes of a row, those that read its prompt left out, summed over rows."""

    batch_passes: int = 0
    """Forward passes of whole batches."""

    read: int = 0
    """Tokens that were read behind the prompts, guesses included."""

    tokens: int = 0
    """Tokens that were written."""

    genes: int = 0
    """Genes that were written, where answers are guided."""


def write(
    rows: Sequence[NDArray[np.int32]],
    steer: Steer,
    keys: Sequence[int],
    *,
    read: Callable[[NDArray[np.int64], NDArray[np.int64]], torch.Tensor],
    logits: Callable[[torch.Tensor], torch.Tensor],
    keep: Callable[[NDArray[np.int64]], None],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    work: Work | None = None,
) -> None:
    """The generation loop; what is written is collected by `steer`.

    Parameters
    ----------
    rows
        Token ids of the prompts, int32. All but each one's last are read already.
    keys
        For each row, see :func:`cell2sen.engine.decoding.sampling.row_key`.
    read
        Hidden states (B, Q, D) of ids and their places, each int64 (B, Q). Ids behind a row's own are padding. What was
        read at a place is forgotten when another token is read there.
    logits
        Of hidden states (N, D) the logits of the next token, float32 (N, C).
    keep
        Makes `read` forget all rows but these.
    work
        Is added to.
    """
    work = Work() if work is None else work
    live = list(range(len(rows)))
    length = np.array([len(row) - 1 for row in rows], dtype=np.int64)
    pending = [row[-1:].tolist() for row in rows]
    written = np.zeros(len(rows), dtype=np.int64)
    keys_B = np.array(keys, dtype=np.int64)
    tokens_C: torch.Tensor | None = None
    while live:
        plan = steer.plan(live)
        lines = [pending[row] + plan.tokens[place] for place, row in enumerate(live)]
        ids_BQ = np.zeros((len(live), max(map(len, lines))), dtype=np.int64)
        for line, tokens in zip(ids_BQ, lines, strict=True):
            line[: len(tokens)] = tokens
        hidden_BQD = read(ids_BQ, length[live][:, None] + np.arange(ids_BQ.shape[1]))
        before = np.array([len(pending[row]) for row in live]) - 1
        chosen = torch.from_numpy(plan.row * ids_BQ.shape[1] + before[plan.row] + plan.at).to(hidden_BQD.device)
        logits_NC = logits(hidden_BQD.flatten(0, 1)[chosen])
        if plan.mask is not None:
            logits_NC = logits_NC.masked_fill(~torch.from_numpy(plan.mask).to(logits_NC.device), -torch.inf)
        if tokens_C is None:
            columns = np.arange(logits_NC.shape[1]) if steer.columns is None else steer.columns
            tokens_C = torch.from_numpy(columns).to(logits_NC.device)
        asking = plan.rows[plan.row]
        keys_N, places_N = (
            torch.from_numpy(each).to(logits_NC.device) for each in (keys_B[asking], written[asking] + plan.at)
        )
        drawn = draw(logits_NC, keys_N, places_N, tokens_C, temperature=temperature, top_k=top_k, top_p=top_p)
        decided = drawn.cpu().numpy()
        kept, new = steer.settle(plan, decided if steer.columns is None else steer.columns[decided], logits_NC)
        work.passes, work.batch_passes = work.passes + len(live), work.batch_passes + 1
        work.read += sum(map(len, lines))
        for place, row in enumerate(live):
            length[row] += len(pending[row]) + kept[place]
            pending[row] = [int(new[place])] if new[place] >= 0 else []
            written[row] += kept[place] + len(pending[row])
        going = [place for place, row in enumerate(live) if not steer.done(row)]
        if going and len(going) < len(live):
            keep(np.array(going))
        live = [live[place] for place in going]
    work.tokens += int(written.sum())
