"""Constraint contract of the generation loop: which tokens may come next.

Axes in names: R rows of the call, N decisions, C columns (tokens that may be written).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Next tokens of rows if all drafts are right, and the decisions that check the drafts.

    A row's plan ends with a decision without a draft, or with the row's end.
    """

    rows: NDArray[np.int64]
    """Rows to continue, int64 (R,)."""

    tokens: list[list[int]]
    """For each of them the forced and draft tokens, in order."""

    row: NDArray[np.int64]
    """For each decision the place of its row in `rows`, int64 (N,). A row's decisions are in order."""

    offset: NDArray[np.int64]
    """Number of the row's planned tokens before the decision, int64 (N,)."""

    draft: NDArray[np.int64]
    """Draft token of the decision, -1 for none, int64 (N,)."""

    allowed: NDArray[np.bool_] | None
    """Allowed tokens, bool (N, C); None: all."""


class Constraint(Protocol):
    """Constraint of the rows of a batch: the tokens that may be written next, and those written so far.

    Implemented by :class:`cell2sen.engine.decoding.guide.Guide` and
    :class:`cell2sen.engine.decoding.loop.FreeText`.
    """

    @property
    def columns(self) -> NDArray[np.int64] | None:
        """Tokens that may be written at all, int64 (C,); None: the whole vocabulary."""
        ...

    def done(self, row: int) -> bool:
        """Whether the answer of a row is complete."""
        ...

    def plan(self, rows: Sequence[int]) -> Plan:
        """Next tokens and decisions of the rows, see :class:`Plan`."""
        ...

    def accept(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Adds the decided tokens, int64 (N,), and undoes wrong drafts; `logits_NC` are those of the decisions.

        Returns
        -------
        Of each row of the plan, the number of planned tokens that were right, and the token decided after them, -1 if
        the row is done; each int64 (R,).
        """
        ...
