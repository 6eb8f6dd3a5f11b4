"""Batched generation: prompts computed once, then a token a step; each row draws from its own random numbers.

Axes in names: B rows still being written, L length, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Steer(Protocol):
    """What :func:`write` asks about its rows: a :class:`cell2sen.guide.Guide` or a :class:`Free`."""

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        ...

    def mask(self, rows: Sequence[int]) -> NDArray[np.bool_] | None:
        """Tokens that may come next, bool (rows, V); None: any."""
        ...

    def advance(self, row: int, token: int) -> None:
        """Take the next token of a row."""
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
        # A stop string of n bytes lies within n tokens, and the first ones may be parts of a character.
        self._tail = max((len(string.encode()) for string in stop), default=0) + 4

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        return self._done[row]

    def mask(self, rows: Sequence[int]) -> None:
        """Any token may come next."""
        return None

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


def noise(seed: int, key: str) -> np.random.Generator:
    """A row's own random numbers, one a token: the same on every machine, in every batch and at every place in it."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")])


def draw(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """One token for each row.

    Temperature, then the `top_k` likeliest, then the fewest that hold `top_p` of the probability, then the inverse of
    the cumulative distribution: a token depends on its row's logits and one random number alone.

    Parameters
    ----------
    logits
        float32 (B, V), ``-inf`` where a token is not allowed.
    uniform
        float64 (B,) in [0, 1); not looked at where the temperature is 0.

    Returns
    -------
    int64 (B,).
    """
    if temperature == 0:
        return logits.argmax(dim=1)
    scores, tokens = logits / temperature, None
    if top_k is not None and top_k < scores.shape[1]:
        scores, tokens = scores.topk(top_k, dim=1)
    elif top_p is not None:
        scores, tokens = scores.sort(dim=1, descending=True, stable=True)
    share = scores.double().softmax(dim=1)
    if top_p is not None:  # sorted above
        share = share.masked_fill(share.cumsum(dim=1) - share >= top_p, 0.0)
    reached = share.cumsum(dim=1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(dim=1)
    last = (reached < reached[:, -1:]).sum(dim=1)  # rounding must not carry a row past its last possible token
    place = torch.minimum(place, last)[:, None]
    return (place if tokens is None else tokens.gather(1, place))[:, 0]


def positions(real_BL: torch.Tensor) -> torch.Tensor:
    """Place of each token among the real ones, int64 (B, L); 0 in the padding on the left."""
    return (real_BL.cumsum(dim=1) - 1).clamp(min=0)


def write(
    ids_BL: torch.Tensor,
    real_BL: torch.Tensor,
    steer: Steer,
    noises: Sequence[np.random.Generator],
    *,
    next_logits: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    keep: Callable[[torch.Tensor], None],
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    record: Callable[[Sequence[int], torch.Tensor, torch.Tensor], None] | None = None,
) -> None:
    """The generation loop; what is written is collected by `steer`.

    Parameters
    ----------
    ids_BL, real_BL
        Prompts, padded on the left.
    noises
        For each row, see :func:`noise`.
    next_logits
        From new ids, the mask of all ids so far and the positions of the new ones: logits of the next token, float32
        (B, V). Remembers what it has seen.
    keep
        Makes `next_logits` forget all rows but these.
    record
        Called at each step with the rows, their new tokens (B,) and the log-probabilities of these among the tokens
        that were allowed, at this temperature, float32 (B,).
    """
    position_BL, live = positions(real_BL), list(range(len(noises)))
    while True:
        logits_BV = next_logits(ids_BL, real_BL, position_BL)
        if (mask_BV := steer.mask(live)) is not None:
            logits_BV = logits_BV.masked_fill(~torch.from_numpy(mask_BV).to(logits_BV.device), -torch.inf)
        uniform_B = torch.tensor([noises[row].random() for row in live], dtype=torch.float64, device=logits_BV.device)
        ids_BL = draw(logits_BV, uniform_B, temperature=temperature, top_k=top_k, top_p=top_p)[:, None]
        if record is not None:
            log_share_BV = (logits_BV / (temperature or 1.0)).log_softmax(dim=1)
            record(live, ids_BL[:, 0], log_share_BV.gather(1, ids_BL)[:, 0])
        for row, token in zip(live, ids_BL[:, 0].tolist(), strict=True):
            steer.advance(row, token)
        going = [place for place, row in enumerate(live) if not steer.done(row)]
        if not going:
            return
        position_BL = position_BL[:, -1:] + 1
        real_BL = torch.nn.functional.pad(real_BL, (0, 1), value=True)
        if len(going) < len(live):
            live = [live[place] for place in going]
            kept = torch.tensor(going, device=ids_BL.device)
            keep(kept)
            ids_BL, real_BL, position_BL = ids_BL[kept], real_BL[kept], position_BL[kept]
