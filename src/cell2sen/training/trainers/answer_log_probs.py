"""Log-probabilities of given answers under guided sampling.

Axes in names: B batch, L length, D hidden size, N tokens of answers, K candidate tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from cell2sen.engine.network.cpu import is_plain_linear
from cell2sen.training.network.token_loss import capped
from cell2sen.training.trainers.rollouts import Guidance

#: Maximum number of logits in memory at a time: 64 MiB in float32.
MAX_LOGITS = 2**24


def padded(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask, int64 (B, L), prompts padded on the left and answers on the right; tokens of the longest answer."""
    before, keep = max(map(len, prompts)), max(map(len, answers))
    ids_BL = torch.zeros((len(prompts), before + keep), dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        real = slice(before - len(prompt), before + len(answer))
        ids_BL[row, real], mask_BL[row, real] = torch.tensor([*prompt, *answer]), 1
    return ids_BL, mask_BL, keep


def answer_log_probs(
    causal: Any,
    ids_BL: torch.Tensor,
    mask_BL: torch.Tensor,
    keep: int,
    guidance: Mapping[bytes, Guidance] | None,
    temperature: float,
    autocast: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the answers' tokens among the allowed tokens, and entropies of these distributions.

    Parameters
    ----------
    ids_BL, mask_BL, keep
        From :func:`padded`; the last `keep` columns are the answers.
    guidance
        :func:`prompt_key` → constraint of the answers to this prompt; ``None`` if all tokens are allowed.
    temperature
        Divisor of the logits.
    autocast
        Function that returns the context manager of the forward pass.

    Returns
    -------
    Both float32 (B, keep), nats, 0 in the padding; the entropies without gradient.
    """
    with autocast():
        states = causal.base_model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        )
    real_BL = mask_BL[:, -keep:].bool()
    hidden_ND = states.last_hidden_state[:, -keep - 1 : -1][real_BL]
    token_N = ids_BL[:, -keep:][real_BL]
    candidates_K, allowed_NK = None, None
    if guidance is not None:
        candidates_K, allowed_NK = _allowed(causal, ids_BL, mask_BL, keep, guidance)
        token_N = torch.searchsorted(candidates_K, token_N)
    width = len(candidates_K) if candidates_K is not None else int(causal.get_output_embeddings().out_features)
    step = max(1, MAX_LOGITS // width)
    parts = [
        checkpoint(
            _log_probs,
            causal,
            hidden_ND[first : first + step],
            token_N[first : first + step],
            candidates_K,
            None if allowed_NK is None else allowed_NK[first : first + step],
            temperature,
            use_reentrant=False,
        )
        for first in range(0, len(token_N), step)
    ]
    columns_N = [torch.cat(column) for column in zip(*parts, strict=True)]
    return tuple(  # type: ignore[return-value]
        torch.zeros(real_BL.shape, device=ids_BL.device).masked_scatter(real_BL, column) for column in columns_N
    )


def prompt_key(ids: Sequence[int]) -> bytes:
    """Key of a prompt in a dictionary: its token ids as bytes."""
    return np.asarray(ids, dtype=np.int64).tobytes()


def _allowed(
    causal: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor, keep: int, guidance: Mapping[bytes, Guidance]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that any answer may have, int64 (K,), and which of them were allowed at each token, bool (N, K).

    Logits are computed for these only: most tokens of a large vocabulary are not part of a gene.
    """
    real_BL = mask_BL.bool()
    vocabulary = int(causal.get_output_embeddings().out_features)
    prompts = [ids[real].tolist() for ids, real in zip(ids_BL[:, :-keep], real_BL[:, :-keep], strict=True)]
    answers = [ids[real].tolist() for ids, real in zip(ids_BL[:, -keep:], real_BL[:, -keep:], strict=True)]
    masks = [
        guidance[prompt_key(prompt)].allowed(answer, vocabulary)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    columns = functools.reduce(np.union1d, [tokens for tokens, _ in masks])
    allowed = np.zeros((sum(map(len, answers)), len(columns)), dtype=bool)
    first = 0
    for tokens, mask in masks:
        allowed[first : first + len(mask), np.searchsorted(columns, tokens)] = mask
        first += len(mask)
    return torch.from_numpy(columns).to(ids_BL.device), torch.from_numpy(allowed).to(ids_BL.device)


def _log_probs(
    causal: Any,
    hidden_ND: torch.Tensor,
    token_N: torch.Tensor,
    candidates_K: torch.Tensor | None,
    allowed_NK: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    head = causal.get_output_embeddings()
    hidden_ND = hidden_ND.to(head.weight.dtype)
    if candidates_K is None:
        logits_NK = head(hidden_ND)
    elif is_plain_linear(head) and getattr(head, "bias", None) is None:
        logits_NK = torch.nn.functional.linear(hidden_ND, head.weight[candidates_K])
    else:  # with a bias, or adapters
        logits_NK = head(hidden_ND)[:, candidates_K]
    logits_NK = capped(causal, logits_NK.float()) / temperature
    if allowed_NK is not None:
        logits_NK = logits_NK.masked_fill(~allowed_NK, -math.inf)
    log_probs_NK = logits_NK.log_softmax(dim=1)
    probs_NK = log_probs_NK.detach().exp()
    entropy_N = -(probs_NK * log_probs_NK.detach().masked_fill(probs_NK == 0, 0.0)).sum(dim=1)
    return log_probs_NK.gather(1, token_N[:, None])[:, 0], entropy_N
