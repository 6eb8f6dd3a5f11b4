"""Sample packing: several samples in one row, each attending to itself only.

Axes in names: B batch, L length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def packed_rows(lengths: Sequence[int], at_least: int = 0) -> list[list[int]]:
    """First-fit-decreasing packing: samples of each row, in rows as long as the longest sample, or `at_least`."""
    room = max([*lengths, at_least])
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    rows: list[list[int]] = []
    free: list[int] = []
    for sample in order:
        place = next((place for place, left in enumerate(free) if left >= lengths[sample]), len(rows))
        if place == len(rows):
            rows.append([])
            free.append(room)
        rows[place].append(sample)
        free[place] -= lengths[sample]
    return rows


def packed_hidden(base: Any, ids_BL: torch.Tensor, real_BL: torch.Tensor, at_least: int = 0) -> torch.Tensor:
    """Hidden states of padded samples, (B, L, D), computed in packed rows; zeros in the padding.

    Positions begin at 0 in each sample, and :mod:`cell2sen.engine.network.attention` attends to tokens of the same
    sample only, so that states equal those of a sample alone. Rows have room for `at_least` tokens.
    """
    lengths = real_BL.sum(dim=1).tolist()
    rows = packed_rows(lengths, at_least)
    # Source of each packed token, as an index into the flattened batch; -1 for none.
    longest = max(sum(lengths[sample] for sample in members) for members in rows)
    source = torch.full((len(rows), longest), -1, dtype=torch.long)
    position = torch.zeros_like(source)
    places = torch.arange(real_BL.numel()).reshape(real_BL.shape)
    for line, members in enumerate(rows):
        at = 0
        for sample in members:
            part = slice(at, at + lengths[sample])
            source[line, part] = places[sample][real_BL[sample].cpu()]
            position[line, part] = torch.arange(lengths[sample])
            at += lengths[sample]
    source, position = source.to(ids_BL.device), position.to(ids_BL.device)
    packed_ids = ids_BL.flatten()[source.clamp(min=0)]
    hidden = base(input_ids=packed_ids, position_ids=position, use_cache=False).last_hidden_state
    filled = source >= 0
    flat = hidden.new_zeros((real_BL.numel(), hidden.shape[-1]))
    states: torch.Tensor = flat.index_copy(0, source[filled], hidden[filled]).reshape(*real_BL.shape, -1)
    return states
