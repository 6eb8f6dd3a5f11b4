"""Log-probabilities of a closed set of answers.

Axes in names: B batch, L length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.causal import Causal
from cell2sen.decode import positions
from cell2sen.task import Prompt
from cell2sen.tokens import Tokenized, Tokens, shared

#: Logits in float64 held at a time: 128 MiB.
_LOGITS = 2**24


def score(
    causal: Causal,
    tokens: Tokens,
    prompts: Sequence[Prompt],
    lengths: NDArray[np.int64],
    answers: Sequence[str],
    *,
    batches: Callable[[NDArray[np.int64], str], Iterator[list[int]]],
) -> NDArray[np.float64]:
    """What :meth:`cell2sen.backend.Backend.score` says, of prompts that fit into the context.

    Parameters
    ----------
    lengths
        Tokens of each prompt and its longest answer, int64 (n,).
    batches
        Lengths and a name for the progress bar → rows of each batch.
    """
    scores = np.zeros((len(prompts), len(answers)), dtype=np.float64)
    for batch in batches(lengths, "score"):
        cells = [tokens.encode([prompts[row]] * len(answers), answers) for row in batch]
        # What all texts of a cell share is computed once, and each answer is read behind it.
        begun = [texts[0][: shared(texts)] for texts in cells]
        if empty := [prompts[row].key for row, begin in zip(batch, begun, strict=True) if not len(begin)]:
            raise ValueError(f"the prompts of {empty} have no token before the answer")
        ids_BL, real_BL = causal.pad(begun, "left")
        cache = causal.cache()
        last_BD = causal.forward(ids_BL, real_BL, positions(real_BL), cache)[:, -1]
        for column in range(len(answers)):
            rest = [texts[column][len(begin) :] for texts, begin in zip(cells, begun, strict=True)]
            scores[batch, column] = _read(causal, rest, last_BD, real_BL, cache)
    return scores


def _read(
    causal: Causal, rows: Sequence[Tokenized], last_BD: torch.Tensor, real_BL: torch.Tensor, cache: Any
) -> NDArray[np.float64]:
    """Log-probability of each row's answer, float64 (B,), where `rows` go on behind the cached texts."""
    hidden_BLD = last_BD[:, None]
    if (length := max(map(len, rows))) > 1:
        ids_BL, _ = causal.pad([row[:-1] for row in rows], "right")
        position_BL = real_BL.sum(dim=1, keepdim=True) + torch.arange(length - 1, device=causal.device)
        mask_BL = torch.nn.functional.pad(real_BL, (0, length - 1), value=True)
        # The cache grows by new tensors, so a shallow copy of its layers leaves the original as it was.
        behind = copy.copy(cache)
        behind.layers = [copy.copy(layer) for layer in cache.layers]
        hidden_BLD = torch.cat([hidden_BLD, causal.forward(ids_BL, mask_BL, position_BL, behind)], dim=1)
    wanted = [(line, at, int(row.ids[at])) for line, row in enumerate(rows) for at in range(row.answer, len(row))]
    scores = np.zeros(len(rows), dtype=np.float64)
    step = max(1, _LOGITS // causal.vocabulary)
    for first in range(0, len(wanted), step):
        line, at, token = (
            torch.tensor(column, device=causal.device) for column in zip(*wanted[first : first + step], strict=True)
        )
        log_share = causal.head(hidden_BLD[line, at]).double().log_softmax(dim=1)
        np.add.at(scores, line.cpu().numpy(), log_share.gather(1, token[:, None])[:, 0].cpu().numpy())
    return scores
